# shellcheck shell=bash
# confirm: whoever gets here by a connection of its own came through the rules on trial, so they are kept.

apply() {
  if on_trial; then
    came_through
    keep
  elif ! kept; then
    try_rules
    fail "nobody confirmed the rules in time, so what was there before came back" \
      "now they are loaded again, for $REVERT_S s" \
      "run \`up\` again within that time; if it doesn't get through, mend \`network.firewall\`"
  fi
}

undo() {
  forget_kept
}

came_through() { # by a connection that began after the rules did
  local pid=$$
  until [[ $(cat "/proc/$pid/comm") == sshd* ]]; do
    pid=$(sed -n 's/^PPid:\s*//p' "/proc/$pid/status")
    ((pid > 1)) || return 0 # at the console, say: there it needs no way back
  done
  (($(started "/proc/$pid") > $(cat "$TRIAL/since"))) || fail "this connection is older than the rules" \
    "it shows nothing of whether new ones get through" "end it (a shared one: \`ssh -O exit\`), and run \`up\` again"
}

keep() { # no way back from here, since none is needed
  disarm
  put "$KEPT" <<<"$RULES"
  put "$KEEPER_UNIT" <<END
[Unit]
Description=What inference-stack lets in
DefaultDependencies=no
After=local-fs.target nftables.service
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$(command -v nft) -f $KEPT
ExecReload=$(command -v nft) -f $KEPT
[Install]
WantedBy=sysinit.target
END
  put "$BESIDE" <<END
[Service]
ExecStartPost=-$(command -v nft) -f $KEPT
ExecReload=-$(command -v nft) -f $KEPT
ExecStopPost=-$(command -v nft) -f $KEPT
END
  systemctl daemon-reload
  enable_unit --now "$KEEPER"
  # Even a power cut right now is to be followed by a boot with the rules: files, and names of files.
  sync "$KEPT" "$KEEPER_UNIT" "$BESIDE" "${KEPT%/*}" "${KEEPER_UNIT%/*}"{,/sysinit.target.wants} "${BESIDE%/*}"
  # As the next boot will do it.
  systemctl reload "$KEEPER"
  mkdir -p "$STATE"
  digest_of_table >"$STATE/firewall-table"
  rm -rf "$TRIAL"
  say "the rules stay"
}

main "$@" </dev/null
