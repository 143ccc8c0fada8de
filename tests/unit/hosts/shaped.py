"""A host that is ready, its facts and its stack's spec, to be bent by a test: what is not named is as it should be."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from stack_configs.schema.facts import Facts, Gpu, Package
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import Image, StackFile, StackSpec
from stack_configs.schema.versions import HostVersions, RepositoryName
from tests.golden.specs import SOURCE

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOST = "studio-1"
GPU = "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11"
SECOND = "GPU-8a1d2b47-52f6-4a0b-b7c3-5e9f64c0a902"
CARDS = {
    "P40": ("10de:1b38", "Tesla P40", "6.1", 24576),
    "V100": ("10de:1db4", "Tesla V100-PCIE-16GB", "7.0", 16384),
    "RTX 4090": ("10de:2684", "NVIDIA GeForce RTX 4090", "8.9", 24564),
    "H100": ("10de:2330", "NVIDIA H100 80GB HBM3", "9.0", 81559),
    "RTX 5090": ("10de:2b85", "NVIDIA GeForce RTX 5090", "12.0", 32607),
    "B200": ("10de:2901", "NVIDIA B200", "10.0", 183359),
    "GB10": ("10de:2e12", "NVIDIA GB10", "12.1", None),
    "next year's": ("10de:3fff", "NVIDIA Unheard Of", "20.0", 100000),
}

UBUNTU = {"id": "ubuntu", "version": "24.04", "codename": "noble", "name": "Ubuntu 24.04.3 LTS"}
DEBIAN = {"id": "debian", "version": "12", "codename": "bookworm", "name": "Debian GNU/Linux 12 (bookworm)"}
TRIXIE = {"id": "debian", "version": "13", "codename": "trixie", "name": "Debian GNU/Linux 13 (trixie)"}
FEDORA = {"id": "fedora", "version": "43", "codename": "", "name": "Fedora Linux 43"}


def gpu(card: str = "RTX 4090", uuid: str | None = GPU, at: str = "0000:41:00.0", **changes: Any) -> Gpu:
    """A card; without `uuid` as the PCI bus alone knows it."""
    pci_id, name, compute, memory = CARDS[card]
    named = {"name": name, "compute_capability": compute, "memory_mib": memory} if uuid else {}
    return Gpu.model_validate({"pci_address": at, "pci_id": pci_id, "uuid": uuid, **named, **changes})


def gpus(card: str, count: int) -> tuple[Gpu, ...]:
    """Cards of one kind, the first of which is GPU."""
    others = [f"GPU-{index:08d}-0000-0000-0000-000000000000" for index in range(1, count)]
    return tuple(gpu(card, uuid, f"0000:{index:02x}:00.0") for index, uuid in enumerate([GPU, *others]))


def driver(version: str | None = "580.105.08", modules: str | None = "open", **changes: Any) -> dict[str, Any]:
    return {"loaded": version, "modules": modules if version else None, "dkms": {}, **changes}


def package(version: str, status: str = "installed", *, held: bool = False) -> Package:
    return Package(version=version, held=held, status=status)


def facts(**changes: Any) -> Facts:
    """Of a host on Ubuntu with one RTX 4090, which its driver knows."""
    shape = {
        "host": HOST,
        "read_at": datetime(2026, 11, 20, 8, 0, tzinfo=UTC),
        "os": UBUNTU,
        "arch": "x86_64",
        "kernel": {"running": "6.8.0-60-generic", "boots": "6.8.0-60-generic", "headers": ["6.8.0-60-generic"]},
        "secure_boot": "off",
        "boot_id": "0f0e0d0c-0000-4000-8000-000000000000",
        "virtual": None,
        "gpus": (gpu(),),
        "driver": driver(),
        "packages": {},
        "engine": None,
        "cdi_devices": (),
        "disks": {},
        "steps": {},
    }
    return Facts.model_validate({**shape, **changes})


def bare(*cards: Gpu, **changes: Any) -> Facts:
    """Of a host that has no driver yet; the cards are as the bus knows them."""
    return facts(**{"gpus": cards or (gpu(uuid=None),), "driver": driver(None), **changes})


def versions(**changes: Any) -> HostVersions:
    """A version set's part for hosts."""

    def pin(version: str, **distributions: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): text for name, text in distributions.items()}
        return {"version": version, "distributions": named, "source": "a test"}

    repository = {
        "url": "https://packages.example/{os}/",
        "suite": "/",
        "key_url": "https://packages.example/key.asc",
        "key_fingerprint": "0123456789ABCDEF0123456789ABCDEF01234567",
        "source": "a test",
    }
    shape: dict[str, Any] = {
        "repositories": dict.fromkeys(get_args(RepositoryName), repository),
        "drivers": {
            "535": pin("535.309.01", debian_12="535.261.03-1"),
            "580": pin("580.105.08"),
            "590": pin("590.48.01"),
        },
        "docker": pin("28.5.1", debian_12="20.10.24+dfsg1-1+deb12u1", debian_13="26.1.5+dfsg1-9"),
        "containerd": pin("2.1.4"),
        "container_toolkit": pin("1.18.0"),
        "cuda_toolkits": {"12.9": pin("12.9.1-1"), "13.0": pin("13.0.2-1")},
    }
    return HostVersions.model_validate({**shape, **changes})


MANAGED = {"branch": "580"}
"""The `driver` of a host whose driver is ours."""


def host(**changes: Any) -> Host:
    """A host over SSH with one GPU, whose driver is ours; `None` takes a key away."""
    shape = {
        "connection": {"kind": "ssh", "address": "studio-1.example", "user": "ops", "host_key": "ssh-ed25519 AAAA"},
        "gpus": (GPU,),
        "driver": MANAGED,
    }
    return Host.model_validate({key: value for key, value in {**shape, **changes}.items() if value is not None})


def spec(
    of: Host | Mapping[str, Host] | None = None,
    known: Facts | Mapping[str, Facts] | None = None,
    *,
    pins: HostVersions | None = None,
    unpinned: bool = False,
    cuda: str | None = "13.0",
    share: float = 0.5,
) -> StackSpec:
    """A stack of these hosts, the first with one model on its first GPU. `unpinned`: no version set for hosts."""
    hosts = of if isinstance(of, Mapping) else {HOST: of or host()}
    said = known if isinstance(known, Mapping) else {HOST: known} if known else {}
    name, first = next(iter(hosts.items()))
    replica = {"host": name, "gpus": first.gpus[:1]}
    file = {
        "versions": "2026.11",
        "hosts": hosts,
        "models": {"chat": {"source": SOURCE, "replicas": (replica,), "gpu_memory_utilization": share}},
        "gateway": {"keys": {"me": {}}},
    }
    return StackSpec(
        stack="prod",
        file=StackFile.model_validate(file),
        images={"vllm-cuda": Image(ref="registry.example/vllm:1", starts_in_s=7, cuda=cuda)},
        key_hashes={},
        host_versions=None if unpinned else pins or versions(),
        facts=dict(said),
    )
