# shellcheck shell=bash
# What `firewall` and `confirm` share: rules on trial, which end by themselves, and rules that are kept.
# Settings: RULES, and REVERT_S, after which rules end that nobody confirmed.

TABLE="inet inference_stack"
# Loaded by each boot: only ever rules that were confirmed.
KEPT=/etc/inference-stack-firewall.nft
KEEPER=inference-stack-firewall.service
KEEPER_UNIT=/etc/systemd/system/inference-stack-firewall.service
# The distribution's own service, which flushes the tables of everybody, ours too.
BESIDE=/etc/systemd/system/nftables.service.d/inference-stack-firewall.conf
# In memory, since a boot ends the trial. `rules`: those on trial; `since`: when they were loaded, as the kernel counts;
# `before`: what brings back what was there; `timer`: the one that does so.
TRIAL=/run/inference-stack-firewall
REVERT=inference-stack-firewall-revert

table() { # as the kernel has it, without counters; nothing where there is none
  # shellcheck disable=SC2086 # family and name
  nft -s list table $TABLE 2>/dev/null || true
}

digest_of_table() {
  table | sha256sum | cut -c -12
}

on_trial() { # these rules, and they are loaded
  cmp -s "$TRIAL/rules" <<<"$RULES" && [[ $(digest_of_table) == "$(cat "$TRIAL/table")" ]]
}

kept() { # these rules, and they are loaded
  cmp -s "$KEPT" <<<"$RULES" && [[ $(digest_of_table) == "$(cat "$STATE/firewall-table" 2>/dev/null)" ]] &&
    [[ $(systemctl is-enabled "$KEEPER" 2>/dev/null) == enabled && -e $BESIDE && ! -e $TRIAL ]]
}

try_rules() { # load them, and put back what was there after REVERT_S
  local why
  why=$(nft -c -f - <<<"$RULES" 2>&1) || fail "this host's nftables refuses the rules" "$(head -n 1 <<<"$why")" \
    "see \`nft list ruleset\`: its kernel (nf_tables) or its nft may be too old"
  # A trial without an end is none: that of a run which was cut off.
  [[ $(ends) ]] || rm -rf "$TRIAL"
  mkdir -p "$TRIAL"
  if [[ ! -e $TRIAL/before ]]; then
    { echo "table $TABLE" && echo "delete table $TABLE" && table; } >"$TRIAL/before.new"
    mv "$TRIAL/before.new" "$TRIAL/before"
  fi
  arm
  rm -f "$TRIAL/rules"
  nft -f - <<<"$RULES"
  now >"$TRIAL/since"
  digest_of_table >"$TRIAL/table"
  cat >"$TRIAL/rules" <<<"$RULES"
}

arm() { # first the new timer, then away with those of earlier runs, so that there always is one
  local timer
  timer=$REVERT-$(cat /proc/sys/kernel/random/uuid)
  cat >"$TRIAL/revert" <<END
exec 9>"$LOCK"
flock -w 30 9 # a confirmation that is at work comes first
[[ \$(cat "$TRIAL/timer" 2>/dev/null) == "\$1" ]] || exit 0
# Open rather than closed to everybody.
nft -f "$TRIAL/before" || nft delete table $TABLE
rm -rf "$TRIAL"
echo "the firewall's rules were not confirmed within $REVERT_S s: what was there before is back"
END
  systemd-run -q --collect --unit="$timer" --on-active="$REVERT_S" --timer-property=AccuracySec=100ms \
    /bin/bash "$TRIAL/revert" "$timer" || fail "the rules can't be tried" "systemd makes no timer that would end them" \
    "see \`systemctl status\` on the host"
  echo "$timer" >"$TRIAL/timer"
  disarm "$timer"
}

ends() { # timers of trials
  systemctl list-units --plain --no-legend "$REVERT-*.timer" | cut -d ' ' -f 1
}

disarm() { # every timer but $1
  local timer
  ends | while read -r timer; do
    [[ ${timer%.timer} == "${1-}" ]] || systemctl stop "$timer"
  done
}

forget_kept() {
  if [[ -e $KEEPER_UNIT ]]; then systemctl -q disable --now "$KEEPER"; fi
  drop "$KEEPER_UNIT" "$BESIDE" "$KEPT"
  rmdir "${BESIDE%/*}" 2>/dev/null || true # others may have theirs there
  systemctl daemon-reload
  rm -f "$STATE/firewall-table"
}

now() { # in the kernel's ticks since its boot: when a process began that is made for this
  (started /proc/self)
}

started() { # when a process did; its name, the second field, may hold spaces
  local stat
  read -r stat <"$1/stat"
  # shellcheck disable=SC2086 # fields are words
  set -- ${stat##*) }
  echo "${20}"
}
