"""The alert rules: when somebody should look, and at what."""

from dataclasses import dataclass
from typing import Literal

import yaml

from planning.names import replica_service
from planning.observability import metrics as m
from planning.observability.promql import Expr, Matchers, Selector, at_least, promql, select
from planning.observability.targets import watches_gpus
from planning.serving.ledger.stack import ledger
from stack_configs.schema.stack import StackSpec

RUNBOOK = "docs/alerts.md"
REPLICA = "job, instance, model, replica"
"""Labels that say which engine process: an alert with them is held back while its target is down."""

HARMLESS_XIDS = "|0|13|31|43|45"
"""XIDs that programs cause (a bad kernel, a killed process), and the series without one."""

NO_DISKS = "tmpfs|ramfs|squashfs|erofs|iso9660"
"""File systems in memory, and those that are full by design."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert rule."""

    name: str
    expr: Expr
    for_s: int
    """How long it must hold before the alert fires, seconds."""
    severity: Literal["warning", "critical"]
    """critical: clients notice, or soon will."""
    summary: str
    description: str
    """What it means; both texts may use Prometheus' templates."""
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def runbook(self) -> str:
        """Where the remedy is written."""
        return f"{RUNBOOK}#{self.name.lower()}"


def window(spec: StackSpec) -> str:
    """The range for rates: five minutes, and four scrapes at least, so that a lost one makes no gap."""
    return f"{max(300, 4 * spec.file.observability.prometheus.scrape_interval_s)}s"


def alerts(spec: StackSpec) -> tuple[Alert, ...]:
    """All rules of the stack; those of GPUs only where there are some."""
    return (
        *_targets(spec),
        *_engines(spec),
        *_promises(spec),
        *_gateway(spec),
        *_host(),
        *_delivery(spec),
        *(_ingress() if spec.file.network.ingress else ()),
        *(_gpus(spec) if watches_gpus(spec) else ()),
    )


def rules_yml(spec: StackSpec) -> str:
    """The text of the rule file."""
    rules = [
        {
            "alert": alert.name,
            "expr": str(alert.expr),
            "for": f"{alert.for_s}s",
            "labels": {"severity": alert.severity, **dict(alert.labels)},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook": alert.runbook,
            },
        }
        for alert in alerts(spec)
    ]
    return yaml.safe_dump({"groups": [{"name": "inference-stack", "rules": rules}]}, sort_keys=False, width=110)


def _targets(spec: StackSpec) -> list[Alert]:
    """A replica may be away as long as its start may take; all else is up within two minutes."""
    others = Selector(metric=m.UP, matchers=(("job", "!=", "vllm"),))
    down = [
        Alert(
            name="TargetDown",
            expr=promql("% == 0", others),
            for_s=120,
            severity="critical",
            summary="{{ $labels.instance }} does not answer",
            description="Prometheus could not scrape it for two minutes.",
        )
    ]
    for name, model in spec.file.models.items():
        down.append(
            Alert(
                name="EngineDown",
                expr=promql("% == 0", select(m.UP, job="vllm", model=name)),
                for_s=model.start_timeout_s,
                severity="critical",
                summary="{{ $labels.replica }} of model {{ $labels.model }} does not come up",
                description=f"Not up for {model.start_timeout_s} s, which is all that its start may take.",
                labels=(("model", name),),
            )
        )
    return down


