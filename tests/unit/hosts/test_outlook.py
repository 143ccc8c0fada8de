"""What a preview says of each host, whole."""

import subprocess
from datetime import timedelta
from typing import Any

import pytest

from planning.hosts.outlook import outlook
from planning.hosts.plan import StepName
from planning.hosts.ready import with_waiting
from planning.hosts.steps import daemon_json
from planning.hosts.wanted import docker_settings
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host
from stack_configs.schema.network import Allowed, Firewall
from tests.unit.hosts import prepared, shaped
from tests.unit.hosts.test_drift import meshed

OLD_DRIVER = "580.82.07-0ubuntu1"
WINDOW = {"days": ["sat", "sun"], "opens": "02:00", "closes": "04:00"}
UPDATED = {
    "packages": prepared.packages(
        nvidia_open_580=OLD_DRIVER, nvidia_kernel_open_dkms_580=OLD_DRIVER, libnvidia_compute_580=OLD_DRIVER
    ),
    "driver": shaped.driver("580.82.07"),
}
"""Facts of a host whose driver is to be updated within its branch."""
MOVES = [
    "  packages  nvidia-open-580 580.82.07-0ubuntu1 → 580.105.08",
    "            libnvidia-compute-580 580.82.07-0ubuntu1 → 580.105.08",
    "            nvidia-kernel-open-dkms-580 580.82.07-0ubuntu1 → 580.105.08",
]
SETTINGS = docker_settings(shaped.host())
"""Of Docker, as the spec has them."""
ALL: tuple[StepName, ...] = ("base", "driver", "reboot", "engine")
UPDATE: tuple[StepName, ...] = ("driver", "reboot", "engine")
HEAD = "Host studio-1: driver, reboot, engine run. Its facts are 4 hours old (2026-11-20 08:00 UTC)."


def lines(host: Host, facts: Facts | None, *runs: StepName, age: timedelta = timedelta(0)) -> list[str]:
    spec = prepared.spec(host, facts={shaped.HOST: facts} if facts else {})
    return outlook(shaped.HOST, with_waiting(spec), runs, shaped.NOW + age)


def ready(host: Host, **changes: Any) -> Facts:
    return prepared.facts(prepared.spec(host), **changes)


def test_a_host_that_no_step_touches() -> None:
    host = shaped.host()
    assert lines(host, ready(host)) == ["Host studio-1: not touched. Its facts are 4 hours old (2026-11-20 08:00 UTC)."]


def test_a_bare_host_that_was_never_asked() -> None:
    assert lines(shaped.host(), None, *ALL) == [
        "Host studio-1: base, driver, reboot, engine run. It has no facts.",
        "  base      nvidia-driver, nvidia-container-toolkit, docker; security updates, time; 50 GiB for models",
        "  driver    580.105.08 open, held",
        "  reboot    never, only noted",
        "  engine    Docker 28.5.1, container toolkit 1.18.0, CDI, live-restore, log rotation",
        "  unknown   what moves, reboots and restarts: it was never asked; `make facts STACK=prod HOST=studio-1`",
        "  waits     it has no facts yet: after it was prepared by `pulumi up`, "
        "`make facts STACK=prod HOST=studio-1`, then `pulumi up`",
    ]


def test_a_bare_host_that_was_asked() -> None:
    assert lines(shaped.host(), shaped.bare(), *ALL) == [
        "Host studio-1: base, driver, reboot, engine run. Its facts are 4 hours old (2026-11-20 08:00 UTC).",
        "  packages  nvidia-open-580 not installed → 580.105.08",
        "            docker-ce not installed → 28.5.1",
        "            docker-ce-cli not installed → 28.5.1",
        "            containerd.io not installed → 2.1.4",
        "            nvidia-container-toolkit not installed → 1.18.0",
        "            nvidia-container-toolkit-base not installed → 1.18.0",
        "            libnvidia-container-tools not installed → 1.18.0",
        "            libnvidia-container1 not installed → 1.18.0",
        "  reboot    no: no driver is loaded, so 580.105.08 should be loaded without one",
        "  Docker    starts: it is installed anew",
        "  models    none runs there",
        "  waits     its facts are from before it was prepared: after `pulumi up`, "
        "`make facts STACK=prod HOST=studio-1`, then `pulumi up`",
    ]


