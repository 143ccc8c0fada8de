"""What `make forget` takes out of a state, and what it leaves."""

from typing import Any

from tools.forget import needed_by_others, of_host, without

URN = "urn:pulumi:prod::inference-stack::"


def row(kind: str, name: str, parent: str = "", provider: str = "", needs: tuple[str, ...] = ()) -> dict[str, Any]:
    given = {"urn": f"{URN}{kind}::{name}", "type": kind, "parent": parent, "dependencies": list(needs)}
    return {**given, "provider": f"{provider}::0b5e-1"} if provider else given


STACK = row("pulumi:pulumi:Stack", "stack")
HOSTS = {name: row("inference-stack:hosts:GpuHost", name, STACK["urn"]) for name in ("studio-1", "studio-2")}
STEPS = {name: row("command:remote:Command", f"{name}-engine", of["urn"]) for name, of in HOSTS.items()}
DOCKERS = {
    name: row("pulumi:providers:docker", f"{name}-docker", STACK["urn"], needs=(of["urn"],))
    for name, of in STEPS.items()
}
MODEL = row("inference-stack:serving:ModelServer", "chat", STACK["urn"])
REPLICAS = {
    name: row("docker:index/container:Container", f"chat-{name}", MODEL["urn"], of["urn"])
    for name, of in DOCKERS.items()
}
STATE = [STACK, *HOSTS.values(), *STEPS.values(), *DOCKERS.values(), MODEL, *REPLICAS.values()]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [one["urn"].rsplit("::", 1)[1] for one in rows]


def test_a_host_is_its_steps_its_docker_and_what_runs_there_the_last_made_first() -> None:
    assert names(of_host(STATE, "studio-2")) == ["chat-studio-2", "studio-2-docker", "studio-2-engine", "studio-2"]


def test_a_host_that_is_not_in_the_state_is_nothing() -> None:
    assert of_host(STATE, "studio") == []


def test_what_is_left_is_the_same_state_without_its_rows_however_many_one_has() -> None:
    twice = {**STEPS["studio-2"], "delete": True}
    under_way = [{"resource": of, "type": "updating"} for of in STEPS.values()]
    rows = [*STATE, twice]
    deployment = {"manifest": {}, "resources": rows, "pending_operations": under_way}
    left = without({"version": 3, "deployment": deployment}, of_host(rows, "studio-2"))
    assert left["version"] == 3
    assert left["deployment"]["manifest"] == {}
    assert left["deployment"]["pending_operations"] == under_way[:1]
    kept = ["stack", "studio-1", "studio-1-engine", "studio-1-docker", "chat", "chat-studio-1"]
    assert names(left["deployment"]["resources"]) == kept


def test_what_stays_and_needs_the_host_is_told() -> None:
    gateway = row("docker:index/container:Container", "litellm-0", STACK["urn"], needs=(REPLICAS["studio-2"]["urn"],))
    state = [*STATE, gateway]
    assert needed_by_others(STATE, of_host(STATE, "studio-2")) == []
    assert needed_by_others(state, of_host(state, "studio-2")) == ["litellm-0"]
