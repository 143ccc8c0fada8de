"""Other stacks in the same mesh, by their files: the parts that its policy and its names are made of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack_configs.problems import Problem, SpecError
from stack_configs.schema.gateway import Gateway
from stack_configs.schema.hosts import Host
from stack_configs.schema.network import Mesh, Network
from stack_configs.schema.observability import Observability
from stack_configs.schema.stack import Neighbour
from stack_configs.source import Source, parse
from stack_configs.validation import validated


@dataclass(frozen=True)
class Found:
    """What the other files have to do with a mesh. By stack."""

    neighbours: dict[str, Neighbour] = field(default_factory=dict)
    """In the same mesh."""
    related: dict[str, Mesh] = field(default_factory=dict)
    """With the same control server or the same domain, but not both."""
    unread: dict[str, str] = field(default_factory=dict)
    """Perhaps in the mesh, and wrong in themselves → the first thing that is."""


def same(one: Mesh, other: Mesh) -> bool:
    """Whether two files name one mesh."""
    return (one.control, one.login_server, one.domain) == (other.control, other.login_server, other.domain)


def find(stack: str, mesh: Mesh, root: Path) -> Found:
    """Read the files of all other stacks, as little of them as is needed."""
    found = Found()
    for path in sorted((root / "stack_configs").glob("*.yaml")):
        if path.stem != stack:
            _read(path, mesh, found)
    return found


def _read(path: Path, mesh: Mesh, found: Found) -> None:
    try:
        source = parse(path.read_text(encoding="utf-8"), f"stack_configs/{path.name}")
    except (SpecError, UnicodeDecodeError) as error:
        found.unread[path.stem] = str(error.problems[0].says) if isinstance(error, SpecError) else "is not UTF-8 text"
        return
    network = source.data.get("network")
    raw = network.get("mesh") if isinstance(network, dict) else None
    if not isinstance(raw, dict):
        return
    problems: list[Problem] = []
    own = validated(source, ("network", "mesh"), Mesh, raw, problems)
    if own and not same(own, mesh):
        if own.domain == mesh.domain or (own.login_server and own.login_server == mesh.login_server):
            found.related[path.stem] = own
        return
    if own and (neighbour := _neighbour(source, problems)):
        found.neighbours[path.stem] = neighbour
    else:
        found.unread[path.stem] = f"{'.'.join(map(str, problems[0].path))} {problems[0].says}"


def _neighbour(source: Source, problems: list[Problem]) -> Neighbour | None:
    def part(key: str, kind: Any) -> Any:
        return validated(source, (key,), kind, source.data.get(key, {}), problems)

    hosts = source.data.get("hosts")
    if not isinstance(hosts, dict) or not hosts:
        problems.append(source.problem(("hosts",), "is not a mapping of names", "write `hosts:` and names below"))
        return None
    read = {
        str(name): made
        for name, host in hosts.items()
        if (made := validated(source, ("hosts", name), Host, host, problems))
    }
    gateway, network = part("gateway", Gateway), part("network", Network)
    observability = part("observability", Observability)
    if problems:
        return None
    return Neighbour.model_construct(hosts=read, gateway=gateway, observability=observability, network=network)
