"""How many hosts one Pulumi stack should hold: what are more become several stacks, cells, of one spec. Pure."""

from math import ceil

from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import StackSpec

MIB_PER_HOST = 65
"""Memory on the machine that Pulumi runs on: a process of its Docker plugin for each host over SSH."""
CPU_S_PER_HOST = 0.7
"""CPU time of a preview for each host with one replica, its exporter and its front.

Source of both: `python -m bench.cell`, Pulumi 3.259 and the plugin built here, 4 cores, up to 48 hosts.
"""
CELL_HOSTS = 48
"""As many as were measured. With a refresh Pulumi runs two of the processes for each, and 8 GB still hold them."""
FEW = 4
"""Fewer hosts than this cost too little to speak of."""


def told_of_cell(spec: StackSpec) -> str | None:
    """One line on what the stack's number of hosts costs whoever runs Pulumi."""
    hosts = sum(isinstance(host.connection, SshConnection) for host in spec.file.hosts.values())
    if hosts < FEW:
        return None
    costs = (
        f"{hosts} hosts over SSH: a preview takes about {hosts * MIB_PER_HOST / 1024:.1f} GiB and "
        f"{hosts * CPU_S_PER_HOST:.0f} s of CPU time for them, twice the memory with --refresh"
    )
    if hosts <= CELL_HOSTS:
        return f"{costs}; one stack should hold {CELL_HOSTS} at most"
    return f"{costs}; split them into {ceil(hosts / CELL_HOSTS)} stacks of {CELL_HOSTS} at most"
