"""What the gate refuses, in its own words, and that the nearest thing which is right passes."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from planning.hosts import gate, gate_cards
from planning.hosts import gate_table as table
from planning.hosts.checked import Found, generation
from planning.hosts.gate import SECURE_BOOT_DOC, gate_problems, gate_warnings
from planning.hosts.installed import FACTS_MAX_AGE, driver_packages, numbers, upstream
from planning.hosts.steps import plan_host
from stack_configs.load import Settings, load
from stack_configs.schema.facts import Facts, Gpu
from stack_configs.schema.stack import StackFile, StackSpec
from stack_configs.schema.versions import Distribution, VersionSet
from tests.unit.hosts import gate_card_cases, gate_cases
from tests.unit.hosts.gate_cases import AGAIN, AT, Case
from tests.unit.hosts.shaped import (
    CARDS,
    FEDORA,
    GPU,
    HOST,
    NOW,
    SECOND,
    bare,
    driver,
    facts,
    gpu,
    host,
    package,
    spec,
)

ROOT = Path(__file__).resolve().parents[3]
CASES = gate_cases.CASES | gate_card_cases.CASES


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused(case: Case) -> None:
    assert list(gate_problems(case.refused, NOW)) == case.found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_its_neighbours_pass_and_can_be_planned(case: Case) -> None:
    for right in (case.passes, *case.passes_too):
        assert gate_problems(right, NOW) == ()
        assert right != case.refused
        assert plan_host(HOST, right).steps


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


def test_the_shipped_prod_stack_passes() -> None:
    keys = {"editors": "1" * 64, "batch": "2" * 64}
    prod = load("prod", Settings(key_hashes=keys))
    assert all(found.connection.kind == "ssh" for found in prod.file.hosts.values())
    assert gate_problems(prod, NOW) == ()


@pytest.mark.parametrize("path", sorted((ROOT / "stack_configs/versions").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_driver_of_a_shipped_version_set_runs_its_engine_on_the_supported_systems(path: Path) -> None:
    shipped = VersionSet.model_validate(yaml.safe_load(path.read_text()))
    assert shipped.hosts
    cuda = shipped.images["vllm-cuda"].cuda
    assert cuda
    for branch, pin in shipped.hosts.drivers.items():
        for os in (None, *pin.distributions):
            wanted = {"branch": branch, "packages": "distribution" if os else "nvidia"}
            name, _, version = (os or "ubuntu-24.04").partition("-")
            on = bare(os={"id": name, "version": version, "codename": "", "name": str(os)})
            assert gate_problems(spec(host(driver=wanted), on, pins=shipped.hosts, cuda=cuda), NOW) == (), (branch, os)


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


@pytest.mark.parametrize(
    "unreadable",
    [
        bare(os={"id": "unknown", "version": "unknown", "codename": "unknown", "name": "unknown"}, problems=("no os",)),
        bare(arch="", problems=("uname -m: not found",)),
        facts(gpus=(), driver=driver(None), problems=("the PCI bus: this line can't be read: x",)),
    ],
    ids=["system", "architecture", "bus"],
)
def test_what_could_not_be_read_counts_for_nothing_and_is_told(unreadable: Facts) -> None:
    assert gate_problems(spec(known=unreadable), NOW) == ()
    (problem,) = unreadable.problems
    assert gate_warnings(spec(known=unreadable), NOW) == (
        (AT, f"could not be read in full: {problem}", f"look there, {AGAIN}"),
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
    "a card newer than the table and than the driver": (
        spec(known=bare(gpu("next year's", None))),
        (
            AT,
            "has a card (10de:3fff) that the gate doesn't know: nothing was checked for it",
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
    assert gate_warnings(spec(known=facts(), share=0.9), NOW) == ()
    beside = gpu("next year's", SECOND, "0000:01:00.0")  # which no model uses
    assert gate_warnings(spec(known=facts(gpus=(gpu(), beside))), NOW) == ()
    silent = driver(None, smi_error="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    assert gate_warnings(spec(known=bare(driver=silent)), NOW) == ()  # as it is before the driver's step
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


def test_the_drivers_packages_are_those_that_carry_its_version() -> None:
    installed = {
        "nvidia-kernel-open-dkms": package("580.105.08-1"),
        "libcuda1": package("590.48.01-1"),
        "nvidia-container-toolkit": package("1.18.0-1"),
        "nvidia-modprobe": package("595.45.04-1"),
        "nvidia-alternative": package("535.261.03-1", "config-files"),
    }
    assert set(driver_packages(facts(packages=installed))) == {"nvidia-kernel-open-dkms", "libcuda1"}
