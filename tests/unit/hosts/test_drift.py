"""What is otherwise than the spec, and what the next `up` is made to repair."""

from typing import Any

import pytest

from planning.hosts.drift import differences, repairs
from stack_configs.schema.facts import Facts, Package
from stack_configs.schema.hosts import Host
from stack_configs.schema.network import Network
from stack_configs.schema.stack import StackSpec
from stack_configs.schema.versions import PackagePin
from tests.unit.hosts import prepared, shaped
from tests.unit.network.mesh import mesh

HOST = shaped.HOST
SPEC = prepared.spec(shaped.host(reboot="allowed"))
MANUAL = prepared.spec()
MOVED = "580.82.07-0ubuntu1"
HALF = Package(version="6.8.0-70.70", held=False, status="half-configured")


def said(of: StackSpec, facts: Facts, before: Facts | None = None) -> list[str]:
    return [f"{difference.step}: {difference.says}" for difference in differences(HOST, of, facts, before)]


def package(name: str, **changes: Any) -> dict[str, Any]:
    """All packages, one of them changed."""
    found = prepared.packages()
    return {**found, name: found[name].model_copy(update=changes)}


@pytest.mark.parametrize(
    "host",
    [
        shaped.host(),
        shaped.host(reboot="allowed"),
        shaped.host(driver=None),  # its own driver stays as it is, whatever it is
    ],
)
def test_a_prepared_host_is_as_the_spec_has_it(host: Host) -> None:
    spec = prepared.spec(host)
    assert said(spec, prepared.facts(spec)) == []
    assert repairs(HOST, spec, prepared.facts(spec)) == {}


def test_parts_of_a_cuda_toolkit_are_held_whatever_their_versions() -> None:
    spec = prepared.spec(shaped.host(cuda_toolkit="12.9"))
    toolkit, part = shaped.package("12.9.1-1", held=True), shaped.package("12.9.79-1", held=False)
    found = {**prepared.packages(), "cuda-toolkit-12-9": toolkit, "cuda-cudart-12-9": part, "cuda-cudart-13-0": part}
    assert said(spec, prepared.facts(spec, packages=found)) == ["driver: no longer held: cuda-cudart-12-9"]


