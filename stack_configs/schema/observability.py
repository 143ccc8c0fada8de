"""Metrics, rules and alerts."""

from typing import Annotated

from pydantic import Field

from stack_configs.schema.base import Frozen, Port


class Prometheus(Frozen):
    port: Port = 9090
    """Port of its pages, on 127.0.0.1."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 7
    """How long metrics are kept, days."""
    scrape_interval_s: Annotated[int, Field(ge=1, le=300)] = 15
    """Time between two readings of each target, seconds."""


class Alertmanager(Frozen):
    port: Port = 9093
    """Port of its pages, on 127.0.0.1."""
    webhook_url: str | None = None
    """Where alerts are sent (a plain Alertmanager webhook). Without it they are shown in its UI only. It stands in
    plain here and in Pulumi's state: an address that is itself a secret belongs behind a relay of yours."""


class Grafana(Frozen):
    port: Port = 3000
    """Port of its pages, on 127.0.0.1."""


class AlertThresholds(Frozen):
    """When the shipped rules fire."""

    kv_cache_usage: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the KV cache in use, together with preemptions."""
    queue_length: Annotated[int, Field(ge=1)] = 5
    """Requests that wait for capacity."""
    ttft_p95_s: Annotated[float, Field(gt=0)] = 5.0
    """95th percentile of the time to first token, seconds; 2.5, 5, 7.5 and 10 are bucket bounds of vLLM's."""


class Observability(Frozen):
    prometheus: Prometheus = Prometheus()
    """Collects metrics and evaluates the alert rules."""
    alertmanager: Alertmanager = Alertmanager()
    """Groups alerts and sends them on."""
    grafana: Grafana | None = Grafana()
    """Dashboards. `null` leaves Grafana out; so does an image that can't be had."""
    alerts: AlertThresholds = AlertThresholds()
    """When the shipped rules fire."""
