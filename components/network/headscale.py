"""A headscale's REST API, as far as a stack needs it: its policy, keys to join with, its nodes.

Paths and fields are those of headscale 0.29 (proto/headscale/v1), whose own pages are at /swagger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from components.network.control import KEY_MINUTES, ControlError, Method, Refused, ask_json, understood
from planning.network.policy import Node

NEW_KEY = "`headscale apikeys create` there, and `pulumi config set --secret inference-stack:headscaleApiKey`"


@dataclass(frozen=True)
class Headscale:
    """A headscale, and who asks. See components.network.control.Control."""

    url: str
    api_key: str = field(repr=False)

    def mint_key(self, tags: Sequence[str], minutes: int = KEY_MINUTES) -> str:
        until = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
        asked = {"reusable": False, "ephemeral": False, "aclTags": list(tags), "expiration": until}
        made = self._ask("POST", "preauthkey", asked)
        return understood(self.url, lambda: str(made["preAuthKey"]["key"]))

    def policy(self) -> str | None:
        try:
            found = self._ask("GET", "policy")
        except Refused as error:
            if "policy not found" in error.says:
                return None
            raise
        return understood(self.url, lambda: str(found["policy"]))

    def check_policy(self, text: str) -> None:
        """Its tests are run against the nodes that there are."""
        self._ask("POST", "policy/check", {"policy": text})

    def set_policy(self, text: str) -> None:
        """Replace the whole policy. Its tests run first; raises ControlError when one fails, and the old one stays."""
        try:
            self._ask("PUT", "policy", {"policy": text})
        except Refused as error:
            if "update is disabled" in error.says:
                says = "reads its policy from a file: set `policy.mode: database` in its config.yaml, and restart it"
                raise ControlError(f"{self.url} {says}") from error
            raise

    def nodes(self) -> tuple[Node, ...]:
        found = self._ask("GET", "node")
        return understood(self.url, lambda: tuple(_node(node) for node in found.get("nodes", [])))

    def delete_node(self, node: str) -> None:
        try:
            self._ask("DELETE", f"node/{int(node)}")
        except Refused as error:
            if error.code != 404:
                raise

    def set_tags(self, node: str, tags: Sequence[str]) -> None:
        self._ask("POST", f"node/{int(node)}/tags", {"tags": list(tags)})

    def users(self) -> frozenset[str]:
        """All people, by every name that a policy may call them."""
        found = self._ask("GET", "user")
        return understood(self.url, lambda: frozenset(name for user in found.get("users", []) for name in _names(user)))

    def _ask(self, method: Method, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return ask_json(method, f"{self.url}/api/v1/{path}", self.api_key, body)
        except Refused as error:
            if error.code == 401:
                raise ControlError(f"{self.url} does not know the API key, or it has expired: {NEW_KEY}") from None
            raise


def _node(node: dict[str, Any]) -> Node:
    tags = tuple(node.get("tags") or ())
    owners = () if tags else _names(node.get("user") or {})
    online = bool(node.get("online"))
    return Node(id=str(node["id"]), name=str(node["givenName"]), tags=tags, owners=owners, online=online)


def _names(user: dict[str, Any]) -> tuple[str, ...]:
    """`kim` is `kim@` in a policy; one who came by OIDC has an address."""
    name, email = str(user.get("name") or ""), str(user.get("email") or "")
    return tuple(dict.fromkeys(one for one in (name if "@" in name else f"{name}@" if name else "", email) if one))


__all__ = ["ControlError", "Headscale"]
