"""The mesh's policy: who may open connections to whom, by the tags of nodes.

A mesh has one policy for all its nodes, and writing it replaces the whole. So it is made of every stack whose file
names the mesh; one of them owns it. Grants, tag owners and tests are in the form that both Tailscale and headscale
read: https://tailscale.com/docs/reference/syntax/policy-file, headscale's docs/ref/policy.md (0.29).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from planning.names import FRONT_PORT, NODE_EXPORTER_PORT, VLLM_PORT
from planning.network.plan import PolicyPlan
from planning.placement import gateway_host
from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import Neighbour, StackFile, StackSpec

SSH_PORT = 22
KEYS_TAG = "tag:inference"
"""Owns the tags of all stacks: what Tailscale's OAuth client, which makes the keys that nodes join with, must carry."""
WRITTEN = "// Written by inference-stack"

Policy = dict[str, Any]
"""As JSON."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Connections that are let through: TCP, from nodes or people to one port of the nodes with a tag."""

    source: str
    """A tag, or a person."""
    to: str
    port: int
    role: str
    """Of the source: `gateway`, `operators`, `users`."""
    what: str
    """What listens there, for people."""
    stack: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine in the mesh, as the control plane has it."""

    id: str
    name: str
    tags: tuple[str, ...]
    owners: tuple[str, ...]
    """Every name of the person whose it is; a node with tags is nobody's."""
    online: bool = False


def tag(stack: str, *, gateway: bool) -> str:
    """Of the node of a stack's host."""
    return f"tag:inference-{stack}-{'gateway' if gateway else 'host'}"


def own_tags(stack: str) -> frozenset[str]:
    """All tags that nodes of the stack may have."""
    return frozenset((tag(stack, gateway=True), tag(stack, gateway=False)))


def tags(host: str, spec: StackSpec) -> tuple[str, ...]:
    """The tags of a host's node in the mesh: which stack it is of, and whether it is the gateway's."""
    return (tag(spec.stack, gateway=host == gateway_host(spec)),)


def in_mesh(spec: StackSpec) -> dict[str, StackFile | Neighbour]:
    """The stacks of the spec's mesh by name, this one among them."""
    files: dict[str, StackFile | Neighbour] = {**spec.neighbours, spec.stack: spec.file}
    return {name: files[name] for name in sorted(files)}


def rules(spec: StackSpec) -> tuple[Rule, ...]:
    """All that any node or person may reach on nodes of the mesh's stacks. What isn't here is dropped."""
    return tuple(rule for stack, file in in_mesh(spec).items() for rule in _rules(stack, file))


def _rules(stack: str, file: StackFile | Neighbour) -> list[Rule]:
    mesh = file.network.mesh
    assert mesh, f"{stack} is in no mesh"
    first = file.gateway.host or next(iter(file.hosts))
    gateway, host = tag(stack, gateway=True), tag(stack, gateway=False)
    # Of nodes that are no gateway's too where there is none: the last one that leaves must be reached to be undone, and
    # is asked until LiteLLM knows better.
    others = [name for name in file.hosts if name != first] or [first]
    see = file.observability
    pages = [("Prometheus", see.prometheus.port), ("Alertmanager", see.alertmanager.port)]
    if see.grafana:
        pages.append(("Grafana", see.grafana.port))

    def to(at: str, sources: tuple[str, ...], role: str, ports: Iterable[tuple[str, int]]) -> list[Rule]:
        return [
            Rule(source=source, to=at, port=port, role=role, what=what, stack=stack)
            for what, port in ports
            for source in sources
        ]

    def ssh(*hosts: str) -> list[tuple[str, int]]:
        connections = [file.hosts[name].connection for name in hosts]
        # In the mesh sshd may be at its own port, which the way to the bootstrap address may change.
        ports = {SSH_PORT, *(c.port for c in connections if isinstance(c, SshConnection))}
        return [("SSH", port) for port in sorted(ports)]

    api = [("the API", file.gateway.port)]
    operators = tuple(dict.fromkeys(mesh.operators))
    users = tuple(user for user in dict.fromkeys(mesh.users) if user not in operators)
    found = to(gateway, operators, "operators", [*ssh(first), *api, *pages])
    found += to(host, operators, "operators", ssh(*others))
    found += to(host, (gateway,), "gateway", [("engines and exporters", FRONT_PORT)])
    return [*found, *to(gateway, users, "users", api)]


def plan_policy(spec: StackSpec) -> PolicyPlan | None:
    """What this stack writes; None where it owns no policy."""
    mesh = spec.file.network.mesh
    if mesh is None or mesh.policy != "owned":
        return None
    made = policy(spec)
    where = mesh.login_server or mesh.domain
    return PolicyPlan(
        control=mesh.control,
        where=where,
        policy=made,
        text=text(made, spec.stack, where),
        taken_over=spec.taken_over_policy,
    )


