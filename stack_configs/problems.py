"""What is wrong with a spec, said so that it can be mended: all of it at once."""

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and indexes from the file's root: `("models", "chat", "replicas", 0)`."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    path: Path
    says: str
    """What is wrong and, when not plain, what it would break."""
    write: str
    """What to write or do instead."""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}  {dotted(self.path)}\n    {self.says}\n    {self.write}"


class SpecError(Exception):
    """The spec can't be used. Nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        count = len(self.problems)
        end = f"{count} problem{'s' if count != 1 else ''}. Nothing was changed."
        return "\n".join(["the stack's description can't be used:", *map(str, self.problems), end])


def dotted(path: Path) -> str:
    """`models.chat.replicas[0]`; an empty path is the whole file."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "(the whole file)"
