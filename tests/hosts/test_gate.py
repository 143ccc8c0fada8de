"""The gate on what a real host says over SSH: bent systems, missing cards, firmware without our key.

Firmware is the one part that a container can't have: a program `mokutil` answers for it here, in mokutil's words.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning.hosts.gate import gate_problems
from stack_configs.load import ROOT, Settings, load
from stack_configs.schema.facts import Facts
from tests.hosts.card import RTX_4090, RTX_5090, Card, lose, put_back, take_out
from tests.hosts.host import Host, bare_host, login
from tests.hosts.test_card import install
from tools.facts import run

CARD = Card.of(RTX_4090, RTX_5090)
FIRMWARE = """\
#!/bin/sh
case $1 in
--sb-state) echo 'SecureBoot enabled' ;;
--test-key) echo "$2 is {} enrolled" ;;
esac
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("gate", card=CARD) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))
    shutil.copytree(ROOT / "stack_configs" / "versions", tmp_path / "stack_configs" / "versions")
    return tmp_path


def refused(root: Path, host: Host, **changes: Any) -> list[str]:
    """What is refused of this host, by what it says now: `place: what is wrong`."""
    described = {"connection": host.connection, "gpus": list(CARD.uuids), "driver": {"branch": "580"}, **changes}
    replica = {"host": "gate", "gpus": [CARD.uuids[0]]}
    source = {"repo": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"}
    file = {
        "versions": "2026.11",
        "hosts": {"gate": described},
        "models": {"chat": {"source": source, "replicas": [replica], "memory_mib": 32768}},
        "gateway": {"keys": {"me": {}}},
    }
    (root / "stack_configs" / "prod.yaml").write_text(yaml.safe_dump(file))
    assert run("prod", None, root) == 0
    spec = load("prod", Settings(key_hashes={"me": "0" * 64}), root)
    assert isinstance(spec.facts["gate"], Facts)
    found = gate_problems(spec, datetime.now(UTC))
    return [f"{'.'.join(map(str, path[2:]))}: {says}" for path, says, _ in found]


@contextmanager
def replaced(host: Host, path: str, text: str, mode: str = "0644") -> Iterator[None]:
    """A file of the host is another one for a while."""
    host.inside(f"test ! -e {path} || mv {path} /root/kept")
    host.put(path, text, mode)
    try:
        yield
    finally:
        host.inside(f"rm {path}; test ! -e /root/kept || mv /root/kept {path}")


def test_a_bare_host_passes(host: Host, root: Path) -> None:
    assert refused(root, host) == []


def test_cards_are_known_before_they_have_a_driver(host: Host, root: Path) -> None:
    address = CARD.gpus[1].address
    assert refused(root, host, driver={"branch": "580", "modules": "proprietary"}) == [
        f"driver.modules: the card at {address} (Blackwell) has proprietary modules, and only the open ones drive it"
    ]


def test_the_systems_own_docker_is_too_old_for_gpus(host: Host, root: Path) -> None:
    assert refused(root, host, engine="distribution") == [
        "engine: is Docker 20.10.24 of Debian 12, which takes no CDI devices: no container could use a GPU; 25.0 is "
        "the first that does"
    ]


def test_an_unsupported_system(host: Host, root: Path) -> None:
    fedora = 'ID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora Linux 43"\n'
    with replaced(host, "/etc/os-release", fedora):
        assert refused(root, host) == [": runs Fedora Linux 43, which isn't supported"]


def test_secure_boot_wants_our_key_in_the_firmware(host: Host, root: Path) -> None:
    no_trust = (
        "driver: Secure Boot is on, and the firmware doesn't trust the key that DKMS signs modules with: "
        "the driver would be built and never load"
    )
    with replaced(host, "/usr/local/bin/mokutil", FIRMWARE.format("not"), "0755"):
        assert refused(root, host) == [no_trust], "there is no key yet"
        host.put("/var/lib/dkms/mok.pub", "a key")
        assert refused(root, host) == [no_trust], "the key is not enrolled"
    with replaced(host, "/usr/local/bin/mokutil", FIRMWARE.format("already"), "0755"):
        assert refused(root, host) == []


def test_a_card_that_was_taken_out(host: Host, root: Path) -> None:
    take_out(host, CARD.gpus[1])
    try:
        assert refused(root, host) == ["gpus: names 2 GPUs, and the machine has 1"]
    finally:
        put_back(host, CARD.gpus[1])


@pytest.fixture
def driven(host: Host) -> Host:
    """The host with a driver loaded, which names the cards."""
    install(host, "580.173.02")
    host.inside("modprobe nvidia")
    return host


def test_a_card_that_falls_off_the_bus(driven: Host, root: Path) -> None:
    host = driven
    assert refused(root, host) == []
    lose(host, CARD.gpus[0])
    try:
        assert refused(root, host) == [
            f"gpus.0: {CARD.uuids[0]} can't be seen: the machine has 2 cards, and the driver lists 1; "
            f"{CARD.gpus[0].address} may have fallen off the bus"
        ]
    finally:
        put_back(host, CARD.gpus[0])


def test_a_card_of_another_machine(driven: Host, root: Path) -> None:
    other = "GPU-00000000-0000-4000-8000-000000000000"
    assert refused(root, driven, gpus=[CARD.uuids[0], other]) == [f"gpus.1: {other} isn't in this machine"]
