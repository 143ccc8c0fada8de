"""A real Prometheus, Alertmanager and node exporter as planned; recorded pages stand in for the rest.

What is asked of them: does every selector of every query have series, and does an alert arrive.
"""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planning.containers import ContainerPlan
from planning.names import DCGM_EXPORTER_PORT, LITELLM_PORT, VLLM_PORT
from planning.observability.plan import plan_observability
from planning.observability.queries import all_queries, all_selectors
from planning.observability.rules import alerts
from tests.contract.monitoring import monitored
from tests.docker_run import Sandbox, docker, need_image

SPEC = monitored(grafana=False, webhook="http://127.0.0.1:9/")
RECORDED = Path(__file__).parents[1] / "fixtures" / "expositions"
PAGES = {VLLM_PORT: "vllm.prom", LITELLM_PORT: "litellm.prom", DCGM_EXPORTER_PORT: "dcgm.prom"}
SERVE = """
import http.server, json, pathlib, sys, threading
def server(port, page):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = pathlib.Path("/config", page).read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_): pass
    return http.server.ThreadingHTTPServer(("", port), Handler)
for port, page in json.loads(sys.argv[1]).items():
    threading.Thread(target=server(int(port), page).serve_forever).start()
"""


@dataclass(frozen=True)
class Watching:
    prometheus: str
    alertmanager: str
    """Their addresses."""
    containers: tuple[tuple[ContainerPlan, str], ...]
    """With Docker's names."""


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    """The monitoring as planned; every target has been scraped for a while."""
    pages = ContainerPlan(
        service="pages",
        host="local",
        component="observability",
        image=need_image("python"),
        user="65534:65534",
        entrypoint=("python3",),
        command=("-c", SERVE, json.dumps(PAGES)),
        files={page: (RECORDED / page).read_text() for page in PAGES.values()},
        aliases=("chat-0", "litellm-0", "dcgm-exporter"),
        memory_mib=64,
    )
    plans = [c for c in plan_observability(SPEC).containers if c.service != "dcgm-exporter"]
    for recipe in ("prometheus", "alertmanager", "node-exporter"):
        need_image(recipe)
    sandbox = Sandbox("observability")
    volumes = {m.source: sandbox.container(m.source) for p in plans for m in p.mounts if not m.source.startswith("/")}
    try:
        sandbox.run(pages, wait=False)
        started = tuple((plan, sandbox.run(plan, volumes=volumes)) for plan in plans)
        settings = SPEC.file.observability
        prometheus = f"http://127.0.0.1:{settings.prometheus.port}"
        _wait(lambda: _healthy(prometheus), "every target is up")
        yield Watching(prometheus, f"http://127.0.0.1:{settings.alertmanager.port}", started)
    finally:
        sandbox.close()
        docker("volume", "rm", "--force", *volumes.values(), check=False)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _query(prometheus: str, expression: str) -> list[Any]:
    found = _get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    series: list[Any] = found["data"]["result"]
    return series


def _healthy(prometheus: str) -> bool:
    """All targets up, and each scraped twice at least, as rates need."""
    up = _query(prometheus, "up == 1 and count_over_time(up[1m]) >= 3")
    return len(up) == len(_get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]) > 0


def _wait(condition: Callable[[], bool], what: str, seconds: int = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass  # not listening yet
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.5)


def test_health_checks_exist_in_the_images_and_pass(watching: Watching) -> None:
    for plan, name in watching.containers:
        assert plan.health is not None
        docker("exec", name, *plan.health.command)


def test_every_selector_has_series(watching: Watching) -> None:
    missing = [s.instant for s in all_selectors(SPEC) if not _query(watching.prometheus, s.instant)]
    assert not missing


def test_every_panel_has_something_to_draw(watching: Watching) -> None:
    empty = [
        query.name
        for query in all_queries(SPEC)
        if query.name.startswith("dashboard/") and not _query(watching.prometheus, str(query.expr))
    ]
    assert not empty


def test_a_real_engines_figure_is_held_against_the_promise(watching: Watching) -> None:
    """What vLLM 0.31 told: 262,144 tokens, and nothing that PromQL could compare as a number."""
    (alert,) = (alert for alert in alerts(SPEC) if alert.name == "EngineKvBelowPlan")
    (found,) = _query(watching.prometheus, str(alert.expr))
    assert found["metric"]["kv_cache_size_tokens"] == "262144"


def test_rules_are_evaluated_without_errors(watching: Watching) -> None:
    def rules() -> list[Any]:
        groups = _get(f"{watching.prometheus}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    _wait(lambda: all(rule["health"] != "unknown" for rule in rules()), "every rule was evaluated")
    assert len(rules()) == len(alerts(SPEC))
    assert not [(rule["name"], rule["lastError"]) for rule in rules() if rule["health"] != "ok"]


def test_an_alert_arrives_with_its_texts(watching: Watching) -> None:
    def arrived() -> list[Any]:
        found = _get(f"{watching.alertmanager}/api/v2/alerts")
        return [alert for alert in found if alert["labels"]["alertname"] == "GpuXid"]

    _wait(lambda: bool(arrived()), "Alertmanager has the alert GpuXid", seconds=60)
    (alert,) = arrived()
    assert alert["annotations"]["summary"] == "GPU GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43 reported XID 79"
    assert alert["annotations"]["runbook"] == "docs/alerts.md#gpuxid"
    assert alert["receivers"] == [{"name": "webhook"}]
