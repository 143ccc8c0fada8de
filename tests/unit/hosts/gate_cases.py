"""What the gate refuses of a host, in its own words, and the nearest thing which is right. GPUs: gate_card_cases.py."""

import dataclasses

from planning.hosts.checked import Found
from stack_configs.schema.stack import StackSpec
from tests.unit.hosts.shaped import DEBIAN, FEDORA, HOST, TRIXIE, bare, driver, facts, gpus, host, spec, versions

AT = ("hosts", HOST)
AGAIN = f"then `make facts STACK=prod HOST={HOST}`"
THEIRS = {"branch": "535", "packages": "distribution"}
UBUNTUS = {"version": "580.105.08", "distributions": {"ubuntu-24.04": "580.105.08"}, "source": "a test"}
WITHOUT_GPUS = {"gpus": None, "driver": None}
FABRIC = {"branch": "580", "fabric_manager": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A spec that is refused for exactly these reasons, and one beside it that isn't."""

    refused: StackSpec
    found: list[Found]
    passes: StackSpec
    passes_too: tuple[StackSpec, ...] = ()


CASES: dict[str, Case] = {
    "a version set without a part for hosts": Case(
        refused=spec(unpinned=True),
        found=[
            (
                ("versions",),
                "2026.11 says nothing of hosts, which hosts over SSH are prepared from",
                "take a version set with a part `hosts:`",
            )
        ],
        passes=spec(),
    ),
    "repositories that the version set hasn't": Case(
        refused=spec(pins=versions(repositories={})),
        found=[
            (
                ("versions",),
                "2026.11 has no apt repository nvidia-driver and no nvidia-container-toolkit and no docker",
                "take a version set that has, or write the repository into it",
            )
        ],
        # Nothing is had from NVIDIA or Docker for a host of the distribution's own without GPUs.
        passes=spec(host(engine="distribution", driver=None, gpus=None), pins=versions(repositories={})),
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
        passes=spec(host(engine="distribution"), facts(os=TRIXIE)),
        passes_too=(spec(host(engine="distribution", **WITHOUT_GPUS), facts(os=DEBIAN)),),
    ),
    "a version set whose Docker is without CDI": Case(
        refused=spec(known=facts(), pins=versions(docker={"version": "24.0.9", "source": "a test"})),
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
        passes_too=(
            spec(host(**WITHOUT_GPUS), pins=versions(container_toolkit={"version": "1.17.8", "source": "a test"})),
        ),
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
        passes_too=(spec(host(driver=THEIRS), facts(os=DEBIAN, arch="aarch64"), cuda="12.9"),),
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
        passes_too=(
            spec(
                host(driver={**FABRIC, "packages": "distribution"}),
                facts(gpus=gpus("H100", 8)),
                pins=versions(drivers={"580": UBUNTUS}),
            ),
        ),
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
        passes_too=(
            spec(known=bare(secure_boot="off", signing_key="absent")),
            spec(host(driver=None), bare(secure_boot="on", signing_key="absent")),  # not ours to sign
        ),
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
    "Secure Boot with another key than the loaded driver's": Case(
        refused=spec(known=facts(secure_boot="on", signing_key="absent")),
        found=[
            (
                (*AT, "driver"),
                "Secure Boot is on, and the firmware doesn't trust the key that DKMS signs modules with: the driver "
                "would be built and never load",
                "enrol the key (docs/reference/compatibility.md#secure-boot), or switch Secure Boot off in the "
                f"firmware; {AGAIN}",
            )
        ],
        passes=spec(known=facts(secure_boot="on", signing_key="enrolled")),
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
                "take a version set with 535.309.01 with `modules: proprietary`; or boot an older kernel",
            )
        ],
        passes=spec(
            host(driver=THEIRS),
            facts(os=DEBIAN, kernel={"running": "6.1.0-56-amd64", "boots": "6.1.0-50-amd64", "headers": []}),
            cuda="12.9",
        ),
        passes_too=(
            spec(
                host(driver=THEIRS),
                facts(os=DEBIAN, kernel={"running": "6.1.0-56-amd64", "boots": None, "headers": []}),
                cuda="12.9",
            ),
            spec(
                host(driver={**THEIRS, "modules": "proprietary"}),
                facts(os=DEBIAN, kernel={"running": "6.1.0-50-amd64", "boots": "6.1.0-56-amd64", "headers": []}),
                cuda="12.9",
            ),
        ),
    ),
}
