#!/bin/bash
# uplinks_watch: keeps the default route at an uplink that works. `uplinks` installs it as a service.
# UPLINKS: INTERFACE=GATEWAY=PROBE,PROBE … the preferred first. `systemctl edit inference-stack-uplinks` may set the
# other words below.
#
# It configures no interface. What it owns carries the routing protocol PROTO, and `release` takes exactly that back:
# - a table per uplink, with its gateway as the only way out;
# - rules before Tailscale's (5210 to 5270: what tailscaled sends itself goes by `main`): what has an uplink's address
#   as its source leaves by that uplink, so answers and probes do, whatever the default route is;
# - one default route in `main` with the metric 0, the lowest. The host's own of that metric is put aside meanwhile:
#   beside ours the kernel would choose between the two. (0.0.0.0/1 and 128.0.0.0/1 would beat any default route and
#   touch none, but Docker finds no free subnet then, and tailscaled doesn't notice the change.)
# What another program removes of this (systemd-networkd drops rules and routes that it doesn't know) is there again
# after the next round.
set -euo pipefail
shopt -s inherit_errexit nullglob lastpipe
export LC_ALL=C

EVERY_S=${EVERY_S:-2} # between two rounds of probes
WAIT_S=${WAIT_S:-1} # for an answer; a satellite's takes 0.7 s
DEAD_AFTER=${DEAD_AFTER:-3} # rounds without any answer: within 10 s
ALIVE_AFTER=${ALIVE_AFTER:-15} # rounds with an answer: 30 s or more, before a better uplink is used again
SOON=2 # the same while no uplink is alive
PROTO=151 # free: those below 128 are the kernel's and well-known programs', FRR has 186 to 199
TABLES=5101 # the first uplink's
MOST=8 # uplinks
TO_PROBE=5100 # priorities of rules, in this order
TO_NEIGHBOURS=5110
TO_GATEWAY=5120
RUN=/run/inference-stack-uplinks
NOTES=/var/lib/inference-stack/pending

main() {
  mkdir -p "$RUN/aside"
  # Notes are for people: a disk that is full or read-only keeps no default route at a dead uplink.
  mkdir -p "$NOTES" || true
  case ${1-} in
    watch) watch ;;
    release) release ;;
    *) echo "give watch or release" >&2; exit 64 ;;
  esac
}

say() { # a change, in the journal
  echo "<4>$*"
}

