"""An authority of a test's own, that certifies servers and clients, by the program openssl."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAME = "studio-1.mesh.example.net"
"""Of the gateway's host, in the stacks of tests.unit.network.mesh."""


@dataclass(frozen=True)
class Certified:
    certificate: str
    key: str
    files: tuple[Path, Path]
    """Of both."""


class Authority:
    """Skips the test, with the reason, where there is no openssl."""

    def __init__(self, folder: Path, name: str = "our authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl command")
        self.folder = folder
        self._run("req", *_KEY, "ca.key", "-x509", "-out", "ca.pem", "-subj", f"/CN={name}", "-days", "2")
        self.certificate = (folder / "ca.pem").read_text()

    def certify(self, who: str, name: str = "", *, days: int = 2) -> Certified:
        """`name`: the DNS name of a server. `days`: from now on; those before now make an expired one."""
        names = ("-addext", f"subjectAltName=DNS:{name}") if name else ()
        self._run("req", *_KEY, f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}", *names)
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy")
        self._run("x509", "-req", "-in", f"{who}.csr", "-out", f"{who}.pem", "-days", str(days), *by)
        return self._read(who)

    def locked(self, certified: Certified) -> str:
        """The same key with a password."""
        self._run("pkcs8", "-topk8", "-in", str(certified.files[1]), "-out", "locked.key", "-passout", "pass:secret")
        return (self.folder / "locked.key").read_text()

    def _run(self, *words: str) -> None:
        done = subprocess.run(("openssl", *words), cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _read(self, who: str) -> Certified:
        files = (self.folder / f"{who}.pem", self.folder / f"{who}.key")
        return Certified(files[0].read_text(), files[1].read_text(), files)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")

__all__ = ["NAME", "Authority", "Certified"]
