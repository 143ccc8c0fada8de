#!/bin/bash
# fence: one look at the replicas of this host. Those that Docker would only start again in vain are stopped, and stay
# stopped until a person starts them: they died too often within a time, their GPU needs a reset, or they hang. And
# what Docker could not start, for which it doesn't try twice, is started: after a boot it is often there before the
# GPUs' CDI file is, and before version 28.2 it knows no CDI yet (github.com/moby/moby/issues/49989).
# `engine` installs it, with a timer; `systemctl edit inference-stack-fence.service` may set the words below.
#
# It keeps nothing that Docker and the kernel keep: the count of restarts is Docker's (a stop or start by hand is none,
# and sets it to 0), so is the result of the health check, and that a container was stopped is remembered by Docker over
# reboots. What it notes besides: how the count has risen, in memory; and for people why it stopped a replica.
set -euo pipefail
shopt -s inherit_errexit nullglob lastpipe
export LC_ALL=C

DEATHS=${DEATHS:-6} # so many
WINDOW_S=${WINDOW_S:-3600} # within this time
# The driver's errors after which NVIDIA says: reset the GPU or reboot. Its catalog for Ampere and newer, "immediate
# action" (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), and 48, after which older ones need it too.
# Not 109 and 156, whose reset can wait. 154 says by itself what is needed: see `needs_reset`.
FATAL_XIDS=${FATAL_XIDS:-46 48 62 64 79 95 110 119 120 136 140 143 155 158}
KERNEL_LOG=${KERNEL_LOG:-_TRANSPORT=kernel} # the journal's entries of it
ANSWERS_S=30 # longest wait for Docker
WORKS_S=60 # longest time for Docker to start a container, or to give up on one that can't be killed after its grace
NOTES=/var/lib/inference-stack/pending
SEEN=/run/inference-stack-fence # gone with each boot
STUCK="Its processes can't be ended: reboot this host first"
LABEL=inference-stack.component
ROW='{{.ID}}|{{.Name}}|{{index .Config.Labels "inference-stack.component"}}|{{.State.Running}}|{{.State.StartedAt}}|{{.RestartCount}}'
ROW+='|{{if and .State.Error (eq .State.Status "exited") (eq .HostConfig.RestartPolicy.Name "unless-stopped")}}yes{{end}}'
ROW+='|{{if .State.Health}}{{.State.Health.Status}}{{end}}|{{if .Config.Healthcheck}}{{.Config.Healthcheck.StartPeriod.Seconds}}{{end}}'
ROW+='|{{if .Config.StopTimeout}}{{.Config.StopTimeout}}{{else}}10{{end}}'
ROW+='|{{range .HostConfig.DeviceRequests}}{{range .DeviceIDs}}{{.}} {{end}}{{end}}'

