"""Which hosts can't run models yet: those without facts from after their preparation. Pure.

First contact is bare → `up` (prepares; models wait) → `make facts` → `up` (models) → no change. Only what a host
noted when it was prepared, and whether a driver is loaded, decide: neither old facts nor a changed version set let a
model that runs wait again.
"""

from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import StackSpec

LAST_STEP = "engine"
"""Of a host's preparation."""


def with_waiting(spec: StackSpec) -> StackSpec:
    """The spec with its waiting hosts."""
    return spec.model_copy(update={"waiting": waiting(spec)})


def waiting(spec: StackSpec) -> dict[str, str]:
    """Hosts over SSH that can't run models yet → why, and what ends it."""
    found = {}
    for name, host in spec.file.hosts.items():
        if host.connection.kind == "ssh" and (why := _why(host, spec.facts.get(name))):
            found[name] = f"{why} `make facts STACK={spec.stack} HOST={name}`, then `pulumi up`"
    return found


def _why(host: Host, facts: Facts | None) -> str | None:
    if facts is None:
        return "it has no facts yet: after it was prepared by `pulumi up`,"
    if LAST_STEP not in facts.steps:
        return "its facts are from before it was prepared: after `pulumi up`,"
    if (host.driver or host.gpus) and facts.driver.loaded is None:
        reason = facts.pending.get("reboot")
        return f"its NVIDIA driver isn't loaded{f' ({reason})' if reason else ''}: after a reboot,"
    return None


__all__ = ["waiting", "with_waiting"]