@pytest.mark.parametrize(
    ("reboot", "told", "models"),
    [
        (
            "allowed",
            "yes: 580.82.07 is loaded, 580.105.08 will be installed",
            "chat-0: drained and stopped for the reboot, started after it",
        ),
        (
            "manual",
            "no, it is only noted (`reboot: manual`): 580.82.07 is loaded, 580.105.08 will be installed",
            "chat-0: go on; one that restarts before the reboot finds no GPU",
        ),
        (
            WINDOW,
            "if `up` runs within sat, sun 02:00 to 04:00 UTC, else it is only noted: "
            "580.82.07 is loaded, 580.105.08 will be installed",
            "chat-0: drained and stopped for the reboot, started after it",
        ),
    ],
)
def test_a_driver_update_says_what_moves_who_reboots_and_which_models_feel_it(
    reboot: Any, told: str, models: str
) -> None:
    host = shaped.host(reboot=reboot)
    assert lines(host, ready(host, **UPDATED), *UPDATE) == [
        HEAD,
        *MOVES,
        f"  reboot    {told}",
        "  Docker    no restart",
        f"  models    {models}",
    ]


@pytest.mark.parametrize(
    ("driver", "have", "moves"),
    [
        (
            {"branch": "590"},
            {},
            [
                "  packages  nvidia-driver-pinning-590.48.01 not installed → 590.48.01",
                "            nvidia-open not installed → 590.48.01",
                "            libcuda1 580.105.08-0ubuntu1 → 590.48.01",
                "            nvidia-open-580 580.105.08-0ubuntu1 → removed",
            ],
        ),
        (
            {"branch": "590"},
            {"nvidia-driver-pinning-590.40.01": "590.40.01-1", "nvidia-open": "590.40.01-1", "libcuda1": "590.40.01-1"},
            [
                "  packages  nvidia-driver-pinning-590.48.01 not installed → 590.48.01",
                "            nvidia-open 590.40.01-1 → 590.48.01",
                "            libcuda1 590.40.01-1 → 590.48.01",
                "            nvidia-driver-pinning-590.40.01 590.40.01-1 → removed",
            ],
        ),
    ],
)
def test_packages_whose_names_are_of_another_version_go(
    driver: dict[str, str], have: dict[str, str], moves: list[str]
) -> None:
    host = shaped.host(driver=driver)
    have = have or {"nvidia-open-580": prepared.DRIVER, "libcuda1": prepared.DRIVER}
    facts = ready(host, packages={name: shaped.package(version, held=True) for name, version in have.items()})
    said = lines(host, facts, "driver")
    assert said[1 : said.index("  reboot    no")] == moves


def test_a_hold_that_is_put_back_touches_nothing_else() -> None:
    host = shaped.host()
    unheld = prepared.packages()
    unheld["docker-ce"] = unheld["docker-ce"].model_copy(update={"held": False})
    assert lines(host, ready(host, packages=unheld), "engine") == [
        "Host studio-1: engine runs. Its facts are 4 hours old (2026-11-20 08:00 UTC).",
        "  packages  none moves",
        "  holds     docker-ce held",
        "  reboot    no",
        "  Docker    no restart",
        "  models    chat-0: not touched",
    ]


