"""The stand-ins for cards: they follow what is installed only as far as a real card would."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from planning.hosts.facts import SCRIPT, parse_facts, read_answers
from stack_configs.schema.facts import Facts
from tests.hosts.card import H100, RTX_4090, Card, loaded_module, lose, put_back, take_out
from tests.hosts.host import Host, bare_host

CARD = Card.of(RTX_4090, H100)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("cards", card=CARD) as made:
        yield made


def facts(host: Host) -> Facts:
    told = host.ssh("bash -s", stdin=SCRIPT.read_text()).stdout
    return parse_facts(host.name, read_answers(told), datetime.now(UTC))


def install(host: Host, version: str) -> None:
    """Empty packages with the names of Debian's driver: a module, and its programs."""
    for name in ("nvidia-open-kernel-dkms", "nvidia-smi"):
        fields = {
            "Package": name,
            "Version": f"{version}-1",
            "Architecture": "all",
            "Maintainer": "t",
            "Description": "t",
        }
        host.put(f"/tmp/{name}/DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in fields.items()))
        host.inside(
            f"chmod 755 /tmp/{name}/DEBIAN && dpkg-deb -b /tmp/{name} /tmp/{name}.deb && dpkg -i /tmp/{name}.deb"
        )


def test_a_driver_is_followed_by_the_loaded_module_only_after_a_boot(host: Host) -> None:
    bare = facts(host)
    assert [gpu.pci_id for gpu in bare.gpus] == ["10de:2684", "10de:2330"]
    assert [gpu.uuid for gpu in bare.gpus] == [None, None], "without a driver a card has no UUID yet"
    assert bare.driver.loaded is None

    install(host, "535.261.03")
    assert loaded_module(host) == "", "a package alone loads nothing"
    assert "couldn't communicate" in (facts(host).driver.smi_error or "")

    host.inside("modprobe nvidia")
    first = facts(host)
    assert (first.driver.loaded, first.driver.modules) == ("535.261.03", "open")
    assert [gpu.uuid for gpu in first.gpus] == list(CARD.uuids)
    assert [(gpu.memory_mib, gpu.mig) for gpu in first.gpus] == [(24564, None), (81559, "off")]
    assert first.driver.smi_error is None

    install(host, "535.309.01")
    updated = facts(host)
    assert updated.driver.loaded == "535.261.03", "what is loaded stays until a boot"
    assert "version mismatch" in (updated.driver.smi_error or "")
    host.inside("modprobe nvidia")
    assert loaded_module(host) == "535.261.03"

    host.reboot()
    rebooted = facts(host)
    assert rebooted.driver.loaded == "535.309.01"
    assert [gpu.uuid for gpu in rebooted.gpus] == list(CARD.uuids)


def test_a_card_can_fall_off_until_the_next_boot_or_be_taken_out(host: Host) -> None:
    if not loaded_module(host):
        install(host, "535.309.01")
        host.inside("modprobe nvidia")
    first, second = CARD.gpus
    lose(host, first)
    lost = facts(host)
    assert [gpu.uuid for gpu in lost.gpus] == [None, second.uuid], "on the bus, and unknown to the driver"
    assert "GPU is lost" in (lost.driver.smi_error or "")
    host.reboot()
    assert [gpu.uuid for gpu in facts(host).gpus] == list(CARD.uuids)

    take_out(host, second)
    assert [gpu.uuid for gpu in facts(host).gpus] == [first.uuid]
    put_back(host, second)
    assert [gpu.uuid for gpu in facts(host).gpus] == list(CARD.uuids)


def test_without_its_programs_a_driver_answers_nothing(host: Host) -> None:
    host.inside("dpkg -r nvidia-smi || true")
    assert host.ssh("command -v nvidia-smi", check=False).returncode != 0
