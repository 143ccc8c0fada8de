"""Prometheus' own tool reads the configuration, and sees each alert fire and not fire."""

from pathlib import Path
from typing import Any

import yaml

from planning.observability.rules import alerts, rules_yml
from tests.contract.monitoring import monitored, planned_files, run_tool

CASES: dict[str, list[dict[str, Any]]] = yaml.safe_load((Path(__file__).parent / "rules" / "cases.yaml").read_text())
EVERYTHING = monitored(webhook="http://127.0.0.1:9/", ingress=True)


def test_promtool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    """Also without GPUs and webhook, which leave scrape jobs and rules out."""
    for number, spec in enumerate((EVERYTHING, monitored(gpus=False))):
        checked = run_tool(
            *("prometheus", "promtool", "check", "config", "--lint-fatal", "/config/prometheus.yml"),
            files=planned_files(spec, "prometheus"),
            folder=tmp_path / str(number),
        )
        assert f"{len(alerts(spec))} rules found" in checked


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    names = {alert.name for alert in alerts(EVERYTHING)}
    assert set(CASES) == names
    for name, cases in CASES.items():
        assert any(case["fires"] for case in cases), name
        assert any(not case["fires"] for case in cases), name


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    tests = [
        {
            "name": f"{name}: {case['why']}",
            "interval": case.get("interval", "1m"),
            "input_series": [{"series": s, "values": v} for s, v in case["series"].items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                    "eval_time": f"{case['at']}m",
                    "exp_samples": [{"labels": "{}", "value": case["fires"]}] if case["fires"] else [],
                }
            ],
        }
        for name, cases in CASES.items()
        for case in cases
    ]
    run_tool(
        *("prometheus", "promtool", "test", "rules", "/config/tests.yml"),
        files={
            "rules.yml": rules_yml(EVERYTHING),
            "tests.yml": yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}),
        },
        folder=tmp_path / "rules",
    )