def policy(spec: StackSpec, present: Set[str] | None = None) -> Policy:
    """The whole policy of the mesh.

    `present`: people and tags that have nodes. A headscale refuses tests that name others, so they are left out then;
    their grants are not.
    """
    stacks = in_mesh(spec)
    granted = rules(spec)
    ports: dict[tuple[str, str], list[int]] = {}
    for rule in granted:
        ports.setdefault((rule.source, rule.to), []).append(rule.port)
    # People with the same ports in one grant.
    grants: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (source, to), of in ports.items():
        grants.setdefault((to, tuple(sorted(of))), []).append(source)
    made: Policy = {
        "tagOwners": {KEYS_TAG: [], **{one: [KEYS_TAG] for one in _tags(stacks)}},
        "grants": [
            {"src": sources, "dst": [to], "ip": [f"tcp:{port}" for port in of]}
            for (to, of), sources in sorted(grants.items())
        ],
    }
    if shells := _ssh(stacks):
        made["ssh"] = shells
    if found := tests(granted, _tags(stacks), present):
        made["tests"] = found
    return made


def _tags(stacks: Iterable[str]) -> list[str]:
    """Of all nodes that the stacks may have."""
    return [tag(stack, gateway=gateway) for stack in stacks for gateway in (True, False)]


def _ssh(stacks: Mapping[str, StackFile | Neighbour]) -> list[Policy]:
    """Tailscale's own SSH, for operators as the users that the spec logs in as."""
    return [
        {
            "action": "accept",
            "src": list(dict.fromkeys(file.network.mesh.operators)),
            "dst": _tags([stack]),
            "users": sorted(
                {h.connection.user for h in file.hosts.values() if isinstance(h.connection, SshConnection)}
            ),
        }
        for stack, file in stacks.items()
        if file.network.mesh and file.network.mesh.ssh
    ]


def tests(granted: tuple[Rule, ...], every: list[str], present: Set[str] | None) -> list[Policy]:
    """What the control plane must find allowed and refused before it takes the policy.

    From everybody and every node, to every port of every node that anybody may reach, and to what nobody may: engines
    and exporters past the front. What is not granted is denied.
    """
    known = {(rule.to, rule.port) for rule in granted}
    known |= {(to, port) for to in every for port in (SSH_PORT, FRONT_PORT, VLLM_PORT, NODE_EXPORTER_PORT)}
    sources = dict.fromkeys((*(rule.source for rule in granted), *every))
    targets = sorted((to, port) for to, port in known if present is None or to in present)
    made = []
    for source in sources:
        if present is not None and source not in present:
            continue
        allowed = {(rule.to, rule.port) for rule in granted if rule.source == source}
        test: Policy = {"src": source, "proto": "tcp"}
        for word, is_allowed in (("accept", True), ("deny", False)):
            if found := [f"{to}:{port}" for to, port in targets if ((to, port) in allowed) == is_allowed]:
                test[word] = found
        if len(test) > 2:
            made.append(test)
    return made


def present(nodes: Iterable[Node]) -> frozenset[str]:
    """People and tags that have nodes."""
    return frozenset(name for node in nodes for name in (*node.tags, *node.owners))


def stale_nodes(spec: StackSpec, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes with tags of this stack whose host has left the spec.

    A host that joins anew beside its old self is called `<host>-1` or so by the control plane. While one like that is
    connected it may be the living one, and stays.
    """
    own = own_tags(spec.stack)

    def may_live(node: Node) -> bool:
        return node.online and any(node.name.startswith(f"{host}-") for host in spec.file.hosts)

    return tuple(
        node for node in nodes if own & set(node.tags) and node.name not in spec.file.hosts and not may_live(node)
    )


def mistagged(spec: StackSpec, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes of the stack's hosts with another tag of the stack than is theirs: since they joined, the gateway moved."""
    own = own_tags(spec.stack)
    return tuple(
        node
        for node in nodes
        if own & set(node.tags) and node.name in spec.file.hosts and set(node.tags) != set(tags(node.name, spec))
    )


def text(made: Policy, stack: str, where: str = "") -> str:
    """The policy as it is written: JSON below a line that says who wrote it and what, so that an edit shows.

    `where`: the mesh, for who can't tell by anything else that the same policy is yet to be written to another one.
    """
    body = json.dumps(made, indent=2) + "\n"
    of = f" Of {where}." if where else ""
    return f"{WRITTEN} for the stack {stack}, sha256 {digest(body)}. Edits are told, and not kept.{of}\n{body}"


def digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def is_ours(found: str, stack: str) -> bool:
    """Whether a policy is as this program wrote it for the stack: it may be replaced without a further word."""
    line, _, body = found.partition("\n")
    return line.startswith(f"{WRITTEN} for the stack {stack}, sha256 {digest(body)}.")
