"""YAML with the line of every value, and duplicate keys told instead of swallowed."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from stack_configs.problems import Path, Problem, SpecError


@dataclass(frozen=True)
class Source:
    """A parsed YAML file."""

    file: str
    """As problems name it: `stack_configs/dev.yaml`."""
    data: dict[str, Any]
    lines: dict[Path, int] = field(default_factory=dict)

    def problem(self, path: Path, says: str, write: str) -> Problem:
        """A problem at the line of `path`, or of the nearest thing around it that is in the file."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(path=path, says=says, write=write, file=self.file, line=self.lines.get(known, 1))


def parse(text: str, file: str) -> Source:
    """Read YAML. Raises SpecError for broken syntax, for duplicate keys and for anything but a mapping."""
    lines: dict[Path, int] = {}
    problems: list[Problem] = []
    data: dict[str, Any] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.MappingNode):
            data = _value(node, (), file, lines, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        says = " ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces, not tabs" if "\\t" in says else "mend the YAML here or just above"
        line = mark.line + 1 if mark else None
        raise SpecError([Problem(path=(), says=f"is not YAML: {says}", write=hint, file=file, line=line)]) from error
    if not isinstance(node, yaml.MappingNode):
        what = "is empty" if node is None else "is not a mapping of keys to values"
        raise SpecError([Problem(path=(), says=what, write="start from stack_configs/dev.yaml", file=file, line=1)])
    if problems:
        raise SpecError(problems)
    return Source(file, data, lines)


def _value(
    node: yaml.Node,
    path: Path,
    file: str,
    lines: dict[Path, int],
    problems: list[Problem],
    around: tuple[yaml.Node, ...] = (),
) -> Any:
    if node in around:
        raise yaml.MarkedYAMLError(problem="an alias holds itself", problem_mark=node.start_mark)
    around = (*around, node)
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), file, lines, problems, around) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    result: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise yaml.MarkedYAMLError(
                problem="merge keys are not read; write the settings out", problem_mark=key_node.start_mark
            )
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
        at = (*path, str(key))
        line = key_node.start_mark.line + 1
        if key in result:
            problems.append(
                Problem(
                    path=at,
                    says=f"is given twice; the first is at line {lines[at]}",
                    write="keep one of them",
                    file=file,
                    line=line,
                )
            )
            continue
        lines[at] = line
        result[key] = _value(value_node, at, file, lines, problems, around)
    return result


def _scalar(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)
