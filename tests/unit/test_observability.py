"""What the plan of the monitoring promises, without Docker."""

import re
from pathlib import Path

import pytest
import yaml

from planning.observability.metrics import KV_TOKENS
from planning.observability.plan import plan_observability
from planning.observability.promql import Metric, at_least, promql, select
from planning.observability.queries import all_queries, all_selectors
from planning.observability.rules import alerts
from planning.serving.ledger.stack import ledger
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.contract.monitoring import GPU, monitored, planned_files
from tests.unit.hosts import shaped
from tests.unit.ledger.stacks import R4090, R5090, one, stack
from tools.measured import compared

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
    names = [alert.name for alert in alerts(monitored(webhook="http://127.0.0.1:9/", ingress=True))]
    assert sorted(set(names)) == sorted(sections)
    for alert in alerts(monitored()):
        assert alert.runbook == f"docs/alerts.md#{alert.name.lower()}"


def test_every_metric_in_a_query_is_a_known_selector() -> None:
    """Selectors are known because queries are built of them; nothing may be written past that."""
    metric = re.compile(r"\b(?:vllm:|litellm_|node_|DCGM_|alertmanager_|cloudflared_)\w+|\bup\b")
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


@pytest.mark.parametrize("number", [1, 9, 10, 99, 128, 20_544, 72_192, 99_999, 100_000, 385_104])
def test_a_pattern_of_all_numbers_from_one_on(number: int) -> None:
    pattern = at_least(number)
    near = {*range(max(0, number - 200), number + 200), *(10**power for power in range(9)), 10 * number, number // 10}
    assert [value for value in near if bool(re.fullmatch(pattern, str(value))) != (value >= number)] == []
    assert not re.fullmatch(pattern, "None")
    assert not re.fullmatch(pattern, "")


def promises(spec: StackSpec) -> dict[str, str]:
    """Replica → the pattern of what was promised to it."""
    found = (alert.expr.selectors[0] for alert in alerts(spec) if alert.name == "EngineKvBelowPlan")
    labels: list[dict[str, str]] = [{label: value for label, _, value in of.matchers} for of in found]
    return {of["replica"]: of[KV_TOKENS] for of in labels}


def test_the_alert_and_the_command_agree_on_what_is_too_little() -> None:
    spec = one("Qwen3-8B", R4090, max_model_len=16384)
    (pattern,), fit = promises(spec).values(), ledger(spec).placed[0].fit
    assert fit
    for tokens in (fit.sure_tokens - 1, fit.sure_tokens):
        (told,) = compared(ledger(spec), {"chat-0": tokens})
        assert told.short == (re.fullmatch(pattern, str(tokens)) is None)


def test_each_replica_is_held_to_what_its_own_cards_hold() -> None:
    places = [("studio-1", [0]), ("studio-2", [0])]
    spec = stack(
        {"chat": {"shape": "Qwen3-8B", "on": places, "max_model_len": 16384}},
        {"studio-1": (R4090,), "studio-2": (R5090,)},
    )
    found = promises(spec)
    assert list(found) == ["chat-0", "chat-1"]
    assert found["chat-0"] != found["chat-1"]


@pytest.mark.parametrize(
    "spec",
    [
        one("bge-m3", R4090, max_model_len=8192),
        one("Qwen3-8B", R4090, max_model_len=16384, extra_args=("--enable-lora",)),
        one("Qwen3-8B", R4090, max_model_len=16384).model_copy(update={"facts": {}}),
        one("Qwen3-8B", R4090, max_model_len=16384).model_copy(update={"locks": {}}),
        one("Qwen3-8B", R4090, max_model_len=16384).model_copy(update={"weights": "random"}),
        monitored(gpus=False),
    ],
    ids=["no KV cache", "not counted", "no facts", "no lock", "random weights", "on the CPU"],
)
def test_where_the_ledger_is_sure_of_nothing_nothing_is_promised(spec: StackSpec) -> None:
    assert promises(spec) == {}


def test_of_facts_only_the_card_reaches_what_runs_and_only_prometheus_rules() -> None:
    """All else that a host says of itself may change without a change of any container."""
    spec = monitored()
    others = dict.fromkeys(("vllm-cuda", "nginx", "litellm"), spec.images["prometheus"])
    spec = spec.model_copy(update={"images": {**spec.images, **others}})

    def plans(**said: object) -> dict[str, object]:
        facts = shaped.facts(host="here", gpus=(shaped.gpu("H100", GPU),)).model_copy(update=said)
        return {c.service: c for c in plan_stack(spec.model_copy(update={"facts": {"here": facts}})).containers}

    before = plans()
    assert before == plans(boot_id="another", driver=shaped.facts(driver=shaped.driver("595.71.05")).driver)
    after = plans(gpus=(shaped.gpu("RTX 5090", GPU),))
    assert [name for name in before if before[name] != after[name]] == ["prometheus"]
