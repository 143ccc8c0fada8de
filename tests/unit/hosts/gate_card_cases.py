"""What the gate refuses of a host's GPUs, in its own words, and the nearest thing which is right."""

from tests.unit.hosts.gate_cases import AGAIN, AT, FABRIC, Case
from tests.unit.hosts.shaped import GPU, MANAGED, SECOND, bare, driver, facts, gpu, gpus, host, package, spec, versions

OLD = {"branch": "580", "modules": "proprietary"}

CASES: dict[str, Case] = {
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
    "an old driver for such a device, told once": Case(
        refused=spec(host(driver={"branch": "535"}), facts(gpus=(gpu("B200"),)), cuda="12.8"),
        found=[
            (
                (*AT, "driver", "branch"),
                "NVIDIA B200 (Blackwell) is not driven by branch 535: 570 is the first",
                'write `branch: "590"` or `branch: "580"`',
            )
        ],
        passes=spec(host(driver={"branch": "580"}), facts(gpus=(gpu("B200"),)), cuda="12.8"),
    ),
    "two cards on the bus that must both do, and one doesn't": Case(
        refused=spec(host(gpus=(GPU, SECOND)), bare(gpu(uuid=None), gpu("P40", None, "0000:01:00.0"))),
        found=[
            (
                (*AT, "driver", "modules"),
                "the card at 0000:01:00.0 (Pascal) has open modules, and only the proprietary ones drive it",
                "write `modules: proprietary`",
            ),
            (
                (*AT, "gpus"),
                "the card at 0000:01:00.0 (Pascal) can't run vLLM's image: with CUDA 13.0 that begins at compute "
                "capability 7.5, and the card has 6.2",
                "leave the card out, or take a version set whose `vllm-cuda` has an older CUDA",
            ),
        ],
        passes=spec(host(gpus=(GPU, SECOND)), bare(gpu(uuid=None), gpu("RTX 5090", None, "0000:01:00.0"))),
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
        passes_too=(
            spec(known=bare(gpu(uuid=None), gpu("P40", None, "0000:01:00.0"))),
            spec(
                host(gpus=None, driver=None),
                facts(gpus=(gpu("P40"),), driver=driver("535.309.01", "proprietary")),
            ),
        ),
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
        passes_too=(spec(known=facts(gpus=(gpu(), gpu("H100", SECOND, "0000:01:00.0", mig="on")))),),
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
    "NVSwitches of a virtual machine's own": Case(
        refused=spec(known=facts(gpus=gpus("H100", 4), nvswitches=2, virtual="kvm")),
        found=[
            (
                (*AT, "driver", "fabric_manager"),
                "is off, and the 4 GPUs are joined by NVSwitches: without it CUDA doesn't start at all",
                "write `fabric_manager: true`",
            )
        ],
        passes=spec(host(driver=FABRIC), facts(gpus=gpus("H100", 4), nvswitches=2, virtual="kvm")),
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
        passes_too=(spec(known=facts(gpus=gpus("H100", 4))),),
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
    "no fabric manager beside a driver of the machine's own": Case(
        refused=spec(host(driver=None), facts(gpus=gpus("H100", 8), nvswitches=4)),
        found=[
            (
                AT,
                "has driver 580.105.08 and fabric manager not installed: they must be identical on NVSwitch systems",
                f"install the fabric manager of that version, {AGAIN}; or let `driver` manage both",
            )
        ],
        passes=spec(host(driver=None), facts(gpus=gpus("H100", 8), nvswitches=4, driver=driver(None))),
    ),
}
