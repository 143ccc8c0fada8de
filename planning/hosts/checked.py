"""What the gate's rules look at, and the words that they share. Pure."""

from dataclasses import dataclass

from planning.hosts import gate_table as table
from planning.hosts.installed import branch_of, distribution, numbers
from planning.hosts.steps import needs_toolkit
from stack_configs.schema.facts import Facts
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


def branches(c: Checked, first: int, last: int = 999) -> str:
    """What to do where the driver's branch doesn't fit: those of the version set that do, the newest first."""
    known = c.spec.host_versions.drivers if c.spec.host_versions else {}
    good = sorted((branch for branch in known if first <= int(branch) <= last), reverse=True)
    bounds = f"{first} or newer" if first else f"{last} or older"
    if not good:
        write = f"take a version set with a driver of branch {bounds}"
    else:
        write = "write " + " or ".join(f'`branch: "{branch}"`' for branch in good)
    return write if c.host.driver else f"install branch {bounds} there, {c.look_again}; or under `driver:` {write}"


def system_name(facts: Facts) -> str:
    return next((row.name for row in table.SYSTEMS if row.distribution == distribution(facts.os)), facts.os.name)
