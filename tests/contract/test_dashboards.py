"""The dashboard as Grafana gets it. Grafana itself can't be had from package registries: no test starts it."""

import json
from typing import Any

from planning.observability.queries import all_queries
from tests.contract.monitoring import monitored, planned_files

SPEC = monitored()


def dashboard() -> dict[str, Any]:
    found = json.loads(planned_files(SPEC, "grafana")["dashboards/json/inference-stack.json"])
    assert isinstance(found, dict)
    return found


def test_it_asks_what_the_plan_says_it_asks() -> None:
    asked = {t["expr"] for panel in dashboard()["panels"] for t in panel.get("targets", [])}
    assert asked == {str(q.expr) for q in all_queries(SPEC) if q.name.startswith("dashboard/")}


def test_panels_have_their_own_id_and_place() -> None:
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_uses_the_provisioned_data_source() -> None:
    provisioned = planned_files(SPEC, "grafana")["datasources/prometheus.yaml"]
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert f"uid: {panel['datasource']['uid']}\n" in provisioned


def test_nobody_can_log_in_or_change_anything() -> None:
    from planning.observability.plan import plan_observability

    (plan,) = (c for c in plan_observability(SPEC).containers if c.service == "grafana")
    assert plan.env["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert plan.env["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert plan.env["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert dashboard()["editable"] is False
