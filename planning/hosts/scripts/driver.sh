# shellcheck shell=bash
# driver: NVIDIA's driver in one version, pinned and held, with modules for the kernel that will boot; a CUDA toolkit.

NOUVEAU=/etc/modprobe.d/inference-stack-nouveau.conf

apply() {
  # Of the driver itself, what is half installed is replaced by what follows: a build that failed would fail again.
  if [[ $(broken_elsewhere) ]]; then
    unstick_kernels
    must_repair_dpkg
  fi
  HELD=()
  if [[ $WANTED ]]; then
    driver
  else
    leave_driver
  fi
  if [[ -v CUDA_PACKAGES ]]; then
    cuda
  else
    drop /etc/apt/preferences.d/inference-stack-cuda /etc/apt/apt.conf.d/60inference-stack-cuda
  fi
  must_repair_dpkg
  hold "${HELD[@]}"
}

unstick_kernels() { # whose packages wait for a module that failed to build, and would take minutes to fail again
  local version log failed=""
  [[ $WANTED ]] && broken_elsewhere | grep -qE '^linux-(headers|image)-' || return 0
  for log in /var/lib/dkms/nvidia*/*/build/make.log; do
    if grep -qE 'error:|Error [0-9]' "$log"; then failed=yes; fi
  done
  [[ $failed ]] || return 0
  version=$(for_os VERSION || true)
  if [[ $(kept "$version") ]]; then
    without_headers "$version" || true
  else
    # Another driver's, so this one is tried again with them.
    without_headers "" || true
  fi
}

broken_elsewhere() { # packages that are half installed and not of the driver
  local package pattern
  local -a family
  # shellcheck disable=SC2153 # a setting
  read -ra family <<<"$FAMILY"
  while read -r package; do
    for pattern in "${family[@]}"; do
      # shellcheck disable=SC2053 # a pattern it is
      [[ ! $WANTED || $package != $pattern ]] || continue 2
    done
    echo "$package"
  done < <(half_installed)
}

undo() {
  local -a found
  leave_driver
  drop /etc/apt/preferences.d/inference-stack-cuda /etc/apt/apt.conf.d/60inference-stack-cuda
  # A host that leaves has its `engine` undone first. Where that stays, the driver's models may be running.
  if [[ $WHEN_REMOVED == purge && ! -e $STATE/steps/engine ]]; then
    mapfile -t found < <(ours)
    unhold_ours
    if [[ ${#found[@]} -gt 0 ]]; then
      apt_get purge --allow-change-held-packages "${found[@]}"
      say "purged ${found[*]}"
      [[ -z $(loaded_module) ]] || say "the module $(loaded_module) stays loaded until the next boot"
    fi
  fi
  unhold_ours
  rm -f "$STATE/driver-changed" "$STATE/dkms.log" "$STATE/unfit" "$STATE/versions/driver" "$STATE/versions/cuda" "$STATE/versions/pinning"
}

ours() { # installed packages of the versions that this step pinned
  local package have major minor
  local -a family
  read -ra family <<<"$FAMILY"
  while read -r package have; do
    if was_pinned "$have" "$STATE/versions/driver"; then echo "$package"; fi
  done < <(members "${family[@]}")
  [[ -e $STATE/versions/cuda ]] || return 0
  while IFS=. read -r major minor _; do members "*-$major-$minor" | cut -d ' ' -f 1; done <"$STATE/versions/cuda"
}

leave_driver() {
  drop /etc/apt/preferences.d/inference-stack-driver /etc/apt/preferences.d/inference-stack-pinning \
    /etc/apt/apt.conf.d/60inference-stack-driver /etc/apt/apt.conf.d/60inference-stack-kernels \
    /usr/local/sbin/inference-stack-kernels
  free_kernels
  if [[ -e $NOUVEAU ]]; then
    # NVIDIA's packages have a file of their own for it, so nothing changes at the next boot while they stay.
    drop "$NOUVEAU"
  fi
}

driver() {
  local version packages first loose changed=$CHANGED
  local -a family
  version=$(for_os VERSION) ||
    fail "the version set has no driver for $OS_ID $OS_VERSION" "\`packages: $SOURCE\` is of another system" \
      "write \`packages: nvidia\`, or choose another version set"
  packages=$(for_os PACKAGES)
  first=$(for_os FIRST)
  BUILDING=$version
  loose=$(for_os LOOSE)
  CHANGED=
  nouveau
  if [[ $first ]]; then
    # An entry of NVIDIA's own that apt reads before the rest is chosen.
    install_set pinning "$version" "$first" "" "nvidia-driver-pinning-*"
    HELD+=("${SET[@]}")
  fi
  UNWANTED=$(for_os NOT_BESIDE)
  install_set driver "$version" "$packages" "$loose" "$FAMILY"
  UNWANTED=""
  HELD+=("${SET[@]}")
  read -ra family <<<"$FAMILY"
  not_unattended driver "${family[@]}"
  # After the packages: the new driver may fit a kernel that the old one doesn't.
  headers "$version"
  modules "$version"
  load "$version"
  units "$version"
  if [[ $CHANGED ]]; then
    touch "$STATE/driver-changed" # CDI files that are older tell of another driver
  else
    CHANGED=$changed
  fi
}

cuda() {
  local package
  install_set cuda "$CUDA_VERSION" "$CUDA_PACKAGES" "" "$CUDA_PARTS"
  # Those with versions of their own that came with it stay.
  while read -r package _; do HELD+=("$package"); done < <(members "$CUDA_PARTS")
  not_unattended cuda "$CUDA_PARTS"
}

nouveau() { # Linux' own driver, which would take the cards first
  put "$NOUVEAU" <<'END'
# Written by inference-stack: NVIDIA's driver needs the cards.
blacklist nouveau
options nouveau modeset=0
END
}

units() { # the persistence daemon, and the fabric manager where it belongs
  local unit wanted=(nvidia-persistenced)
  [[ ! $FABRIC ]] || wanted+=(nvidia-fabricmanager)
  for unit in "${wanted[@]}"; do
    has_unit "$unit.service" || fail "there is no $unit.service" "the driver's packages don't bring it" \
      "choose another driver or \`packages:\`"
    # Without its module, or with that of another version, it ends at once.
    if [[ $(loaded_module) == "$1" ]]; then
      enable_unit --now "$unit.service"
    else
      enable_unit --later "$unit.service"
    fi
  done
}

load() { # where no module is in memory yet, none needs to go first: no reboot for that
  local kernel
  kernel=$(uname -r)
  [[ ! $(loaded_module) && ! -d /sys/module/nouveau ]] || return 0
  [[ $(module_of "$kernel") == "$1" ]] || return 0
  if modprobe nvidia 2>/dev/null; then say "loaded the module $1"; fi
}

# --- kernels ---

headers() { # version: headers of the kernel that will boot and of the one that runs, and of those to come
  local kernel package wanted=() running boot
  running=$(uname -r)
  boot=$(kernels | tail -n 1)
  for kernel in $boot $running; do
    [[ -e /boot/vmlinuz-$kernel && ! -e /lib/modules/$kernel/build/Makefile ]] || continue
    ! is_unfit "$1" "$kernel" || continue
    if known "linux-headers-$kernel"; then
      wanted+=("linux-headers-$kernel")
    elif [[ $kernel == "$boot" ]]; then
      fail "the headers of kernel $kernel can't be had" "the driver's modules are built for the kernel that will boot" \
        "install linux-headers-$kernel, or another kernel"
    fi
  done
  # These bring the newest, whatever it is.
  if ! grep -qs "^$1 " "$STATE/unfit"; then
    while read -r package _; do
      package=linux-headers-${package#linux-image-}
      if known "$package"; then wanted+=("$package"); fi
    done < <(members "linux-image-*" | grep -vE '^linux-image-(unsigned-)?[0-9]')
  fi
  ensure "${wanted[@]}"
}

went_on() { # a build that failed for the newest kernel alone is no reason to stop
  [[ -v BUILDING ]] && build_failed
}

is_unfit() { # version, kernel: DKMS has failed to build it for that
  grep -qsxF "$1 $2" "$STATE/unfit"
}

without_headers() { # version: removes headers of kernels without its module (or without any), which DKMS then skips
  local kernel found=()
  while read -r kernel; do
    [[ -e /lib/modules/$kernel/build/Makefile && $(module_of "$kernel") != "${1:-*}" ]] || continue
    if [[ ! $1 && $(module_of "$kernel") ]]; then continue; fi
    is_unfit "${1:-any}" "$kernel" || echo "${1:-any} $kernel" >>"$STATE/unfit"
    found+=("linux-headers-$kernel")
  done < <(kernels)
  [[ ${#found[@]} -gt 0 ]] || return 1
  say "removing ${found[*]}: the driver ${1:-that is installed} can't be built for it"
  try_apt_get remove --allow-change-held-packages "${found[@]}"
}

build_failed() { # whether the last installation failed because of a build; goes on if an older kernel has the module
  local log failed=""
  for log in /var/lib/dkms/nvidia*/"$BUILDING"/build/make.log; do
    if grep -qE 'error:|Error [0-9]' "$log"; then failed=yes; fi
  done
  [[ $failed ]] && grep -qE 'dkms|linux-(headers|image)' "$APT_FAILED" || return 1
  if [[ $(kept "$BUILDING") ]] && without_headers "$BUILDING" && repair_dpkg; then return 0; fi
  fail "the driver $BUILDING can't be built" "$(build_error "$BUILDING")" \
    "choose another driver, or remove the kernel that it isn't made for"
}

