"""Two stacks of one mesh: `prod` with two hosts, which owns the policy, and `lab` with one."""

from typing import Any

from stack_configs.schema.stack import Neighbour, StackSpec
from tests.golden.specs import spec, stack_file

DOMAIN = "mesh.example.net"


def mesh(**over: Any) -> dict[str, Any]:
    """The mesh of a headscale, as a stack's file has it."""
    return {
        "control": "headscale",
        "login_server": "https://headscale.example.org",
        "domain": DOMAIN,
        "operators": ["kim@"],
        "users": ["ann@"],
        "policy": "owned",
        **over,
    }


def prod(**over: Any) -> StackSpec:
    """The stack alone."""
    file = stack_file("prod")
    for name, host in file["hosts"].items():
        host["connection"]["address"] = f"{name}.example.org"
    return spec("prod", {**file, "network": {"mesh": mesh(**over)}})


def lab(**over: Any) -> Neighbour:
    host = stack_file("prod")["hosts"]["studio-1"]
    host["connection"] |= {"address": "lab-1.example.org", "port": 2222}
    return Neighbour.model_validate(
        {
            "hosts": {"lab-1": host},
            "gateway": {"keys": {"me": {}}, "port": 8181},
            "observability": {"grafana": None},
            "network": {"mesh": mesh(operators=["bo@"], users=["kim@"], policy="checked", **over)},
        }
    )


def both(**over: Any) -> StackSpec:
    """The owner with its neighbour."""
    return prod(**over).model_copy(update={"neighbours": {"lab": lab()}})
