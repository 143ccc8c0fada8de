"""The picture of who may talk to whom in a mesh: the rules of its policy, for people."""

from collections.abc import Iterable

from planning.network.policy import Rule


def table(rules: Iterable[Rule]) -> list[str]:
    """A line for each role and node: `operators of prod (kim@) → tag:inference-prod-host: SSH (22)`."""
    lines = []
    for (title, to), (who, what) in _together(rules).items():
        ports = ", ".join(f"{name} ({port})" for port, name in what.items())
        people = f" ({', '.join(who)})" if who else ""
        lines.append(f"{title}{people} → {to}: {ports}")
    return lines


def mermaid(rules: Iterable[Rule]) -> str:
    """The same as a flowchart of Mermaid's."""
    lines = ["flowchart LR"]
    names: dict[str, str] = {}

    def node(key: str, label: str) -> str:
        if key not in names:
            names[key] = f"n{len(names)}"
            lines.append(f'    {names[key]}["{label}"]')
        return names[key]

    for (title, to), (who, what) in _together(rules).items():
        label = f"{title}<br/>{'<br/>'.join(who)}" if who else title
        start = node(title, label)
        end = node(to, to)
        lines.append(f'    {start} -->|"{"<br/>".join(f"{name}: {port}" for port, name in what.items())}"| {end}')
    return "\n".join(lines) + "\n"


def _together(rules: Iterable[Rule]) -> dict[tuple[str, str], tuple[list[str], dict[int, str]]]:
    """(Who, to which nodes) → the people, and port → what is there."""
    found: dict[tuple[str, str], tuple[list[str], dict[int, str]]] = {}
    for rule in rules:
        node = rule.source.startswith("tag:")
        title = rule.source if node else f"{rule.role} of {rule.stack}"
        who, what = found.setdefault((title, rule.to), ([], {}))
        if not node and rule.source not in who:
            who.append(rule.source)
        what[rule.port] = rule.what
    return found
