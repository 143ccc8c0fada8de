# shellcheck shell=bash
# firewall: rules of what comes in, which end by themselves unless `confirm` keeps them.

apply() {
  must_repair_dpkg
  ensure nftables
  bridges
  others
  kept && return
  try_rules
  say "loaded the rules; without a confirmation they end in $REVERT_S s"
}

undo() {
  disarm
  rm -rf "$TRIAL"
  forget_kept
  if [[ -n $(command -v nft) && -n $(table) ]]; then
    # shellcheck disable=SC2086 # family and name
    nft delete table $TABLE
    say "removed the table $TABLE: nothing of ours is dropped any more"
  fi
}

bridges() { # the rules know Docker's networks by names that others must not have
  local path name
  for path in /sys/class/net/br-*; do
    name=${path##*/}
    [[ $name =~ ^br-[0-9a-f]{12}$ ]] || fail "the interface $name would pass for one of Docker's" \
      "Docker calls its bridges br- and the network's ID, and the rules let these through" "give it another name"
  done
}

others() {
  if command -v ufw >/dev/null && ufw status | grep -q '^Status: active'; then note_of ufw; fi
  if systemctl -q is-active firewalld; then note_of firewalld; fi
}

note_of() {
  echo "note: $1 is at work too, and what it drops stays dropped, whatever \`network.firewall\` allows"
}

main "$@" </dev/null
