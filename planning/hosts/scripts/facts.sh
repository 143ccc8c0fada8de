#!/usr/bin/env bash
# Says what this host is: behind MARKER one line of JSON, `{"question": {"rc": 0, "out": "…", "err": "…"}, …}`, with
# `{"absent": true}` where the program or file to ask isn't there. It changes nothing and interprets nothing:
# planning/hosts/facts.py does. A question that fails is an answer too, so there is no `set -e`.
#
# Settings: DISK_PATHS, the paths whose disks are asked for, without spaces in them.
# shellcheck disable=SC2317  # the questions' functions are called through `ask`
set -uo pipefail

MARKER="inference-stack facts 1"
LIMIT_S=8 # for each question: nvidia-smi can hang on a card that is lost, df on a server that is gone
ABSENT=233 # no program's own exit status
NOTES=/var/lib/inference-stack
SECURE_BOOT=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
GPU_FIELDS=uuid,pci.bus_id,name,driver_version,memory.total,compute_cap,mig.mode.current
CONTAINER='{{.Label "inference-stack.stack"}}/{{.Label "inference-stack.service"}} {{.Image}}'
# shellcheck disable=SC2016  # dpkg-query's own variables
PACKAGE='${Package}\t${Architecture}\t${Version}\t${Status}\n'

