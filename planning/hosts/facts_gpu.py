"""GPUs and their driver, from the PCI bus, from the kernel and from nvidia-smi. Pure."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass

from planning.hosts.facts_answers import Answers
from stack_configs.schema.facts import DriverFacts, Gpu

FIELDS = ("uuid", "pci.bus_id", "name", "driver_version", "memory.total", "compute_cap", "mig.mode.current")
"""What the script asks nvidia-smi for, in this order."""

NOT_THERE = frozenset({"[N/A]", "N/A", "[Not Supported]", "Not Supported"})
"""Answers that mean: this card has no such thing."""

UUID = re.compile(r"(GPU-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MIG = {"Enabled": "on", "Disabled": "off"}


@dataclass(frozen=True)
class PciDevice:
    address: str
    id: str
    is_gpu: bool
    is_nvswitch: bool


def pci_devices(answers: Answers) -> list[PciDevice]:
    """NVIDIA's GPUs and NVSwitches on the bus, which needs no driver."""
    found: list[PciDevice] = []
    for line in answers.lines("pci", "the PCI bus", absent_is_problem=False):
        match = re.fullmatch(r"(\S+) 0x([0-9a-f]{4}) 0x([0-9a-f]{4}) 0x([0-9a-f]{4})[0-9a-f]{2}", line)
        if match is None:
            answers.problem(f"the PCI bus: this line can't be read: {line}")
            continue
        address, vendor, device, kind = match.groups()
        found.append(
            PciDevice(
                address=address_of(address) or address,
                id=f"{vendor}:{device}",
                # Classes: 03xx are displays and accelerators, 0680 is a bridge of no other kind, as NVSwitches are.
                is_gpu=kind.startswith("03"),
                is_nvswitch=kind == "0680",
            )
        )
    return found


def address_of(text: str) -> str | None:
    """A PCI address as /sys writes it: nvidia-smi has eight digits of domain, in capitals."""
    match = re.fullmatch(r"([0-9a-f]{4,8}):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", text.strip().lower())
    return f"{int(match[1], 16):04x}:{match[2]}" if match else None


def gpus(answers: Answers, devices: Iterable[PciDevice]) -> tuple[Gpu, ...]:
    """Each GPU of the bus, with what the driver says of it; and those of nvidia-smi that are on no bus."""
    rows, _ = _smi_rows(answers)
    known = {address_of(row[1]): row for row in rows}
    found: list[Gpu] = []
    for device in sorted((d for d in devices if d.is_gpu), key=lambda d: d.address):
        row = known.pop(device.address, None)
        if row is None and rows:
            answers.problem(f"GPU {device.address} ({device.id}) is on the bus, and the driver doesn't list it")
        found.append(_gpu(answers, device.address, device.id, row))
    for address, row in known.items():
        # The GPU of a Jetson is on no PCI bus, and inside a container the bus may be hidden.
        if address and not answers.is_absent("pci"):
            answers.problem(f"GPU {address} is listed by nvidia-smi, and not on the PCI bus")
        found.append(_gpu(answers, address or "", "", row))
    return tuple(found)


def driver(answers: Answers) -> DriverFacts:
    banner = answers.text("module_banner", "/proc/driver/nvidia/version", absent_is_problem=False)
    loaded = answers.text("module_version", "/sys/module/nvidia/version", absent_is_problem=False)
    kind = re.search(r"^NVRM version:.*?(Open )?Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", banner, re.MULTILINE)
    version = loaded.strip() or (kind[2] if kind else None)
    if version and not re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        answers.problem(f"/sys/module/nvidia/version: {version!r} is no version")
    if banner.strip() and kind is None:
        answers.problem("/proc/driver/nvidia/version doesn't say which kernel module is loaded")
    _, error = _smi_rows(answers)
    if version and answers.is_absent("smi"):
        error = "the driver is loaded, and nvidia-smi is not installed"
    return DriverFacts(
        loaded=version,
        modules=("open" if kind[1] else "proprietary") if kind else None,
        dkms=_dkms(answers),
        nouveau=answers.text("nouveau", "/sys/module", absent_is_problem=False).strip() == "yes",
        smi_error=error,
    )


def _smi_rows(answers: Answers) -> tuple[list[list[str]], str | None]:
    """The rows that nvidia-smi printed, one a GPU, and everything else that it said, as one line."""
    answer = answers.raw("smi")
    if answer.absent:
        return [], None
    rows, rest = [], []
    for line in answer.out.splitlines():
        fields = next(csv.reader([line], skipinitialspace=True), [])
        if len(fields) == len(FIELDS):
            rows.append([field.strip() for field in fields])
        elif line.strip():
            rest.append(line.strip())
    if answer.rc == 124:
        rest.append("it didn't answer in time: a card may hang")
    elif answer.rc or rest:
        rest += [line.strip() for line in answer.err.splitlines() if line.strip()]
    if answer.rc and not rest:
        rest.append(f"it ended with {answer.rc}, and said nothing")
    if not answer.rc and not rows and not rest:
        rest.append("it printed nothing")
    return rows, " ".join(rest)[:300] or None


def _gpu(answers: Answers, address: str, pci_id: str, row: list[str] | None) -> Gpu:
    if row is None:
        return Gpu(pci_address=address, pci_id=pci_id)
    said = dict(zip(FIELDS, row, strict=True))

    def field(name: str, pattern: str) -> str | None:
        value = said[name]
        if re.fullmatch(pattern, value):
            return value
        if value not in NOT_THERE:
            answers.problem(f"GPU {address or said['name']}: nvidia-smi says {value!r} for {name}")
        return None

    memory = field("memory.total", r"\d+")
    mig = field("mig.mode.current", "|".join(MIG))
    return Gpu(
        pci_address=address,
        pci_id=pci_id,
        uuid=field("uuid", UUID.pattern),
        name=field("name", r"[^\[\]!]+"),
        memory_mib=int(memory) if memory else None,
        compute_capability=field("compute_cap", r"\d+\.\d+"),
        mig=None if mig is None else ("on" if mig == "Enabled" else "off"),
    )


def _dkms(answers: Answers) -> dict[str, str]:
    """`nvidia/580.105.08, 6.1.0-50-amd64, x86_64: installed`; before DKMS 3 a comma stood for the slash."""
    form = re.compile(r"([^,/\s]+)[/,] ?([^,:\s]+)(?:, ([^,\s]+), [^:,\s]+)?: (\w+)(.*)")
    found: dict[str, str] = {}
    for line in answers.lines("dkms", "dkms status", absent_is_problem=False):
        match = form.fullmatch(line)
        if match is None:
            answers.problem(f"dkms status: this line can't be read: {line}")
            continue
        module, version, kernel, state, remark = match.groups()
        if not module.startswith("nvidia"):
            continue
        found[f"{module}/{version}" + (f" {kernel}" if kernel else "")] = state
        if "WARNING" in remark:
            answers.problem(f"dkms status: {line}")
    return dict(sorted(found.items()))
