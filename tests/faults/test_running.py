"""What happens to a stack that runs: each fault is told with its remedy, the remedy works, and a reboot needs none.

The tests share one machine and one stack, and run in the order in which they stand here.
"""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.clone import is_clean
from tests.faults.conftest import Site

LITELLM = "inference-test-litellm-0"
STATE_BYTES = 64 * 2**20
EMPTY_HUB = """
import http.server
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
http.server.ThreadingHTTPServer(("", 8000), Hub).serve_forever()
"""
"""Answers as the hub does for a model that it doesn't have."""


def test_a_port_that_something_else_listens_on(site: Site) -> None:
    before = site.containers()
    site.clone.edit(r"^(gateway:\n(?: .*\n)*?  port: )18080", r"\g<1>18099")
    line = "import socket, time; s = socket.create_server(('127.0.0.1', 18099)); time.sleep(600)"
    other = subprocess.Popen(site.machine.argv("python3", "-c", line))
    try:
        assert _until(lambda: "18099" in site.machine.run("ss", "-Hltn").stdout)
        said = site.refused()
    finally:
        other.kill()
        other.wait()
        site.clone.edit(r"18099", "18080")
    assert "gateway.port: 127.0.0.1:18099 is in use by python3" in said
    assert "What to do: stop what uses it, or choose another port in stack_configs/test.yaml" in said
    assert site.containers() == before


def test_a_docker_that_accepts_and_does_not_answer(site: Site) -> None:
    dockerd = site.machine.run("cat", "/run/docker.pid").stdout.strip()
    site.machine.run("kill", "-STOP", dockerd)
    try:
        said = site.refused()
    finally:
        site.machine.run("kill", "-CONT", dockerd)
    assert "Docker accepts connections but gives no answer within 5 s" in said
    assert "What to do: look at its log (`journalctl -u docker`)" in said


def test_another_passphrase_does_not_open_the_stack(site: Site) -> None:
    said = site.refused({"PULUMI_CONFIG_PASSPHRASE": "not this one"})
    assert "the passphrase does not open this stack's secrets" in said
    assert (
        "What to do: if PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE is set, correct or unset it" in said
    )


def test_a_lock_of_another_machine_is_told_with_the_command_that_removes_it(site: Site) -> None:
    folder = site.clone.path / ".state/backend/.pulumi/locks/organization/inference-stack/test"
    folder.mkdir(parents=True, exist_ok=True)
    lock = {"pid": 1, "username": "kim", "hostname": "elsewhere", "timestamp": "2026-01-01T00:00:00Z"}
    (folder / "9f5c9a52-6c5c-4d4c-a1f3-0d8d2a1cbb55.json").write_text(json.dumps(lock))
    said = site.refused()
    assert "a Pulumi run of kim on elsewhere (process 1) holds the stack test" in said
    (command,) = re.findall(r"`(\. \./activate && pulumi cancel .*)` removes its lock", said)
    site.sh(f"{command} --yes")
    assert list(folder.iterdir()) == []


def test_a_damaged_state_is_told_with_the_way_back(site: Site) -> None:
    (checkpoint,) = (site.clone.path / ".state/backend/.pulumi/stacks").rglob("test.json")
    checkpoint.write_text(checkpoint.read_text()[:1000])
    said = site.refused()
    assert "the state of the stack test is damaged" in said
    (command,) = re.findall(r"`(cp .*?)`", said)
    site.sh(command)
    before = site.containers()
    site.up()
    assert site.containers() == before


@pytest.mark.campaign  # tests/deploy has the same for an engine that replaces another
def test_an_engine_that_dies_on_its_start_is_told_with_its_last_lines(site: Site) -> None:
    before = site.containers()
    site.clone.edit(
        r"^gateway:$",
        "  small:\n    source:\n      repo: HuggingFaceTB/SmolLM2-135M-Instruct\n"
        "      revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac\n    replicas:\n      - host: local\n"
        "    max_model_len: 1024\n    memory_mib: 3072\n    extra_args: [--quantization=awq]\n\ngateway:",
    )
    said = site.refused()
    assert "small-0 has died 3 times since its start; its last lines:" in said
    assert "awq" in said
    site.clone.edit(r"^  small:\n(?:.*\n)*?\n(?=gateway:)", "")
    site.up()
    assert site.ask()
    assert set(site.containers()) == set(before)


