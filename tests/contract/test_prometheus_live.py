"""A real Prometheus, Alertmanager and node exporter as planned; recorded pages stand in for the rest.

What is asked of them: does every selector of every query have series, and does an alert arrive.
"""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planning.containers import FILES_DIR, ContainerPlan
from planning.names import ALERTMANAGER_PORT, DCGM_EXPORTER_PORT, LITELLM_PORT, PROMETHEUS_PORT, VLLM_PORT
from planning.observability.plan import plan_observability
from planning.observability.queries import all_queries, all_selectors
from planning.observability.rules import alerts
from tests.contract.monitoring import docker, monitored, need_image

SPEC = monitored(grafana=False, webhook="http://127.0.0.1:9/")
PREFIX = "inference-observability-test"
RECORDED = Path(__file__).parents[1] / "fixtures" / "expositions"
PAGES = {VLLM_PORT: "vllm.prom", LITELLM_PORT: "litellm.prom", DCGM_EXPORTER_PORT: "dcgm.prom"}
SERVE = """
import http.server, json, pathlib, sys, threading
def server(port, page):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = pathlib.Path("/pages", page).read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_): pass
    return http.server.ThreadingHTTPServer(("", port), Handler)
for port, page in json.loads(sys.argv[1]).items():
    threading.Thread(target=server(int(port), page).serve_forever).start()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Service → the address of its pages; they have been scraped for a while."""
    python = need_image("python")
    for recipe in ("prometheus", "alertmanager", "node-exporter"):
        need_image(recipe)
    plans = [c for c in plan_observability(SPEC).containers if c.service != "dcgm-exporter"]
    names = [f"{PREFIX}-{service}" for service in ("pages", *(p.service for p in plans))]
    volumes = [f"{PREFIX}-{m.source}" for p in plans for m in p.mounts if not m.source.startswith("/")]
    _remove(names, volumes)
    docker("network", "create", PREFIX)
    try:
        docker(
            *("run", "--detach", f"--name={PREFIX}-pages", f"--network={PREFIX}", "--entrypoint=python3"),
            *(f"--network-alias={alias}" for alias in ("chat-0", "litellm-0", "dcgm-exporter")),
            *(f"--volume={RECORDED}:/pages:ro", python, "-c", SERVE, json.dumps(PAGES)),
        )
        for plan in plans:
            _start(plan, tmp_path_factory.mktemp(plan.service))
        urls = {
            service: "http://" + docker("port", f"{PREFIX}-{service}", str(port)).stdout.strip()
            for service, port in (("prometheus", PROMETHEUS_PORT), ("alertmanager", ALERTMANAGER_PORT))
        }
        _wait(lambda: _healthy(urls["prometheus"]), "every target is up")
        yield urls
    finally:
        _remove(names, volumes)


def _start(plan: ContainerPlan, folder: Path) -> None:
    """Run a plan by hand, hardened as `components.containers` does it."""
    folder.chmod(0o755)
    for name, text in plan.files.items():
        (folder / name).write_text(text)
    mounts = [f"--volume={folder}:{FILES_DIR}:ro"] if plan.files else []
    for mount in plan.mounts:
        source = mount.source if mount.source.startswith("/") else f"{PREFIX}-{mount.source}"
        mounts.append(f"--volume={source}:{mount.target}{':ro' if mount.read_only else ''}")
    docker(
        *("run", "--detach", f"--name={PREFIX}-{plan.service}", f"--user={plan.user}", "--read-only"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges:true", f"--memory={plan.memory_mib}m"),
        *(f"--ulimit=nproc={plan.max_processes}", f"--network={PREFIX}", f"--network-alias={plan.service}"),
        *(f"--publish=127.0.0.1::{port.container}" for port in plan.ports),
        *mounts,
        *(plan.image, *plan.command),
    )


def _remove(names: list[str], volumes: list[str]) -> None:
    docker("rm", "--force", *names, check=False)
    docker("volume", "rm", "--force", *volumes, check=False)
    docker("network", "rm", PREFIX, check=False)


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


def test_health_checks_exist_in_the_images_and_pass(stack: dict[str, str]) -> None:
    assert stack
    for plan in plan_observability(SPEC).containers:
        if plan.service != "dcgm-exporter":
            assert plan.health is not None
            docker("exec", f"{PREFIX}-{plan.service}", *plan.health.command)


def test_every_selector_has_series(stack: dict[str, str]) -> None:
    missing = [s.instant for s in all_selectors(SPEC) if not _query(stack["prometheus"], s.instant)]
    assert not missing


def test_every_panel_has_something_to_draw(stack: dict[str, str]) -> None:
    empty = [
        query.name
        for query in all_queries(SPEC)
        if query.name.startswith("dashboard/") and not _query(stack["prometheus"], str(query.expr))
    ]
    assert not empty


def test_rules_are_evaluated_without_errors(stack: dict[str, str]) -> None:
    def rules() -> list[Any]:
        groups = _get(f"{stack['prometheus']}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    _wait(lambda: all(rule["health"] != "unknown" for rule in rules()), "every rule was evaluated")
    assert len(rules()) == len(alerts(SPEC))
    assert not [(rule["name"], rule["lastError"]) for rule in rules() if rule["health"] != "ok"]


def test_an_alert_arrives_with_its_texts(stack: dict[str, str]) -> None:
    def arrived() -> list[Any]:
        found = _get(f"{stack['alertmanager']}/api/v2/alerts")
        return [alert for alert in found if alert["labels"]["alertname"] == "GpuXid"]

    _wait(lambda: bool(arrived()), "Alertmanager has the alert GpuXid", seconds=60)
    (alert,) = arrived()
    assert alert["annotations"]["summary"] == "GPU GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43 reported XID 79"
    assert alert["annotations"]["runbook"] == "docs/alerts.md#gpuxid"
    assert alert["receivers"] == [{"name": "webhook"}]
