# shellcheck shell=bash
# mesh: the node's version and settings, and which ports of the host's loopback it publishes into the mesh.

apply() {
  must_repair_dpkg
  tailscale_itself
  [[ $(node BackendState) == Running ]] || fail "this host's node is not in the mesh" "tailscaled says $(node BackendState)" \
    "\`make drift\` sees to it that it joins again with the next \`up\`"
  settings
  publish
}

undo() {
  command -v tailscale >/dev/null || return 0
  tailscale serve reset
  say "publishes nothing any more"
}

settings() {
  local before after
  before=$(tailscale debug prefs)
  tailscale set --hostname="$NAME" --ssh="$SSH" --accept-dns=false --accept-routes=false --advertise-routes= \
    --advertise-exit-node=false --exit-node= --shields-up=false --accept-risk=lose-ssh >/dev/null
  after=$(tailscale debug prefs)
  [[ $before == "$after" ]] || say "set the node: $NAME, SSH of Tailscale $SSH"
}

publish() {
  local port have want
  have=$(tailscale serve status --json | tr -d ' \t\n')
  want='{"TCP":{'
  for port in $PORTS; do want+="\"$port\":{\"TCPForward\":\"127.0.0.1:$port\"},"; done
  want=${want%,}'}}'
  [[ $have != "$want" ]] || return 0
  tailscale serve reset
  for port in $PORTS; do
    tailscale serve --bg --tcp="$port" "tcp://127.0.0.1:$port" >/dev/null ||
      fail "the node doesn't publish port $port" "\`tailscale serve\` failed" "see \`journalctl -u tailscaled\` on the host"
  done
  say "publishes 127.0.0.1: $PORTS"
}

main "$@" </dev/null