def _engines(spec: StackSpec) -> list[Alert]:
    limits = spec.file.observability.alerts
    scrapes = spec.file.observability.prometheus.scrape_interval_s
    over = window(spec)
    return [
        Alert(
            name="EngineCrashLoop",
            # Down and up again is two changes; a start outlasts the scrape interval, so none is missed.
            expr=promql("changes(%) >= 4", select(m.UP, job="vllm").over("1h")),
            for_s=0,
            severity="critical",
            summary="{{ $labels.replica }} keeps restarting",
            description="It went down and came back at least twice within an hour.",
        ),
        Alert(
            name="QueueGrowing",
            expr=promql(f"sum by ({REPLICA}) (%) > {limits.queue_length}", select(m.WAITING, reason="capacity")),
            for_s=120,
            severity="warning",
            summary="{{ $value }} requests wait at {{ $labels.replica }}",
            description="The engine computes as many requests as it may; more of them wait than is set.",
        ),
        Alert(
            name="KvCacheNearlyFull",
            expr=promql(
                # Each preemption makes room for a moment: over a minute, or the alert would start anew each time.
                f"max by ({REPLICA}) (max_over_time(%)) > {limits.kv_cache_usage} and sum by ({REPLICA}) (rate(%)) > 0",
                select(m.KV_USAGE).over(f"{max(60, 4 * scrapes)}s"),
                select(m.PREEMPTIONS).over(over),
            ),
            for_s=300,
            severity="warning",
            summary="KV cache of {{ $labels.replica }} is {{ $value | humanizePercentage }} full",
            description="Requests are thrown back and computed again for want of KV cache.",
        ),
        Alert(
            name="TimeToFirstTokenHigh",
            expr=promql(
                f"histogram_quantile(0.95, sum by (model, le) (rate(%))) > {limits.ttft_p95_s}",
                select(m.TTFT).over(over),
            ),
            for_s=300,
            severity="warning",
            summary="Model {{ $labels.model }} answers late",
            description="One request in twenty waits {{ $value | humanizeDuration }} or more for a token.",
        ),
    ]


def _promises(spec: StackSpec) -> list[Alert]:
    """What the ledger was sure of, for each replica on a GPU that it counted.

    vLLM tells its figure as a label of a series that is always 1, and PromQL can't compare a label with a number: so
    the label is matched with all numbers from the promise on. An engine that says nothing (`None`) matches none of
    them, and is told as well.
    """
    told = []
    for placed in ledger(spec).placed if spec.weights == "hub" else ():
        fit, name = placed.fit, replica_service(placed.model, placed.index)
        if fit is None or fit.architecture.unpromised or not fit.sure_tokens:
            continue
        model = spec.file.models[placed.model]
        less: Matchers = (("replica", "=", name), (m.KV_TOKENS, "!~", at_least(fit.sure_tokens)))
        told.append(
            Alert(
                name="EngineKvBelowPlan",
                expr=promql("%", Selector(metric=m.CACHE_CONFIG, matchers=less)),
                # A replacement that changes the promise changes this rule before or after its turn.
                for_s=len(model.replicas) * (model.drain_timeout_s + model.start_timeout_s),
                severity="warning",
                summary=f"{{{{ $labels.replica }}}} has fewer than the {fit.sure_tokens:,} tokens of KV cache promised",
                description=f"It found {{{{ $labels.{m.KV_TOKENS} }}}}: fewer users fit than `make plan` says.",
                labels=(("replica", name),),
            )
        )
    return told


def _gateway(spec: StackSpec) -> list[Alert]:
    """LiteLLM's litellm_deployment_state is not used: once 2, it never falls again (seen with 1.103.2).

    A cooldown writes it for one api_base, the successes that follow write it for another (with the path).
    """
    over = window(spec)
    # While all backends of a model are left out, clients get 429, and the metric says `None`.
    failed = Selector(metric=m.REQUESTS, matchers=(("status_code", "=~", "5..|None"),), window=over)
    # Requests that reached no backend are counted there too, without an address.
    of_backends: Matchers = (("api_base", "!=", ""),)
    backend = "litellm_model_name, api_base"
    return [
        Alert(
            name="GatewayBackendFailing",
            expr=promql(
                f"sum by ({backend}) (rate(%)) / sum by ({backend}) (rate(%)) > 0.5",
                Selector(metric=m.BACKEND_FAILURES, matchers=of_backends, window=over),
                Selector(metric=m.BACKEND_CALLS, matchers=of_backends, window=over),
            ),
            for_s=60,
            severity="critical",
            summary="Most calls to {{ $labels.api_base }} fail",
            description="{{ $value | humanizePercentage }} of them; the gateway leaves it out for a while.",
        ),
        Alert(
            name="GatewayErrors",
            expr=promql(
                "sum by (requested_model) (rate(%)) / sum by (requested_model) (rate(%)) > 0.05",
                failed,
                select(m.REQUESTS).over(over),
            ),
            for_s=300,
            severity="critical",
            summary="{{ $value | humanizePercentage }} of requests for {{ $labels.requested_model }} fail",
            description="More than 5 % of the answers were not the client's fault, for five minutes.",
        ),
    ]


