"""A headscale's REST API, as far as a stack needs it: its policy, keys to join with, its nodes.

Paths and fields are those of headscale 0.29 (proto/headscale/v1), whose own pages are at /swagger. SSL_CERT_FILE names
the CA of one whose certificate this machine doesn't trust. The API key goes into the request's header and nowhere else.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal

from planning.network.policy import Node

TIMEOUT_S = 20.0
KEY_MINUTES = 60
NEW_KEY = "`headscale apikeys create` there, and `pulumi config set --secret inference-stack:headscaleApiKey`"

Method = Literal["GET", "POST", "PUT", "DELETE"]


class ControlError(Exception):
    """The control plane did not do what it was asked. One line: what is wrong, and what to do."""


class _Refused(ControlError):
    """It answered with an error of its own."""


@dataclass(frozen=True)
class Headscale:
    """A headscale, and who asks."""

    url: str
    api_key: str = field(repr=False)

    def mint_key(self, tags: Sequence[str], minutes: int = KEY_MINUTES) -> str:
        """A key for one node to join with, once, within `minutes`. The node gets the tags, and belongs to nobody."""
        until = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
        asked = {"reusable": False, "ephemeral": False, "aclTags": list(tags), "expiration": until}
        return str(self._ask("POST", "preauthkey", asked)["preAuthKey"]["key"])

    def policy(self) -> str | None:
        """The policy as it was written; None: there is none, which lets every node reach every other."""
        try:
            return str(self._ask("GET", "policy")["policy"])
        except _Refused as error:
            if "policy not found" in str(error):
                return None
            raise

    def check_policy(self, text: str) -> None:
        """Have its tests run against the nodes that there are. Raises ControlError with those that fail."""
        self._ask("POST", "policy/check", {"policy": text})

    def set_policy(self, text: str) -> None:
        """Replace the whole policy. Its tests run first; raises ControlError when one fails, and keeps the old one."""
        try:
            self._ask("PUT", "policy", {"policy": text})
        except _Refused as error:
            if "update is disabled" in str(error):
                says = "reads its policy from a file: set `policy.mode: database` in its config.yaml, and restart it"
                raise ControlError(f"{self.url} {says}") from error
            raise

    def nodes(self) -> tuple[Node, ...]:
        return tuple(_node(node) for node in self._ask("GET", "node").get("nodes", []))

    def delete_node(self, node: str) -> None:
        """Remove a node from the mesh, by its id; one that is gone already is no error."""
        try:
            self._ask("DELETE", f"node/{int(node)}")
        except _Refused as error:
            if "node not found" not in str(error):
                raise

    def users(self) -> frozenset[str]:
        """All people, by every name that a policy may call them."""
        return frozenset(name for user in self._ask("GET", "user").get("users", []) for name in _names(user))

    def _ask(self, method: Method, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"},
        )
        try:
            with _opener().open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException, ValueError) as error:
            raise ControlError(f"{self.url} {_unreached(error)}") from None

    def _refused(self, error: urllib.error.HTTPError) -> ControlError:
        if error.code == 401:
            return _Refused(f"{self.url} does not know the API key, or it has expired: {NEW_KEY}")
        try:
            says = str(json.loads(error.read())["message"])
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            return ControlError(f"{self.url} answers {error.code}, and not as a headscale does: check `login_server`")
        return _Refused(f"{self.url} refuses: {'; '.join(says.splitlines())}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key is for the address that the spec names alone."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())


def _unreached(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"has a certificate that isn't trusted here ({reason.verify_message}): name its CA by SSL_CERT_FILE"
    if isinstance(error, ValueError):
        return "does not answer as a headscale does: check `login_server`"
    return f"can't be reached: {reason or type(error).__name__}"


def _node(node: dict[str, Any]) -> Node:
    tags = tuple(node.get("tags") or ())
    owners = () if tags else _names(node.get("user") or {})
    online = bool(node.get("online"))
    return Node(id=str(node["id"]), name=str(node["givenName"]), tags=tags, owners=owners, online=online)


def _names(user: dict[str, Any]) -> tuple[str, ...]:
    """`kim` is `kim@` in a policy; one who came by OIDC has an address."""
    name, email = str(user.get("name") or ""), str(user.get("email") or "")
    return tuple(dict.fromkeys(one for one in (name if "@" in name else f"{name}@" if name else "", email) if one))
