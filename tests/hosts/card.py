"""GPUs for test hosts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    def plug_into(self, container: str) -> None: ...
