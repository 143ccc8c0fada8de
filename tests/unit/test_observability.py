"""What the plan of the monitoring promises, without Docker."""

import re
from pathlib import Path

import yaml

from planning.observability.plan import plan_observability
from planning.observability.promql import Metric, promql, select
from planning.observability.queries import all_queries, all_selectors
from planning.observability.rules import alerts
from tests.contract.monitoring import GPU, monitored, planned_files

REPO = Path(__file__).parents[2]


def services(*, gpus: bool, grafana: bool) -> list[str]:
    return [c.service for c in plan_observability(monitored(gpus=gpus, grafana=grafana)).containers]


def test_gpus_and_grafana_only_where_there_are_some() -> None:
    assert services(gpus=False, grafana=False) == ["prometheus", "alertmanager", "node-exporter"]
    assert services(gpus=True, grafana=True)[3:] == ["dcgm-exporter", "grafana"]
    without = monitored(gpus=False)
    assert "dcgm" not in planned_files(without, "prometheus")["prometheus.yml"]
    assert not any("DCGM" in str(query.expr) for query in all_queries(without))


def test_only_pages_for_people_are_published() -> None:
    published = {c.service for c in plan_observability(monitored()).containers if c.ports}
    assert published == {"prometheus", "alertmanager", "grafana"}
    for container in plan_observability(monitored()).containers:
        # Docker publishes nothing of a container that is on the internal network alone.
        assert ("edge" in container.networks) == bool(container.ports)


def test_every_container_is_watched_by_docker_and_by_prometheus() -> None:
    spec = monitored()
    scraped = planned_files(spec, "prometheus")["prometheus.yml"]
    for container in plan_observability(spec).containers:
        assert container.health is not None, container.service
        assert container.service == "grafana" or f"{container.service}:" in scraped


def test_the_gpus_exporter_gets_the_gpus_and_no_right_beyond_them() -> None:
    (plan,) = (c for c in plan_observability(monitored()).containers if c.service == "dcgm-exporter")
    assert plan.gpus == (GPU,)
    assert not plan.capabilities
    assert not plan.exceptions
    assert not plan.user.startswith("0")


def test_every_replica_is_scraped_under_its_models_name() -> None:
    spec = monitored(replicas=[{"host": "here"}, {"host": "here"}])
    jobs = yaml.safe_load(planned_files(spec, "prometheus")["prometheus.yml"])["scrape_configs"]
    assert jobs[0]["static_configs"] == [
        {"targets": ["chat-0:8000"], "labels": {"model": "chat", "replica": "chat-0"}},
        {"targets": ["chat-1:8000"], "labels": {"model": "chat", "replica": "chat-1"}},
    ]


def test_every_alert_leads_to_a_section_of_the_docs() -> None:
    sections = re.findall(r"^## (\w+)$", (REPO / "docs" / "alerts.md").read_text(), re.MULTILINE)
    names = [alert.name for alert in alerts(monitored(webhook="http://127.0.0.1:9/"))]
    assert sorted(set(names)) == sorted(sections)
    for alert in alerts(monitored()):
        assert alert.runbook == f"docs/alerts.md#{alert.name.lower()}"


def test_every_metric_in_a_query_is_a_known_selector() -> None:
    """Selectors are known because queries are built of them; nothing may be written past that."""
    metric = re.compile(r"\b(?:vllm:|litellm_|node_|DCGM_|alertmanager_)\w+|\bup\b")
    for query in all_queries(monitored(webhook="http://127.0.0.1:9/")):
        names = [s.metric.name for s in query.expr.selectors]
        # Names of labels begin like metrics do.
        found = set(metric.findall(str(query.expr))) - {"litellm_model_name"}
        assert found == set(names), query.name


def test_a_selector_is_asked_for_without_its_range() -> None:
    errors = Metric(name="errors_total", appears="only-with-failure", why="")
    assert str(promql("rate(%)", select(errors, job='a"b').over("5m"))) == 'rate(errors_total{job="a\\"b"}[5m])'
    assert select(errors, job="x").over("5m").instant == 'errors_total{job="x"}'
    selectors = all_selectors(monitored())
    assert len({s.instant for s in selectors}) == len(selectors)


def test_thresholds_come_from_the_spec() -> None:
    spec = monitored()
    limits = {"kv_cache_usage": 0.77, "queue_length": 42, "ttft_p95_s": 2.5}
    data = spec.model_dump()
    data["file"]["observability"]["alerts"] = limits
    expressions = {alert.name: str(alert.expr) for alert in alerts(type(spec).model_validate(data))}
    assert "> 0.77 " in expressions["KvCacheNearlyFull"]
    assert expressions["QueueGrowing"].endswith("> 42")
    assert expressions["TimeToFirstTokenHigh"].endswith("> 2.5")
