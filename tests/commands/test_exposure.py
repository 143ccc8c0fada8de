"""`make exposure`: what it prints and how it ends; hosts, vantage point and scan are real in tests/hosts."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from planning.network.exposure import Seen
from planning.network.listeners import Inside, Listener
from stack_configs.load import ROOT
from tests.golden.specs import spec, stack_file
from tools import exposure
from tools.exposure import Outside, VantageError
from tools.stack import load_stack

VANTAGE = "ops@203.0.113.9"
ROGUE = Listener(protocol="tcp", address=ip_address("0.0.0.0"), port=8088, process="python3", unit="rogue.service")
SEEN = Seen(
    address=ip_address("198.51.100.7"),
    source=ip_address("203.0.113.9"),
    tcp_open=(22,),
    tcp_refused=65533,
    tcp_silent=1,
    udp={53: "refused", 123: "refused", 41641: "silent"},
)
DROPPED = Seen(
    address=ip_address("2001:4860::7"),
    source=ip_address("2a00:1450::9"),
    tcp_open=(),
    tcp_refused=0,
    tcp_silent=65535,
    udp={},
)


def asked(*listeners: Listener) -> Inside:
    return Inside(addresses={}, networks={}, listeners=listeners, ssh_port=22)


def run(
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Inside | str],
    outside: dict[str, Outside] | VantageError,
    vantage: str | None = VANTAGE,
) -> int:
    def scan(*_: object) -> dict[str, Outside]:
        if isinstance(outside, VantageError):
            raise outside
        return outside

    monkeypatch.setattr(exposure, "load_stack", lambda stack, root: spec("prod", stack_file("prod")))  # noqa: ARG005
    monkeypatch.setattr(exposure, "_ask", lambda name, spec: answers[name])  # noqa: ARG005
    monkeypatch.setattr(exposure, "scan", scan)
    return exposure.run("prod", vantage, Path())


def test_nothing_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    outside = {"studio-1": Outside(seen=(SEEN,)), "studio-2": Outside(seen=(DROPPED,), skipped=("10.0.0.1: no way",))}
    assert run(monkeypatch, {"studio-1": asked(), "studio-2": asked()}, outside) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "studio-1: nothing but what the file allows",
        "  198.51.100.7: TCP 22 open, 65533 refused, 1 silent; UDP 41641 silent, 2 refused",
        "studio-2: nothing but what the file allows",
        "  2001:4860::7: TCP none open, 65535 silent; no UDP asked",
        "This doesn't show:",
        "  studio-1: whether UDP 41641 is open: who gives no answer may still listen",
        "  studio-2: 10.0.0.1: no way",
        f"  studio-2: 2001:4860::7 gave {VANTAGE} no answer at all: all is dropped before it, or there is no way to it",
        f"2 hosts from inside, 2 addresses, 131070 TCP ports and 3 UDP ports from {VANTAGE}: nothing but what "
        "stack_configs/prod.yaml allows",
    ]


def test_findings_end_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, {"studio-1": asked(ROGUE), "studio-2": asked()}, {}, vantage=None) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "studio-1: 1 finding"
    assert lines[1].startswith("  tcp 8088: python3 (rogue.service) listens on every IPv4 address, and nobody declared")
    assert "  studio-2: what answers outside; name a vantage point: FROM=user@address, or FROM=here" in lines
    assert lines[-1] == "2 hosts from inside: 1 finding"


def test_a_host_that_cant_be_asked_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: dict[str, Inside | str] = {"studio-1": "studio-1: is away", "studio-2": asked()}
    assert run(monkeypatch, answers, {"studio-1": Outside(seen=(SEEN,))}) == 2
    said = capsys.readouterr()
    assert said.err == "Could not be asked:\nstudio-1: is away\n"
    assert said.out.startswith("studio-1: not asked from inside\n  198.51.100.7: TCP 22 open")
    assert "1 host from inside, 1 address, " in said.out


@pytest.mark.parametrize("what", ["ip", "ss", "docker"])
def test_a_host_whose_listeners_cant_be_read_ends_with_2(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(asked(), problems=(f"{what}: not found",))
    assert run(monkeypatch, {"studio-1": broken, "studio-2": asked()}, {}, vantage=None) == 2
    said = capsys.readouterr()
    assert said.err == f"Could not be asked:\nstudio-1: {what}: not found\n"
    assert said.out.startswith("studio-1: not wholly asked from inside\nstudio-2: nothing but what the file allows\n")
    assert "1 host from inside: " in said.out


def test_names_that_cant_be_read_hide_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = replace(asked(), problems=("sudo asks for a password", "ps: not found"))
    assert run(monkeypatch, {"studio-1": nameless, "studio-2": asked()}, {}, vantage=None) == 0


def test_a_vantage_point_that_cant_be_asked_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = VantageError("the vantage point can't be reached")
    assert run(monkeypatch, {"studio-1": asked(), "studio-2": asked()}, why) == 2
    said = capsys.readouterr()
    assert said.err == "Could not be asked:\nthe vantage point can't be reached\n"
    assert "studio-1: what answers outside" in said.out


@pytest.mark.parametrize("vantage", ["-oProxyCommand=true", "a b", "ops@", "$(true)"])
def test_a_vantage_point_is_no_option_of_ssh(vantage: str) -> None:
    with pytest.raises(VantageError, match="is no vantage point: write FROM=user@address, or FROM=here"):
        exposure.scan(vantage, {})


@pytest.mark.parametrize("says", ["", "Welcome."])
def test_a_vantage_point_that_runs_nothing_is_told(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an account does that is only let in to menus."""
    (tmp_path / "ssh").write_text(f"#!/bin/sh\ncat >/dev/null\necho '{says}'\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(VantageError, match=r"ops@203\.0\.113\.9 ran no scan"):
        exposure.scan(VANTAGE, {})


def test_lists_that_pulumi_writes_as_text_are_read(tmp_path: Path) -> None:
    """As `make up` leaves the stack dev: nothing of `pulumi config set` is YAML but its outside."""
    (tmp_path / "stack_configs").symlink_to(ROOT / "stack_configs")
    config = {"images: built", "weights: random", "gpus: '[]'", f"key-hashes: {{me: {'a' * 64}}}"}
    lines = ["config:", *(f"  inference-stack:{line}" for line in sorted(config))]
    (tmp_path / "Pulumi.dev.yaml").write_text("\n".join(lines) + "\n")
    assert load_stack("dev", tmp_path).local_gpus == ()
