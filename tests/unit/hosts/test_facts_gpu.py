"""GPUs and drivers, from what nvidia-smi, the PCI bus and the kernel say of many kinds of cards.

Rows have the form of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` (its manual, and reports of these cards).
"""

import pytest

from planning.hosts.facts_answers import Answer
from stack_configs.schema.facts import Gpu
from tests.unit.hosts.answers import ABSENT, BANNER, GPU, SECOND, failed, parsed

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Fri Jun  6 02:12:54 UTC 2025\nGCC version: …\n"
)
AARCH64 = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build  (dvs-builder@U22)\n"
NOT_TALKING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n\n"
)


def row(
    name: str,
    memory: str,
    compute: str,
    mig: str,
    *,
    uuid: str = GPU,
    bus: str = "00000000:41:00.0",
    driver: str = "580.105.08",
) -> str:
    return f"{uuid}, {bus}, {name}, {driver}, {memory}, {compute}, {mig}\n"


@pytest.mark.parametrize(
    ("said", "pci_id", "memory_mib", "compute", "mig"),
    [
        (row("Tesla P40", "24576", "6.1", "[N/A]"), "1b38", 24576, "6.1", None),
        (row("Tesla V100-SXM2-16GB", "16384", "7.0", "[N/A]"), "1db1", 16384, "7.0", None),
        (row("Tesla T4", "15360", "7.5", "[N/A]"), "1eb8", 15360, "7.5", None),
        (row("NVIDIA GeForce RTX 3090", "24576", "8.6", "[N/A]"), "2204", 24576, "8.6", None),
        (row("NVIDIA A100-SXM4-80GB", "81920", "8.0", "Enabled"), "20b2", 81920, "8.0", "on"),
        (row("NVIDIA A30", "24576", "8.0", "Disabled"), "20b7", 24576, "8.0", "off"),
        (row("NVIDIA L40S", "46068", "8.9", "[N/A]"), "26b9", 46068, "8.9", None),
        (row("NVIDIA GeForce RTX 4090", "24564", "8.9", "[N/A]"), "2684", 24564, "8.9", None),
        (row("NVIDIA H100 80GB HBM3", "81559", "9.0", "Disabled"), "2330", 81559, "9.0", "off"),
        (row("NVIDIA H200", "143771", "9.0", "Enabled"), "2335", 143771, "9.0", "on"),
        (row("NVIDIA GH200 480GB", "97871", "9.0", "Disabled"), "2342", 97871, "9.0", "off"),
        (row("NVIDIA B200", "183359", "10.0", "Disabled"), "2901", 183359, "10.0", "off"),
        (row("NVIDIA GeForce RTX 5090", "32607", "12.0", "[N/A]"), "2b85", 32607, "12.0", None),
        (
            row("NVIDIA RTX PRO 6000 Blackwell Server Edition", "97887", "12.0", "Disabled"),
            "2bb5",
            97887,
            "12.0",
            "off",
        ),
        # Before drivers of 2021 some answers were spelt so.
        (row("GeForce GTX 1080 Ti", "11178", "6.1", "[Not Supported]"), "1b06", 11178, "6.1", None),
    ],
)
def test_a_card_is_what_nvidia_smi_says(said: str, pci_id: str, memory_mib: int, compute: str, mig: str | None) -> None:
    facts = parsed(smi=said, pci=f"0000:41:00.0 0x10de 0x{pci_id} 0x030200\n")
    name = said.split(", ")[2]
    assert [gpu.model_dump() for gpu in facts.gpus] == [
        {
            "pci_address": "0000:41:00.0",
            "pci_id": f"10de:{pci_id}",
            "uuid": GPU,
            "name": name,
            "memory_mib": memory_mib,
            "compute_capability": compute,
            "mig": mig,
        }
    ]
    assert facts.problems == ()
    assert facts.driver.smi_error is None


def test_unified_memory_is_the_systems() -> None:
    said = row("NVIDIA GB10", "[N/A]", "12.1", "[N/A]", bus="0000000F:01:00.0", driver="580.95.05")
    facts = parsed(
        smi=said, pci="000f:01:00.0 0x10de 0x2e12 0x030000\n", module_banner=AARCH64, module_version="580.95.05\n"
    )
    assert [(gpu.pci_address, gpu.memory_mib, gpu.uuid) for gpu in facts.gpus] == [("000f:01:00.0", None, GPU)]
    assert facts.memory_mib == 128256
    assert (facts.driver.loaded, facts.driver.modules) == ("580.95.05", "open")
    assert facts.problems == ()


