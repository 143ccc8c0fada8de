"""What a mesh's control plane is asked for, Tailscale's or a headscale, and how it is asked: JSON over HTTPS.

SSL_CERT_FILE names the CA of one whose certificate this machine doesn't trust. A credential goes into a request and
nowhere else: into no message, and to no address that an answer redirects to.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal, Protocol, TypeVar

from planning.network.policy import Node

TIMEOUT_S = 20.0
KEY_MINUTES = 60
"""How long a key may wait for the one node that joins with it."""

Method = Literal["GET", "POST", "PUT", "DELETE"]
T = TypeVar("T")


class ControlError(Exception):
    """The control plane did not do what it was asked. One line: what is wrong, and what to do."""


class Refused(ControlError):
    """It answered with an error of its own."""

    def __init__(self, where: str, code: int, says: str) -> None:
        self.code, self.says = code, says
        super().__init__(f"{where} refuses: {'; '.join(says.splitlines())}")


class Control(Protocol):
    """A control plane, and who asks."""

    def mint_key(self, tags: Sequence[str], minutes: int = KEY_MINUTES) -> str:
        """A key for one node to join with, once, within `minutes`. The node gets the tags, and belongs to nobody."""

    def policy(self) -> str | None:
        """The policy as it was written; None: there is none, which lets every node reach every other."""

    def check_policy(self, text: str) -> None:
        """Have a policy read, and its tests run. Raises ControlError with those that fail."""

    def nodes(self) -> tuple[Node, ...]:
        """All machines in the mesh."""

    def delete_node(self, node: str) -> None:
        """Remove a node from the mesh, by its id; one that is gone already is no error."""

    def set_tags(self, node: str, tags: Sequence[str]) -> None:
        """Replace a node's tags, by its id. Its connections follow the policy for the new ones."""


def ask(method: Method, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """One request. Raises Refused for an error that says why, ControlError for anything else."""
    where = _server(url)
    try:
        request = urllib.request.Request(url, method=method, data=body, headers=dict(headers))
        with _opener().open(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise _refused(where, error) from None
    except (OSError, HTTPException) as error:
        raise ControlError(f"{where} {_unreached(error)}") from None
    except ValueError:
        # Its text would quote the credential.
        says = (
            "the credential for it, or its address, holds a character that none has (the end of a line?): set it anew"
        )
        raise ControlError(f"{where} can't be asked: {says}") from None


def ask_json(method: Method, url: str, token: str, body: Mapping[str, Any] | None = None) -> Any:
    """The same in JSON, with a bearer token."""
    sent = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = ask(method, url, headers, sent)
    return understood(url, lambda: json.loads(answer or b"{}"))


def understood(url: str, read: Callable[[], T]) -> T:
    """What `read` finds in an answer. Raises ControlError where it is another's than a control plane's."""
    try:
        return read()
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ControlError(f"{_server(url)} does not answer as a control plane does: check `login_server`") from None


def _server(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The credential is for the address that the spec names alone."""

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


def _refused(where: str, error: urllib.error.HTTPError) -> ControlError:
    try:
        answer = json.loads(error.read())
        says = str(answer["message"])
        # Tailscale names each failed test besides.
        more = [str(one) for entry in answer.get("data") or [] for one in entry.get("errors") or []]
        return Refused(where, error.code, "\n".join([says, *more]))
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        if error.code == 401:
            return Refused(where, 401, "who asks is not known")
        return ControlError(f"{where} answers {error.code}, and not as a control plane does: check `login_server`")


def _unreached(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"has a certificate that isn't trusted here ({reason.verify_message}): name its CA by SSL_CERT_FILE"
    return f"can't be reached: {reason or type(error).__name__}"