def _host() -> list[Alert]:
    kinds: Matchers = (("fstype", "!~", NO_DISKS),)
    return [
        Alert(
            name="HostDiskNearlyFull",
            expr=promql(
                "% / % < 0.1",
                Selector(metric=m.DISK_AVAILABLE, matchers=kinds),
                Selector(metric=m.DISK_SIZE, matchers=kinds),
            ),
            for_s=600,
            severity="warning",
            summary="{{ $value | humanizePercentage }} of {{ $labels.mountpoint }} is left",
            description="Images, weights and Prometheus' data need room.",
        ),
        Alert(
            name="HostMemoryLow",
            expr=promql("% / % < 0.05", select(m.MEMORY_AVAILABLE), select(m.MEMORY_TOTAL)),
            for_s=300,
            severity="warning",
            summary="{{ $value | humanizePercentage }} of the host's memory is left",
            description="The kernel will soon end a program to get memory back.",
        ),
    ]


def _delivery(spec: StackSpec) -> list[Alert]:
    if spec.file.observability.alertmanager.webhook_url is None:
        return []
    return [
        Alert(
            name="AlertsNotDelivered",
            expr=promql(
                "sum by (job, instance, integration) (rate(%)) > 0",
                select(m.NOTIFICATIONS_FAILED, integration="webhook").over(window(spec)),
            ),
            for_s=300,
            severity="warning",
            summary="Alertmanager can't reach the webhook",
            description="Alerts are seen in its pages only.",
        )
    ]


def _ingress() -> list[Alert]:
    return [
        Alert(
            name="IngressDown",
            expr=promql("% < 1", select(m.TUNNEL_CONNECTIONS)),
            for_s=60,
            severity="critical",
            summary="No connection to Cloudflare stands",
            description="Nobody outside reaches the stack; on the hosts' own networks it answers.",
        )
    ]


def _gpus(spec: StackSpec) -> list[Alert]:
    """A card that lacks a field has no series for it, and its rule stays quiet."""
    over = window(spec)
    hardware = Selector(metric=m.GPU_XIDS, matchers=(("xid", "!~", HARMLESS_XIDS),))
    return [
        Alert(
            name="GpuHot",
            expr=promql("% > 80", select(m.GPU_TEMPERATURE)),
            for_s=300,
            severity="warning",
            summary="GPU {{ $labels.UUID }} has {{ $value }} degrees",
            description="Above 80 degrees Celsius for five minutes.",
        ),
        Alert(
            name="GpuOverheating",
            expr=promql("% > 85", select(m.GPU_TEMPERATURE)),
            for_s=60,
            severity="critical",
            summary="GPU {{ $labels.UUID }} has {{ $value }} degrees",
            description="Above 85 degrees Celsius for one minute: it slows down, then it stops.",
        ),
        Alert(
            name="GpuThrottledByHeat",
            expr=promql("rate(%) / 1e9 > 0.1", select(m.GPU_THERMAL_VIOLATION).over(over)),
            for_s=300,
            severity="warning",
            summary="GPU {{ $labels.UUID }} is slowed down by heat",
            description="{{ $value | humanizePercentage }} of the time.",
        ),
        Alert(
            name="GpuMemoryErrors",
            expr=promql("increase(%) > 0", select(m.GPU_DOUBLE_BIT_ERRORS).over("900s")),
            for_s=0,
            severity="critical",
            summary="GPU {{ $labels.UUID }} had memory errors that can't be corrected",
            description="Answers of the model on it can't be trusted since.",
        ),
        Alert(
            name="GpuRowRemapFailed",
            expr=promql("% > 0", select(m.GPU_REMAP_FAILURE)),
            for_s=0,
            severity="critical",
            summary="GPU {{ $labels.UUID }} has no spare memory rows left",
            description="The card needs to be replaced.",
        ),
        Alert(
            name="GpuXid",
            expr=promql("% > 0", hardware),
            for_s=0,
            severity="critical",
            summary="GPU {{ $labels.UUID }} reported XID {{ $labels.xid }}",
            description="Not one that programs cause: 48, 74 and 79 are usually the card or its slot.",
        ),
    ]
