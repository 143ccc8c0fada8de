"""docs/architecture.md lists what can be written in each container, and which departs from hardening."""

import re

import pytest

from planning.containers import ContainerPlan
from planning.stack import plan_stack
from stack_configs.load import ROOT
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import all_specs

SERVICES = {  # vLLM's are called after models
    "fetch job": r".*-fetch(-.*)?",
    "check job": r".*-check(-.*)?",
    "vLLM": "",
    "LiteLLM": r"litellm-\d+",
    "nginx, front": r"nginx|front.*",
    "Prometheus": "prometheus",
    "Alertmanager": "alertmanager",
    "node exporter": "node-exporter.*",
    "cloudflared": "cloudflared",
    "DCGM exporter": "dcgm-exporter.*",
    "Grafana": "grafana",
}


def table() -> dict[str, tuple[str, str, str]]:
    page = (ROOT / "docs" / "architecture.md").read_text()
    start = page.index("| container | in memory |")
    rows = page[start : page.index("\n\n", start)].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: (memory, volumes, departs) for name, memory, volumes, departs in cells}


def kind(plan: ContainerPlan) -> str:
    if plan.component == "serving" and not plan.job:
        return "vLLM"
    return next(name for name, service in SERVICES.items() if name != "vLLM" and re.fullmatch(service, plan.service))


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.stack)
def test_the_table_has_every_writable_path_and_exception(spec: StackSpec) -> None:
    told = table()
    assert set(told) == set(SERVICES)
    for plan in plan_stack(spec).containers:
        memory, volumes, departs = told[kind(plan)]
        written = {mount.target for mount in plan.mounts if not mount.read_only}
        assert set(re.findall(r"`(/.*?)`", memory)) == set(plan.tmpfs), plan.service
        assert written <= set(re.findall(r"`(/.*?)`", volumes)), plan.service
        at_times = (volumes.startswith("on a GPU") and not plan.gpus) or volumes.startswith("with an ingress")
        assert written or not volumes or at_times, plan.service
        assert bool(departs) == bool(plan.exceptions), plan.service