@pytest.mark.parametrize(
    ("changed", "told", "repaired"),
    [
        (
            {"packages": package("libnvidia-compute-580", version=MOVED)},
            [f"driver: libnvidia-compute-580 is {MOVED}, the spec has 580.105.08"],
            {"driver": 1},
        ),
        (
            {"packages": prepared.packages(nvidia_open_580=None)},
            ["driver: nvidia-open-580 is not installed, the spec has 580.105.08"],
            {"driver": 1},
        ),
        (
            {"packages": package("nvidia-open-580", held=False)},
            ["driver: no longer held: nvidia-open-580"],
            {"driver": 1},
        ),
        (
            {"packages": {name: of.model_copy(update={"held": False}) for name, of in prepared.packages().items()}},
            [
                "driver: no longer held: nvidia-open-580, libnvidia-compute-580, nvidia-kernel-open-dkms-580",
                "engine: no longer held: docker-ce, docker-ce-cli, containerd.io",
                "engine: no longer held: nvidia-container-toolkit, nvidia-container-toolkit-base, "
                "libnvidia-container-tools, libnvidia-container1",
            ],
            {"driver": 1, "engine": 1},
        ),
        (
            {"packages": package("docker-ce", status="half-configured")},
            ["base: docker-ce is half-configured"],
            {"base": 1},
        ),
        (
            {"packages": {**prepared.packages(), "linux-headers-6.8.0-70-generic": HALF}},
            ["driver: linux-headers-6.8.0-70-generic is half-configured"],
            {"driver": 1},
        ),
        (
            {"packages": package("docker-ce", version="5:29.0.0-1~ubuntu.24.04~noble")},
            ["engine: docker-ce is 5:29.0.0-1~ubuntu.24.04~noble, the spec has 28.5.1"],
            {"engine": 1},
        ),
        (
            {"packages": {name: of for name, of in prepared.packages().items() if name != "containerd.io"}},
            ["engine: containerd.io is not installed, the spec has 2.1.4"],
            {"engine": 1},
        ),
        (
            {"packages": package("containerd.io", version="2.4.0-1")},
            ["engine: containerd.io is 2.4.0-1, the spec has 2.1.4"],
            {"engine": 1},
        ),
        (
            {"packages": {**prepared.packages(), "nvidia-kernel-dkms": shaped.package(MOVED, held=True)}},
            [f"driver: nvidia-kernel-dkms is {MOVED}, the spec has none"],
            {"driver": 1},
        ),
        (
            {"driver": shaped.driver("580.82.07")},
            ["reboot: the driver 580.82.07 is loaded, the spec has 580.105.08"],
            {"reboot": 1},
        ),
        ({"driver": shaped.driver(None)}, ["reboot: no driver is loaded, the spec has 580.105.08"], {"reboot": 1}),
        (
            {"driver": shaped.driver(modules="proprietary")},
            [
                "reboot: the proprietary kernel modules are loaded, the spec has the open ones; "
                "it needs a reboot, which is yours to do"
            ],
            {},
        ),
        (
            {"driver": shaped.driver(dkms={"nvidia/580.105.08 6.8.0-50-generic": "installed"})},
            ["driver: kernel 6.8.0-60-generic boots next, and no module 580.105.08 is built for it"],
            {"driver": 1},
        ),
        (
            {"driver": shaped.driver(dkms={"nvidia/580.105.08 6.8.0-60-generic": "built"})},
            ["driver: kernel 6.8.0-60-generic boots next, and no module 580.105.08 is built for it"],
            {"driver": 1},
        ),
        ({"driver": shaped.driver(dkms={"nvidia/580.105.08 6.8.0-60-generic": "installed"})}, [], {}),
        (
            {"pending": {"kernel": "the driver 580.105.08 has no module for kernel 6.8.0-70-generic"}},
            ["driver: the driver 580.105.08 has no module for kernel 6.8.0-70-generic"],
            {},
        ),
        ({"engine": {**prepared.ENGINE, "running": False}}, ["engine: Docker doesn't run"], {"engine": 1}),
        (
            {"engine": {**prepared.ENGINE, "data_root": "/data", "live_restore": False, "cdi": False}},
            [
                "engine: Docker keeps its data in /data, not in /var/lib/docker",
                "engine: /etc/docker/daemon.json is not the spec's",
                "engine: Docker's live-restore is off: its restart would stop containers",
                "engine: Docker takes no CDI devices",
            ],
            {"engine": 1},
        ),
        (
            {"cdi_devices": ["nvidia.com/gpu=all"]},
            [f"engine: containers can't be given {shaped.GPU}: no CDI file names it"],
            {"engine": 1},
        ),
        (
            {"pending": {"gpus": "no driver is loaded"}},
            ["engine: waited for a driver, which is loaded by now: no driver is loaded"],
            {"engine": 1},
        ),
    ],
)
def test_what_somebody_changed_is_told_and_repaired_once(
    changed: dict[str, Any], told: list[str], repaired: dict[str, int]
) -> None:
    facts = prepared.facts(SPEC, **changed)
    assert said(SPEC, facts) == told
    assert repairs(HOST, SPEC, facts) == repaired
    # Asked again before the next `up`: the raised counter stands already.
    raised = SPEC.model_copy(update={"repairs": {HOST: repaired}})
    assert repairs(HOST, raised, facts) == {}


def test_a_counter_only_rises() -> None:
    spec = prepared.spec(repairs={HOST: {"driver": 4, "engine": 2}})
    facts = prepared.facts(spec, packages=package("nvidia-open-580", held=False))
    assert repairs(HOST, spec, facts) == {"driver": 5}


def test_a_module_that_waits_for_a_person_raises_no_counter() -> None:
    facts = prepared.facts(MANUAL, driver=shaped.driver("580.82.07"))
    assert said(MANUAL, facts) == [
        "reboot: the driver 580.82.07 is loaded, the spec has 580.105.08; it needs a reboot, which is yours to do"
    ]
    assert repairs(HOST, MANUAL, facts) == {}


def test_a_module_that_waited_for_its_window_gets_another_up() -> None:
    """The step was applied, and only noted that it waits: nothing but a counter runs it again."""
    spec = prepared.spec(shaped.host(reboot={"days": ["sun"], "opens": "02:00", "closes": "05:00"}))
    facts = prepared.facts(spec, driver=shaped.driver("580.82.07"), pending={"reboot": "it may reboot on sun"})
    assert said(spec, facts) == ["reboot: the driver 580.82.07 is loaded, the spec has 580.105.08"]
    assert repairs(HOST, spec, facts) == {"reboot": 1}


def test_before_the_reboot_nobody_asks_for_cdi_devices() -> None:
    facts = prepared.facts(MANUAL, driver=shaped.driver("580.82.07"), cdi_devices=[], pending={"gpus": "no driver"})
    assert [difference.step for difference in differences(HOST, MANUAL, facts)] == ["reboot"]


