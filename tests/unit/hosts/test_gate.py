"""What the gate refuses, in its own words, and that the nearest thing which is right passes."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from planning.hosts import gate, gate_cards
from planning.hosts import gate_table as table
from planning.hosts.checked import Found, generation
from planning.hosts.gate import SECURE_BOOT_DOC, gate_problems, gate_warnings
from planning.hosts.installed import FACTS_MAX_AGE, installed_driver, numbers, upstream
from stack_configs.schema.facts import Gpu
from stack_configs.schema.stack import StackFile, StackSpec
from stack_configs.schema.versions import Distribution
from tests.unit.hosts.shaped import (
    CARDS,
    DEBIAN,
    FEDORA,
    GPU,
    HOST,
    MANAGED,
    NOW,
    SECOND,
    bare,
    driver,
    facts,
    gpu,
    gpus,
    host,
    package,
    spec,
    versions,
)

ROOT = Path(__file__).resolve().parents[3]
AT = ("hosts", HOST)
AGAIN = f"then `make facts STACK=prod HOST={HOST}`"
OLD = {"branch": "580", "modules": "proprietary"}
THEIRS = {"branch": "535", "packages": "distribution"}
FABRIC = {"branch": "580", "fabric_manager": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A spec that is refused for exactly these reasons, and one beside it that isn't."""

    refused: StackSpec
    found: list[Found]
    passes: StackSpec


