# shellcheck shell=bash
# engine: Docker in one version with CDI; NVIDIA's container toolkit; a container that sees the GPUs.

DAEMON=/etc/docker/daemon.json
CDI=/var/run/cdi/nvidia.yaml
IMAGE=inference-stack/gpu-check
FENCE_PROGRAM=/usr/local/sbin/inference-stack-fence
FENCE_UNIT=/etc/systemd/system/inference-stack-fence
FENCE_LOOKS_S=15

apply() {
  must_repair_dpkg
  HELD=()
  after_reboot
  daemon
  docker_itself
  login
  if [[ $WANT_TOOLKIT ]]; then
    toolkit
  else
    drop /etc/apt/preferences.d/inference-stack-toolkit /etc/apt/apt.conf.d/60inference-stack-toolkit
  fi
  hold "${HELD[@]}"
  fence
  if [[ $WANT_TOOLKIT ]] && driver_is_loaded; then
    cdi_files
    # One GPU that is gone doesn't keep the models of the others from starting.
    start_drained
    gpus
  else
    start_drained
  fi
  must_have_started
}

undo() {
  local package have
  local -a family found=()
  drop /etc/apt/preferences.d/inference-stack-docker /etc/apt/preferences.d/inference-stack-toolkit \
    /etc/apt/apt.conf.d/60inference-stack-docker /etc/apt/apt.conf.d/60inference-stack-toolkit
  unhold_ours
  settled gpus
  no_fence
  if [[ -e $STATE/docker-login ]]; then
    gpasswd -d "$(cat "$STATE/docker-login")" docker >/dev/null 2>&1 && say "took $(cat "$STATE/docker-login") out of the group docker"
    rm "$STATE/docker-login"
  fi
  if command -v docker >/dev/null && docker image inspect "$IMAGE" >/dev/null 2>&1; then
    docker image rm -f "$IMAGE" >/dev/null
    say "removed the image $IMAGE"
  fi
  if [[ $WHEN_REMOVED == purge ]]; then
    read -ra family <<<"$DOCKER_FAMILY $TOOLKIT_FAMILY"
    while read -r package have; do found+=("$package"); done < <(members "${family[@]}")
    if [[ ${#found[@]} -gt 0 ]]; then
      apt_get purge --allow-change-held-packages "${found[@]}"
      say "purged ${found[*]}; $DATA_ROOT stays"
    fi
    drop "$DAEMON"
  elif [[ -e $STATE/daemon.json.before ]]; then
    # Docker reads it at its next start: nothing is restarted for this.
    put "$DAEMON" <"$STATE/daemon.json.before"
  fi
  rm -f "$STATE/daemon.json.before" "$STATE/docker-settings" "$STATE/drained" "$STATE/rebooting" \
    "$STATE/versions/docker" "$STATE/versions/toolkit"
}

after_reboot() { # what `reboot` asked for has happened, and the module is the wanted one
  local asked=$STATE/rebooting wanted loaded
  [[ -e $asked ]] || return 0
  [[ $(cat "$asked") != "$(cat /proc/sys/kernel/random/boot_id)" ]] || fail "this host was to reboot and hasn't" \
    "it is still in the same boot" "see \`journalctl -u inference-stack-reboot\` on the host, reboot it, and run \`up\` again"
  wanted=$(for_os DRIVER_VERSION || true)
  loaded=$(loaded_module)
  [[ $loaded == "$wanted" ]] || fail "after its reboot the driver $wanted isn't loaded" "${loaded:-no module} is" \
    "see \`dkms status\` and \`journalctl -k\` on the host, and run \`up\` again"
  rm "$asked"
  settled reboot
  say "rebooted; the driver $loaded is loaded"
}

# --- Docker ---

daemon() { # before Docker is installed, so that its first start is as it will stay
  local before=""
  if [[ -e $DAEMON ]] && ! cmp -s "$DAEMON" <(printf '%s\n' "$DAEMON_JSON"); then
    if [[ ! -e $STATE/versions/docker && ! -e $STATE/daemon.json.before ]]; then
      mkdir -p "$STATE"
      cp "$DAEMON" "$STATE/daemon.json.before"
      say "kept the host's own $DAEMON as $STATE/daemon.json.before"
    fi
  fi
  if command -v docker >/dev/null && systemctl -q is-active docker; then
    before=$(docker info --format '{{.DockerRootDir}}')
    if [[ $before != "$DATA_ROOT" && -n $(docker ps -aq) ]]; then
      fail "Docker keeps its data in $before, not in $DATA_ROOT" "its containers and images would be out of sight" \
        "write \`data_root: $before\`, or move them by hand and run \`up\` again"
    fi
  fi
  # No longer in force, whatever happens between here and Docker's next start.
  cmp -s "$DAEMON" <(printf '%s\n' "$DAEMON_JSON") || rm -f "$STATE/docker-settings"
  printf '%s\n' "$DAEMON_JSON" | put "$DAEMON"
}

docker_itself() {
  local version packages loose started
  version=$(for_os DOCKER_VERSION) ||
    fail "the version set has no Docker of $OS_ID $OS_VERSION" "\`engine: distribution\` asks for one" "write \`engine: docker\`"
  packages=$(for_os DOCKER_PACKAGES)
  loose=$(for_os DOCKER_LOOSE)
  started=$(systemctl show -p ActiveEnterTimestampMonotonic --value docker)
  if [[ $(settings_in_force) != "$(digest_of_settings)" ]] && systemctl -q is-active docker; then
    # Turns live-restore on, so that what follows keeps the containers running.
    systemctl reload docker
  fi
  install_set docker "$version" "$packages" "$loose" "$DOCKER_FAMILY"
  HELD+=("${SET[@]}")
  local -a family
  read -ra family <<<"$DOCKER_FAMILY"
  not_unattended docker "${family[@]}"
  enable_unit --now docker.service
  if [[ $(settings_in_force) != "$(digest_of_settings)" ]]; then
    if [[ $started != 0 && $(systemctl show -p ActiveEnterTimestampMonotonic --value docker) == "$started" ]]; then
      systemctl restart docker || fail "Docker doesn't start with its new settings" \
        "$(journalctl -u docker -n 3 --no-pager -o cat 2>/dev/null | tail -n 1)" "see \`journalctl -u docker\` on the host"
      say "restarted Docker for its new settings; live-restore kept its containers"
    fi
    digest_of_settings >"$STATE/docker-settings"
  fi
}

digest_of_settings() {
  sha256sum <"$DAEMON" | cut -c -12
}

settings_in_force() { # those that Docker was last started with
  cat "$STATE/docker-settings" 2>/dev/null || true
}

login() { # Pulumi's Docker provider reaches the socket as the user of `connection:`
  [[ $LOGIN != root ]] || return 0
  if ! id -nG "$LOGIN" | tr ' ' '\n' | grep -qx docker; then
    echo "$LOGIN" >"$STATE/docker-login" # first, so that nobody stays in it for want of a note
    usermod -aG docker "$LOGIN"
    say "put $LOGIN into the group docker, which is as good as root"
  fi
}

fence() { # replicas that Docker would start again in vain are stopped, those that it couldn't start started: see fence.sh
  put "$FENCE_PROGRAM" <<<"$FENCE"
  chmod 755 "$FENCE_PROGRAM"
  put "$FENCE_UNIT.service" <<END
[Unit]
Description=Stop replicas that Docker would start again in vain, start those that it could not
After=docker.service
[Service]
Type=oneshot
ExecStart=$FENCE_PROGRAM
# A look each $FENCE_LOOKS_S s: only what it does is worth a line.
LogLevelMax=notice
END
  put "$FENCE_UNIT.timer" <<END
[Unit]
Description=Look for replicas that Docker would start again in vain, or could not start
[Timer]
OnBootSec=20
OnUnitInactiveSec=$FENCE_LOOKS_S
AccuracySec=1s
[Install]
WantedBy=timers.target
END
  if [[ $(systemctl show -p NeedDaemonReload --value inference-stack-fence.service inference-stack-fence.timer) == *yes* ]]; then
    systemctl daemon-reload
  fi
  enable_unit --now inference-stack-fence.timer
}

no_fence() { # what it has stopped stays so
  local file
  if [[ -e $FENCE_UNIT.timer ]]; then
    systemctl -q disable --now inference-stack-fence.timer
    systemctl stop inference-stack-fence.service
    drop "$FENCE_UNIT.timer" "$FENCE_UNIT.service" "$FENCE_PROGRAM"
    systemctl daemon-reload
  fi
  rm -rf /run/inference-stack-fence
  for file in "$STATE"/pending/fenced-*; do settled "${file##*/}"; done
}

start_drained() { # models that `reboot` stopped. Sets NOT_STARTED, which the next run tries again, and WHY
  local name out started=()
  NOT_STARTED=()
  [[ -e $STATE/drained ]] || return 0
  while read -r name; do
    docker inspect "$name" >/dev/null 2>&1 || continue
    if out=$(docker start "$name" 2>&1); then
      started+=("$name")
    else
      NOT_STARTED+=("$name")
      WHY=${out%%$'\n'*}
    fi
  done < <(sort -u "$STATE/drained")
  if [[ ${#NOT_STARTED[@]} -gt 0 ]]; then
    printf '%s\n' "${NOT_STARTED[@]}" >"$STATE/drained"
  else
    rm -f "$STATE/drained" # the host itself may have been faster
  fi
  [[ ${#started[@]} -eq 0 ]] || say "started ${started[*]}"
}

must_have_started() {
  [[ ${#NOT_STARTED[@]} -eq 0 ]] || fail "${NOT_STARTED[*]} stopped for the reboot, and can't be started again" \
    "$WHY" "see \`docker logs\` on the host, and run \`up\` again"
}

# --- GPUs ---

toolkit() {
  install_set toolkit "$TOOLKIT_VERSION" "$TOOLKIT_PACKAGES" "" "$TOOLKIT_FAMILY"
  HELD+=("${SET[@]}")
  local -a family
  read -ra family <<<"$TOOLKIT_FAMILY"
  not_unattended toolkit "${family[@]}"
  has_unit nvidia-cdi-refresh.service || fail "the container toolkit $TOOLKIT_VERSION has no nvidia-cdi-refresh" \
    "it keeps the CDI devices right after boots and driver changes" "choose 1.18 or newer in the version set"
  enable_unit --now nvidia-cdi-refresh.path
  enable_unit --later nvidia-cdi-refresh.service
}

driver_is_loaded() { # containers can be shown the GPUs, or it is noted why nobody can know yet
  local loaded wanted
  wanted=$(for_os DRIVER_VERSION || true)
  loaded=$(loaded_module)
  if [[ ! $loaded ]]; then
    pending gpus "no driver is loaded, so containers can't be shown the GPUs: after the reboot, \`make drift\` and \`up\` look again"
    return 1
  elif [[ $wanted && $loaded != "$wanted" ]]; then
    pending gpus "the driver $loaded is loaded, not $wanted: containers aren't shown the GPUs before the reboot"
    return 1
  fi
}

cdi_files() {
  if ! listed || [[ $CDI -ot $STATE/driver-changed ]]; then
    systemctl restart nvidia-cdi-refresh.service || fail "the CDI devices can't be written" \
      "$(journalctl -u nvidia-cdi-refresh -n 3 --no-pager -o cat 2>/dev/null | tail -n 1)" "see \`nvidia-ctk cdi generate\` on the host"
    say "refreshed $CDI"
  fi
}

gpus() {
  local uuid
  for uuid in $GPUS; do
    grep -qxF "nvidia.com/gpu=$uuid" <<<"$(cdi_devices)" || fail "$uuid isn't a GPU of this host" \
      "the CDI devices are $(cdi_devices | tr '\n' ' ')" "correct \`gpus:\`, or look at \`nvidia-smi\` and \`dmesg\` on the host if it was there before"
  done
  seen
  settled gpus
}

cdi_devices() {
  nvidia-ctk cdi list 2>/dev/null | grep '^nvidia.com/gpu=' || true
}

listed() {
  local uuid
  [[ -n $(cdi_devices) ]] || return 1
  for uuid in $GPUS; do grep -qxF "nvidia.com/gpu=$uuid" <<<"$(cdi_devices)" || return 1; done
}

seen() { # a container is given the GPUs by CDI and names them
  local uuid out args=()
  [[ $GPUS ]] || return 0
  for uuid in $GPUS; do args+=(--device "nvidia.com/gpu=$uuid"); done
  docker image inspect "$IMAGE" >/dev/null 2>&1 || image
  out=$(docker run --rm --network none "${args[@]}" "$IMAGE" nvidia-smi --query-gpu=uuid --format=csv,noheader 2>&1) ||
    fail "a container can't use the GPUs" "$(tail -n 1 <<<"$out")" "see \`nvidia-ctk cdi list\` and $CDI on the host"
  for uuid in $GPUS; do
    grep -qxF "$uuid" <<<"$out" || fail "a container isn't shown $uuid" "it sees $(tr '\n' ' ' <<<"$out")" "see $CDI on the host"
  done
}

image() { # nothing but the libraries that nvidia-smi needs; the program itself and the driver's come by CDI
  local root program
  root=$(mktemp -d)
  program=$(command -v nvidia-smi)
  mkdir -p "$root/etc" "$root/tmp"
  { libraries "$program"; script_needs "$program"; } | sort -u | xargs -r cp -L --parents -t "$root"
  tar -C "$root" -c . | docker import --change 'ENV PATH=/usr/bin:/bin' - "$IMAGE" >/dev/null
  rm -rf "$root"
}

libraries() { # program -> files of its libraries
  ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' || true
}

script_needs() { # a wrapper script needs its shell
  local line shell
  IFS= read -r line <"$1" 2>/dev/null || true
  [[ ${line-} == '#!'* ]] || return 0
  read -r shell _ <<<"${line#'#!'}"
  for shell in "$shell" /bin/cat; do
    echo "$shell"
    libraries "$shell"
  done
}

main "$@" </dev/null
