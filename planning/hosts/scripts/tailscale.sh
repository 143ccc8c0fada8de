# shellcheck shell=bash
# What `join` and `mesh` share: Tailscale's packages, and what the node says of itself.

TAILSCALE_FAMILY="tailscale tailscale-archive-keyring"

tailscale_itself() { # in the pinned version, running
  install_set tailscale "$TAILSCALE_VERSION" tailscale "" "$TAILSCALE_FAMILY"
  hold "${SET[@]}"
  not_unattended tailscale tailscale
  enable_unit --now tailscaled.service
}

node() { # a field of the node's own status, such as BackendState or DNSName
  # One field a line; the first of a name is the node's own where peers are left out.
  tailscale status --json --peers=false 2>/dev/null | sed -nE "s/^[[:space:]]+\"$1\": \"?([^\",]*)\"?,?\$/\1/p" | head -n 1
}

node_server() { # where the node logged in
  tailscale debug prefs 2>/dev/null | sed -nE 's/^[[:space:]]+"ControlURL": "([^"]*)",?$/\1/p'
}

node_digest() { # of what `mesh` sets and publishes; facts.sh asks for the same
  {
    tailscale debug prefs | grep -E '"(RouteAll|CorpDNS|RunSSH|ShieldsUp|Hostname|AdvertiseRoutes|ExitNodeID)"'
    tailscale serve status --json
  } | sha256sum | cut -c -12
}
