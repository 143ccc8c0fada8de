# shellcheck shell=bash
# mesh: the node's version and settings, and which ports of the host's loopback it publishes into the mesh.

apply() {
  must_repair_dpkg
  tailscale_itself
  [[ $(node BackendState) == Running ]] || fail "this host's node is not in the mesh" "tailscaled says $(node BackendState)" \
    "\`make drift\` sees to it that it joins again with the next \`up\`"
  settings
  publish
  node_digest >"$STATE/mesh-node"
}

undo() { # `join` takes back what the node is and publishes
  :
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
  local word port to proxy have want
  have=$(tailscale serve status --json | tr -d ' \t\n')
  want='{"TCP":{'
  for word in $PORTS; do
    IFS=: read -r port to proxy <<<"$word"
    want+="\"$port\":{\"TCPForward\":\"127.0.0.1:${to:-$port}\"${proxy:+,\"ProxyProtocol\":$proxy}},"
  done
  want=${want%,}'}}'
  [[ $have != "$want" ]] || return 0
  tailscale serve reset
  for word in $PORTS; do
    IFS=: read -r port to proxy <<<"$word"
    tailscale serve --bg ${proxy:+--proxy-protocol="$proxy"} --tcp="$port" "tcp://127.0.0.1:${to:-$port}" >/dev/null ||
      fail "the node doesn't publish port $port" "\`tailscale serve\` failed" "see \`journalctl -u tailscaled\` on the host"
  done
  say "publishes 127.0.0.1: $PORTS"
}

main "$@" </dev/null
