"""What `make facts` prints, whole."""

from typing import Any

import pytest

from stack_configs.schema.facts import Facts
from tests.unit.hosts import shaped
from tools.facts import chosen, show

MODELS = "/var/lib/inference-stack/models"
DISK = {MODELS: {"mount": "/", "size_gib": 916.0, "free_gib": 702.0}}


def shown(host: dict[str, Any], facts: Facts) -> list[str]:
    return show("prod", {"studio-1": shaped.host(**host)}, {"studio-1": facts}).splitlines()


def test_a_bare_host_shows_its_cards_and_what_could_not_be_read() -> None:
    without_sudo = "sudo without a password: a password is required; what only root can see was not read"
    facts = shaped.bare(problems=[without_sudo, "dkms status: no answer in time"], disks=DISK, time_synchronised=False)
    assert shown({"gpus": None}, facts) == [
        "host      system               kernel            driver       docker  prepared  free for models",
        "studio-1  ubuntu 24.04 x86_64  6.8.0-60-generic  none loaded  none    no        702 of 916 GiB",
        "",
        "host      GPU           memory  compute  MIG  UUID                    name",
        "studio-1  0000:41:00.0  ?       ?        -    no driver has named it  10de:2684",
        "",
        f"studio-1: could not be read: {without_sudo}",
        "studio-1: could not be read: dkms status: no answer in time",
        "studio-1: let ops use sudo there: echo 'ops ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ops (as root)",
        "studio-1: its clock is not synchronised",
    ]


def test_a_ready_host_shows_what_runs_and_waits_and_the_lines_to_paste() -> None:
    second = shaped.gpu("GB10", shaped.SECOND, "000f:01:00.0")
    facts = shaped.facts(
        gpus=[shaped.gpu("H100", mig="on"), second],
        driver=shaped.driver(smi_error="Unable to determine the device handle"),
        steps={"base": "0" * 12, "driver": "1" * 12},
        pending={"reboot": "580.105.08 is installed, 580.82.07 is loaded"},
        engine={
            "kind": "docker",
            "version": "28.5.1",
            "running": False,
            "data_root": None,
            "cdi": False,
            "live_restore": False,
            "containers": {},
        },
    )
    lines = shown({}, facts)
    assert lines == [
        "host      system               kernel            driver           docker               prepared      "
        "free for models",
        "studio-1  ubuntu 24.04 x86_64  6.8.0-60-generic  580.105.08 open  28.5.1, not running  base, driver  unknown",
        "",
        "host      GPU           memory        compute  MIG  UUID                                      name",
        f"studio-1  0000:41:00.0  81559 MiB     9.0      on   {shaped.GPU}  NVIDIA H100 80GB HBM3",
        f"studio-1  000f:01:00.0  the system's  12.1     -    {shaped.SECOND}  NVIDIA GB10",
        "",
        "studio-1: waiting: 580.105.08 is installed, 580.82.07 is loaded",
        "studio-1: nvidia-smi says: Unable to determine the device handle",
        "",
        "stack_configs/prod.yaml doesn't name all GPUs. Write under `hosts:` those that models may use:",
        "",
        "  studio-1:",
        "    gpus:",
        f"      - {shaped.GPU}  # NVIDIA H100 80GB HBM3, 0000:41:00.0",
        f"      - {shaped.SECOND}  # NVIDIA GB10, 000f:01:00.0",
    ]


def test_gpus_that_the_file_names_are_not_shown_to_paste() -> None:
    assert not any("gpus:" in line for line in shown({}, shaped.facts()))


def test_one_host_can_be_chosen_and_an_unknown_one_is_told() -> None:
    hosts = {"studio-1": shaped.host(), "studio-2": shaped.host()}
    assert list(chosen("prod", None, hosts)) == ["studio-1", "studio-2"]
    assert list(chosen("prod", "studio-2", hosts)) == ["studio-2"]
    with pytest.raises(SystemExit, match="`prod` has no host studio-3 over SSH; it has studio-1, studio-2"):
        chosen("prod", "studio-3", hosts)
    with pytest.raises(SystemExit, match="`dev` has no hosts over SSH: there is nobody to ask"):
        chosen("dev", None, {})