watch() {
  local i
  begin
  for ((i = ${#INTERFACES[@]}; i < MOST; i++)); do ip -4 route flush table $((TABLES + i)) 2>/dev/null || true; done
  while true; do
    look
    choose
    sleep "$EVERY_S"
  done
}

begin() {
  local i uplink interface gateway probes note
  INTERFACES=() GATEWAYS=() PROBES=()
  for uplink in $UPLINKS; do
    IFS='=' read -r interface gateway probes <<<"$uplink"
    INTERFACES+=("$interface")
    GATEWAYS+=("$gateway")
    PROBES+=("${probes//,/ }")
  done
  for note in "$NOTES"/uplink-*; do # of an interface that is no uplink any more
    [[ " ${INTERFACES[*]} " == *" ${note##*/uplink-} "* ]] || rm -f "$note" 2>/dev/null || true
  done
  # GOOD, BAD: rounds in a row; ALIVE: what they have led to; PROVEN: it has answered since this program started.
  GOOD=() BAD=() ALIVE=() PROVEN=() ADDRESSES=() SOURCE=()
  for i in "${!INTERFACES[@]}"; do GOOD[i]=0 BAD[i]=0 ALIVE[i]="" PROVEN[i]=""; done
  ACTIVE=$(ours)
  if [[ $ACTIVE ]]; then ALIVE[ACTIVE]=yes; fi
  FIRST=yes
}

ours() { # number of the uplink that has our default route; nothing where there is none
  local i row
  row=$(ip -4 -o route show default proto "$PROTO" | head -n 1)
  for i in "${!INTERFACES[@]}"; do
    if [[ "$row " == *" via ${GATEWAYS[i]} dev ${INTERFACES[i]} "* ]]; then echo "$i"; fi
  done
}

look() { # one round: who answers, by its own uplink
  local i probe answers
  for i in "${!INTERFACES[@]}"; do
    addresses "$i"
    own_table "$i"
  done
  rules
  answers=$(
    for i in "${!INTERFACES[@]}"; do
      [[ ${SOURCE[i]} ]] || continue
      for probe in ${PROBES[i]}; do
        { ping -n -q -c 1 -W "$WAIT_S" -I "${SOURCE[i]}" "$probe" >/dev/null 2>&1 && echo "$i"; } &
      done
    done
    wait
  )
  count "$answers"
}

count() { # numbers of uplinks that have answered
  local i
  for i in "${!INTERFACES[@]}"; do
    if [[ $'\n'$1$'\n' == *$'\n'$i$'\n'* ]]; then answered "$i"; else silent "$i"; fi
  done
  FIRST=""
}

answered() {
  local note=$NOTES/uplink-${INTERFACES[$1]}
  GOOD[$1]=$((GOOD[$1] + 1)) BAD[$1]=0
  if [[ ! ${PROVEN[$1]} ]]; then
    PROVEN[$1]=yes
    rules
  fi
  # After a boot the first that answers will do; after that, an uplink has to be stable.
  if [[ ! ${ALIVE[$1]} ]] && { ((GOOD[$1] >= ALIVE_AFTER)) || [[ $FIRST && ! $ACTIVE ]]; }; then
    ALIVE[$1]=yes
    if [[ ! $FIRST ]]; then say "${INTERFACES[$1]} is alive: it has answered for ${GOOD[$1]} rounds"; fi
  fi
  if [[ ${ALIVE[$1]} && -e $note ]]; then rm -f "$note" 2>/dev/null || true; fi
}

silent() {
  local note=$NOTES/uplink-${INTERFACES[$1]}
  GOOD[$1]=0 BAD[$1]=$((BAD[$1] + 1))
  ((BAD[$1] >= DEAD_AFTER)) || return 0
  ALIVE[$1]=""
  [[ ! -e $note ]] || return 0
  if ((BAD[$1] == DEAD_AFTER)); then
    say "${INTERFACES[$1]} is dead: by ${GATEWAYS[$1]}, nothing is heard of ${PROBES[$1]// /, }"
  fi
  echo "the uplink ${INTERFACES[$1]} has been dead since $(date -u +'%F %R UTC'): by ${GATEWAYS[$1]}, nothing is heard of ${PROBES[$1]// /, }" 2>/dev/null >"$note" || true
}

choose() { # the best uplink gets the default route; where none is any good, it stays where it is
  local i best="" before=$ACTIVE
  for i in "${!INTERFACES[@]}"; do
    if [[ ${ALIVE[i]} ]]; then best=$i; break; fi
  done
  if [[ ! $best ]]; then
    if [[ $ACTIVE ]] && ((GOOD[ACTIVE] > 0)); then
      best=$ACTIVE
    else
      for i in "${!INTERFACES[@]}"; do
        if ((GOOD[i] >= SOON)); then best=$i; break; fi
      done
    fi
  fi
  ACTIVE=${best:-$ACTIVE}
  [[ $ACTIVE ]] || return 0
  default_route
  [[ $ACTIVE != "$before" ]] || return 0
  say "the default route is ${INTERFACES[ACTIVE]}'s now, by ${GATEWAYS[ACTIVE]}"
  if [[ $before && ! ${ALIVE[before]} ]]; then end_connections "$before"; fi
}

# --- what is kept in the kernel ---

addresses() { # fills ADDRESSES, and SOURCE, from which probes go out
  local row found=()
  ip -4 -o address show dev "${INTERFACES[$1]}" scope global 2>/dev/null | while read -r _ _ _ row _; do
    found+=("${row%/*}")
  done || true
  ADDRESSES[$1]=${found[*]-}
  row=$(ip -4 -o route get "${GATEWAYS[$1]}" oif "${INTERFACES[$1]}" 2>/dev/null | sed -nE 's/.* src ([0-9.]+).*/\1/p') || true
  if [[ $row && " ${found[*]-} " == *" $row "* ]]; then
    SOURCE[$1]=$row
  else
    SOURCE[$1]=${found[0]-}
  fi
}

own_table() {
  local table=$((TABLES + $1)) rows
  rows=$(ip -4 -o route show table "$table" 2>/dev/null || true)
  if [[ "$rows " != *"default via ${GATEWAYS[$1]} dev ${INTERFACES[$1]} "* ]]; then
    # A link that is down takes no route.
    ip -4 route replace default via "${GATEWAYS[$1]}" dev "${INTERFACES[$1]}" onlink table "$table" proto "$PROTO" 2>/dev/null || true
  fi
  if [[ $rows != *unreachable* ]]; then
    # No source address leaves by another's uplink, which would drop it.
    ip -4 route replace unreachable default metric 4294967295 table "$table" proto "$PROTO"
  fi
}

rules() { # brings the kernel's to those that there should be
  local i address probe table row wanted=() have=()
  for i in "${!INTERFACES[@]}"; do
    table=$((TABLES + i))
    [[ ${SOURCE[i]} ]] || continue
    for probe in ${PROBES[i]}; do wanted+=("$TO_PROBE: from ${SOURCE[i]} to $probe lookup $table"); done
    # A gateway with a slip of the pen in it must not take the answers of an SSH server: first it has to work.
    [[ ${PROVEN[i]} ]] || continue
    for address in ${ADDRESSES[i]}; do
      wanted+=("$TO_NEIGHBOURS: from $address lookup 254 suppress_prefixlength 0") # networks that `main` knows
      wanted+=("$TO_GATEWAY: from $address lookup $table")
    done
  done
  ip -4 -N rule show | sed -nE "s/[[:space:]]+/ /g; s/ +proto $PROTO *$//p" | mapfile -t have
  for row in "${wanted[@]}"; do
    # shellcheck disable=SC2086 # words of ip
    in_rows "$row" "${have[@]}" || ip -4 rule add priority ${row/:/} proto "$PROTO"
  done
  for row in "${have[@]}"; do
    # shellcheck disable=SC2086
    in_rows "$row" "${wanted[@]}" || ip -4 rule del priority ${row/:/} proto "$PROTO" || true
  done
}

in_rows() { # row, rows
  local row
  for row in "${@:2}"; do [[ $row != "$1" ]] || return 0; done
  return 1
}

best_default_routes() { # of metric 0 in `main`, a line each, as `ip route add` takes it
  ip -4 -o -N route show default | sed -E '/ metric /d; s/\\//g; s/ (linkdown|dead)\b//g; / proto /!s/$/ proto 3/'
}

default_route() {
  local i row rows there="" route="default via ${GATEWAYS[ACTIVE]} dev ${INTERFACES[ACTIVE]} proto $PROTO"
  best_default_routes | mapfile -t rows
  for i in "${!rows[@]}"; do
    row=${rows[i]}
    if [[ $row == "$route"* ]]; then
      there=yes
    elif [[ $row != *" proto $PROTO"* ]]; then
      set_aside "$i" "$row"
    fi
  done
  if [[ ! $there ]]; then
    # shellcheck disable=SC2086 # words of ip. A link that is down takes no route
    ip -4 route replace $route onlink 2>/dev/null || return 0
  fi
  for row in "${rows[@]}"; do
    # shellcheck disable=SC2086 # words of ip
    [[ $row == "$route"* ]] || ip -4 route del $row 2>/dev/null || true # `replace` may have taken it
  done
}

set_aside() { # its place among those of metric 0, a default route of the host: one an interface, the newest
  local interface=${2#* dev } file
  interface=${interface%% *}
  file=("$RUN"/aside/?-"$interface" "$RUN/aside/$1-$interface")
  if [[ $(cat "${file[0]}" 2>/dev/null || true) != "$2" ]]; then
    echo "$2" >"${file[0]}"
    say "put aside the host's own: $2"
  fi
}

end_connections() { # to what is beyond a dead uplink: their programs dial again at once rather than wait for minutes
  # Only those that were dialled from here; others may have come from networks behind the router that still work.
  local address network low ended filter
  read -r low _ </proc/sys/net/ipv4/ip_local_port_range
  for address in ${ADDRESSES[$1]}; do
    filter="src $address and sport >= :$low"
    for network in $(ip -4 -o route show dev "${INTERFACES[$1]}" scope link | cut -d ' ' -f 1 | grep -v default || true); do
      filter+=" and not dst $network"
    done
    ended=$(ss -H -t -n -K "$filter" 2>/dev/null | wc -l) || true
    if ((ended > 0)); then say "ended TCP connections of $address: $ended"; fi
  done
}

release() { # everything as it was
  local file i row
  ip -4 rule flush protocol "$PROTO" 2>/dev/null || true
  for ((i = 0; i < MOST; i++)); do ip -4 route flush table $((TABLES + i)) 2>/dev/null || true; done
  ip -4 route flush default proto "$PROTO" table main
  for file in "$RUN"/aside/*; do
    row=$(<"$file")
    # shellcheck disable=SC2086 # words of ip
    ip -4 route append $row || echo "can't put back: $row" >&2
    rm "$file"
  done
  rm -f "$NOTES"/uplink-*
}

main "$@"
