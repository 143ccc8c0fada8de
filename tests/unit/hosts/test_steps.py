"""Which steps a host has, which packages they name, and when a step counts as changed."""

from typing import Any

import pytest
import yaml

from planning.hosts import packages, steps
from planning.hosts.plan import HostPlan
from stack_configs.load import ROOT
from stack_configs.schema.hosts import Driver, Host
from stack_configs.schema.versions import Distribution, PackagePin, VersionSet
from tests.unit.hosts import shaped
from tests.unit.hosts.prepared import spec

PIN = PackagePin(
    version="595.71.05", distributions={"debian-12": "535.309.01", "ubuntu-24.04": "580.173.02"}, source=""
)
VERSIONS = ROOT / "stack_configs" / "versions" / "2026.11.yaml"
OURS = VersionSet.model_validate(yaml.safe_load(VERSIONS.read_text())).hosts
GPU = "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11"


def plan(*, repairs: dict[str, int] | None = None, **settings: Any) -> HostPlan:
    connection = {"kind": "ssh", "address": "192.0.2.1", "user": "ops", "host_key": "ssh-ed25519 AAAA"}
    host = Host.model_validate({"connection": connection, **settings})
    return steps.plan_host(shaped.HOST, spec(host, pins=OURS, repairs={shaped.HOST: repairs or {}}))


def names(of: HostPlan) -> list[str]:
    return [step.name for step in of.steps]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["base", "engine"]),
        ({"driver": {"branch": "580"}}, ["base", "driver", "reboot", "engine"]),
        ({"cuda_toolkit": "12.9"}, ["base", "driver", "engine"]),
    ],
    ids=["no driver", "driver", "toolkit alone"],
)
def test_steps_of_a_host(settings: dict[str, Any], expected: list[str]) -> None:
    assert names(plan(**settings)) == expected


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        ({}, {"driver": {"branch": "595"}}, {"driver", "reboot", "engine"}),
        ({}, {"driver": {"branch": "580", "modules": "proprietary"}}, {"driver"}),
        ({}, {"reboot": "allowed"}, {"reboot", "engine"}),
        ({}, {"data_root": "/srv/docker"}, {"engine"}),
        ({}, {"gpus": [GPU]}, {"engine"}),
        ({}, {"models_dir": "/srv/models"}, {"base"}),
        ({}, {"repairs": {"driver": 1}}, {"driver"}),
    ],
)
def test_a_change_concerns_few_steps(one: dict[str, Any], other: dict[str, Any], changed: set[str]) -> None:
    driver = {"branch": "580"}
    before = {step.name: step.digest for step in plan(**{"driver": driver, **one}).steps}
    after = {step.name: step.digest for step in plan(**{"driver": driver, **other}).steps}
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("reboot", "may"),
    [("manual", False), ("allowed", True), ({"days": ["sun"], "opens": "02:00", "closes": "05:00"}, True)],
)
def test_only_a_reboot_needs_patience_afterwards(reboot: object, may: bool) -> None:
    assert plan(driver={"branch": "580"}, reboot=reboot).may_reboot == may


@pytest.mark.parametrize(
    ("driver", "os", "expected"),
    [
        ({"branch": "580"}, "debian-12", ["nvidia-open-580"]),
        ({"branch": "580", "modules": "proprietary"}, "ubuntu-24.04", ["cuda-drivers-580"]),
        ({"branch": "570", "fabric_manager": True}, "debian-12", ["nvidia-open-570", "nvidia-fabricmanager-570"]),
        ({"branch": "580", "fabric_manager": True}, "debian-12", ["nvidia-open-580", "nvidia-fabricmanager"]),
        ({"branch": "595"}, "debian-13", ["nvidia-driver-pinning-595.71.05", "nvidia-open"]),
        (
            {"branch": "535", "packages": "distribution"},
            "debian-12",
            [
                *("nvidia-open-kernel-dkms", "libcuda1", "libnvidia-ml1", "nvidia-smi"),
                *("nvidia-persistenced", "nvidia-modprobe"),
            ],
        ),
        (
            {"branch": "580", "packages": "distribution"},
            "ubuntu-24.04",
            ["nvidia-headless-580-server-open", "nvidia-utils-580-server", "nvidia-compute-utils-580-server"],
        ),
        ({"branch": "580", "packages": "distribution"}, "debian-13", None),
    ],
)
def test_packages_of_a_driver(driver: dict[str, Any], os: Distribution, expected: list[str] | None) -> None:
    found = packages.driver_packages(Driver.model_validate(driver), PIN, os)
    assert ([*found.first, *found.names, *(name for name, _ in found.loose)] if found else None) == expected


def test_a_script_gets_its_settings_as_words_that_the_shell_does_not_read() -> None:
    given = plan(driver={"branch": "580"})
    for step in given.steps:
        text = steps.text(step)
        assert text.endswith('main "$@" </dev/null\n')
        assert f"DIGEST={step.digest}\n" in text
    assert "DAEMON_JSON='{" in steps.text(given.steps[-1])


def test_every_step_that_installs_outlasts_waiting_for_apt() -> None:
    short = {step for step, limit_s in steps.TIMEOUTS_S.items() if limit_s <= steps.APT_LOCK_S}
    assert short == {"confirm"}
    assert "ensure" not in (steps.SCRIPTS / "confirm.sh").read_text()
