"""The certificates that a stack's file names: read from the repository, and held against their key and name.

By the standard library, whose OpenSSL judges them as nginx's will.
"""

import os
import re
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path as FilePath
from tempfile import TemporaryFile

from stack_configs.problems import Path
from stack_configs.schema.network import Mesh, MeshCertificates
from stack_configs.schema.stack import StackSpec

Found = tuple[Path, str, str]

AT: Path = ("network", "mesh", "tls")
KEY = "inference-stack:meshTlsKey"
SET_KEY = f"`cat KEY.pem | pulumi config set --secret {KEY}`; docs/mesh.md has how to make it"
WARN_DAYS = 30

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_EXPIRED, _NOT_YET, _OTHER_NAME = 10, 9, 62
"""OpenSSL's X509_V_ERR_…: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/"""


def read(mesh: Mesh | None, root: FilePath) -> tuple[MeshCertificates | None, list[Found]]:
    """What is in the files, and what is wrong with them by themselves."""
    if mesh is None or mesh.tls is None:
        return None, []
    texts: dict[str, str] = {}
    problems: list[Found] = []
    for name in ("certificate", "client_ca"):
        text, wrong = _read(getattr(mesh.tls, name), root)
        wrong = wrong or (_authority(text) if name == "client_ca" else None)
        if wrong:
            problems.append(((*AT, name), *wrong))
        texts[name] = text
    return (None if problems else MeshCertificates.model_validate(texts)), problems


def _read(name: str, root: FilePath) -> tuple[str, tuple[str, str] | None]:
    """The PEM blocks alone, without what people write around them; or what is wrong, and what to write."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        return "", (f"{name} is outside the repository", "keep it beside the stack's file: certificates are no secrets")
    if not path.is_file():
        return "", (f"there is no file {name}", "write the path of a PEM file, from the repository's root")
    blocks = list(_BLOCK.finditer(path.read_bytes().decode("ascii", errors="replace")))
    if any(block[1].endswith("PRIVATE KEY") for block in blocks):
        says = f"{name} holds a private key: whoever reads the repository has it"
        return "", (says, f"make a new key and a new certificate, and keep the key in Pulumi's config: {SET_KEY}")
    text = "".join(f"{block[0]}\n" for block in blocks if block[1] == "CERTIFICATE")
    if not text:
        return "", (f"{name} holds no certificate in PEM", "convert it: `openssl x509 -inform DER -in FILE -out PEM`")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError:
        return "", (f"{name} holds a certificate that can't be read", "write the file anew: it is damaged")
    return text, None


def _authority(text: str) -> tuple[str, str] | None:
    found = _authorities(text)
    if len(found) < len({block[0] for block in _BLOCK.finditer(text)}):
        write = "write who certifies clients (CA:TRUE), not a client's own certificate"
        return "holds a certificate that is no authority's: it could certify nobody", write
    if min(found) < time.time():
        return "holds an authority that has expired: no client would be let in", "take it out, or renew it"
    return None


def _authorities(text: str) -> list[float]:
    """When each authority expires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=text)
    return [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs()]


def key_problems(spec: StackSpec, key: str | None, secret: bool) -> Iterator[Found]:
    """What keeps the gateway's host from answering by its name: the key, or else the certificate.

    `secret`: whether Pulumi encrypts the key.
    """
    certificates, name = spec.mesh_certificates, _name(spec)
    if not certificates:
        return
    if not key:
        yield ((KEY,), "is missing, and the API in the mesh is to have a certificate", SET_KEY)
    elif not secret:
        yield ((KEY,), "stands in plain in the file: whoever reads it can pose as the gateway", SET_KEY)
    else:
        try:
            server = _server(certificates.certificate, key)
        except ssl.SSLError as error:
            says = f"is no private key in PEM, or has a password, or is too weak (OpenSSL: {error.reason})"
            if error.reason == "KEY_VALUES_MISMATCH":
                says = "is the key of another certificate than `network.mesh.tls.certificate`"
            yield ((KEY,), says, SET_KEY)
            return
        try:
            _expires(server, certificates.certificate, name)
        except ssl.SSLError as error:
            yield ((*AT, "certificate"), _why(error, name), f"have one made for `DNS:{name}`; docs/mesh.md has how")


def expiring(spec: StackSpec, key: str | None) -> Iterator[str]:
    """What to tell of certificates that are good, but not for long."""
    certificates = spec.mesh_certificates
    if certificates and key:
        ends = {
            "certificate": _expires(_server(certificates.certificate, key), certificates.certificate, _name(spec)),
            "client_ca": min(_authorities(certificates.client_ca)),
        }
        for name, at in ends.items():
            if (days := int((at - time.time()) / 86400)) < WARN_DAYS:
                yield f"network.mesh.tls.{name} expires in {days} days, and the API in the mesh with it: renew it"


def _name(spec: StackSpec) -> str:
    """Of the gateway's host in the mesh."""
    mesh = spec.file.network.mesh
    return f"{spec.file.gateway.host or next(iter(spec.file.hosts))}.{mesh.domain}" if mesh else ""


def _server(certificate: str, key: str) -> ssl.SSLContext:
    """Raises SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _as_file(certificate) as chain, _as_file(key) as private:
        server.load_cert_chain(chain, private, password="")  # None would ask the terminal for one
    return server


def _expires(server: ssl.SSLContext, certificate: str, name: str) -> float:
    """By a handshake in memory with a client that trusts the certificate. Raises SSLError where it isn't taken."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(back, there, server_hostname=name)
    for end in (asks, server.wrap_bio(there, back, server_side=True), asks):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return float(ssl.cert_time_to_seconds(str((asks.getpeercert() or {})["notAfter"])))


def _why(error: ssl.SSLError, name: str) -> str:
    """Why a client doesn't take the certificate."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"can't be used for TLS: OpenSSL says {error.reason}"
    why = {
        _EXPIRED: "has expired",
        _NOT_YET: "is not valid yet",
        _OTHER_NAME: f"is not for {name}, the name of the gateway's host in the mesh",
    }
    return why.get(error.verify_code, f"would be refused by clients: {error.verify_message}")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A name under which OpenSSL reads the text. It is in memory; where the system has no such files, in one that has
    no name any more."""
    with os.fdopen(os.memfd_create("pem"), "w") if sys.platform == "linux" else TemporaryFile("w") as file:
        file.write(text)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
