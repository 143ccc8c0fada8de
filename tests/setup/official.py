"""Pulumi's official download, as far as set-up asks for it: its layout, and a server for it on the loopback."""

import functools
import hashlib
import http.server
import platform
import threading
from pathlib import Path

from tools.setup import engine

MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "x64")
ARCH = {"x64": "amd64", "arm64": "arm64"}[MACHINE]
CLI = f"sdk/pulumi-v{engine.PULUMI}-linux-{MACHINE}.tar.gz"
CLI_SUMS = f"sdk/pulumi-{engine.PULUMI}-checksums.txt"
PLUGIN = f"plugins/pulumi-resource-docker-v{engine.DOCKER_PLUGIN}-linux-{ARCH}.tar.gz"
PLUGIN_SUMS = f"plugins/pulumi-docker_{engine.DOCKER_PLUGIN}_checksums.txt"


def write_sums(root: Path) -> None:
    """Beside the archives: SHA-256 for the CLI, SHA-1 for the plugin as `shasum ./*.tar.gz` writes it."""
    sha256 = hashlib.sha256((root / CLI).read_bytes()).hexdigest()
    sha1 = hashlib.sha1((root / PLUGIN).read_bytes()).hexdigest()
    other = f"{'0' * 64}  pulumi-v{engine.PULUMI}-windows-x64.zip\n"
    (root / CLI_SUMS).write_text(f"{other}{sha256}  {Path(CLI).name}\n")
    (root / PLUGIN_SUMS).write_text(f"{sha1}  ./{Path(PLUGIN).name}\n")


class Downloads:
    """Serves `root`. `stop` makes it vanish."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        """Paths that were asked for."""
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.removeprefix("/"))
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(root))
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