def test_a_model_that_the_hub_does_not_have_is_told_and_the_old_one_serves(site: Site) -> None:
    before = site.containers()
    gateway = site.machine.docker(
        "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "inference-test-edge"
    )
    hub = subprocess.Popen(site.machine.argv("python3", "-c", EMPTY_HUB))
    try:
        site.clone.edit(r"^hosts:$", f"hub: http://{gateway}:8000\n\nhosts:")
        site.clone.edit(r"^(      repo:) Qwen/Qwen2.5-0.5B-Instruct$", r"\1 Qwen/no-such-model")
        site.sh(". ./activate && pulumi config set inference-stack:weights hub -s test")
        said = site.refused()
    finally:
        hub.kill()
        hub.wait()
    assert "job chat-fetch ended with exit code 1" in said
    assert "the hub has no public model Qwen/no-such-model; check `source.repo`" in said
    assert site.containers() == before
    assert site.ask()
    site.clone.edit(r"^hub: .*\n\n", "")
    site.clone.edit(r"Qwen/no-such-model", "Qwen/Qwen2.5-0.5B-Instruct")
    site.sh(". ./activate && pulumi config set inference-stack:weights random -s test")
    site.up()
    assert site.containers() == before
    assert site.sh(". ./activate && pulumi preview -s test --non-interactive --expect-no-changes")


def test_a_disk_that_fills_up_in_a_run(site: Site) -> None:
    """Pulumi can't write down what it has made; the next run finds out, and goes on from there."""
    with state_on_a_small_disk(site) as fill:
        site.clone.edit(r"rpm: \d+", "rpm: 501")
        before = site.containers()[LITELLM]
        up = subprocess.Popen(
            site.machine.argv("sh", "-c", f"cd {shlex.quote(str(site.clone.path))} && exec make up STACK=test"),
            env=dict(site.clone.env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            replaced = _until(lambda: site.containers().get(LITELLM, before) != before or up.poll() is not None)
            site.machine.run("dd", "if=/dev/zero", f"of={fill}", "bs=1M", check=False)
            said, _ = up.communicate(timeout=300)
        finally:
            up.kill()
        assert replaced, said
        assert up.returncode != 0, said
        assert "no space left on device" in said.lower()
        assert "What to do: free space on the disk that is full" in said
        assert "Traceback" not in said
        assert "free space on the disk that is full" in site.refused(), "as long as it is"
        site.machine.run("rm", str(fill))
        site.up()
    assert site.sh(". ./activate && pulumi preview -s test --non-interactive --expect-no-changes")
    assert site.ask()


def test_a_stack_comes_back_after_a_reboot_by_itself(site: Site) -> None:
    before = site.containers()
    site.machine.cut_power()
    site.machine.boot()
    site.machine.start_docker()
    health = ("inspect", "--format", "{{.State.Health.Status}}", "inference-test-chat-0", LITELLM)
    assert _until(lambda: site.machine.docker(*health).split() == ["healthy", "healthy"], 600)
    assert site.ask()
    assert site.containers() == before
    assert site.sh(". ./activate && pulumi preview -s test --non-interactive --refresh --expect-no-changes")


def test_clean_leaves_keys_and_nothing_else(site: Site, tmp_path: Path) -> None:
    """With a cache of its own: the real one serves other tests."""
    cache = tmp_path / "inference-stack"
    cache.mkdir()
    said = site.sh(f"INFERENCE_STACK_CACHE={tmp_path} make clean STACK=test")
    assert "Kept: keys, passphrase and choices in .state" in said
    assert not cache.exists()
    assert (site.clone.path / ".state" / "passphrase").exists()
    for kind, *every in (("container", "--all"), ("volume",), ("image", "--all")):
        assert site.machine.docker(kind, "ls", "--quiet", *every) == "", kind
    networks = site.machine.docker("network", "ls", "--format", "{{.Name}}").split()
    assert sorted(networks) == ["bridge", "host", "none"]
    assert is_clean(site.clone) == []
    assert "nothing to remove" not in site.sh("make down STACK=test"), "its state is still there"


@contextmanager
def state_on_a_small_disk(site: Site) -> Iterator[Path]:
    """Its state folder on a disk of its own; yields a file to fill it with."""
    state = site.clone.path / ".state"
    site.sh(
        f"cp -a .state /run/state && mount -t tmpfs -o size={STATE_BYTES},mode=700 tmpfs .state"
        " && cp -a /run/state/. .state"
    )
    try:
        yield state / "fill"
    finally:
        site.sh("rm -rf /run/state && cp -a .state /run/state && umount .state && cp -a /run/state/. .state")


def _until(true: Callable[[], bool], seconds: float = 300) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.2)
    return False
