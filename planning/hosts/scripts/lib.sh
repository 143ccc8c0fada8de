# shellcheck shell=bash
# What all steps share. A step's script follows it and ends in `main "$@" </dev/null`.
# Settings come before it as variables: STEP, DIGEST, APT_LOCK_S, and the step's own.
set -euo pipefail
shopt -s inherit_errexit nullglob lastpipe
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
# Ubuntu's needrestart would restart Docker and what else uses a replaced library, after any installation.
export NEEDRESTART_SUSPEND=1 NEEDRESTART_MODE=l

STATE=/var/lib/inference-stack
LOCK=/run/inference-stack.lock
CHANGED=
UPDATED=

main() { # apply|undo [what a preview calls it] [arguments of the step]
  [[ $EUID == 0 ]] || fail "this must run as root" "it changes packages and units" "let sudo run it"
  find_os
  alone
  # What is started doesn't get the lock: a daemon would keep it.
  case ${1-} in
    apply)
      apply "${@:2}" 9>&-
      note_done
      ;;
    undo)
      undo 9>&-
      rm -f "$STATE/steps/$STEP"
      ;;
    *) fail "\`${1-}\` is nothing to do" "a step is applied or undone" "give apply or undo" ;;
  esac
  [[ $CHANGED ]] || echo "nothing to change"
}

alone() { # one script at a time on a host: that of an `up` that was killed goes on until it has something to say
  exec 9>"$LOCK"
  flock -n 9 && return
  echo "waiting: a step that was started before is still running on this host"
  flock -w "$APT_LOCK_S" 9 || fail "another step has been running on this host for $APT_LOCK_S s" \
    "two at once would be in each other's way" "let it end, or stop it (\`pgrep -fa 'bash -s'\`), and run \`up\` again"
}

say() { # a thing that was changed
  CHANGED=yes
  echo "$*"
}

fail() { # what is wrong, why, what to do
  echo "$STEP: $1: ${2:-}; ${3:-}." >&2
  exit 1
}

find_os() { # sets OS, such as ubuntu_24_04
  local id version
  id=$(. /etc/os-release && echo "${ID:-unknown}")
  version=$(. /etc/os-release && echo "${VERSION_ID:-unknown}")
  OS_ID=$id
  OS_VERSION=$version
  OS_CODENAME=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
  OS=${id}_${version//./_}
}

for_os() { # the value of setting $1 for this distribution; false where there is none
  local keyed=$1_$OS
  if [[ -v $keyed ]]; then
    echo "${!keyed}"
  elif [[ -v $1 ]]; then
    echo "${!1}"
  else
    return 1
  fi
}

note_done() {
  mkdir -p "$STATE/steps"
  [[ $(cat "$STATE/steps/$STEP" 2>/dev/null || true) == "$DIGEST" ]] || echo "$DIGEST" >"$STATE/steps/$STEP"
}

pending() { # note $1 as waiting for a person or a reboot, because of $2
  mkdir -p "$STATE/pending"
  if [[ $(cat "$STATE/pending/$1" 2>/dev/null || true) != "$2" ]]; then
    say "waiting: $2"
    echo "$2" >"$STATE/pending/$1"
  fi
}

settled() { # $1 waits no longer
  if [[ -e $STATE/pending/$1 ]]; then
    rm "$STATE/pending/$1"
    say "no longer waiting: $1"
  fi
}

# --- files ---

put() { # write standard input to file $1 unless it is there already
  local new
  mkdir -p "${1%/*}"
  new=$(mktemp "${1%/*}/.inference-stack.XXXXXX")
  cat >"$new"
  chmod 644 "$new"
  if cmp -s "$new" "$1"; then
    rm "$new"
    return
  fi
  mv "$new" "$1"
  say "wrote $1"
}

drop() { # remove files of ours
  local file
  for file in "$@"; do
    if [[ -e $file || -L $file ]]; then
      rm -f "$file"
      say "removed $file"
    fi
  done
}

need_space() { # MIB at folder $2 (or the nearest that exists) for $3
  local folder=$2 free
  while [[ ! -d $folder ]]; do folder=${folder%/*}; done
  free=$(df --output=avail -m "${folder:-/}" | tail -n 1 | tr -d ' ')
  ((free >= $1)) || fail "$free MiB are free at $2" "$3 needs $1 MiB" "make room there and run \`up\` again"
}

# --- services and kernels ---

enable_unit() { # units that exist: started at boot; started now where $1 is --now
  local now=$1 unit
  shift
  for unit in "$@"; do
    if [[ $(systemctl is-enabled "$unit" 2>/dev/null) != enabled ]]; then
      systemctl -q enable "$unit"
      say "enabled $unit"
    fi
    if [[ $now == --now ]] && ! systemctl -q is-active "$unit"; then
      [[ $(systemctl is-active "$unit") == activating ]] || say "started $unit"
      systemctl start "$unit" || fail "$unit doesn't start" "$(systemctl --no-pager -n 3 status "$unit" 2>&1 | tail -n 1)" "see \`journalctl -u $unit\` on the host"
    fi
  done
}

has_unit() {
  systemctl cat "$1" >/dev/null 2>&1
}

kernels() { # installed kernels, the one that will boot last
  local image
  for image in /boot/vmlinuz-*; do echo "${image#/boot/vmlinuz-}"; done | sort -V
}

loaded_module() { # version of NVIDIA's module in memory; nothing where there is none
  cat /sys/module/nvidia/version 2>/dev/null || true
}
