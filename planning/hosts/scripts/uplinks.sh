# shellcheck shell=bash
# uplinks: the default route leaves an uplink that is dead, and comes back.
# A service with a program of ours: Debian and Ubuntu have none that looks beyond the router. systemd-networkd and ifupdown
# check nothing; NetworkManager lowers a device whose one URI doesn't answer, and servers don't run it; keepalived
# moves routes with the state of a VRRP instance, not with that of a way out.

PROGRAM=/usr/local/sbin/inference-stack-uplinks
UNIT=/etc/systemd/system/inference-stack-uplinks.service
CHOOSES_WITHIN_S=6

apply() {
  local uplink links
  ensure iproute2 iputils-ping
  links=$(ip -o link show | sed -E 's/^[0-9]+: ([^:@]+).*/\1/' | grep -vx lo | tr '\n' ' ')
  for uplink in $UPLINKS; do
    [[ " $links" == *" ${uplink%%=*} "* ]] || fail "there is no interface ${uplink%%=*}" "this host has ${links% }" \
      "correct \`uplinks:\`, or bring the interface up and run \`up\` again"
  done
  must_not_cut_this_connection
  CHANGED_BEFORE=$CHANGED
  CHANGED=
  put "$PROGRAM" <<<"$WATCH"
  chmod 755 "$PROGRAM"
  put "$UNIT" <<END
[Unit]
Description=Keep the default route at an uplink that works
Wants=network-online.target
After=network-online.target
# However often it fails, it is started again.
StartLimitIntervalSec=0
[Service]
Type=exec
Environment="UPLINKS=$UPLINKS"
ExecStart=$PROGRAM watch
Restart=always
RestartSec=2
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
[Install]
WantedBy=multi-user.target
END
  if [[ $(systemctl show -p NeedDaemonReload --value inference-stack-uplinks.service) == yes ]]; then systemctl daemon-reload; fi
  # A run that was cut off may have changed them, and not have come to this.
  if [[ $CHANGED || $(cat "$STATE/steps/$STEP" 2>/dev/null || true) != "$DIGEST" ]] &&
    systemctl -q is-active inference-stack-uplinks.service; then
    # It goes on where it was: the default route stays.
    systemctl restart inference-stack-uplinks.service
    say "restarted inference-stack-uplinks.service"
  fi
  CHANGED=$CHANGED$CHANGED_BEFORE
  enable_unit --now inference-stack-uplinks.service
  chosen
}

must_not_cut_this_connection() { # it is, if it came in by an interface beside and is answered by the default route there
  local pid=$$ peer own device
  # sudo keeps it to itself.
  until read -r peer _ own _ < <(sed -zn 's/^SSH_CONNECTION=//p' "/proc/$pid/environ" 2>/dev/null | tr '\0' '\n'); do
    pid=$(sed -n 's/^PPid:\s*//p' "/proc/$pid/status")
    ((pid > 1)) || return 0
  done
  device=$(ip -4 -o address show to "$own" 2>/dev/null | sed -nE '1s/^[0-9]+: ([^ ]+).*/\1/p') || true
  [[ $device && " $UPLINKS" != *" $device="* ]] || return 0
  device=$(ip -4 -o route get fibmatch "$peer" 2>/dev/null | sed -nE 's/^default .*dev ([^ ]+).*/\1/p') || true
  [[ ! $device || " $UPLINKS" == *" $device="* ]] || fail "you are answered by the default route of $device, which is no uplink" \
    "the default route goes to an uplink, and nobody could log in from $peer any more" \
    "name $device among \`uplinks:\`, or give the host a route to your network, and run \`up\` again"
}

chosen() { # a first uplink, within two rounds of probes
  local deadline=$((SECONDS + CHOOSES_WITHIN_S))
  until [[ $(ip -4 route show default proto 151) ]]; do
    ((SECONDS < deadline)) || fail "no uplink answers a probe" "the default route stays as it was until one does" \
      "check gateways and probes under \`uplinks:\`, and see \`journalctl -u inference-stack-uplinks\` on the host"
    sleep 0.5
  done
}

undo() {
  if [[ -e $UNIT ]]; then
    systemctl -q disable --now inference-stack-uplinks.service
    "$PROGRAM" release
    say "put routes and rules back as they were"
  fi
  drop "$UNIT" "$PROGRAM"
  systemctl daemon-reload
  rm -rf /run/inference-stack-uplinks
}

main "$@" </dev/null
