"""The dashboard as Grafana reads it. The only module that imports Grafana's SDK."""

from itertools import count

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from planning.observability import panels
from stack_configs.schema.stack import StackSpec

DATASOURCE_UID = "prometheus"
HEIGHT = 8
WIDTH = 24
"""Of Grafana's grid, in its own units."""


def dashboard_json(spec: StackSpec) -> str:
    """The text of the dashboard's file."""
    board = (
        dashboard.Dashboard("Inference stack")
        .uid("inference-stack")
        .tags([f"stack:{spec.stack}"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
    )
    ids = count(1)
    for row in panels.rows(spec):
        board = board.with_row(dashboard.Row(row.title).id(next(ids)))
        width = WIDTH // min(len(row.panels), 4)
        for panel in row.panels:
            board = board.with_panel(_panel(panel, width).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build())


def _panel(panel: panels.Panel, width: int) -> timeseries.Panel:
    source = DataSourceRef(type_val="prometheus", uid=DATASOURCE_UID)
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(source)
        .unit(panel.unit)
        .min(0)
        .height(HEIGHT)
        .span(width)
    )
    for index, line in enumerate(panel.lines):
        drawn = drawn.with_target(
            prometheus.Dataquery()
            .ref_id(chr(ord("A") + index))
            .datasource(source)
            .expr(str(line.expr))
            .legend_format(line.legend)
        )
    return drawn
