# shellcheck shell=bash
# join: the host becomes a node of the mesh, once, with a key that is used up by it. Dialled at the host's own address.

KEY_FILE=/run/inference-stack-join-key
JOINS_WITHIN_S=60

apply() { # what a preview calls it, control server, full name in the mesh, digest of these
  local server=$2 name=$3
  DIGEST=$4
  # However this ends, the key is not left behind.
  trap 'rm -f "$KEY_FILE"' EXIT
  must_repair_dpkg
  ensure ca-certificates curl gpg gpg-agent
  KEYS=""
  repository tailscale
  tailscale_itself
  if [[ $(node BackendState) == Running ]]; then
    in_this_mesh "$server" "$name"
    let_mesh_in
    return
  fi
  [[ -s $KEY_FILE ]] || fail "this host is no node of the mesh, and there is no key to join with" \
    "$NO_KEY" "see docs/mesh.md, and run \`up\` again"
  # All that is not said here is set back: the node is what this project makes of it.
  tailscale up --reset --login-server="$server" --auth-key="file:$KEY_FILE" --hostname="${name%%.*}" \
    --accept-dns=false --accept-routes=false --timeout="${JOINS_WITHIN_S}s" >"$KEY_FILE.said" 2>&1 || refused "$server"
  rm -f "$KEY_FILE.said"
  in_this_mesh "$server" "$name"
  let_mesh_in
  say "joined the mesh as $name ($(tailscale ip -4))"
}

let_mesh_in() { # rules from before there was a mesh drop what all further steps come by, and `firewall` is the last of them
  local accept='iifname "tailscale0" accept'
  [[ -n $(command -v nft) && -n $(table) && $(table) != *"$accept"* ]] || return 0
  # Also after a reboot on the way there.
  if [[ -e $KEPT ]]; then echo "insert rule $TABLE input $accept" >>"$KEPT"; fi
  nft insert rule "$TABLE input $accept"
  say "the firewall's rules let in what comes over the mesh"
}

undo() {
  if command -v tailscale >/dev/null; then
    tailscale serve reset >/dev/null 2>&1 || true
    if [[ $(node BackendState) == Running ]]; then
      # Where no control server is reached, the node forgets all the same.
      timeout 20 tailscale logout >/dev/null 2>&1 || true
      say "left the mesh"
    fi
    systemctl -q disable --now tailscaled.service
    say "stopped tailscaled"
  fi
  STEP=mesh unhold_ours
  unhold_ours
  rm -f "$STATE/steps/mesh" "$STATE/mesh-node"
  drop /etc/apt/preferences.d/inference-stack-tailscale /etc/apt/apt.conf.d/60inference-stack-tailscale
  drop /etc/apt/sources.list.d/inference-stack-tailscale.sources
  rm -f "$STATE/versions/tailscale"
  if [[ $WHEN_REMOVED == purge ]] && installed tailscale >/dev/null; then
    apt_get purge --allow-change-held-packages tailscale
    say "purged tailscale"
  fi
}

in_this_mesh() { # control server, full name: fails where the node is another
  local at named deadline=$((SECONDS + 15))
  at=$(node_server)
  [[ $at == "$1" ]] || fail "this host is a node of another mesh" "it has logged in at $at, not at $1" \
    "take it out there (\`tailscale logout\` on the host) and run \`up\` again"
  # The server says the name a moment after it has let the node in.
  until named=$(node DNSName) && [[ $named ]] || ((SECONDS >= deadline)); do sleep 0.2; done
  [[ $named == "$2." ]] || fail "the mesh calls this host ${named%.}" "the spec's name for it is $2" \
    "remove or rename the other node of that name, or set \`network.mesh.domain\`, then \`tailscale logout\` on the host and run \`up\` again"
}

refused() { # control server
  local why
  why=$(grep -vE '^$|Some peers|--accept-routes' "$KEY_FILE.said" | tail -n 1)
  rm -f "$KEY_FILE.said"
  case $why in
    *[Kk]ey*expired* | *invalid*key* | *[Kk]ey*"not found"* | *already*used* | *"not valid"*)
      fail "the control server refused the key" "$why" "each \`up\` that joins takes a new one: run it again; see docs/mesh.md where the key is your own"
      ;;
    *x509* | *certificate*)
      fail "the control server $1 isn't trusted by this host" "$why" "install its CA's certificate on the host (\`update-ca-certificates\`)"
      ;;
    *timeout* | *"timed out"* | *deadline* | "")
      fail "the control server $1 didn't let this host in within $JOINS_WITHIN_S s" \
        "${why:-it gave no answer}; $(tailscaled_says)" "see that the host reaches it, and run \`up\` again"
      ;;
    *) fail "this host can't join the mesh" "$why" "see \`journalctl -u tailscaled\` on the host" ;;
  esac
}

tailscaled_says() { # its last complaint
  journalctl -q -u tailscaled -n 200 -o cat 2>/dev/null | grep -iE 'error|fail|refused|x509|expired' | tail -n 1 | cut -c -200 || true
}

main "$@" </dev/null
