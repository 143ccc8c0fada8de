"""What the gate's rules look at, and the words that they share. Pure."""

from dataclasses import dataclass

from planning.hosts import gate_table as table
from planning.hosts.installed import branch_of, distribution, numbers
from planning.hosts.steps import needs_toolkit
from stack_configs.schema.facts import Facts, Gpu
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import StackSpec

Path = tuple[str | int, ...]
Found = tuple[Path, str, str]
"""YAML path, what is wrong, what to choose instead."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One host over SSH, with what the rules look at."""

    name: str
    host: Host
    spec: StackSpec
    facts: Facts | None
    """None: none, or too old."""

    @property
    def at(self) -> Path:
        return ("hosts", self.name)

    @property
    def is_gpu_host(self) -> bool:
        return needs_toolkit(self.host)

    @property
    def loaded_branch(self) -> int | None:
        """Of the driver that runs now."""
        loaded = self.facts.driver.loaded if self.facts else None
        return branch_of(loaded) if loaded else None

    @property
    def look_again(self) -> str:
        return f"then `make facts STACK={self.spec.stack} HOST={self.name}`"

    @property
    def cuda(self) -> tuple[int, ...] | None:
        """The CUDA of the engine's image; None: nobody said."""
        image = self.spec.images.get("vllm-cuda")
        return numbers(image.cuda) if image and image.cuda and self.is_gpu_host else None

    @property
    def toolkit_cuda(self) -> tuple[int, ...] | None:
        """The CUDA of the host's own toolkit."""
        return numbers(self.host.cuda_toolkit) if self.host.cuda_toolkit else None

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """The GPUs of the spec; where no driver can name them yet, all that the host has."""
        every = self.facts.gpus if self.facts else ()
        return tuple(gpu for gpu in every if gpu.uuid in self.host.gpus) or every


def device_of(gpu: Gpu) -> int | None:
    """Its PCI device id. None: the GPU is on no PCI bus, as a Jetson's."""
    return int(gpu.pci_id.partition(":")[2], 16) if gpu.pci_id else None


def generation(gpu: Gpu) -> table.Generation | None:
    """By PCI device, else by compute capability; None: newer or older than the table."""
    if (device := device_of(gpu)) is not None:
        for row in table.GENERATIONS:
            if any(first <= device <= last for first, last in row.devices):
                return row
    return next((row for row in table.GENERATIONS if gpu.compute_capability in row.compute), None)


def cuda_floor(cuda: tuple[int, ...] | None) -> int | None:
    """The oldest branch that runs a CUDA."""
    return next((row.branch for row in table.CUDA_FLOORS if cuda and row.cuda == cuda[0]), None)


def device_floor(gpu: Gpu) -> str | None:
    """The first driver of a device that came later than its generation."""
    return next((row.driver for row in table.DEVICE_FLOORS if row.device == device_of(gpu)), None)


def branches(c: Checked) -> str:
    """What to do where the driver's branch doesn't fit: those of the version set that do in every way, newest first."""
    rows = [row for gpu in c.cards if (row := generation(gpu))]
    cuda = (cuda_floor(c.cuda), cuda_floor(c.toolkit_cuda))
    modules = table.OPEN_FLOOR.version[0] if c.host.driver and c.host.driver.modules == "open" else None
    first = max((n for n in (*cuda, modules, *(row.first_branch for row in rows)) if n), default=0)
    last = min((row.last_branch for row in rows if row.last_branch), default=999)
    floor = max((numbers(text) for gpu in c.cards if (text := device_floor(gpu))), default=(0,))
    known = c.spec.host_versions.drivers.items() if c.spec.host_versions else ()
    good = [branch for branch, pin in known if first <= int(branch) <= last and numbers(pin.version) >= floor]
    if first:
        bounds = f"branch {first} to {last}" if last < 999 else f"branch {first} or newer"
    else:
        bounds = f"branch {last} or older" if last < 999 else "any branch"
    if good:
        write = "write " + " or ".join(f'`branch: "{branch}"`' for branch in sorted(good, reverse=True))
    else:
        write = f"take a version set with a driver of {bounds}"
        if newer := max((text for gpu in c.cards if (text := device_floor(gpu))), key=numbers, default=""):
            write += f", from {newer} on"
    return write if c.host.driver else f"install {bounds} there, {c.look_again}; or under `driver:` {write}"


def system_name(facts: Facts) -> str:
    return next((row.name for row in table.SYSTEMS if row.distribution == distribution(facts.os)), facts.os.name)
