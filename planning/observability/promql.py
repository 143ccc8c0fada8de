"""PromQL built from typed pieces, so that every selector of a query is known and can be looked for.

A test can then ask a live Prometheus for each selector by itself: a renamed metric shows as a selector
without series, where the whole query would only be silently empty.
"""

import json
from dataclasses import dataclass
from typing import Literal

Appears = Literal["always", "after-traffic", "only-with-failure", "only-with-gpu", "only-with-ingress"]
"""When a metric has series: from the target's start, after its first request, after something went wrong
(a failed request, a preemption …), on hosts with an NVIDIA GPU, or in stacks that the internet reaches."""


Matchers = tuple[tuple[str, Literal["=", "!=", "=~", "!~"], str], ...]
"""Label, operator, value."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of the version set's exporters, under the name that is scraped."""

    name: str
    appears: Appears
    why: str
    """What it measures, with its unit and, unless it always has series, what makes them appear."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A metric's series, narrowed by label matchers: `up{job="vllm"}`."""

    metric: Metric
    matchers: Matchers = ()
    window: str | None = None
    """A range as PromQL writes it (`5m`), for functions that need one."""

    @property
    def instant(self) -> str:
        """The selector without its range: what to ask Prometheus for, to see whether it has series."""
        if not self.matchers:
            return self.metric.name
        matchers = ",".join(f"{label}{op}{json.dumps(value)}" for label, op, value in self.matchers)
        return f"{self.metric.name}{{{matchers}}}"

    def __str__(self) -> str:
        return f"{self.instant}[{self.window}]" if self.window else self.instant

    def over(self, window: str) -> "Selector":
        """The same series over a range."""
        return Selector(metric=self.metric, matchers=self.matchers, window=window)


@dataclass(frozen=True, kw_only=True)
class Expr:
    """A PromQL expression and the selectors that it is made of."""

    text: str
    selectors: tuple[Selector, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Query:
    """An expression of the shipped rules or dashboards."""

    name: str
    """Where it is used: `alert/QueueGrowing`, `dashboard/Time to first token/p95`."""
    expr: Expr


def select(metric: Metric, **labels: str) -> Selector:
    """The metric's series whose labels have exactly these values."""
    return Selector(metric=metric, matchers=tuple((label, "=", value) for label, value in labels.items()))


def promql(template: str, *parts: Selector | Expr) -> Expr:
    """`template` with each `%` replaced by the next part, in order.

    Raises ValueError when the number of parts differs from the number of `%`: PromQL's modulo operator is
    not used in this project, so every `%` is a place.
    """
    pieces = template.split("%")
    if len(pieces) != len(parts) + 1:
        raise ValueError(f"{template!r} has {len(pieces) - 1} places, {len(parts)} parts were given")
    text = pieces[0]
    selectors: list[Selector] = []
    for part, piece in zip(parts, pieces[1:], strict=True):
        text += str(part) + piece
        selectors.extend(part.selectors if isinstance(part, Expr) else (part,))
    return Expr(text=text, selectors=tuple(dict.fromkeys(selectors)))


def at_least(number: int) -> str:
    """A pattern for labels that hold a whole number: matches `number` (1 or more) and all above, written in decimal."""
    digits = str(number)
    ways = [digits, f"[1-9][0-9]{{{len(digits)},}}"]
    for place, digit in enumerate(digits):
        if digit != "9":
            ways.append(f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}")
    return "|".join(ways)
