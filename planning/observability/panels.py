"""What the dashboard shows: rows of panels with their queries. How they are drawn is in `dashboards`."""

from dataclasses import dataclass

from planning.observability import metrics as m
from planning.observability.promql import Expr, Metric, Selector, promql, select
from planning.observability.rules import NO_DISKS, window
from planning.observability.targets import watches_gpus
from stack_configs.schema.stack import StackSpec


@dataclass(frozen=True, kw_only=True)
class Line:
    legend: str
    """Grafana's legend format: `{{model}}`."""
    expr: Expr


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    unit: str
    """Grafana's unit id."""
    about: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rows(spec: StackSpec) -> tuple[Row, ...]:
    """The dashboard from top to bottom; the row of GPUs only where there are some."""
    over = window(spec)
    shown = [_latency(over), _load(over), _gateway(over), _host(over)]
    if watches_gpus(spec):
        shown.append(_gpu())
    return tuple(shown)


def _latency(over: str) -> Row:
    return Row(
        title="Latency",
        panels=(
            Panel(
                title="Time to first token",
                unit="s",
                about="Measured by the engine: from its receiving the request to the first token.",
                lines=(_quantile(0.5, m.TTFT, over), _quantile(0.95, m.TTFT, over)),
            ),
            Panel(
                title="Inter-token latency",
                unit="s",
                about="Time between two tokens of one answer.",
                lines=(_quantile(0.5, m.ITL, over), _quantile(0.95, m.ITL, over)),
            ),
        ),
    )


def _load(over: str) -> Row:
    return Row(
        title="Load",
        panels=(
            Panel(
                title="Tokens",
                unit="short",
                about="Tokens per second, read and written.",
                lines=(
                    Line(
                        legend="{{model}} in",
                        expr=promql("sum by (model) (rate(%))", select(m.PROMPT_TOKENS).over(over)),
                    ),
                    Line(
                        legend="{{model}} out",
                        expr=promql("sum by (model) (rate(%))", select(m.GENERATION_TOKENS).over(over)),
                    ),
                ),
            ),
            Panel(
                title="Requests",
                unit="short",
                about="Computed at once, and waiting for capacity.",
                lines=(
                    Line(
                        legend="{{replica}} running",
                        expr=promql("sum by (replica) (%)", select(m.RUNNING)),
                    ),
                    Line(
                        legend="{{replica}} waiting",
                        expr=promql("sum by (replica) (%)", select(m.WAITING, reason="capacity")),
                    ),
                ),
            ),
            Panel(
                title="KV cache",
                unit="percentunit",
                about="Share of the KV cache in use.",
                lines=(Line(legend="{{replica}}", expr=promql("max by (replica) (%)", select(m.KV_USAGE))),),
            ),
            Panel(
                title="Preemptions",
                unit="short",
                about="Requests per second that lost their KV cache and start again.",
                lines=(
                    Line(
                        legend="{{replica}}",
                        expr=promql("sum by (replica) (rate(%))", select(m.PREEMPTIONS).over(over)),
                    ),
                ),
            ),
        ),
    )


def _gateway(over: str) -> Row:
    return Row(
        title="Gateway",
        panels=(
            Panel(
                title="Answers by status",
                unit="reqps",
                about="Requests per second, by HTTP status.",
                lines=(
                    Line(
                        legend="{{status_code}}",
                        expr=promql("sum by (status_code) (rate(%))", select(m.REQUESTS).over(over)),
                    ),
                ),
            ),
            Panel(
                title="Overhead",
                unit="s",
                about="What LiteLLM adds to the engine's own time, 95th percentile.",
                lines=(
                    Line(
                        legend="{{instance}} p95",
                        expr=promql(
                            "histogram_quantile(0.95, sum by (instance, le) (rate(%)))",
                            select(m.OVERHEAD).over(over),
                        ),
                    ),
                ),
            ),
        ),
    )


def _host(over: str) -> Row:
    return Row(
        title="Host",
        panels=(
            Panel(
                title="CPU",
                unit="percentunit",
                about="Share of all cores in use.",
                lines=(
                    Line(
                        legend="{{instance}}",
                        expr=promql("1 - avg by (instance) (rate(%))", select(m.CPU, mode="idle").over(over)),
                    ),
                ),
            ),
            Panel(
                title="Memory",
                unit="percentunit",
                about="Share that programs can't get any more.",
                lines=(
                    Line(
                        legend="{{instance}}",
                        expr=promql("1 - % / %", select(m.MEMORY_AVAILABLE), select(m.MEMORY_TOTAL)),
                    ),
                ),
            ),
            Panel(
                title="Disks",
                unit="percentunit",
                about="How full each file system is.",
                lines=(
                    Line(
                        legend="{{mountpoint}}",
                        expr=promql(
                            "1 - % / %",
                            Selector(metric=m.DISK_AVAILABLE, matchers=(("fstype", "!~", NO_DISKS),)),
                            Selector(metric=m.DISK_SIZE, matchers=(("fstype", "!~", NO_DISKS),)),
                        ),
                    ),
                ),
            ),
        ),
    )


def _gpu() -> Row:
    def panel(title: str, unit: str, about: str, expr: Expr) -> Panel:
        return Panel(title=title, unit=unit, about=about, lines=(Line(legend="{{UUID}}", expr=expr),))

    used = promql("% / (% + %)", *map(select, (m.GPU_MEMORY_USED, m.GPU_MEMORY_USED, m.GPU_MEMORY_FREE)))
    return Row(
        title="GPUs",
        panels=(
            panel("Utilisation", "percent", "Share of time with work.", promql("%", select(m.GPU_UTILISATION))),
            panel("Memory", "percentunit", "Share in use; vLLM takes its share at its start.", used),
            panel("Temperature", "celsius", "Of the chip.", promql("%", select(m.GPU_TEMPERATURE))),
            panel("Power", "watt", "Power draw.", promql("%", select(m.GPU_POWER))),
        ),
    )


def _quantile(share: float, metric: Metric, over: str) -> Line:
    return Line(
        legend=f"{{{{model}}}} p{share * 100:.0f}",
        expr=promql(f"histogram_quantile({share}, sum by (model, le) (rate(%)))", select(metric).over(over)),
    )
