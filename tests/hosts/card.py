"""Stand-ins for what only a card can give a test host; everything else of it is real.

A real card was never in a test host. What stands in, and for what:

- directories below /sys/bus/pci/devices, for the card on the bus, from the first boot on;
- /sys/module/nvidia/version and /proc/driver/nvidia/version, for a module that is loaded. They appear with a boot or a
  `modprobe nvidia`, in the version of the module package that is installed then (built, where DKMS is asked to), and
  stay until the next boot whatever is installed: an update without a reboot leaves the old one, as on a real host;
- /usr/local/bin/nvidia-smi, for the answers that the driver's programs give: there as long as a package of them is
  installed, it says that it can't communicate while no module is loaded, and that versions differ while they do. Rows
  and messages are shaped by NVIDIA's documented formats and by reports of lost cards (such as NVIDIA's
  open-gpu-kernel-modules#387);
- /dev/nvidia0 and on, which are /dev/null.

`lose` lets a card fall off the bus until the next boot; `take_out` and `put_back` move it by hand.
"""

import io
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

if TYPE_CHECKING:
    from tests.hosts.host import Host

FILES = Path(__file__).parent / "card_files"
PLACES = {"modprobe": "usr/local/sbin/modprobe"}
"""Of files that are not kept in /opt/card."""
AFTER_DPKG = 'post-invoke="/opt/card/programs"\n'


@dataclass(frozen=True, kw_only=True)
class Product:
    """A kind of card, as the PCI bus and nvidia-smi tell it."""

    name: str
    pci_id: str
    """Vendor and device: `10de:2684`."""
    memory: str
    """nvidia-smi's memory.total without its unit, MiB: `24564`, or `[N/A]`."""
    compute_capability: str
    mig: str = "[N/A]"
    """nvidia-smi's mig.mode.current."""
    pci_class: str = "0x030000"
    """0x0300 shows pictures, 0x0302 only computes."""


RTX_4090 = Product(name="NVIDIA GeForce RTX 4090", pci_id="10de:2684", memory="24564", compute_capability="8.9")
RTX_5090 = Product(name="NVIDIA GeForce RTX 5090", pci_id="10de:2b85", memory="32607", compute_capability="12.0")
H100 = Product(
    name="NVIDIA H100 80GB HBM3",
    pci_id="10de:2330",
    memory="81559",
    compute_capability="9.0",
    mig="Disabled",
    pci_class="0x030200",
)
GB10 = Product(name="NVIDIA GB10", pci_id="10de:2e12", memory="[N/A]", compute_capability="12.1")


@dataclass(frozen=True)
class Gpu:
    """One GPU in one host."""

    product: Product
    address: str
    """On the PCI bus: `0000:41:00.0`."""
    uuid: str


@dataclass(frozen=True)
class Card:
    """All GPUs of one host."""

    gpus: tuple[Gpu, ...]

    @classmethod
    def of(cls, *products: Product) -> "Card":
        """One GPU of each product, with UUIDs that nobody else has."""
        return cls(
            tuple(
                Gpu(product, f"0000:{0x41 + slot:02x}:00.0", f"GPU-{uuid4()}") for slot, product in enumerate(products)
            )
        )

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self.gpus)

    def plug_into(self, container: str) -> None:
        """Put the GPUs into a host that isn't switched on."""
        files = {path.name: path.read_bytes() for path in FILES.iterdir()}
        files["cards"] = "".join(_row(gpu) for gpu in self.gpus).encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                _add(tar, PLACES.get(name, f"opt/card/{name}"), content, 0o644 if name == "cards" else 0o755)
            _add(tar, "etc/dpkg/dpkg.cfg.d/card", AFTER_DPKG.encode(), 0o644)
        done = subprocess.run(
            ["docker", "cp", "-", f"{container}:/"], input=archive.getvalue(), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


def lose(host: "Host", gpu: Gpu) -> None:
    """The GPU falls off the bus: the driver has lost it until the next boot; its place on the bus stays to be seen."""
    _state(host, gpu, "lost")


def take_out(host: "Host", gpu: Gpu) -> None:
    """The GPU is gone from the host, on the bus and for the driver, over reboots too."""
    _state(host, gpu, "gone")


def put_back(host: "Host", gpu: Gpu) -> None:
    _state(host, gpu, "there")


def loaded_module(host: "Host") -> str:
    """The version of NVIDIA's module in memory; empty where there is none."""
    return host.inside("cat /sys/module/nvidia/version 2>/dev/null || true")


def _state(host: "Host", gpu: Gpu, state: Literal["there", "lost", "gone"]) -> None:
    host.inside(f"sed -i -E '/\\t{gpu.uuid}\\t/s/[a-z]+$/{state}/' /opt/card/cards && /opt/card/bus")


def _row(gpu: Gpu) -> str:
    vendor, device = gpu.product.pci_id.split(":")
    of = gpu.product
    fields: Sequence[str] = (
        *(gpu.address, f"0x{vendor}", f"0x{device}", of.pci_class),
        *(gpu.uuid, of.name, of.memory, of.compute_capability, of.mig, "there"),
    )
    return "\t".join(fields) + "\n"


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


__all__ = [
    "GB10",
    "H100",
    "RTX_4090",
    "RTX_5090",
    "Card",
    "Gpu",
    "Product",
    "loaded_module",
    "lose",
    "put_back",
    "take_out",
]