export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
docker=(docker --host unix:///var/run/docker.sock) # this host's, not one that the user's own settings point to
as_root=()
answers=()

main() {
    if ((EUID != 0)); then
        ask sudo sudo -n true
        if sudo -n true 2>/dev/null; then as_root=(sudo -n); fi
    fi
    ask os_release cat /etc/os-release
    ask arch uname -m
    ask kernel uname -r
    ask boot_id cat /proc/sys/kernel/random/boot_id
    ask kernels kernels
    ask headers headers
    ask grub_menu grub_menu
    ask grub_env as_root grub-editenv /boot/grub/grubenv list
    ask secure_boot mokutil --sb-state
    ask secure_boot_byte secure_boot_byte
    ask signing_key signing_key
    ask virtual systemd-detect-virt
    ask time_synchronised timedatectl show --property NTPSynchronized --value

    ask pci pci
    ask module_version file /sys/module/nvidia/version
    ask module_banner file /proc/driver/nvidia/version
    ask nouveau module_loaded nouveau
    ask smi nvidia-smi --query-gpu="$GPU_FIELDS" --format=csv,noheader,nounits
    ask dkms dkms status
    ask architecture dpkg --print-architecture
    ask packages dpkg-query -W -f "$PACKAGE"
    ask holds apt-mark showhold

    ask docker_version "${docker[@]}" version --format '{{.Client.Version}}'
    ask docker_info as_root "${docker[@]}" info --format '{{json .}}'
    ask docker_settings digest /etc/docker/daemon.json
    ask docker_settings_noted file "$NOTES/docker-settings"
    ask containers as_root "${docker[@]}" ps --filter label=inference-stack.stack --format "$CONTAINER"
    ask cdi_list nvidia-ctk cdi list
    ask cdi_files cdi_files
    ask mesh mesh
    ask mesh_noted file "$NOTES/mesh-node"
    ask firewall firewall
    ask firewall_noted file "$NOTES/firewall-table"
    ask memory grep MemTotal /proc/meminfo
    ask disks disks
    ask steps notes steps
    ask pending notes pending

    local IFS=,
    printf '%s\n{%s}\n' "$MARKER" "${answers[*]}"
}

# ask NAME [as_root] COMMAND…: keeps what the command, or the function of that name, answers.
ask() {
    local name=$1 prefix=() out err rc
    shift
    if [[ $1 == as_root ]]; then
        prefix=("${as_root[@]}")
        shift
    fi
    if ! command -v "$1" >/dev/null; then
        answers+=("\"$name\":{\"absent\":true}")
        return
    fi
    [[ $(type -t "$1") == function ]] || set -- "${prefix[@]}" timeout -k 1 "$LIMIT_S" "$@"
    # Both streams without a temporary file: the disk may be full. Neither can hold a zero byte.
    {
        IFS= read -r -d '' err
        IFS= read -r -d '' out
        IFS= read -r -d '' rc
    } < <({ printf '\0%s\0%s\0' "$("$@")" "$?" >&2; } 2>&1)
    if ((rc == ABSENT)); then
        answers+=("\"$name\":{\"absent\":true}")
    else
        answers+=("\"$name\":{\"rc\":$rc,\"out\":$(json "$out"),\"err\":$(json "$err")}")
    fi
}

# json TEXT: as a JSON string.
json() {
    local text=$1 code char bs=\\
    text=${text//"$bs"/"$bs$bs"}
    text=${text//'"'/"$bs"'"'}
    text=${text//$'\n'/"$bs"n}
    text=${text//$'\t'/"$bs"t}
    if [[ $text == *[[:cntrl:]]* ]]; then
        for code in {1..31}; do
            printf -v code '%02x' "$code"
            printf -v char '%b' "\\x$code"
            text=${text//"$char"/"$bs"u00$code}
        done
    fi
    printf '"%s"' "$text"
}

file() {
    [[ -e $1 ]] || return "$ABSENT"
    cat -- "$1"
}

# The first 12 digits of a file's SHA-256, as the steps' scripts note it: enough to see that it changed, and no secret.
digest() {
    [[ -e $1 ]] || return "$ABSENT"
    "${as_root[@]}" sha256sum -- "$1" | cut -c -12
}

# Kernels that can boot, the newest last, as GRUB sorts them.
kernels() {
    [[ -d /boot ]] || return "$ABSENT"
    "${as_root[@]}" find /boot -maxdepth 1 -name 'vmlinuz-*' -printf '%f\n' | sort -V
}

# Kernels that modules can be built for: DKMS looks at the same place.
headers() {
    local build
    for build in /lib/modules/*/build; do
        if [[ -e $build/Makefile ]]; then basename "${build%/build}"; fi
    done | sort -V
}

grub_menu() {
    local menu=/boot/grub/grub.cfg
    "${as_root[@]}" test -e "$menu" || return "$ABSENT"
    "${as_root[@]}" grep -E '^[[:space:]]*(menuentry|submenu|linux|set default=)' "$menu"
}

# The fifth byte of the UEFI variable: 1 is on. A machine without UEFI has no Secure Boot; a container may see neither.
secure_boot_byte() {
    if [[ -e $SECURE_BOOT ]]; then
        od -An -t u1 -j 4 -N 1 "$SECURE_BOOT"
    elif [[ ! -d /sys/firmware/efi && -n $(find /sys/firmware -mindepth 1 -maxdepth 1 2>/dev/null) ]]; then
        echo "no UEFI"
    else
        return "$ABSENT"
    fi
}

# Whether the firmware trusts the key that DKMS signs modules with: Ubuntu's, else DKMS's own.
signing_key() {
    local key
    command -v mokutil >/dev/null || return "$ABSENT"
    for key in /var/lib/shim-signed/mok/MOK.der /var/lib/dkms/mok.pub; do
        if [[ -e $key ]]; then
            "${as_root[@]}" mokutil --test-key "$key"
            return
        fi
    done
    echo "no key"
}

# Everything of NVIDIA's on the PCI bus: address, vendor, device, class.
pci() {
    local device vendor id class
    [[ -d /sys/bus/pci/devices ]] || return "$ABSENT"
    for device in /sys/bus/pci/devices/*; do
        { read -r vendor <"$device/vendor"; } 2>/dev/null || continue
        [[ $vendor == 0x10de ]] || continue
        read -r id <"$device/device"
        read -r class <"$device/class"
        echo "${device##*/} $vendor $id $class"
    done
}

module_loaded() {
    [[ -d /sys/module ]] || return "$ABSENT"
    if [[ -d /sys/module/$1 ]]; then echo yes; else echo no; fi
}

# The lines of CDI files, YAML or JSON, that say which devices they name.
cdi_files() {
    local path
    for path in /etc/cdi/*.{yaml,json} /var/run/cdi/*.{yaml,json}; do
        [[ -e $path ]] || continue
        echo "# $path"
        sed 's/[{},]/\n/g' -- "$path" | grep -E '^[[:space:]]*(-[[:space:]]*)?"?(kind|name)"?[[:space:]]*:'
    done
    return 0
}

# The digest of the node's settings and of what it publishes, as the step `mesh` noted it.
mesh() {
    local prefs
    command -v tailscale >/dev/null || return "$ABSENT"
    prefs=$("${as_root[@]}" tailscale debug prefs 2>/dev/null) || return "$ABSENT"
    {
        grep -E '"(RouteAll|CorpDNS|RunSSH|ShieldsUp|Hostname|AdvertiseRoutes|ExitNodeID)"' <<<"$prefs"
        "${as_root[@]}" tailscale serve status --json
    } | sha256sum | cut -c -12
}

# The digest of our table of nftables as it is loaded, as the step `confirm` noted it.
firewall() {
    local table
    command -v nft >/dev/null || return "$ABSENT"
    table=$("${as_root[@]}" nft -s list table inet inference_stack 2>/dev/null) || return "$ABSENT"
    sha256sum <<<"$table" | cut -c -12
}

# For each path: the path, a tab, and df's line of it, or of its nearest parent that is there.
disks() {
    local path there lines
    for path in ${DISK_PATHS:-/}; do
        there=$path
        until [[ -e $there || $there == / ]]; do there=$(dirname -- "$there"); done
        lines=$(timeout -k 1 "$LIMIT_S" df -P -k -- "$there") || continue
        printf '%s\t%s\n' "$path" "${lines##*$'\n'}"
    done
}

# notes FOLDER: what the steps' scripts noted, as `file:line`.
notes() {
    "${as_root[@]}" test -e "$NOTES/$1" || return "$ABSENT"
    "${as_root[@]}" find "$NOTES/$1" -maxdepth 1 -type f ! -name '.*' -exec grep -H '' {} +
}

# Read to its end before it starts, so that a script cut off on its way does nothing; and no command eats it as input.
main </dev/null
exit 0