main() {
  local ids row id name component running started restarts failed health starts_in_s grace_s gpus why
  local -A lost=() # GPU -> the driver's words
  ids=$(timeout "$ANSWERS_S" docker ps --all --quiet --no-trunc --filter "label=$LABEL") || return 0 # Docker is away
  FIRST=
  [[ -d $SEEN ]] || FIRST=yes
  mkdir -p "$SEEN" "$NOTES"
  forget_others "$ids"
  lost_gpus
  [[ $ids ]] || return 0
  # shellcheck disable=SC2086 # ids are words
  timeout "$ANSWERS_S" docker inspect --format "$ROW" $ids | mapfile -t rows
  for row in "${rows[@]}"; do
    IFS='|' read -r id name component running started restarts failed health starts_in_s grace_s gpus <<<"$row"
    name=${name#/}
    if [[ $running != true ]]; then
      ended "$name"
      if [[ $failed ]]; then start "$id" "$name"; fi
      continue
    fi
    [[ $component == serving ]] || continue
    if [[ $(cat "$SEEN/$id.stuck" 2>/dev/null || true) == "$started" ]]; then continue; fi
    if why=$(lost_by "$gpus") || why=$(died_too_often "$id" "$restarts") || why=$(hangs "$id" "$health" "${starts_in_s%.*}"); then
      fence "$id" "$name" "$started" "$grace_s" "$why"
    else
      started_again "$name"
    fi
  done
  if [[ $CURSOR ]]; then echo "$CURSOR" >"$SEEN/cursor"; fi
}

say() { # in the journal as a warning: nothing below is kept of this unit
  echo "<4>$*"
}

# --- what is wrong with a replica: a function each, which says it, or is false ---

died_too_often() { # id, Docker's count of its restarts
  local file=$SEEN/$1.deaths now time count=0 recent=()
  now=$(date +%s)
  if [[ -e $file ]]; then
    { read -r count; mapfile -t times; } <"$file"
    for time in "${times[@]}"; do
      if ((now - time < WINDOW_S)); then recent+=("$time"); fi
    done
    (($2 >= count)) || count=0 # it was started by hand
  elif [[ $FIRST ]]; then
    count=$2 # of whatever time
  fi
  for ((; count < $2; count++)); do recent+=("$now"); done
  printf '%s\n' "$2" "${recent[@]}" >"$file"
  ((${#recent[@]} >= DEATHS)) || return 1
  echo "it died ${#recent[@]} times within $WINDOW_S s"
}

hangs() { # id, state of its health check, seconds that its start may take
  local file=$SEEN/$1.unhealthy since
  if [[ $2 != unhealthy ]]; then
    rm -f "$file"
    return 1
  fi
  [[ -e $file ]] || date +%s >"$file"
  since=$(<"$file")
  (($(date +%s) - since >= $3)) || return 1
  echo "it hangs: its health check has failed for $3 s, all that a start may take"
}

lost_by() { # the devices of a replica
  local device uuid
  for device in $1; do
    uuid=${device##*=}
    if [[ -v lost[$uuid] ]]; then
      echo "$uuid needs a reset or a reboot (${lost[$uuid]})"
      return
    fi
  done
  return 1
}

lost_gpus() { # fills `lost` from what is new in the kernel's log, and sets CURSOR to where that ends
  local from=(--since=-5min) line address xid uuid log
  CURSOR=
  if [[ -e $SEEN/cursor ]]; then from=(--after-cursor="$(<"$SEEN/cursor")"); fi
  if ! log=$(journalctl --boot --quiet --no-pager --output=cat --show-cursor "${from[@]}" "$KERNEL_LOG"); then
    rm -f "$SEEN/cursor"
    say "the kernel's log can't be read"
    return 0
  fi
  while read -r line; do
    if [[ $line == '-- cursor: '* ]]; then
      CURSOR=${line#-- cursor: }
    elif [[ $line =~ NVRM:\ Xid\ \((PCI:)?([0-9a-fA-F:]+)[^\)]*\):\ ([0-9]+), ]]; then
      address=${BASH_REMATCH[2]}
      xid=${BASH_REMATCH[3]}
      needs_reset "$xid" "$line" || continue
      if uuid=$(gpu_at "$address"); then
        lost[$uuid]="Xid $xid"
      else
        say "Xid $xid of the GPU at $address: the kernel's log doesn't say which GPU that is, so no replica is stopped for it"
      fi
    fi
  done <<<"$log"
}

needs_reset() { # xid, line: 154 ends in `to 0x1 (GPU Reset Required)` or `to 0x2 (Node Reboot Required)`; others can wait
  [[ " $FATAL_XIDS " == *" $1 "* || ($1 == 154 && $2 =~ to\ 0x[12]\ ) ]]
}

gpu_at() { # address -> UUID: the driver names each GPU in the log before its first error, when nvidia-smi may not answer
  local line uuid
  line=$(journalctl --boot --quiet --no-pager --output=cat "$KERNEL_LOG" | grep -F "NVRM: GPU at PCI:$1: GPU-" | tail -n 1) || return 1
  uuid=${line##*: }
  echo "${uuid%% *}"
}

# --- what is done about it ---

fence() { # id, name, when it was started, its grace in seconds, why
  local note since
  since=$(date -u +'%F %R UTC')
  note="$2 is fenced since $since: $5; \`docker start $2\` on this host brings it back, docs/troubleshooting.md says when"
  say "stopping $2: $5"
  echo "$note" >"$NOTES/fenced-$2"
  timeout -k 5 "$(($4 + WORKS_S))" docker stop "$1" >/dev/null || true
  rm -f "$SEEN/$1".* # a start by hand begins anew
  if [[ $(timeout "$ANSWERS_S" docker inspect --format '{{.State.Running}}' "$1" || true) != false ]]; then
    say "$2 can't be ended: only a reboot of this host does"
    echo "$note. $STUCK" >"$NOTES/fenced-$2"
    echo "$3" >"$SEEN/$1.stuck"
  fi
}

ended() { # name: what could not be ended, and has by now
  if grep -qsF "$STUCK" "$NOTES/fenced-$1"; then sed -i "s/\. $STUCK//" "$NOTES/fenced-$1"; fi
}

start() { # id, name, of what Docker could not start. Others are in its place where it has one of those names
  local out
  [[ $2 != *-previous-* && $2 != *-failed-* && ! -e $NOTES/fenced-$2 ]] || return 0
  if out=$(timeout "$WORKS_S" docker start "$1" 2>&1); then
    rm -f "$SEEN/$1".*
    say "started $2, which Docker could not start"
  elif [[ ! -e $SEEN/$1.failed ]]; then
    echo "$out" >"$SEEN/$1.failed"
    say "$2 can't be started, and is tried again: ${out%%$'\n'*}"
  fi
}

started_again() { # name
  if [[ -e $NOTES/fenced-$1 ]]; then
    rm "$NOTES/fenced-$1"
    say "$1 was started again: no longer fenced"
  fi
}

forget_others() { # ids that there are: what is known of replicas that are gone
  local file id name
  for file in "$SEEN"/*.*; do
    id=${file##*/}
    [[ $1 == *"${id%%.*}"* ]] || rm -f "$file"
  done
  for file in "$NOTES"/fenced-*; do
    name=${file##*/fenced-}
    docker container inspect "$name" >/dev/null 2>&1 || rm -f "$file"
  done
}

main "$@"
