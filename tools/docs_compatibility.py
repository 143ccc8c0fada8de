"""The text of docs/reference/compatibility.md, from the gate's table."""

from collections.abc import Iterable, Sequence

from planning.hosts import gate_table as table
from planning.hosts.gate_table import Evidence
from planning.hosts.installed import FACTS_MAX_AGE

INTRO = """\
# Compatibility

<!-- Written by `{command}` from planning/hosts/gate_table.py: don't edit. -->

What goes with what on a GPU host. A preview refuses what is outside of these tables before a host is touched, and
says what to choose instead. What the spec alone decides is refused in any case; the rest needs the host's facts
(`make facts`), and facts older than {days} days are not believed: the preview says so, and checks less.

Each row has its evidence: **run**, it was seen here; **read**, the page linked says so. No row about a GPU was run,
since no test of ours has one.
"""

SECURE_BOOT = """\
## Secure Boot

With Secure Boot on, a kernel loads modules only if the firmware trusts the key that signed them. NVIDIA's modules are
built on the host by DKMS, and signed with a key that only a person at the machine's console can enrol. Do it before
the driver's step: the gate refuses a host with Secure Boot on until its facts say that the key is enrolled.

On Debian:

```console
$ sudo apt-get install --yes openssl mokutil
$ sudo install --directory /var/lib/dkms
$ sudo openssl req -new -x509 -nodes -days 36500 -subj "/CN=DKMS module signing key" -newkey rsa:2048 \\
    -keyout /var/lib/dkms/mok.key -outform DER -out /var/lib/dkms/mok.pub
$ sudo chmod 600 /var/lib/dkms/mok.key
$ sudo mokutil --import /var/lib/dkms/mok.pub
```

On Ubuntu:

```console
$ sudo apt-get install --yes shim-signed mokutil
$ sudo update-secureboot-policy --new-key
$ sudo mokutil --import /var/lib/shim-signed/mok/MOK.der
```

`mokutil` asks for a password of your choice. Reboot, and at the console take "Enroll MOK" and type that password; a
server's remote console (IPMI, Redfish) will do. Then `make facts STACK=prod HOST=name`, and the preview passes.

Paths and commands: read in DKMS 3.0.10 as Debian 12 has it. No machine of our tests has Secure Boot.
"""

OTHERS = """\
## What else is refused

| what | why |
| --- | --- |
| a driver branch, CUDA toolkit or distribution's package that isn't in the version set | only what is pinned is had |
| a GPU of the spec that the driver doesn't list, or more GPUs than the machine has | the model would not start |
| a GPU in MIG mode | no program can use it as a whole |
| a driver of the machine's own (`driver` left out) that fails these tables | engines would not start |

Cards and devices that are in no table are not refused: the preview says that nothing was checked for them.
"""


def page(command: str) -> str:
    """The whole page; `command` writes it."""
    return "\n".join([INTRO.format(command=command, days=FACTS_MAX_AGE.days), *_sections(), SECURE_BOOT, OTHERS])


def _sections() -> Iterable[str]:
    yield _section(
        "GPU generations",
        "A card is known by its PCI device before it has a driver, and by its compute capability afterwards.",
        ("generation", "PCI devices", "compute capability", "kernel modules", "driver branch", "CUDA"),
        [
            (
                row.name,
                ", ".join(f"{first:04x} to {last:04x}" for first, last in row.devices),
                ", ".join(row.compute),
                " or ".join(row.modules),
                _between(row.first_branch, row.last_branch),
                f"{_dotted(row.first_cuda)} or newer" if row.first_cuda else "any below",
                row.evidence,
            )
            for row in table.GENERATIONS
        ],
    )
    yield _section(
        "Single devices",
        "That came later than their generation.",
        ("device", "name", "first driver"),
        [(f"{row.device:04x}", row.name, row.driver, (row.evidence,)) for row in table.DEVICE_FLOORS],
    )
    yield _section(
        "CUDA and drivers",
        "A driver runs every CUDA of its own major version and of those before (NVIDIA's minor-version compatibility), "
        "so the CUDA inside vLLM's image decides on the oldest driver.",
        ("CUDA", "oldest driver branch"),
        [(f"{row.cuda}.x", str(row.branch), (row.evidence,)) for row in table.CUDA_FLOORS],
    )
    yield _section(
        "Engine images",
        "What vLLM's images are compiled for. The version set says which CUDA is inside its `vllm-cuda`.",
        ("CUDA of vllm-cuda", "first compute capability"),
        [(f"{row.cuda}.x", _dotted(row.compute), (row.evidence,)) for row in table.ENGINE_FLOORS],
    )
    yield _section(
        "Operating systems",
        "`driver.packages: nvidia` needs NVIDIA's repository for the machine's architecture (`uname -m`).",
        ("system", "NVIDIA's drivers for"),
        [(row.name, ", ".join(row.nvidia_arches), row.evidence) for row in table.SYSTEMS],
    )
    yield _section(
        "Kernels",
        "Whether a driver's modules build for the kernel that boots next. What is not listed is tried on the host, "
        "where the driver's step builds them before anything depends on them.",
        ("driver", "modules", "kernel", "builds"),
        [
            (row.driver, row.modules, f"{row.kernel}…", "yes" if row.builds else "**no**", (row.evidence,))
            for row in table.KERNELS
        ],
    )
    yield _section(
        "Programs",
        "The first version that can do what hosts need.",
        ("program", "first version", "which"),
        [(row.program, str(row), row.can, row.evidence) for row in table.FLOORS],
    )
    names = ", ".join(f"{name} ({device:04x})" for device, name in table.NVSWITCH_DEVICES.items())
    yield _section(
        "NVSwitch systems",
        "GPUs that NVSwitches join need NVIDIA's fabric manager in exactly the driver's version: "
        "`driver.fabric_manager: true` installs and holds both together. Without it, CUDA doesn't start on them; "
        "where no NVSwitch is, the service fails at every start.",
        ("counts as one", "devices"),
        [
            ("any NVSwitch on the PCI bus", "", table.NVSWITCH_EVIDENCE[:1]),
            (f"{table.NVSWITCH_FROM} or more of these, in no virtual machine", names, table.NVSWITCH_EVIDENCE),
        ],
    )


def _section(title: str, text: str, head: Sequence[str], rows: Sequence[tuple[str | tuple[Evidence, ...], ...]]) -> str:
    """A table whose rows end with their evidence."""
    lines = [f"## {title}\n", f"{text}\n", f"| {' | '.join((*head, 'evidence'))} |", "| --- " * (len(head) + 1) + "|"]
    lines += [f"| {' | '.join(cell if isinstance(cell, str) else _cited(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cited(evidence: Iterable[Evidence]) -> str:
    return "; ".join(f"run: {one.where}" if one.kind == "run" else f"read: {_link(one.where)}" for one in evidence)


def _link(address: str) -> str:
    host, _, path = address.removeprefix("https://").partition("/")
    last = path.rstrip("/").rpartition("/")[2].partition("#")[0]
    return f"[{host}, {last}]({address})"


def _between(first: int | None, last: int | None) -> str:
    if first and last:
        return f"{first} to {last}"
    return f"{first} or newer" if first else f"{last} or older" if last else "any below"


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
