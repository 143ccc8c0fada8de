"""Tailscale's API, as far as a stack needs it beside Pulumi's plugin: keys, nodes, and the policy to compare.

Paths and fields are those of https://tailscale.com/api, in the words of Tailscale's own client (tailscale-client-go/v2:
oauth.go, keys.go, policyfile.go, devices.go). No test of ours has asked the real one.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from components.network.control import KEY_MINUTES, ControlError, Method, Refused, ask, ask_json, understood
from planning.network.policy import Node

API = "https://api.tailscale.com"
SCOPES = "`auth_keys`, `devices:core`, `policy_file` and `dns`, with the tag `tag:inference`"
NEW_CLIENT = (
    f"make an OAuth client with the scopes {SCOPES}, and `pulumi config set tailscale:oauthClientId`, "
    "`pulumi config set --secret tailscale:oauthClientSecret`"
)


@dataclass(frozen=True)
class Tailscale:
    """The tailnet of an OAuth client. See components.network.control.Control."""

    client_id: str
    client_secret: str = field(repr=False)
    api: str = API

    def mint_key(self, tags: Sequence[str], minutes: int = KEY_MINUTES) -> str:
        asked = {"reusable": False, "ephemeral": False, "preauthorized": True, "tags": list(tags)}
        body = {"capabilities": {"devices": {"create": asked}}, "expirySeconds": minutes * 60}
        made = self._ask("POST", "tailnet/-/keys", body)
        return understood(self.api, lambda: str(made["key"]))

    def policy(self) -> str | None:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/hujson"}
        found = ask("GET", f"{self.api}/api/v2/tailnet/-/acl", headers)
        return understood(self.api, found.decode)

    def check_policy(self, text: str) -> None:
        """A policy that is refused is answered with 200 and a message."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/hujson"}
        answer = ask("POST", f"{self.api}/api/v2/tailnet/-/acl/validate", headers, text.encode())
        said = understood(self.api, lambda: dict(json.loads(answer or b"{}")))
        if said.get("message"):
            failed = [str(one) for entry in said.get("data") or [] for one in entry.get("errors") or []]
            raise Refused(self.api, 200, "\n".join([str(said["message"]), *failed]))

    def nodes(self) -> tuple[Node, ...]:
        found = self._ask("GET", "tailnet/-/devices")
        return understood(self.api, lambda: tuple(_node(device) for device in found.get("devices", [])))

    def delete_node(self, node: str) -> None:
        try:
            self._ask("DELETE", f"device/{urllib.parse.quote(node, safe='')}")
        except Refused as error:
            if error.code != 404:
                raise

    def set_tags(self, node: str, tags: Sequence[str]) -> None:
        self._ask("POST", f"device/{urllib.parse.quote(node, safe='')}/tags", {"tags": list(tags)})

    @cached_property
    def _token(self) -> str:
        """Valid for an hour. Source: https://tailscale.com/docs/features/oauth-clients."""
        form = {"client_id": self.client_id, "client_secret": self.client_secret, "grant_type": "client_credentials"}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer = ask("POST", f"{self.api}/api/v2/oauth/token", headers, urllib.parse.urlencode(form).encode())
        except Refused:
            raise ControlError(f"{self.api} does not know the OAuth client, or it was revoked: {NEW_CLIENT}") from None
        return understood(self.api, lambda: str(json.loads(answer)["access_token"]))

    def _ask(self, method: Method, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return ask_json(method, f"{self.api}/api/v2/{path}", self._token, body)
        except Refused as error:
            if error.code == 403:
                raise ControlError(f"{self.api} refuses {method} {path} to the OAuth client: {NEW_CLIENT}") from None
            raise


def _node(device: dict[str, Any]) -> Node:
    tags = tuple(device.get("tags") or ())
    return Node(
        id=str(device.get("nodeId") or device["id"]),
        name=str(device["name"]).partition(".")[0],
        tags=tags,
        owners=() if tags else (str(device.get("user")),),
        online=bool(device.get("connectedToControl")),
    )
