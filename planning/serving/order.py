"""In which order models are touched, so that no two of one fallback chain are away at once."""

from planning.placement import served
from stack_configs.schema.stack import StackSpec


def turns(spec: StackSpec) -> dict[str, str | None]:
    """Model → the one whose replicas must be ready before its own are touched, in the order of their turns.

    Models that stand in for each other, directly or through others, take turns: those that others fall back to come
    first, so that a new one has proved itself before it is needed. Models without a common chain don't wait for each
    other. (Fallbacks that go round are refused by the rules.)
    """
    models = served(spec)
    fallbacks = {name: [t for t in spec.file.gateway.fallbacks.get(name, ()) if t in models] for name in models}
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for target in fallbacks[name]:
                visit(target)
            order.append(name)

    chains: list[set[str]] = []
    for name in models:
        visit(name)
        linked = {name, *fallbacks[name]}
        chains = [chain for chain in chains if not chain & linked] + [
            linked.union(*(chain for chain in chains if chain & linked))
        ]
    last: dict[int, str] = {}
    found: dict[str, str | None] = {}
    for name in order:
        chain = next(index for index, chain in enumerate(chains) if name in chain)
        found[name] = last.get(chain)
        last[chain] = name
    return found