def test_a_jetsons_gpu_is_on_no_bus_and_has_little_to_say() -> None:
    said = "ddae7e7a-2ea9-5a7a-8b5c-a2b9b0c0a3b7, [N/A], Orin (nvgpu), 540.4.0, [N/A], 8.7, [N/A]\n"
    facts = parsed(smi=said, pci=ABSENT)
    assert [gpu.model_dump(exclude_none=True) for gpu in facts.gpus] == [
        {
            "pci_address": "",
            "pci_id": "",
            "uuid": "ddae7e7a-2ea9-5a7a-8b5c-a2b9b0c0a3b7",
            "name": "Orin (nvgpu)",
            "compute_capability": "8.7",
        }
    ]
    assert facts.problems == ()


def test_two_cards_stand_in_the_buss_order_whatever_nvidia_smis_is() -> None:
    said = row("NVIDIA L4", "23034", "8.9", "[N/A]", uuid=SECOND, bus="00000000:C1:00.0")
    said += row("NVIDIA L4", "23034", "8.9", "[N/A]", bus="00000000:41:00.0")
    bus = "0000:c1:00.0 0x10de 0x27b8 0x030200\n0000:41:00.0 0x10de 0x27b8 0x030200\n"
    assert [gpu.uuid for gpu in parsed(smi=said, pci=bus).gpus] == [GPU, SECOND]


def test_before_a_driver_the_bus_alone_knows_the_card() -> None:
    bus = "0000:41:00.0 0x10de 0x2684 0x030000\n0000:41:00.1 0x10de 0x22ba 0x040300\n"
    facts = parsed(pci=bus, smi=ABSENT, module_version=ABSENT, module_banner=ABSENT, dkms=ABSENT)
    assert facts.gpus == (Gpu(pci_address="0000:41:00.0", pci_id="10de:2684"),), "its sound is no GPU"
    assert (facts.driver.loaded, facts.driver.modules, facts.driver.smi_error) == (None, None, None)
    assert facts.problems == ()


def test_nvswitches_are_counted() -> None:
    bus = "0000:41:00.0 0x10de 0x2330 0x030200\n" + "".join(
        f"0000:0{n}:00.0 0x10de 0x22a3 0x068000\n" for n in range(5, 9)
    )
    assert parsed(pci=bus).nvswitches == 4


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (failed(out=NOT_TALKING, rc=9), NOT_TALKING.strip()),
        (
            failed(
                out="Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.309\n", rc=18
            ),
            "Failed to initialize NVML: Driver/library version mismatch NVML library version: 535.309",
        ),
        (failed(out="No devices were found\n", rc=6), "No devices were found"),
        (
            failed(out='Field "compute_cap" is not a valid field to query.\n\n', rc=2),
            'Field "compute_cap" is not a valid field to query.',
        ),
        (failed(rc=124), "it didn't answer in time: a card may hang"),
        (failed("Segmentation fault\n", rc=139), "Segmentation fault"),
        (failed(rc=1), "it ended with 1, and said nothing"),
        (Answer(), "it printed nothing"),
        (Answer(out="<html>not what it should be</html>\n"), "<html>not what it should be</html>"),
    ],
)
def test_an_nvidia_smi_that_cant_answer_leaves_the_cards_of_the_bus_and_its_reason(answer: Answer, error: str) -> None:
    facts = parsed(smi=answer)
    assert [(gpu.pci_address, gpu.uuid) for gpu in facts.gpus] == [("0000:41:00.0", None)]
    assert facts.driver.smi_error == error


def test_without_its_programs_a_loaded_driver_is_told() -> None:
    assert parsed(smi=ABSENT).driver.smi_error == "the driver is loaded, and nvidia-smi is not installed"


def test_a_card_that_fell_off_the_bus_keeps_its_place_and_the_others_their_names() -> None:
    lost = "Unable to determine the device handle for GPU0000:C1:00.0: Unknown Error\n"
    said = failed(out=row("NVIDIA L4", "23034", "8.9", "[N/A]") + lost, rc=15)
    bus = "0000:41:00.0 0x10de 0x27b8 0x030200\n0000:c1:00.0 0x10de 0x27b8 0x030200\n"
    facts = parsed(smi=said, pci=bus)
    assert [gpu.uuid for gpu in facts.gpus] == [GPU, None]
    assert facts.driver.smi_error == lost.strip()
    assert facts.problems == ("GPU 0000:c1:00.0 (10de:27b8) is on the bus, and the driver doesn't list it",)


