# shellcheck shell=bash
# reboot: only where the module in memory isn't the wanted one, and only where it is allowed.

DELAY_S=5
ALONE_S=300 # after a boot: who runs `up` has come by then, or isn't there any more
DRAINED=/etc/systemd/system/inference-stack-drained

apply() {
  local version loaded why
  version=$(for_os VERSION) || fail "the version set has no driver for $OS_ID $OS_VERSION" "" "choose another version set"
  loaded=$(loaded_module)
  # Of a run that was cut off before it came to its reboot: what is decided now counts.
  rm -f "$STATE/rebooting"
  if [[ $loaded == "$version" ]]; then
    settled reboot
    return
  fi
  why="driver $version is installed, ${loaded:-none} is loaded"
  case $POLICY in
    allowed) ;;
    window)
      if ! window_is_open; then
        pending reboot "$why; it may reboot on $WINDOW_DAYS from $WINDOW_OPENS to $WINDOW_CLOSES UTC: run \`make drift\` and \`up\` then"
        return
      fi
      ;;
    *)
      pending reboot "$why; reboot it when its users can do without it"
      return
      ;;
  esac
  pending reboot "$why; it is rebooting"
  drain
  cat /proc/sys/kernel/random/boot_id >"$STATE/rebooting"
  leave
  # Not before: who has lost the connection ends at the next word, and the models would stay stopped.
  [[ ${#STOPPED[@]} -eq 0 ]] || say "stopped ${STOPPED[*]}"
  say "reboots in $DELAY_S s: $why"
}

undo() {
  settled reboot
  if [[ -e $DRAINED.timer ]]; then
    systemctl -q disable --now inference-stack-drained.timer
    drop "$DRAINED.timer" "$DRAINED.service"
    systemctl daemon-reload
  fi
  rm -f "$STATE/rebooting" "$STATE/drained"
}

window_is_open() { # a window that closes before it opens ends on the next day
  local now today yesterday
  now=$(date -u +%H:%M)
  today=$(date -u +%a | tr '[:upper:]' '[:lower:]')
  yesterday=$(date -u -d yesterday +%a | tr '[:upper:]' '[:lower:]')
  if [[ $WINDOW_OPENS < $WINDOW_CLOSES ]]; then
    [[ " $WINDOW_DAYS " == *" $today "* && ! $now < $WINDOW_OPENS && $now < $WINDOW_CLOSES ]]
  else
    [[ " $WINDOW_DAYS " == *" $today "* && ! $now < $WINDOW_OPENS ]] ||
      [[ " $WINDOW_DAYS " == *" $yesterday "* && $now < $WINDOW_CLOSES ]]
  fi
}

drain() { # models end as they would by themselves: requests in flight have their containers' grace. Sets STOPPED
  STOPPED=()
  command -v docker >/dev/null && systemctl -q is-active docker || return 0
  mapfile -t STOPPED < <(docker ps --filter "label=$SERVING_LABEL" --format '{{.Names}}')
  [[ ${#STOPPED[@]} -gt 0 ]] || return 0
  start_them_alone
  # Docker doesn't start stopped containers after a boot: `engine` does, by this note.
  printf '%s\n' "${STOPPED[@]}" >>"$STATE/drained"
  docker stop "${STOPPED[@]}" >/dev/null
}

start_them_alone() { # by the host itself, if `engine` doesn't come: who runs `up` may have been cut off
  [[ ! -e $DRAINED.timer ]] || return 0
  put "$DRAINED.service" <<END
[Unit]
Description=Start the models that were stopped for a reboot
ConditionPathExists=$STATE/drained
After=docker.service nvidia-cdi-refresh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'xargs docker start <$STATE/drained && rm -f $STATE/drained'
END
  put "$DRAINED.timer" <<END
[Unit]
Description=Start the models that were stopped for a reboot, if nobody has
[Timer]
OnBootSec=$ALONE_S
[Install]
WantedBy=timers.target
END
  systemctl daemon-reload
  systemctl -q enable inference-stack-drained.timer
}

leave() { # schedule the reboot and take no new connections, so that the next one is in the new boot
  local unit units=()
  for unit in ssh.socket sshd.socket ssh.service sshd.service; do
    if systemctl -q is-active "$unit"; then units+=("$unit"); fi
  done
  systemctl reset-failed inference-stack-reboot.service inference-stack-reopen.service 2>/dev/null || true
  systemctl stop inference-stack-reboot.timer inference-stack-reopen.timer 2>/dev/null || true
  systemd-run -q --on-active="$REOPENS_S" --unit=inference-stack-reopen systemctl start "${units[@]}"
  systemd-run -q --on-active="$DELAY_S" --timer-property=AccuracySec=1s --unit=inference-stack-reboot systemctl reboot
  # Sessions that are open stay: their processes aren't the server's.
  [[ ${#units[@]} -eq 0 ]] || systemctl stop "${units[@]}"
}

main "$@" </dev/null
