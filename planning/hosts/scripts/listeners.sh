#!/usr/bin/env bash
# Says what listens on this host: behind MARKER, lines of a kind, a tab and a text, and `end` as the last of them. It
# changes nothing and interprets nothing: planning/network/listeners.py does.
#
# Settings: DOCKER_HOST, where another Docker than this host's own is asked.
set -uo pipefail

MARKER="inference-stack listeners 1"
LIMIT_S=20 # for each question
# shellcheck disable=SC2016  # Docker's own template
PUBLISHED='{"name":{{json .Name}},"stack":{{json (index .Config.Labels "inference-stack.stack")}},"ports":{{json .NetworkSettings.Ports}}}'

export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
docker=(docker --host "${DOCKER_HOST:-unix:///var/run/docker.sock}")
as_root=()

main() {
    printf '%s\n' "$MARKER"
    if ((EUID != 0)); then
        if sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            printf 'problem\tsudo asks for a password or is missing: the programs of other users have no names here\n'
        fi
    fi
    # The server's end of this connection is the SSH server that the spec names.
    printf 'ssh\t%s\n' "${SSH_CONNECTION:-}"
    ask address ip -j address show
    ask socket "${as_root[@]}" ss -Htulpn
    ask unit ps -eo pid=,unit=
    if command -v docker >/dev/null; then published; fi
    echo end
}

# ask KIND COMMAND…: its lines, or why it gave none.
ask() {
    local kind=$1 out program
    shift
    program=$1
    [[ $program != sudo ]] || program=$3
    if out=$(timeout -k 1 "$LIMIT_S" "$@" 2>&1); then
        [[ -z $out ]] || lines "$kind" <<<"$out"
    else
        lines problem <<<"$program: $(tail -n 1 <<<"$out")"
        return 1
    fi
}

lines() {
    local line
    while IFS= read -r line; do printf '%s\t%s\n' "$1" "$line"; done
}

published() {
    local ids
    if ! ids=$(timeout -k 1 "$LIMIT_S" "${as_root[@]}" "${docker[@]}" ps --quiet --no-trunc 2>&1); then
        lines problem <<<"docker: $(tail -n 1 <<<"$ids")"
        return
    fi
    # shellcheck disable=SC2086  # several words
    if [[ -z $ids ]] || ask container "${as_root[@]}" "${docker[@]}" inspect --format "$PUBLISHED" $ids; then
        printf 'docker\tanswered\n'
    fi
}

main