def test_a_warning_beside_the_rows_is_kept_and_spoils_none() -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:41:00.0"
    facts = parsed(smi=failed(out=row("NVIDIA L4", "23034", "8.9", "[N/A]") + warning + "\n", rc=14))
    assert facts.gpus[0].uuid == GPU
    assert facts.driver.smi_error == warning


@pytest.mark.parametrize(
    "broken", ["[Unknown Error]", "[GPU is lost]", "[GPU requires reset]", "ERR!", "[Insufficient Permissions]"]
)
def test_a_field_that_is_an_error_is_a_problem_and_never_a_value(broken: str) -> None:
    facts = parsed(smi=row("NVIDIA L4", broken, "8.9", broken))
    assert (facts.gpus[0].memory_mib, facts.gpus[0].mig, facts.gpus[0].uuid) == (None, None, GPU)
    assert facts.problems == (
        f"GPU 0000:41:00.0: nvidia-smi says {broken!r} for memory.total",
        f"GPU 0000:41:00.0: nvidia-smi says {broken!r} for mig.mode.current",
    )


@pytest.mark.parametrize(
    "uuid", ["GPU-3F0C", "[Unknown Error]", "", "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11; rm -rf /"]
)
def test_what_is_no_uuid_is_never_taken_for_one(uuid: str) -> None:
    facts = parsed(smi=row("NVIDIA L4", "23034", "8.9", "[N/A]", uuid=uuid))
    assert facts.gpus[0].uuid is None
    assert any("for uuid" in problem for problem in facts.problems)


def test_a_row_cut_off_in_the_middle_is_no_card() -> None:
    facts = parsed(smi=row("NVIDIA L4", "23034", "8.9", "[N/A]")[:70] + "\n")
    assert facts.gpus[0].uuid is None
    assert facts.driver.smi_error


@pytest.mark.parametrize(
    ("version", "banner", "loaded", "modules"),
    [
        ("580.105.08\n", BANNER, "580.105.08", "open"),
        ("535.261.03\n", PROPRIETARY, "535.261.03", "proprietary"),
        ("595.71\n", BANNER.replace("580.105.08", "595.71"), "595.71", "open"),
        (ABSENT, BANNER, "580.105.08", "open"),  # a module without a version in /sys
        (ABSENT, ABSENT, None, None),
    ],
)
def test_which_module_is_loaded_and_of_which_kind(
    version: str | Answer, banner: str | Answer, loaded: str | None, modules: str | None
) -> None:
    facts = parsed(module_version=version, module_banner=banner)
    assert (facts.driver.loaded, facts.driver.modules) == (loaded, modules)
    assert facts.problems == ()


def test_modules_that_cant_be_told_apart_are_a_problem() -> None:
    facts = parsed(module_banner="NVRM version: something new\n")
    assert facts.driver.modules is None
    assert facts.problems == ("/proc/driver/nvidia/version doesn't say which kernel module is loaded",)


@pytest.mark.parametrize(
    ("said", "found", "problems"),
    [
        (
            "nvidia/580.105.08, 6.8.0-60-generic, x86_64: installed\n"
            "nvidia/580.105.08, 6.8.0-50-generic, x86_64: built\n",
            {"nvidia/580.105.08 6.8.0-50-generic": "built", "nvidia/580.105.08 6.8.0-60-generic": "installed"},
            (),
        ),
        ("nvidia/580.105.08: added\n", {"nvidia/580.105.08": "added"}, ()),
        (
            "nvidia-current, 535.261.03, 6.1.0-50-amd64, x86_64: installed\n",  # before DKMS 3
            {"nvidia-current/535.261.03 6.1.0-50-amd64": "installed"},
            (),
        ),
        ("zfs/2.2.2, 6.8.0-60-generic, x86_64: installed\n", {}, ()),
        (
            "nvidia/580.105.08, 6.8.0-60-generic, x86_64: installed (WARNING! Diff between built and installed "
            "module!)\n",
            {"nvidia/580.105.08 6.8.0-60-generic": "installed"},
            (
                "dkms status: nvidia/580.105.08, 6.8.0-60-generic, x86_64: installed (WARNING! Diff between built and "
                "installed module!)",
            ),
        ),
        (
            "Error! Could not locate dkms.conf file.\n",
            {},
            ("dkms status: this line can't be read: Error! Could not locate dkms.conf file.",),
        ),
    ],
)
def test_what_dkms_has_built(said: str, found: dict[str, str], problems: tuple[str, ...]) -> None:
    facts = parsed(dkms=said)
    assert facts.driver.dkms == found
    assert facts.problems == problems