known() { # package: apt can get it
  [[ -n $(apt-cache madison "$1") ]]
}

module_of() { # kernel -> version of NVIDIA's module that is built for it; nothing where there is none
  local file
  for file in /lib/modules/"$1"/updates/dkms/nvidia{,-current,-current-open}.ko* \
    /lib/modules/"$1"/kernel/drivers/video/nvidia.ko* /lib/modules/"$1"/kernel/nvidia-*/nvidia.ko* \
    /lib/modules/"$1"/{extra,updates}/nvidia.ko*; do
    modinfo -F version "$file" 2>/dev/null && return
  done
  return 0
}

modules() { # version: modules for the kernel that will boot, or an older kernel is kept
  local boot
  boot=$(kernels | tail -n 1)
  if [[ $boot && $(module_of "$boot") != "$1" && -e /lib/modules/$boot/build/Makefile ]] && command -v dkms >/dev/null; then
    echo "building modules for $boot, which takes minutes"
    dkms autoinstall -k "$boot" >"$STATE/dkms.log" 2>&1 || true
  fi
  # Kernels come without us too, by unattended upgrades: after each run of dpkg the same is looked at.
  {
    echo "#!/bin/bash"
    echo "# Written by inference-stack: keeps the last kernel that the driver has a module for."
    echo "set -euo pipefail"
    echo "shopt -s inherit_errexit nullglob lastpipe"
    echo "STATE=$STATE CHANGED="
    declare -f say pending settled put drop kernels module_of watch_kernels boot_into hold_kernels free_kernels
    echo "watch_kernels $1"
  } | put /usr/local/sbin/inference-stack-kernels
  chmod 755 /usr/local/sbin/inference-stack-kernels
  put /etc/apt/apt.conf.d/60inference-stack-kernels <<'END'
// Written by inference-stack.
DPkg::Post-Invoke { "/usr/local/sbin/inference-stack-kernels || true"; };
END
  watch_kernels "$1"
  [[ ! $boot || -n $(kept "$1") ]] || fail "the driver $1 has no module for kernel $boot" "$(build_error "$1")" \
    "choose another driver branch, or another kernel"
}

