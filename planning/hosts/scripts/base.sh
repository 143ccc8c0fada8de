# shellcheck shell=bash
# base: repositories with checked keys, a folder for models, security updates, time.

apply() {
  check_host
  # A module that can't be built for a new kernel keeps that kernel's packages from their end: `driver` sees to it.
  if [[ ! -e $STATE/versions/driver || $(half_installed | grep -vE '^linux-|nvidia|^dkms$' || true) ]]; then
    must_repair_dpkg
  fi
  need_space 1024 /var/cache/apt "installing packages"
  ensure ca-certificates curl gpg gpg-agent
  repositories
  non_free
  updates
  clock
  models
  # Noted by `reboot`; a boot settles it.
  put /etc/tmpfiles.d/inference-stack.conf <<<"r! $STATE/pending/reboot"
}

undo() {
  drop /etc/apt/sources.list.d/inference-stack-*.sources /etc/apt/keyrings/inference-stack-*.asc
  drop /etc/apt/apt.conf.d/60inference-stack /etc/tmpfiles.d/inference-stack.conf
  rm -rf "$STATE/pending" "$STATE/holds" "$APT_LOG" "$APT_FAILED"
  # The models stay. So do clock and security updates, whose programs others may rely on by now.
}

check_host() {
  [[ " $SUPPORTED " == *" $OS "* ]] || fail "$OS_ID $OS_VERSION is not supported" \
    "packages and their names are known for ${SUPPORTED//_/ }" "install one of these"
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "the processor is $(uname -m)" "NVIDIA's packages are for x86_64 and aarch64" "use another machine" ;;
  esac
  [[ -d /run/systemd/system ]] || fail "systemd isn't running" "services are started by it" "boot the host with systemd"
}

repositories() {
  local name file wanted=""
  KEYS=""
  for name in $REPOSITORIES; do
    repository "$name"
    wanted+=" /etc/apt/sources.list.d/inference-stack-${name//_/-}.sources"
  done
  for file in /etc/apt/sources.list.d/inference-stack-*.sources; do
    [[ "$wanted /etc/apt/sources.list.d/inference-stack-non-free.sources" == *"$file"* ]] || drop "$file"
  done
  for file in /etc/apt/keyrings/inference-stack-*.asc; do
    [[ $KEYS == *"$file"* ]] || drop "$file"
  done
}

non_free() { # Debian's own drivers are in components that a plain installation lacks
  local file=/etc/apt/sources.list.d/inference-stack-non-free.sources entries
  if [[ ! $DEBIAN_NON_FREE || $OS_ID != debian ]]; then
    drop "$file"
    return
  fi
  entries=$(debians)
  if ! grep -q '|Debian|main$' <<<"$entries"; then
    apt_get update
    entries=$(debians)
  fi
  # The same places and keys as those of `main`, which may be a mirror; those that have them already are left out.
  local uri suite codename release key origin component text=""
  while IFS='|' read -r uri suite codename release key origin component; do
    [[ $origin == Debian && $component == main ]] || continue
    if [[ ! -e $file ]] && grep -qF "$uri|$suite|$codename|$release|$key|$origin|non-free" <<<"$entries"; then continue; fi
    text+="Types: deb"$'\n'"URIs: $uri"$'\n'"Suites: $release"$'\n'"Components: contrib non-free non-free-firmware"$'\n'
    [[ -z $key ]] || text+="Signed-By: $key"$'\n'
    text+=$'\n'
  done <<<"$entries"
  if [[ $text ]] && ! cmp -s "$file" <(printf %s "$text"); then
    printf %s "$text" | put "$file"
    apt_get update
  fi
}

debians() { # entries of Debian's own: where, releases, key, origin, component
  # What isn't set comes back as its own name.
  apt-get indextargets --format '$(REPO_URI)|$(SUITE)|$(CODENAME)|$(RELEASE)|$(SIGNED_BY)|$(ORIGIN)|$(COMPONENT)' \
    'Created-By: Packages' 2>/dev/null | sed 's/\$([A-Z_]*)//g' | sort -u
}

updates() { # security updates by themselves; a driver that is pinned is left out by `driver`
  local file
  ensure unattended-upgrades
  put /etc/apt/apt.conf.d/60inference-stack <<'END'
// Written by inference-stack.
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Automatic-Reboot "false";
END
  # apt reads the files in the order of their names, and the last word counts.
  file=$(grep -lsE '^[^/#]*Automatic-Reboot[[:space:]]+"?(true|1|yes|on|with|enable)' /etc/apt/apt.conf.d/* | tail -n 1 || true)
  [[ $(apt-config dump Unattended-Upgrade::Automatic-Reboot | grep -ciE '"(true|1|yes|on|with|enable)"') == 0 ]] ||
    fail "this host may reboot by itself" "${file:-a file in /etc/apt} lets unattended-upgrades do so" \
      "remove \`Unattended-Upgrade::Automatic-Reboot\` there, and run \`up\` again"
  enable_unit --now apt-daily.timer apt-daily-upgrade.timer
}

clock() { # keys and certificates are checked against it
  local unit
  for unit in chrony chronyd ntp ntpsec systemd-timesyncd; do
    [[ $(systemctl is-enabled "$unit" 2>/dev/null) == enabled ]] && return
  done
  ensure systemd-timesyncd
  enable_unit --later systemd-timesyncd
  systemctl start systemd-timesyncd || true # in a container the clock is the machine's own
}

models() {
  local there
  if [[ ! -d $MODELS_DIR ]]; then
    need_space $((MODELS_FREE_GIB * 1024)) "$MODELS_DIR" "\`models_free_gib: $MODELS_FREE_GIB\`"
    mkdir -p "$MODELS_DIR"
    say "made $MODELS_DIR"
    return
  fi
  # Weights that are there already count as room for models.
  there=$(du -sm "$MODELS_DIR" | cut -f 1)
  ((there >= MODELS_FREE_GIB * 1024)) ||
    need_space $((MODELS_FREE_GIB * 1024 - there)) "$MODELS_DIR" "\`models_free_gib: $MODELS_FREE_GIB\`, of which $there MiB are used,"
}

main "$@" </dev/null