CASES: dict[str, Case] = {
    "a version set without a part for hosts": Case(
        refused=spec(unpinned=True),
        found=[
            (
                ("versions",),
                "2026.11 says nothing of hosts, which hosts over SSH are prepared from",
                "a version set with a part `hosts:`",
            )
        ],
        passes=spec(),
    ),
    "a driver branch that the version set hasn't": Case(
        refused=spec(host(driver={"branch": "585"})),
        found=[
            (
                (*AT, "driver", "branch"),
                "585 is not in the version set 2026.11",
                'write `branch: "590"` or `branch: "580"`',  # 535 doesn't run the engine's CUDA
            )
        ],
        passes=spec(host(driver={"branch": "590"})),
    ),
    "a CUDA toolkit that the version set hasn't": Case(
        refused=spec(host(cuda_toolkit="13.1")),
        found=[
            ((*AT, "cuda_toolkit"), "13.1 is not in the version set 2026.11", 'write `"13.0"` or `"12.9"`'),
        ],
        passes=spec(host(cuda_toolkit="13.0")),
    ),
    "open modules before there were any": Case(
        refused=spec(
            host(driver={"branch": "470"}),
            cuda=None,
            pins=versions(drivers={"470": {"version": "470.256.02", "source": "a test"}}),
        ),
        found=[
            (
                (*AT, "driver", "modules"),
                "branch 470 has no open modules: they begin with 515",
                "take a version set with a driver of branch 515 or newer, or `modules: proprietary` for cards older "
                "than Turing",
            )
        ],
        passes=spec(
            host(driver={"branch": "470", "modules": "proprietary"}),
            cuda=None,
            pins=versions(drivers={"470": {"version": "470.256.02", "source": "a test"}}),
        ),
    ),
    "a driver too old for the engine's CUDA": Case(
        refused=spec(host(driver={"branch": "535"})),
        found=[
            (
                (*AT, "driver", "branch"),
                "535 is too old for vLLM's image, which has CUDA 13.0: that needs 580 or newer",
                'write `branch: "590"` or `branch: "580"`',
            )
        ],
        # Minor-version compatibility: CUDA 12.9 came with 575, and 525 and newer run it.
        passes=spec(host(driver={"branch": "535"}), cuda="12.9"),
    ),
    "a driver too old for the host's own CUDA toolkit": Case(
        refused=spec(host(driver={"branch": "535"}, cuda_toolkit="13.0"), cuda="12.9"),
        found=[
            (
                (*AT, "driver", "branch"),
                "535 is too old for `cuda_toolkit`, which has CUDA 13.0: that needs 580 or newer",
                'write `branch: "590"` or `branch: "580"`',
            )
        ],
        passes=spec(host(driver={"branch": "535"}, cuda_toolkit="12.9"), cuda="12.9"),
    ),
    "a driver of the machine's own that is too old for the engine's CUDA": Case(
        refused=spec(host(driver=None), facts(driver=driver("570.195.03"))),
        found=[
            (
                AT,
                "has driver 570 loaded, too old for vLLM's image, which has CUDA 13.0: that needs 580 or newer",
                f'install branch 580 or newer there, {AGAIN}; or under `driver:` write `branch: "590"` or '
                '`branch: "580"`',
            )
        ],
        passes=spec(host(driver=None), facts()),
    ),
    "the distribution's Docker without CDI": Case(
        refused=spec(host(engine="distribution"), facts(os=DEBIAN)),
        found=[
            (
                (*AT, "engine"),
                "is Docker 20.10.24 of Debian 12, which takes no CDI devices: no container could use a GPU; 25.0 is "
                "the first that does",
                "write `engine: docker`",
            )
        ],
        passes=spec(
            host(engine="distribution"),
            facts(os={**DEBIAN, "version": "13", "codename": "trixie", "name": "Debian 13"}),
        ),
    ),
    "a version set whose Docker is without CDI": Case(
        refused=spec(pins=versions(docker={"version": "24.0.9", "source": "a test"})),
        found=[
            (
                (*AT, "engine"),
                "is Docker 24.0.9, which takes no CDI devices: no container could use a GPU; 25.0 is the first that "
                "does",
                "take a version set with Docker 25.0 or newer",
            )
        ],
        passes=spec(pins=versions(docker={"version": "25.0.0", "source": "a test"})),
    ),
    "a container toolkit that lets CDI files go stale": Case(
        refused=spec(pins=versions(container_toolkit={"version": "1.17.8", "source": "a test"})),
        found=[
            (
                ("versions",),
                "has container toolkit 1.17.8, which doesn't keep CDI files current: after a driver update containers "
                "would miss its files; 1.18 is the first that does",
                "take a version set with 1.18 or newer",
            )
        ],
        passes=spec(pins=versions(container_toolkit={"version": "1.18.0-rc.1", "source": "a test"})),
    ),
    "an operating system that isn't supported": Case(
        refused=spec(known=bare(os=FEDORA)),
        found=[
            (
                AT,
                "runs Fedora Linux 43, which isn't supported",
                "install one of Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04",
            )
        ],
        passes=spec(known=bare()),
    ),
    "an architecture that isn't supported": Case(
        refused=spec(known=bare(arch="riscv64")),
        found=[(AT, "is a machine of architecture riscv64", "x86_64 or aarch64 are supported")],
        passes=spec(known=bare(arch="aarch64")),
    ),
    "NVIDIA's packages where it has none": Case(
        refused=spec(known=facts(os=DEBIAN, arch="aarch64")),
        found=[
            (
                (*AT, "driver", "packages"),
                "NVIDIA has no drivers for Debian 12 on aarch64",
                "install Ubuntu 22.04 or Ubuntu 24.04; or leave `driver` out, and the machine's own driver stays as "
                "it is",
            )
        ],
        passes=spec(known=facts(os=DEBIAN)),
    ),
    "a distribution's driver that the version set doesn't know": Case(
        refused=spec(host(driver=THEIRS), facts(), cuda="12.9"),
        found=[
            (
                (*AT, "driver", "packages"),
                "the version set knows no driver 535 of Ubuntu 24.04's own",
                "write `packages: nvidia`, or add `ubuntu-24.04` to that branch's `distributions`",
            )
        ],
        passes=spec(host(driver=THEIRS), facts(os=DEBIAN), cuda="12.9"),
    ),
    "a distribution's Docker that the version set doesn't know": Case(
        refused=spec(host(engine="distribution"), facts()),
        found=[
            (
                (*AT, "engine"),
                "the version set knows no Docker of Ubuntu 24.04's own",
                "write `engine: docker`, or add `ubuntu-24.04` to Docker's `distributions`",
            )
        ],
        passes=spec(host(engine="docker"), facts()),
    ),
    "Debian's driver with a fabric manager": Case(
        refused=spec(
            host(driver={**THEIRS, "fabric_manager": True}), facts(os=DEBIAN, gpus=gpus("H100", 8)), cuda="12.9"
        ),
        found=[
            (
                (*AT, "driver", "packages"),
                "Debian has no fabric manager, and `fabric_manager` is on",
                "write `packages: nvidia`",
            )
        ],
        passes=spec(host(driver=FABRIC), facts(os=DEBIAN, gpus=gpus("H100", 8))),
    ),
    "Secure Boot without the key": Case(
        refused=spec(known=bare(secure_boot="on", signing_key="absent")),
        found=[
            (
                (*AT, "driver"),
                "Secure Boot is on, and the firmware doesn't trust the key that DKMS signs modules with: the driver "
                "would be built and never load",
                f"enrol the key (docs/reference/compatibility.md#secure-boot), or switch Secure Boot off in the "
                f"firmware; {AGAIN}",
            )
        ],
        passes=spec(known=bare(secure_boot="on", signing_key="enrolled")),
    ),
    "Secure Boot where nobody could ask": Case(
        refused=spec(known=bare(secure_boot="on")),
        found=[
            (
                (*AT, "driver"),
                "Secure Boot is on, and nobody could ask whether the firmware trusts the key that DKMS signs modules "
                "with: the driver would be built and never load",
                "`sudo apt-get install mokutil` there; enrol the key (docs/reference/compatibility.md#secure-boot), or "
                f"switch Secure Boot off in the firmware; {AGAIN}",
            )
        ],
        passes=spec(known=facts(secure_boot="on")),  # a driver is loaded, so its signature is trusted
    ),
    "a kernel that the modules don't build for": Case(
        refused=spec(
            host(driver=THEIRS),
            facts(os=DEBIAN, kernel={"running": "6.1.0-50-amd64", "boots": "6.1.0-56-amd64", "headers": []}),
            cuda="12.9",
        ),
        found=[
            (
                (*AT, "driver"),
                "535.261.03 (open) doesn't build for kernel 6.1.0-56-amd64, which boots next",
                "a version set with 535.309.01 with `modules: proprietary`; or boot an older kernel",
            )
        ],
        passes=spec(
            host(driver=THEIRS),
            facts(os=DEBIAN, kernel={"running": "6.1.0-56-amd64", "boots": "6.1.0-50-amd64", "headers": []}),
            cuda="12.9",
        ),
    ),
    "Blackwell on proprietary modules": Case(
        refused=spec(host(driver=OLD), facts(gpus=(gpu("RTX 5090"),))),
        found=[
            (
                (*AT, "driver", "modules"),
                "NVIDIA GeForce RTX 5090 (Blackwell) has proprietary modules, and only the open ones drive it",
                "write `modules: open`",
            )
        ],
        passes=spec(host(driver=MANAGED), facts(gpus=(gpu("RTX 5090"),))),
    ),
    "Blackwell below its first driver": Case(
        refused=spec(host(driver={"branch": "535"}), bare(gpu("RTX 5090", None)), cuda="12.9"),
        found=[
            (
                (*AT, "driver", "branch"),
                "the card at 0000:41:00.0 (Blackwell) is not driven by branch 535: 570 is the first",
                'write `branch: "590"` or `branch: "580"`',
            )
        ],
        passes=spec(host(driver={"branch": "580"}), bare(gpu("RTX 5090", None)), cuda="12.9"),
    ),
    "Blackwell with an engine of an older CUDA": Case(
        refused=spec(known=facts(gpus=(gpu("RTX 5090"),)), cuda="12.6"),
        found=[
            (
                (*AT, "gpus", 0),
                "NVIDIA GeForce RTX 5090 (Blackwell) can't run vLLM's image: that has CUDA 12.6, and the card needs "
                "12.8 or newer",
                "take a version set whose `vllm-cuda` has a newer CUDA",
            )
        ],
        passes=spec(known=facts(gpus=(gpu("RTX 5090"),)), cuda="12.8"),
    ),
    "a device that came later than its generation": Case(
        refused=spec(
            host(driver={"branch": "570"}),
            facts(gpus=(gpu("B200"),)),
            cuda="12.8",
            pins=versions(drivers={"570": {"version": "570.124.06", "source": "a test"}}),
        ),
        found=[
            (
                (*AT, "driver", "branch"),
                "NVIDIA B200 (Blackwell) needs driver 570.133.20 or newer, and the version set has 570.124.06",
                "take a version set with a driver of branch 570 or newer, from 570.133.20 on",
            )
        ],
        passes=spec(
            host(driver={"branch": "570"}),
            facts(gpus=(gpu("B200"),)),
            cuda="12.8",
            pins=versions(drivers={"570": {"version": "570.133.20", "source": "a test"}}),
        ),
    ),
    "an old card on open modules": Case(
        refused=spec(known=bare(gpu("V100", None)), cuda="12.9"),
        found=[
            (
                (*AT, "driver", "modules"),
                "the card at 0000:41:00.0 (Volta) has open modules, and only the proprietary ones drive it",
                "write `modules: proprietary`",
            )
        ],
        passes=spec(host(driver=OLD), bare(gpu("V100", None)), cuda="12.9"),
    ),
    "an old card behind its last driver": Case(
        refused=spec(host(driver={**OLD, "branch": "590"}), facts(gpus=(gpu("V100"),)), cuda="12.9"),
        found=[
            (
                (*AT, "driver", "branch"),
                "Tesla V100-PCIE-16GB (Volta) is not driven by branch 590: 580 is the last",
                'write `branch: "580"` or `branch: "535"`',
            )
        ],
        passes=spec(host(driver=OLD), facts(gpus=(gpu("V100"),)), cuda="12.9"),
    ),
    "an old card with an engine that has no code for it": Case(
        refused=spec(host(driver=OLD), facts(gpus=(gpu("V100"),))),
        found=[
            (
                (*AT, "gpus", 0),
                "Tesla V100-PCIE-16GB (Volta) can't run vLLM's image: with CUDA 13.0 that begins at compute capability "
                "7.5, and the card has 7.0",
                "leave the card out, or take a version set whose `vllm-cuda` has an older CUDA",
            )
        ],
        passes=spec(host(driver=OLD), facts(gpus=(gpu("V100"),)), cuda="12.9"),
    ),
    "a card that no engine's image has code for": Case(
        refused=spec(host(driver=OLD), facts(gpus=(gpu("P40"),)), cuda="12.9"),
        found=[
            (
                (*AT, "gpus", 0),
                "Tesla P40 (Pascal) can't run vLLM's image: with CUDA 12.9 that begins at compute capability 7.0, and "
                "the card has 6.1",
                "leave the card out, or take a version set whose `vllm-cuda` has an older CUDA",
            )
        ],
        # Beside a newer card, and not in the spec: it may drive a screen.
        passes=spec(known=facts(gpus=(gpu(), gpu("P40", SECOND, "0000:01:00.0")))),
    ),
    "a machine's own modules that don't drive its card": Case(
        refused=spec(host(driver=None), facts(gpus=(gpu("RTX 5090"),), driver=driver(modules="proprietary"))),
        found=[
            (
                AT,
                "NVIDIA GeForce RTX 5090 (Blackwell) has proprietary modules, and only the open ones drive it",
                f"install those there, {AGAIN}; or under `driver:` write `modules: open`",
            )
        ],
        passes=spec(host(driver=None), facts(gpus=(gpu("RTX 5090"),))),
    ),
    "more GPUs than the machine has": Case(
        refused=spec(host(gpus=(GPU, SECOND)), bare()),
        found=[
            (
                (*AT, "gpus"),
                "names 2 GPUs, and the machine has 1",
                f"look whether a card is missing, unpowered or given to a virtual machine, {AGAIN}; or take it out, "
                "and out of its replicas",
            )
        ],
        passes=spec(host(gpus=(GPU, SECOND)), bare(gpu(uuid=None), gpu(uuid=None, at="0000:42:00.0"))),
    ),
    "a GPU that fell off the bus": Case(
        refused=spec(
            host(gpus=(SECOND, GPU)),
            facts(
                gpus=(gpu(), gpu(uuid=None, at="0000:42:00.0")),
                driver=driver(smi_error="Unable to determine the device handle for GPU0000:42:00.0: Unknown Error"),
            ),
        ),
        found=[
            (
                (*AT, "gpus", 0),
                f"{SECOND} can't be seen: the machine has 2 cards, and the driver lists 1; 0000:42:00.0 may have "
                "fallen off the bus",
                "look at `sudo dmesg | grep -i xid` there, then switch the machine off and on, "
                f"{AGAIN}; or take the GPU out, and out of its replicas",
            )
        ],
        passes=spec(host(gpus=(SECOND, GPU)), facts(gpus=(gpu(), gpu(uuid=SECOND, at="0000:42:00.0")))),
    ),
    "a GPU of another machine": Case(
        refused=spec(known=facts(gpus=(gpu(uuid=SECOND),))),
        found=[((*AT, "gpus", 0), f"{GPU} isn't in this machine", f"write {SECOND}")],
        passes=spec(known=facts()),
    ),
    "a GPU that is divided": Case(
        refused=spec(host(gpus=(SECOND, GPU)), facts(gpus=(gpu("H100", mig="on"), gpu(uuid=SECOND)))),
        found=[
            (
                (*AT, "gpus", 1),
                f"{GPU} is divided (MIG is on): no program can use it as a whole",
                f"`sudo nvidia-smi -i {GPU} -mig 0` there, {AGAIN}",
            )
        ],
        passes=spec(host(gpus=(SECOND, GPU)), facts(gpus=(gpu("H100", mig="off"), gpu(uuid=SECOND)))),
    ),
    "NVSwitches without a fabric manager": Case(
        refused=spec(known=facts(gpus=gpus("H100", 8), nvswitches=4)),
        found=[
            (
                (*AT, "driver", "fabric_manager"),
                "is off, and the 8 GPUs are joined by NVSwitches: without it CUDA doesn't start at all",
                "write `fabric_manager: true`",
            )
        ],
        passes=spec(host(driver=FABRIC), facts(gpus=gpus("H100", 8), nvswitches=4)),
    ),
    "NVSwitches that are on no bus, without a fabric manager": Case(
        refused=spec(known=facts(gpus=gpus("B200", 8))),
        found=[
            (
                (*AT, "driver", "fabric_manager"),
                "is off, and the 8 GPUs are joined by NVSwitches: without it CUDA doesn't start at all",
                "write `fabric_manager: true`",
            )
        ],
        passes=spec(known=facts(gpus=gpus("B200", 8), virtual="kvm")),  # the hypervisor may have it
    ),
    "a fabric manager without NVSwitches": Case(
        refused=spec(host(driver=FABRIC), facts()),
        found=[
            (
                (*AT, "driver", "fabric_manager"),
                "is on, and this machine has no NVSwitch: the service would fail at every start",
                "leave it out",
            )
        ],
        passes=spec(host(driver=FABRIC), facts(gpus=gpus("H100", 4))),  # HGX boards of four: nobody knows
    ),
    "a fabric manager of another version": Case(
        refused=spec(
            host(driver=None),
            facts(
                gpus=gpus("H100", 8),
                nvswitches=4,
                packages={"nvidia-fabricmanager-580": package("580.95.05-1")},
            ),
        ),
        found=[
            (
                AT,
                "has driver 580.105.08 and fabric manager 580.95.05: they must be identical on NVSwitch systems",
                f"install the fabric manager of that version, {AGAIN}; or let `driver` manage both",
            )
        ],
        passes=spec(
            host(driver=None),
            facts(
                gpus=gpus("H100", 8),
                nvswitches=4,
                packages={"nvidia-fabricmanager-580": package("580.105.08-1")},
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused(case: Case) -> None:
    assert list(gate_problems(case.refused, NOW)) == case.found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_its_neighbour_passes(case: Case) -> None:
    assert gate_problems(case.passes, NOW) == ()
    assert case.passes != case.refused


def test_every_rule_has_a_case() -> None:
    """A rule that no case reaches could refuse everything or nothing."""
    silent = [
        rule.__name__
        for rule in gate._REFUSALS
        if not any(list(rule(checked)) for case in CASES.values() for checked in gate._hosts(case.refused, NOW))
    ]
    assert silent == []
    assert set(gate_cards.CARD_REFUSALS) <= set(gate._REFUSALS)


def in_schema(path: tuple[str | int, ...], kind: Any = StackFile) -> bool:
    """Whether the schema has such a place."""
    if not path:
        return True
    head, rest = path[0], path[1:]
    if get_origin(kind) in (dict, tuple):
        return isinstance(head, str if get_origin(kind) is dict else int) and in_schema(
            rest, get_args(kind)[-1 if isinstance(head, str) else 0]
        )
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return head in kind.model_fields and in_schema(rest, kind.model_fields[str(head)].annotation)
    return any(in_schema(path, arm) for arm in get_args(kind))


def test_paths_that_are_in_no_schema_are_told_apart() -> None:
    assert in_schema(("hosts", HOST, "gpus", 0))
    assert in_schema(("hosts", HOST, "driver", "branch"))
    assert not in_schema(("hosts", HOST, "driver", "brunch"))
    assert not in_schema(("host", HOST))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_refusal_names_a_place_in_the_yaml_and_a_way_out(case: Case) -> None:
    for path, says, write in gate_problems(case.refused, NOW):
        assert in_schema(path), path
        assert says
        assert write
        assert "None" not in says + write


@pytest.mark.parametrize("cuda", ["12.6", "12.9", "13.0"])
@pytest.mark.parametrize("modules", ["open", "proprietary"])
@pytest.mark.parametrize("branch", ["535", "580", "590"])
@pytest.mark.parametrize("card", CARDS)
def test_who_does_what_is_written_is_refused_no_more(card: str, branch: str, modules: str, cuda: str) -> None:
    """In one go: all remedies of `driver` at once, the first where several are named."""
    for card_facts in (facts(gpus=(gpu(card),)), bare(gpu(card, None))):
        wanted = {"branch": branch, "modules": modules}
        found = gate_problems(spec(host(driver=wanted), card_facts, cuda=cuda), NOW)
        for path, _, write in found:
            assert in_schema(path)
            if path[2] == "driver" and (remedy := re.match(r'write `(\w+): "?(\w+)"?`', write)):
                wanted[remedy[1]] = remedy[2]
        after = gate_problems(spec(host(driver=wanted), card_facts, cuda=cuda), NOW)
        assert [path for path, _, _ in after if path[2] == "driver"] == []
        # What is left is between the card and the engine's image: no driver mends it.
        assert set(after) <= set(found)


def test_a_host_without_facts_is_checked_by_its_spec_alone() -> None:
    assert gate_problems(spec(), NOW) == ()
    assert len(gate_problems(spec(host(driver={"branch": "535"})), NOW)) == 1


def test_old_facts_are_not_believed_and_it_is_said() -> None:
    wrong = facts(gpus=(gpu(uuid=SECOND),))
    old = spec(known=wrong.model_copy(update={"read_at": NOW - FACTS_MAX_AGE - timedelta(minutes=1)}))
    new = spec(known=wrong.model_copy(update={"read_at": NOW - FACTS_MAX_AGE}))
    assert gate_problems(old, NOW) == ()
    assert len(gate_problems(new, NOW)) == 1
    assert gate_warnings(old, NOW) == (
        (
            AT,
            "has facts of 2026-10-21, more than 30 days old: what needs them was not checked",
            f"`make facts STACK=prod HOST={HOST}`",
        ),
    )
    assert gate_warnings(new, NOW) == ()


def test_a_local_host_is_none_of_the_gates_business() -> None:
    here = host(connection={"kind": "local"}, driver=None)
    assert gate_problems(spec(here, facts(os=FEDORA), unpinned=True), NOW) == ()


def test_all_hosts_are_told_at_once_and_what_they_share_once() -> None:
    two = {"one": host(driver={"branch": "535"}), "two": host(driver={"branch": "535"}, gpus=(SECOND,))}
    assert [path for path, _, _ in gate_problems(spec(two), NOW)] == [
        ("hosts", "one", "driver", "branch"),
        ("hosts", "two", "driver", "branch"),
    ]
    assert [path for path, _, _ in gate_problems(spec({n: host() for n in two}, unpinned=True), NOW)] == [("versions",)]


def test_a_driver_that_answers_nothing_does_not_stop_the_reboot_that_mends_it() -> None:
    broken = facts(
        gpus=(gpu(uuid=None),),
        driver=driver("535.261.03", smi_error="Failed to initialize NVML: Driver/library version mismatch"),
    )
    assert gate_problems(spec(known=broken), NOW) == ()
    assert gate_warnings(spec(known=broken), NOW) == (
        (
            AT,
            "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch",
            f"a reboot usually helps, {AGAIN}",
        ),
    )


WARNINGS: dict[str, tuple[StackSpec, Found]] = {
    "facts with a gap": (
        spec(known=facts(problems=("df: this line can't be read: x",))),
        (AT, "could not be read in full: df: this line can't be read: x", f"look there, {AGAIN}"),
    ),
    "an installation that was cut off": (
        spec(known=facts(packages={"docker-ce": package("5:28.5.1-1", "half-installed reinstreq")})),
        (
            AT,
            "has packages that dpkg didn't finish: docker-ce",
            "the next `pulumi up` finishes them first, or says what a person must do",
        ),
    ),
    "a card newer than the table": (
        spec(known=facts(gpus=(gpu("next year's"),))),
        (
            AT,
            "has NVIDIA Unheard Of (10de:3fff) that the gate doesn't know: nothing was checked for it",
            "see docs/reference/compatibility.md for what is known",
        ),
    ),
    "nearly all of a memory that GPU and system share": (
        spec(known=facts(gpus=(gpu("GB10"),), arch="aarch64"), share=0.9),
        (
            ("models", "chat", "gpu_memory_utilization"),
            f"0.9 of {GPU}'s memory, which is the machine's own: little is left for everything else",
            "write 0.8 or less",
        ),
    ),
}


@pytest.mark.parametrize(("warned", "found"), WARNINGS.values(), ids=WARNINGS)
def test_warned_of_and_not_refused(warned: StackSpec, found: Found) -> None:
    assert gate_problems(warned, NOW) == ()
    assert gate_warnings(warned, NOW) == (found,)
    assert in_schema(found[0])


def test_a_ready_host_gives_no_warning() -> None:
    assert gate_warnings(spec(known=facts()), NOW) == ()
    assert gate_warnings(spec(known=facts(gpus=(gpu("GB10"),), arch="aarch64"), share=0.8), NOW) == ()


def test_a_gpu_on_no_bus_is_known_by_its_compute_capability() -> None:
    jetson = Gpu(pci_address="", pci_id="", uuid=GPU, name="Orin (nvgpu)", compute_capability="8.7")
    found = generation(jetson)
    assert found
    assert found.name == "Ampere"
    assert gate_problems(spec(host(driver=None), facts(gpus=(jetson,), arch="aarch64")), NOW) == ()


GENERATION_OF = {
    "P40": "Pascal",
    "V100": "Volta",
    "RTX 4090": "Ada",
    "H100": "Hopper",
    "RTX 5090": "Blackwell",
    "B200": "Blackwell",
    "GB10": "Blackwell",
}


@pytest.mark.parametrize(("card", "name"), GENERATION_OF.items())
def test_the_bus_and_the_driver_agree_on_a_cards_generation(card: str, name: str) -> None:
    row = next(row for row in table.GENERATIONS if row.name == name)
    assert generation(gpu(card, None)) == row
    assert CARDS[card][2] in row.compute


def cells() -> Iterator[Any]:
    """Everything in the table that claims something of the world."""
    for value in vars(table).values():
        for row in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(row) and not isinstance(row, (type, table.Evidence)):
                yield row


@pytest.mark.parametrize("row", list(cells()), ids=lambda row: str(row)[:60])
def test_every_cell_has_evidence(row: Any) -> None:
    evidence = row.evidence if isinstance(row.evidence, tuple) else (row.evidence,)
    assert evidence
    for one in evidence:
        assert one.where.startswith("https://") == (one.kind == "read"), one


def test_the_table_has_every_kind_of_cell() -> None:
    kinds = {type(row).__name__ for row in cells()}
    assert kinds == {"Generation", "CudaFloor", "EngineFloor", "SupportedOs", "KernelBuild", "Floor", "DeviceFloor"}
    assert table.NVSWITCH_EVIDENCE
    assert [row.distribution for row in table.SYSTEMS] == list(get_args(Distribution))


def test_no_device_is_of_two_generations() -> None:
    ranges = sorted(span for row in table.GENERATIONS for span in row.devices)
    assert all(first <= last for first, last in ranges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


def test_the_page_on_secure_boot_exists() -> None:
    page, _, anchor = SECURE_BOOT_DOC.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("packaged", "version"),
    [
        ("580.105.08", "580.105.08"),
        ("580.105.08-0ubuntu1", "580.105.08"),
        ("535.261.03-1~deb12u1", "535.261.03"),
        ("5:28.5.1-1~debian.12~bookworm", "28.5.1"),
        ("20.10.24+dfsg1-1+deb12u1+b2", "20.10.24"),
    ],
)
def test_a_programs_version_inside_its_packages(packaged: str, version: str) -> None:
    assert upstream(packaged) == version
    assert numbers(packaged) == tuple(int(part) for part in version.split("."))


def test_the_installed_driver_is_that_of_the_packages_which_carry_it() -> None:
    installed = {
        "nvidia-kernel-open-dkms": package("580.105.08-1"),
        "libcuda1": package("580.105.08-1"),
        "nvidia-container-toolkit": package("1.18.0-1"),
        "nvidia-modprobe": package("595.45.04-1"),
        "nvidia-alternative": package("535.261.03-1", "config-files"),
    }
    assert installed_driver(facts(packages=installed)) == "580.105.08"
    half = {**installed, "libcuda1": package("590.48.01-1")}
    assert installed_driver(facts(packages=half)) == "580.105.08 and 590.48.01"
    assert installed_driver(facts()) is None