kept() { # version -> the newest kernel with a module of it
  local kernel newest=""
  while read -r kernel; do
    if [[ $(module_of "$kernel") == "$1" ]]; then newest=$kernel; fi
  done < <(kernels)
  echo "$newest"
}

watch_kernels() { # version: the kernel that boots next has a module of it, or an older one that has is made to boot
  local kernel boot="" newest=""
  while read -r kernel; do
    boot=$kernel
    if [[ $(module_of "$kernel") == "$1" ]]; then newest=$kernel; fi
  done < <(kernels)
  if [[ $boot == "$newest" || ! $newest ]]; then
    free_kernels
    return
  fi
  hold_kernels
  if boot_into "$newest"; then
    pending kernel "the driver $1 has no module for kernel $boot, so $newest stays the one that boots: choose a newer driver"
  else
    pending kernel "the driver $1 has no module for kernel $boot, which boots next, since GRUB doesn't list $newest: make that one boot by hand, or remove $boot, or choose a newer driver"
  fi
}

boot_into() { # kernel: GRUB's menu names it by an id; false where GRUB isn't there, or doesn't list it
  local id submenu menu=/boot/grub/grub.cfg
  id=$(grep -soE "gnulinux-$1-advanced-[^' \">]+" "$menu" | head -n 1 || true)
  [[ $id ]] || return 1
  submenu=$(grep -oE "gnulinux-advanced-[^' \">]+" "$menu" | head -n 1 || true)
  id=${submenu:+$submenu>}$id
  put /etc/default/grub.d/inference-stack.cfg <<<"GRUB_DEFAULT=\"$id\""
  # The menu itself says whether the run that wrote this came to its end.
  grep -qF "set default=\"$id\"" "$menu" || update-grub >/dev/null 2>&1 || true
  grep -qF "set default=\"$id\"" "$menu"
}

hold_kernels() { # names that bring each new kernel with them. dpkg itself is asked: a hook of apt runs within apt's lock
  local package
  while read -r package; do
    if ! apt-mark showhold | grep -qxF "$package"; then
      mkdir -p "$STATE/holds"
      echo "$package" >>"$STATE/holds/kernels"
      echo "$package hold" | DPKG_FRONTEND_LOCKED=1 dpkg --set-selections
      say "held $package"
    fi
  done < <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-image-*' 'linux-headers-*' 2>/dev/null |
    sed -n 's/^installed //p' | grep -vE '^linux-(image|headers)-(unsigned-)?[0-9]')
}

free_kernels() {
  local package chosen=/etc/default/grub.d/inference-stack.cfg
  if [[ -e $chosen ]]; then
    : >"$chosen" # it goes when GRUB has read that it says nothing
    update-grub >/dev/null 2>&1 || true
    drop "$chosen"
  fi
  settled kernel
  [[ -e $STATE/holds/kernels ]] || return 0
  while read -r package; do
    echo "$package install" | DPKG_FRONTEND_LOCKED=1 dpkg --set-selections
    say "no longer held: $package"
  done <"$STATE/holds/kernels"
  rm "$STATE/holds/kernels"
}

build_error() { # version -> first error of the last failed build
  local log line
  for log in /var/lib/dkms/nvidia*/"$1"/build/make.log; do
    line=$(grep -m 1 -E 'error:|Error [0-9]' "$log") && echo "$line" && return
  done
  echo "DKMS didn't build it"
}

main "$@" </dev/null