@pytest.mark.parametrize(
    ("changes", "docker"),
    [
        ({}, "no restart"),
        (
            {"packages": prepared.packages(docker_ce="5:28.4.0-1~ubuntu.24.04~noble")},
            "restarts (docker-ce 5:28.4.0-1~ubuntu.24.04~noble → 28.5.1); containers go on running (live-restore)",
        ),
        (
            {"engine": {**prepared.ENGINE, "settings": SETTINGS, "settings_in_force": "0" * 12}},
            "restarts (its settings); containers go on running (live-restore)",
        ),
        (
            {"engine": {**prepared.ENGINE, "settings": "0" * 12, "settings_in_force": SETTINGS}},
            "restarts (its settings); containers go on running (live-restore)",
        ),
        ({"engine": {**prepared.ENGINE, "running": False}}, "starts: it doesn't run"),
        ({"engine": None}, "starts: it is installed anew"),
    ],
)
def test_whether_docker_restarts(changes: dict[str, Any], docker: str) -> None:
    host = shaped.host()
    assert f"  Docker    {docker}" in lines(host, ready(host, **changes), "engine")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"driver": shaped.driver("580.105.08")}, "no: the driver 580.105.08 is loaded already"),
        (
            {"driver": shaped.driver(None)},
            "only if it must: no driver is loaded, so 580.105.08 should be loaded without one",
        ),
        (
            {"driver": shaped.driver(None, nouveau=True)},
            "yes: nouveau is loaded, 580.105.08 will be installed",
        ),
        (
            {
                "driver": shaped.driver(None),
                "kernel": {"running": "6.8.0-50-generic", "boots": "6.8.0-60-generic", "headers": []},
            },
            "yes: no driver is loaded, 580.105.08 will be installed for kernel 6.8.0-60-generic, "
            "and 6.8.0-50-generic runs",
        ),
    ],
)
def test_why_a_host_reboots_or_not(changes: dict[str, Any], told: str) -> None:
    host = shaped.host(reboot="allowed")
    assert f"  reboot    {told}" in lines(host, ready(host, **changes), *UPDATE)


def test_what_a_node_publishes_and_a_firewall_leaves_open_is_told_of_a_host_with_facts_too() -> None:
    spec = meshed()
    firewall = Firewall(allow=(Allowed(port=22, sources=("10.0.0.0/8",)),))
    network = spec.file.network.model_copy(update={"firewall": firewall})
    spec = spec.model_copy(update={"file": spec.file.model_copy(update={"network": network})})
    spec = spec.model_copy(update={"facts": {shaped.HOST: prepared.facts(spec)}})
    told = outlook(shaped.HOST, spec, ("join", "base", "mesh", "firewall"), shaped.NOW)
    assert told[1:4] == [
        "  join      https://headscale.example.org as studio-1.mesh.example.net",
        "  mesh      Tailscale 1.102.3, held; publishes Grafana (3000), API (8080), Prometheus (9090), "
        "Alertmanager (9093)",
        "  firewall  SSH from 10.0.0.0/8; mesh; else nothing",
    ]


def test_facts_that_are_too_old_are_no_base_for_a_guess() -> None:
    host = shaped.host()
    assert lines(host, ready(host, **UPDATED), *UPDATE, age=timedelta(days=31)) == [
        "Host studio-1: driver, reboot, engine run. Its facts are 31 days old (2026-11-20 08:00 UTC).",
        "  driver    580.105.08 open, held",
        "  reboot    never, only noted",
        "  engine    Docker 28.5.1, container toolkit 1.18.0, CDI, live-restore, log rotation",
        "  unknown   what moves, reboots and restarts: facts more than 30 days old are not believed; "
        "`make facts STACK=prod HOST=studio-1`",
    ]


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (timedelta(seconds=90), "less than 2 minutes old"),
        (timedelta(minutes=2), "2 minutes old"),
        (timedelta(minutes=119), "119 minutes old"),
        (timedelta(hours=47), "47 hours old"),
        (timedelta(days=2), "2 days old"),
    ],
)
def test_how_old_facts_are(age: timedelta, told: str) -> None:
    host = shaped.host()
    facts = ready(host, read_at=shaped.NOW - age)
    assert f"Its facts are {told}" in lines(host, facts)[0]


def test_settings_are_named_as_the_script_names_the_file_that_it_wrote() -> None:
    shell = "printf '%s\\n' \"$0\" | sha256sum | cut -c -12"
    for host in (shaped.host(), shaped.host(data_root="/srv/docker")):
        done = subprocess.run(["bash", "-c", shell, daemon_json(host)], capture_output=True, text=True, check=True)
        assert docker_settings(host) == done.stdout.strip()
