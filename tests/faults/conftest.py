"""Machines to break, and a clone of this repository with a running stack on one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.deploy.clone import Clone, make_clone
from tests.docker_run import need_image
from tests.faults.machine import Machine, missing

IMAGES = ("base", "python", "vllm", "litellm", "nginx", "prometheus", "alertmanager", "node-exporter")
QUESTION = """
import os
from tools.setup import chat
print(chat.ask("http://127.0.0.1:18080/v1", os.environ["KEY"], "chat").tokens)
"""


@dataclass(frozen=True)
class Site:
    """A clone, and the machine that it is on."""

    machine: Machine
    clone: Clone

    def up(self) -> str:
        """What a `make up` prints that must succeed."""
        return self.sh(f"make up STACK={self.clone.stack}")

    def refused(self, env: Mapping[str, str] | None = None) -> str:
        """What a `make up` prints that must fail; no secret is in it, nor in its logs."""
        said = self.sh(f"make up STACK={self.clone.stack}", env=env, fails=True)
        state = self.clone.path / ".state"
        logs = "".join(log.read_text(errors="replace") for log in (state / "logs").glob("*.log"))
        for secret in (*(env or {}).values(), *(file.read_text().strip() for file in state.glob("passphrase"))):
            assert secret not in said + logs
        assert not re.search(r"\bsk-[\w-]{30,}", said + logs), "an API key"
        return said

    def sh(self, line: str, *, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
        """What a line typed in the clone prints, on both streams; it must succeed, or fail."""
        done = self.machine.run(
            "bash", "-c", line, cwd=self.clone.path, env={**self.clone.env, **(env or {})}, check=False
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        assert "Traceback" not in said
        return said

    def ask(self) -> int:
        """Tokens of an answer to a chat question."""
        key = self.sh(f"make -s key STACK={self.clone.stack}").strip()
        env = {**self.clone.env, "KEY": key}
        said = self.machine.run(".venv/bin/python", "-c", QUESTION, cwd=self.clone.path, env=env)
        return int(said.stdout)

    def containers(self) -> dict[str, str]:
        """Name → id, of those that run."""
        rows = self.machine.docker("ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        return dict(row.split() for row in rows)


@pytest.fixture(scope="package", autouse=True)
def _machines_can_be_made() -> None:
    if why := missing():
        pytest.skip(why)


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack that runs, on a machine where `make up` has started Docker itself."""
    images = [need_image(recipe) for recipe in IMAGES]
    clone = make_clone(tmp_path_factory.mktemp("faults") / "inference-stack")
    with Machine() as machine:
        machine.give(images)
        made = Site(machine, clone)
        made.up()
        yield made
