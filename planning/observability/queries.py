"""Every PromQL expression that the stack ships, for tests that ask a live Prometheus."""

from planning.observability.metrics import KV_TOKENS
from planning.observability.panels import rows
from planning.observability.promql import Query, Selector
from planning.observability.rules import alerts
from stack_configs.schema.stack import StackSpec


def all_queries(spec: StackSpec) -> tuple[Query, ...]:
    """Each expression of the rules and the dashboard."""
    ruled = (Query(name=f"alert/{alert.name}", expr=alert.expr) for alert in alerts(spec))
    drawn = (
        Query(name=f"dashboard/{row.title}/{panel.title}/{line.legend}", expr=line.expr)
        for row in rows(spec)
        for panel in row.panels
        for line in panel.lines
    )
    return (*ruled, *drawn)


def all_selectors(spec: StackSpec) -> tuple[Selector, ...]:
    """Each selector once. `selector.instant` is what to ask; `selector.metric.appears` is when it has series.

    A selector that is narrowed to failures (`status_code=~"5..|None"`, `xid!~…`, `kv_cache_size_tokens!~…`) has series
    after such a failure only: `needs_failure` tells.
    """
    return tuple(
        dict.fromkeys(
            Selector(metric=selector.metric, matchers=selector.matchers)
            for query in all_queries(spec)
            for selector in query.expr.selectors
        )
    )


def needs_failure(selector: Selector) -> bool:
    """Whether the selector has series only once something has failed."""
    return selector.metric.appears == "only-with-failure" or any(
        label in ("status_code", "xid", KV_TOKENS) for label, _, _ in selector.matchers
    )
