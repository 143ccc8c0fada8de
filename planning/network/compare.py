"""A mesh's policy as its control plane has it, compared with what the spec needs."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planning.network.policy import Policy, Rule, policy, rules, tag
from stack_configs.schema.stack import StackSpec

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]])', re.DOTALL)
"""What differs between HuJSON and JSON, and strings, in which nothing does."""
TCP = ("", "tcp", "6")
"""Protocols of a rule by which TCP comes through."""


def read(text: str) -> Policy:
    """A policy as control planes keep it: JSON with comments and last commas. Raises ValueError."""
    plain = TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)
    policy = json.loads(plain)
    if not isinstance(policy, dict):
        raise ValueError("is no mapping")
    return policy


def difference(wanted: Policy, found: Policy | None) -> list[str]:
    """A diff of the two, line by line: `-` is in force, `+` is the spec's. Tests are left out: they let nothing in."""
    lines = [
        json.dumps({key: value for key, value in sorted((one or {}).items()) if key != "tests" and value}, indent=2)
        for one in (found, wanted)
    ]
    there, here = (text.splitlines() for text in lines)
    return list(difflib.unified_diff(there, here, "in force", "by the spec", lineterm=""))


def access(made: Policy) -> list[str]:
    """A line for each connection that a policy grants: `ann@ → tag:inference-prod-gateway tcp:8080`."""
    found = [(grant, port) for grant in made.get("grants") or () for port in grant.get("ip") or ()]
    shells = made.get("ssh") or ()
    found += [(rule, f"Tailscale's SSH as {user}") for rule in shells for user in rule.get("users") or ()]
    return [
        f"{source} → {to} {what}"
        for grant, what in found
        for source in grant.get("src") or ()
        for to in grant.get("dst") or ()
    ]


@dataclass(frozen=True)
class _Grant:
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ports: tuple[tuple[int, int], ...]
    """From, to."""


def lacking(spec: StackSpec, found: Policy) -> list[str]:
    """What this stack needs and the policy drops."""
    grants = list(_grants(found))
    dropped = [told(rule) for rule in _own(spec) if not any(_lets(grant, rule) for grant in grants)]
    return [*dropped, *_no_shell(spec, found)]


def beyond(spec: StackSpec, found: Policy) -> list[str]:
    """What the policy lets reach this stack's nodes, and nothing of the spec needs."""
    if not {"acls", "grants"} & set(found):
        return ["everything: a policy without `grants` lets every node reach every other"]
    known = {(rule.source, rule.to, rule.port) for rule in _own(spec)}
    own = {tag(spec.stack, gateway=True), tag(spec.stack, gateway=False)}
    lines = []
    for grant in _grants(found):
        for target in grant.targets:
            for to in sorted(own if target in ("*", "autogroup:tagged") else own & {target}):
                for source in grant.sources:
                    for first, last in grant.ports:
                        if first != last or (source, to, first) not in known:
                            ports = f"port {first}" if first == last else f"ports {first} to {last}"
                            lines.append(f"{source} may reach {to}, {ports}")
    return list(dict.fromkeys(lines))


def _no_shell(spec: StackSpec, found: Policy) -> Iterator[str]:
    """Who may not use Tailscale's own SSH, and is to."""
    groups: dict[str, list[str]] = found.get("groups") or {}
    rules = [
        ({one for name in rule.get("src") or () for one in groups.get(name, [name])}, set(rule.get("dst") or ()), rule)
        for rule in found.get("ssh") or ()
    ]
    for wanted in policy(spec.model_copy(update={"neighbours": {}})).get("ssh", ()):
        for source in wanted["src"]:
            for to in wanted["dst"]:
                users: set[str] = set()
                for sources, targets, rule in rules:
                    if {source, "autogroup:member"} & sources and {to, "autogroup:tagged"} & targets:
                        users |= set(rule.get("users") or ())
                left = [u for u in wanted["users"] if not {u, "autogroup:nonroot" if u != "root" else u} & users]
                if left:
                    yield f"{source} can't use Tailscale's SSH to {to} as {', '.join(left)}"


def told(rule: Rule) -> str:
    return f"{rule.source} can't reach {rule.to}, port {rule.port}: {rule.what}"


def _own(spec: StackSpec) -> list[Rule]:
    return [rule for rule in rules(spec) if rule.stack == spec.stack]


def _lets(grant: _Grant, rule: Rule) -> bool:
    tagged = rule.source.startswith("tag:")
    sources = {rule.source, "*", "autogroup:tagged" if tagged else "autogroup:member"}
    return (
        bool(sources & set(grant.sources))
        and bool({rule.to, "*", "autogroup:tagged"} & set(grant.targets))
        and any(first <= rule.port <= last for first, last in grant.ports)
    )


def _grants(found: Policy) -> Iterator[_Grant]:
    """Both forms, grants and the older acls, groups written out; only what lets TCP through."""
    groups: dict[str, list[str]] = found.get("groups") or {}

    def people(names: Any) -> tuple[str, ...]:
        return tuple(one for name in names or () for one in groups.get(name, [name]))

    for grant in found.get("grants") or ():
        ports = tuple(port for text in grant.get("ip") or () for port in _ports(text))
        yield _Grant(people(grant.get("src")), tuple(grant.get("dst") or ()), ports)
    for rule in found.get("acls") or ():
        if str(rule.get("proto") or "") in TCP:
            for text in rule.get("dst") or ():
                target, _, ports = text.rpartition(":")
                yield _Grant(people(rule.get("src")), (target,), tuple(_ports(ports)))
    if not {"acls", "grants"} & set(found):
        yield _Grant(("*",), ("*",), ((0, 65535),))


def _ports(text: str) -> Iterator[tuple[int, int]]:
    """`tcp:22`, `22`, `80,443`, `1-1024`, `*`."""
    protocol, _, ports = str(text).rpartition(":")
    if protocol in TCP:
        for part in ports.split(","):
            first, _, last = part.strip().partition("-")
            if first in ("*", "tcp"):
                yield (0, 65535)
            elif first.isdigit():  # else a protocol without ports
                yield (int(first), int(last or first))