def test_a_changed_spec_is_told_and_left_to_the_next_up() -> None:
    old = prepared.spec(shaped.host(driver={"branch": "580"}))
    new = prepared.spec(shaped.host(driver={"branch": "590"}))
    facts = prepared.facts(old)
    assert "driver: isn't applied as the spec has it by now: the next `up` does it" in said(new, facts)
    assert "driver: nvidia-open is not installed, the spec has 590.48.01" in said(new, facts)
    assert repairs(HOST, new, facts) == {}


def test_a_host_that_nobody_prepared_is_left_to_the_next_up() -> None:
    found = said(MANUAL, shaped.bare())
    assert [line for line in found if "never applied" in line] == [
        f"{step}: was never applied: the next `up` does it" for step in ("base", "driver", "reboot", "engine")
    ]
    assert repairs(HOST, MANUAL, shaped.bare()) == {}


def test_a_note_that_vanished_is_repaired_by_what_was_known_before() -> None:
    before = prepared.facts(MANUAL)
    now = prepared.facts(MANUAL, steps={})
    assert said(MANUAL, now, before)[0] == "base: the host's note that it was applied is gone"
    assert repairs(HOST, MANUAL, now, before) == {"base": 1, "driver": 1, "reboot": 1, "engine": 1}
    assert repairs(HOST, MANUAL, now) == {}


@pytest.mark.parametrize(
    ("problem", "lost"),
    [
        ("dpkg-query: no answer in time", {"packages": {}}),
        ("apt-mark showhold: no answer in time", {"packages": package("docker-ce", held=False)}),
        ("/sys/module/nvidia/version: not readable", {"driver": shaped.driver(None)}),
        ("Docker: permission denied", {"engine": {**prepared.ENGINE, "running": False}}),
        ("/var/lib/inference-stack/steps: Permission denied", {"steps": {}}),
        ("nvidia-ctk cdi list: no answer in time", {"cdi_devices": []}),
    ],
)
def test_what_could_not_be_read_is_no_difference(problem: str, lost: dict[str, Any]) -> None:
    assert said(SPEC, prepared.facts(SPEC, problems=[problem], **lost)) == []
    assert said(SPEC, prepared.facts(SPEC, **lost)) != [], "read, it would be one"


WALLED = SPEC.model_copy(
    update={
        "file": SPEC.file.model_copy(
            update={
                "network": Network.model_validate({"firewall": {"allow": [{"port": 22, "sources": ["10.0.0.0/8"]}]}})
            }
        )
    }
)


@pytest.mark.parametrize(
    ("changes", "told", "repaired"),
    [
        ({"firewall": "a" * 12}, [], {}),
        ({"firewall": None}, ["firewall: the firewall's rules aren't loaded"], {"firewall": 1}),
        ({"firewall": "b" * 12}, ["firewall: other rules are loaded than were confirmed"], {"firewall": 1}),
        ({"firewall": None, "problems": ["sudo without a password: it asks for one"]}, [], {}),
    ],
    ids=["as confirmed", "flushed", "changed", "nobody could look"],
)
def test_rules_that_are_not_those_that_were_confirmed(changes: dict[str, Any], told: list[str], repaired: Any) -> None:
    facts = prepared.facts(WALLED, firewall_confirmed="a" * 12, **changes)
    assert said(WALLED, facts) == told
    assert repairs(HOST, WALLED, facts) == repaired


def test_rules_on_trial_are_no_drift() -> None:
    noted = {**prepared.notes(WALLED), "confirm": "0" * 12}
    facts = prepared.facts(WALLED, steps=noted, firewall="b" * 12, firewall_confirmed="a" * 12)
    assert said(WALLED, facts) == ["confirm: isn't applied as the spec has it by now: the next `up` does it"]


def meshed() -> StackSpec:
    assert SPEC.host_versions
    docker = SPEC.host_versions.repositories["docker"]
    update = {"tailscale": PackagePin(version="1.102.3", source="a test")}
    versions = SPEC.host_versions.model_copy(
        update={**update, "repositories": {**SPEC.host_versions.repositories, "tailscale": docker}}
    )
    network = Network.model_validate({"mesh": mesh()})
    return SPEC.model_copy(
        update={"file": SPEC.file.model_copy(update={"network": network}), "host_versions": versions}
    )


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ("a" * 12, []),
        ("b" * 12, ["mesh: the node's settings, or what it publishes, are others than were set"]),
        (None, ["mesh: the node's settings, or what it publishes, are others than were set"]),
    ],
)
def test_a_node_that_somebody_changed(now: str | None, told: list[str]) -> None:
    spec = meshed()
    packages = {**prepared.packages(), "tailscale": shaped.package("1.102.3", held=True)}
    facts = prepared.facts(spec, mesh=now, mesh_noted="a" * 12, packages=packages)
    assert said(spec, facts) == told
    assert repairs(HOST, spec, facts) == ({"mesh": 1} if told else {})
