"""What the steps do to a GPU host: reboot, Docker with CDI, models that are drained. On one Debian 13, over SSH.

Docker 26 and its CDI are real, the reboot is one as far as a container has them; stand-ins: card.py, repository.py.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from planning.hosts import steps
from planning.hosts.steps import SERVING_LABEL
from tests.hosts.card import RTX_4090, Card
from tests.hosts.host import bare_host
from tests.hosts.repository import Repository, driver, toolkit
from tests.hosts.steps import QUIET, Target

CARD = Card.of(RTX_4090)
GPU = CARD.uuids[0]
OTHER_GPU = "GPU-8a1d2b47-52f6-4a0b-b7c3-5e9f64c0a902"
CDI = "/var/run/cdi/nvidia.yaml"
ALWAYS_OPEN = {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "opens": "00:00", "closes": "00:00"}
MODEL = (
    f"docker run -d --restart unless-stopped --label {SERVING_LABEL} --device nvidia.com/gpu={GPU} "
    "--name model-0 inference-stack/gpu-check /bin/sh -c 'trap exit TERM; while :; do read -t 1 x <>/tmp/never; done'"
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish(*driver("580.170.01"), *driver("580.173.02"), *toolkit())
    settings = {"driver": {"branch": "580"}, "gpus": [GPU], "engine": "distribution", "reboot": ALWAYS_OPEN}
    versions = {"docker": {"version": "29.8.2", "distributions": {"debian-13": "26.1.5"}, "source": "tests"}}
    with bare_host("new", distribution="debian-13", card=CARD) as host:
        repository.copy_to(host)
        yield Target(host, repository, settings, versions)


@pytest.fixture(scope="module")
def first(bare: Target) -> dict[str, str]:
    """Bare → ready: what each step printed."""
    boot = bare.host.boot_id()
    said = {step: bare.run(step) for step in ("base", "driver", "reboot")}
    bare.host.wait_until_up(after=boot)
    return {**said, "engine": bare.run("engine")}


@pytest.fixture
def target(bare: Target, first: dict[str, str]) -> Target:  # noqa: ARG001 (it is ready)
    return bare


def test_from_bare_to_containers_that_see_the_gpu(bare: Target, first: dict[str, str]) -> None:
    assert "reboots in 5 s: driver 580.173.02 is installed, none is loaded" in first["reboot"]
    assert first["engine"].startswith("rebooted; the driver 580.173.02 is loaded")
    assert "restarted Docker" not in first["engine"]
    assert bare.pending("gpus") == bare.pending("reboot") == ""
    info = json.loads(bare.host.inside("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"]
    assert info["LoggingDriver"] == "json-file"
    assert info["ServerVersion"].startswith("26.1.5")
    assert "docker.io" in bare.held()
    assert "nvidia-container-toolkit-base" in bare.held()
    # The login that Pulumi's Docker provider uses.
    bare.host.ssh("docker ps")


def test_the_second_time_there_is_nothing_to_change_and_docker_stays(target: Target) -> None:
    pid = target.host.inside("systemctl show -p MainPID --value docker")
    for step in ("base", "driver", "reboot", "engine"):
        assert target.run(step).strip() == QUIET
    assert target.host.inside("systemctl show -p MainPID --value docker") == pid


def test_a_gpu_that_is_not_there_is_named(target: Target) -> None:
    says = target.with_(gpus=[GPU, OTHER_GPU]).fails("engine")
    assert f"{OTHER_GPU} isn't a GPU of this host: the CDI devices are nvidia.com/gpu={GPU}" in says


@pytest.mark.parametrize("how", ["gone", "of another driver"])
def test_cdi_devices_that_are_wrong_are_written_anew(target: Target, how: str) -> None:
    if how == "gone":
        target.host.inside(f"rm {CDI}")
    else:
        target.host.inside(f"touch -d '1 hour ago' {CDI}; touch /var/lib/inference-stack/driver-changed")
    assert target.run("engine").strip() == f"refreshed {CDI}"


def test_cdi_devices_come_back_with_a_boot(target: Target) -> None:
    target.host.reboot()
    target.host.inside("systemctl is-system-running --wait", check=False)  # SSH answers before Docker has started
    assert target.run("engine").strip() == QUIET
    assert (
        target.host.inside("systemctl is-active nvidia-cdi-refresh.service nvidia-cdi-refresh.path") == "active\nactive"
    )


def test_docker_gets_its_settings_back_without_ending_containers(target: Target) -> None:
    target.host.inside(MODEL)
    started = target.host.inside("docker inspect -f '{{.State.StartedAt}}' model-0")
    target.host.put("/etc/docker/daemon.json", "{}\n")
    target.host.inside("systemctl reload docker")
    try:
        assert "restarted Docker for its new settings" in target.run("engine")
        assert target.host.inside("docker inspect -f '{{.State.StartedAt}}' model-0") == started
        assert target.host.inside("docker info --format '{{.LiveRestoreEnabled}}'") == "true"
        assert target.run("engine").strip() == QUIET
    finally:
        target.host.inside("docker rm -f model-0")


def test_another_data_root_is_refused_while_containers_are_in_this_one(target: Target) -> None:
    target.host.inside(MODEL)
    try:
        says = target.with_(data_root="/srv/docker").fails("engine")
        assert "Docker keeps its data in /var/lib/docker, not in /srv/docker" in says
        assert target.run("engine").strip() == QUIET
    finally:
        target.host.inside("docker rm -f model-0")


def test_models_are_stopped_before_a_reboot_and_started_after_it(target: Target) -> None:
    moved = target.with_({"drivers": {"580": {"version": "580.170.01", "source": "tests"}}})
    target.host.inside(
        f"{MODEL}; docker run -d --name other --restart unless-stopped inference-stack/gpu-check /bin/cat"
    )
    boot = target.host.boot_id()
    moved.run("driver")
    # Between the driver and the reboot no container can be shown the GPUs, which fails nothing.
    assert "waiting: the driver 580.173.02 is loaded, not 580.170.01" in moved.run("engine")
    out = moved.run("reboot")
    assert "stopped model-0\n" in out
    assert target.host.ssh("true", check=False).returncode == 255, "SSH is closed until the next boot"
    target.host.wait_until_up(after=boot)
    out = moved.run("engine")
    assert out.startswith("rebooted; the driver 580.170.01 is loaded")
    assert "started model-0\n" in out
    assert "no longer waiting: gpus" in out
    assert target.host.inside("docker inspect -f '{{.State.Running}}' model-0") == "true"
    assert moved.run("reboot").strip() == QUIET


def test_models_come_back_by_themselves_when_nobody_finishes_the_reboot(target: Target) -> None:
    target.host.inside("docker stop model-0; echo model-0 >/var/lib/inference-stack/drained")
    timer = "inference-stack-drained.timer"
    assert target.host.inside(f"systemctl is-enabled {timer}; systemctl is-active {timer}") == "enabled\nactive"
    assert target.host.inside(f"systemctl show -P Unit {timer}") == "inference-stack-drained.service"
    target.host.inside("systemctl start inference-stack-drained.service")  # as the timer does minutes after a boot
    assert target.host.inside("docker inspect -f '{{.State.Running}}' model-0") == "true"
    assert "drained" not in target.host.inside("ls /var/lib/inference-stack").split()


def test_a_reboot_that_did_not_help_is_told(target: Target) -> None:
    target.host.inside(
        "echo another-boot >/var/lib/inference-stack/rebooting; echo 570.1.1 >/sys/module/nvidia/version"
    )
    assert "after its reboot the driver 580.173.02 isn't loaded: 570.1.1 is" in target.fails("engine")
    target.host.inside("cat /proc/sys/kernel/random/boot_id >/var/lib/inference-stack/rebooting")
    assert "this host was to reboot and hasn't" in target.fails("engine")


def test_leaving_takes_back_what_was_made_and_keeps_docker(target: Target) -> None:
    target.run("engine", "reboot", "driver", "base", what="undo")
    assert target.held() == set()
    assert "docker.io" in target.installed()
    assert target.host.inside("find /var/lib/inference-stack -type f") == ""
    assert target.host.inside("find /etc /usr/local -name '*inference-stack*'") == ""
    assert "docker" not in target.host.ssh("id -nG").stdout.split()


@pytest.mark.parametrize(
    ("now", "opens", "closes", "open_"),
    [
        ("mon 01:59", "02:00", "04:00", False),
        ("mon 02:00", "02:00", "04:00", True),
        ("mon 03:59", "02:00", "04:00", True),
        ("mon 04:00", "02:00", "04:00", False),
        ("tue 03:00", "02:00", "04:00", False),
        ("mon 23:30", "23:00", "01:00", True),
        ("tue 00:30", "23:00", "01:00", True),
        ("mon 00:30", "23:00", "01:00", False),
        ("tue 01:00", "23:00", "01:00", False),
        ("wed 00:30", "23:00", "01:00", False),
    ],
)
def test_a_window_of_mondays(tmp_path: Path, now: str, opens: str, closes: str, open_: bool) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    today, time = now.split()
    yesterday = days[days.index(today) - 1]
    answers = f"*yesterday*) echo {yesterday.title()} ;; *H:%M) echo {time} ;; *) echo {today.title()} ;;"
    script = steps.script("reboot").replace('main "$@" </dev/null', "")
    (tmp_path / "script").write_text(f'{script}\ndate() {{ case "$*" in {answers} esac; }}\nwindow_is_open\n')
    window = {"WINDOW_DAYS": "mon", "WINDOW_OPENS": opens, "WINDOW_CLOSES": closes, "PATH": "/usr/bin:/bin"}
    assert (subprocess.run(["bash", tmp_path / "script"], env=window, check=False).returncode == 0) == open_
