"""A stack on two hosts, by Pulumi's real engine and Docker over real SSH: gateway on one, models on both.

Engines are stand-ins: a fake one, as quick as a test needs it, and llm-d-inference-sim, which has vLLM's metrics.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pulumi import automation

from components import replacement
from components.ssh import command_on
from planning.names import FRONT_PORT, VLLM_PORT
from stack_configs.schema.stack import StackFile
from tests.docker_run import need_image
from tests.hosts.engine import Project
from tests.hosts.host import bare_hosts, login
from tests.hosts.images import give_images
from tests.hosts.serving import (
    IMAGES,
    MODELS_DIR,
    WAITS,
    Serving,
    container_of,
    file_of,
    forwarded,
    planned,
    program,
    running_on,
    spec_of,
)
from tests.simulator import simulator_image

FIRST = {"near-0", "both-0", "litellm-0", "nginx", "prometheus", "alertmanager", "node-exporter"}
SECOND = {"far-0", "sim-0", "both-1", "front-studio-2", "node-exporter-studio-2"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    python, *engines = (need_image(name) for name in ("python", "nginx", "node-exporter"))
    sim = simulator_image()
    every = [need_image(name) for name in IMAGES]
    with pytest.MonkeyPatch.context() as patch, bare_hosts("studio-1", "studio-2", distribution="debian-13") as hosts:
        first, second = hosts
        folder = tmp_path_factory.mktemp("serving")
        patch.chdir(folder)  # where Pulumi starts programs and plugins
        patch.setenv("SSH_AUTH_SOCK", str(login().agent))
        spec = spec_of(hosts)
        project = Project(folder, program)
        with forwarded(first, spec.file.gateway.port) as port:
            made = Serving(first, second, project, spec, port)
            made.up(waiting={host.name: WAITS for host in hosts})
            assert running_on(first) | running_on(second) == set()
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda to: give_images(*to), ((first, python, *every), (second, python, sim, *engines))))
            made.up()
            yield made
            project.destroy()


def test_models_of_both_hosts_answer_through_the_gateway(serving: Serving) -> None:
    for model in ("near", "far", "sim", "both"):
        assert serving.answers(model)["choices"], model


def test_nothing_changes_by_itself(serving: Serving) -> None:
    assert serving.up() == {}
    assert set(serving.project.refresh()) == {"same"}
    assert serving.up() == {}


def test_each_host_runs_its_own_part(serving: Serving) -> None:
    assert running_on(serving.first) == FIRST
    assert running_on(serving.second) == SECOND


def test_weights_lie_in_the_folder_that_the_host_was_prepared_with(serving: Serving) -> None:
    for host in (serving.first, serving.second):
        (weights,) = host.inside(f"find {MODELS_DIR} -type f").splitlines()
        assert weights.endswith("/weights")


def test_a_host_listens_on_loopback_and_its_front_on_the_lan_address(serving: Serving) -> None:
    for host, beyond in ((serving.first, set[str]()), (serving.second, {f"{serving.second.address}:{FRONT_PORT}"})):
        listening = {row.split()[3] for row in host.inside("ss -Hltn").splitlines()}
        assert listening, "nothing listens at all"
        assert {at for at in listening if not at.startswith("127.") and not at.endswith(":22")} == beyond


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_front_answers_the_gateways_host_alone(serving: Serving) -> None:
    assert status_of(f"http://{serving.second.address}:{FRONT_PORT}/far-0/v1/models") == 403
    # By loopback, as a mesh would publish it; engines' other paths are not let through.
    with forwarded(serving.second, FRONT_PORT) as port:
        deadline = time.monotonic() + 10
        while True:
            try:
                found = [
                    status_of(f"http://127.0.0.1:{port}/sim-0/{path}") for path in ("health", "v1/load_lora_adapter")
                ]
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert found == [200, 404]


def test_prometheus_watches_both_hosts(serving: Serving) -> None:
    wanted = {
        "alertmanager:9093": "",
        "litellm-0:4000": "",
        "node-exporter-studio-2:9100": "studio-2",
        "node-exporter:9100": "studio-1",
        "prometheus:9090": "",
        "sim-0:8000": "",
    }
    query = "docker exec inference-test-prometheus wget -q -O - 'http://127.0.0.1:9090/api/v1/query?query=up==1'"
    deadline = time.monotonic() + 60
    while True:
        rows = json.loads(serving.first.ssh(query).stdout)["data"]["result"]
        found = {row["metric"]["instance"]: row["metric"].get("host", "") for row in rows}
        if wanted.items() <= found.items():
            return
        assert time.monotonic() < deadline, found
        time.sleep(2)


def replaced_under_load(serving: Serving, model: str) -> dict[str, int]:
    """What `up` changes for a new version of the model while four clients ask it; none is refused."""
    ended, told = threading.Event(), list[dict[str, Any]]()

    def ask() -> None:
        while not ended.is_set():
            told.append(serving.chat(model, "tokens=4 delay=0.02"))

    with ThreadPoolExecutor(4) as clients:
        for _ in range(4):
            clients.submit(ask)
        try:
            changed = serving.up()
        finally:
            ended.set()
    assert len(told) > 20
    assert [answer for answer in told if "choices" not in answer] == []
    return changed


def test_replicas_on_two_hosts_are_replaced_without_a_failed_request(serving: Serving) -> None:
    """One at a time, the next when the last is healthy; what asks a replica that stops asks the other one."""
    before = {container_of(host, "both-") for host in serving.hosts}
    serving.versions["both"] = 2
    assert set(serving.preview()) == {"both-0", "both-1"}
    assert set(replaced_under_load(serving, "both")) == {"replace"}
    assert not before & {container_of(host, "both-") for host in serving.hosts}


def test_a_single_replica_is_replaced_while_its_fallback_on_another_host_answers(serving: Serving) -> None:
    before = container_of(serving.second, "far-0")
    serving.versions["far"] = 2
    assert set(serving.preview()) == {"far-0"}
    assert replaced_under_load(serving, "far") == {"replace": 1}
    assert container_of(serving.second, "far-0") != before


def test_a_model_that_can_not_start_on_a_host_over_ssh_leaves_the_one_before(serving: Serving) -> None:
    before = container_of(serving.second, "far-0")
    with pytest.raises(automation.CommandError, match="far-0 was not replaced: the container before it serves again"):
        serving.up(broken=("far",))
    assert container_of(serving.second, "far-0") == before
    assert serving.answers("far")["choices"]
    serving.up()
    assert running_on(serving.second) == SECOND
    assert serving.second.ssh("docker ps -aq -f name=-failed- -f name=-previous-").stdout == ""
    assert serving.answers("far")["choices"]


def test_when_the_second_of_two_replicas_fails_it_is_named_and_going_back_converges(serving: Serving) -> None:
    old = [container_of(host, "both-") for host in serving.hosts]
    was, serving.versions["both"] = serving.versions.get("both", 1), 3
    with pytest.raises(automation.CommandError, match="both-1 was not replaced: the container before it serves again"):
        serving.up(broken=("both-1",))
    assert container_of(serving.first, "both-") != old[0]
    assert container_of(serving.second, "both-") == old[1]
    serving.versions["both"] = was
    serving.up()
    assert serving.up() == {}
    assert serving.answers("both")["choices"]


def test_a_host_brings_the_model_back_when_nobody_comes_to_finish_a_replacement(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulumi's machine is gone right after it has stopped the old container."""
    far = replacement.Docker(command_on("studio-2", Path(".state/ssh/test/config")))
    kept = replacement._current(far, "inference-test-far-0")
    assert kept
    (plan,) = (one for one in planned(serving.spec).containers if one.service == "far-0")
    monkeypatch.setattr(replacement, "RELEASE_S", 0)
    monkeypatch.setattr(replacement, "SPARE_S", 0)
    replacement._put_aside(far, replace(plan, stop_grace_s=3, ready_within_s=3), kept)
    assert "far-0" not in running_on(serving.second)
    deadline = time.monotonic() + 60
    while "far-0" not in running_on(serving.second):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert serving.up() == {}


def test_a_model_that_keeps_dying_is_stopped_by_its_host_and_its_fallback_answers(serving: Serving) -> None:
    """Six deaths within the hour that the unit is installed with; more of it in test_crashes.py."""
    far, note = "inference-test-far-0", "/var/lib/inference-stack/pending/fenced-inference-test-far-0"
    before, host = container_of(serving.second, "far-0"), serving.second
    dies = f"pid=$(docker inspect -f '{{{{.State.Pid}}}}' {far}); [ $pid = 0 ] || kill -9 $pid; sleep 0.2"
    host.inside(f"until [ -e {note} ]; do {dies}; done; while [ $(docker ps -q -f name={far}) ]; do sleep 0.2; done")
    assert "it died" in host.inside(f"cat {note}")
    assert serving.answers("far")["choices"]
    # Pulumi's state says that it runs: that changes only when somebody has it look.
    assert serving.up() == {}
    assert "far-0" not in running_on(host)
    assert serving.project.refresh()["update"] == 1
    assert serving.up() == {"update": 1}
    assert container_of(host, "far-0") == before
    host.inside("systemctl start inference-stack-fence")
    assert host.inside(f"ls {note}", check=False) == ""
    assert serving.up() == {}


def test_models_are_back_after_a_reboot_without_an_up(serving: Serving) -> None:
    serving.second.reboot()
    assert serving.answers("sim")["choices"]
    assert serving.answers("far")["choices"]
    assert serving.up() == {}


def all_at_once(serving: Serving, model: str, text: str = "hello") -> list[dict[str, Any]]:
    with ThreadPoolExecutor(4) as clients:
        return list(clients.map(lambda _: serving.chat(model, text), range(4)))


def asked(serving: Serving) -> int:
    """How many requests have reached `far`, and not its fallback."""
    seen = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{VLLM_PORT}/').read().decode())"
    said = serving.second.ssh(f'docker exec inference-test-far-0 python3 -c "{seen}"').stdout
    return sum(request["path"].endswith("completions") for request in json.loads(said)["seen"])


def reach(serving: Serving, requests: int) -> None:
    deadline = time.monotonic() + 60
    while asked(serving) < requests:
        assert time.monotonic() < deadline, f"{asked(serving)} of {requests} requests have reached it"
        if requests == 1:
            serving.chat("far")


def test_a_host_that_falls_silent_keeps_no_request(serving: Serving) -> None:
    """Its packets are dropped: nobody ends a connection, and nobody says that there is no such host."""
    reach(serving, 1)  # over connections that stay open
    both_ways = (f"iptables -t raw -{{0}} PREROUTING -{end} {serving.first.address} -j DROP" for end in "sd")
    silence = " && ".join(both_ways)
    with ThreadPoolExecutor() as clients:
        before = asked(serving)
        waiting = clients.submit(all_at_once, serving, "far", "tokens=1 delay=10")
        reach(serving, before + 4)
        serving.second.inside(silence.format("I"))
        try:
            told = [*all_at_once(serving, "far"), *waiting.result()]
        finally:
            serving.second.inside(silence.format("D"))
    assert [answer for answer in told if "choices" not in answer] == [], "the fallback runs on the other host"
    assert asked(serving) == before + 4, "what was asked later has not reached it"


def test_a_host_that_is_away_keeps_no_other_from_being_changed(serving: Serving) -> None:
    assert serving.answers("far")["choices"]
    serving.second.power_off()
    try:
        assert [answer for answer in all_at_once(serving, "far") if "choices" not in answer] == []
        serving.versions["near"] = 2
        assert serving.up() == {"replace": 1}
        assert serving.answers("near")["choices"]
    finally:
        serving.second.power_on()
    assert serving.answers("sim")["choices"]
    assert serving.up() == {}


def test_a_host_that_waits_is_left_out_and_taken_in_again(serving: Serving) -> None:
    serving.up(waiting={"studio-2": WAITS})
    assert running_on(serving.second) == set()
    assert serving.chat("far")["status"] == 404
    assert serving.answers("near")["choices"]
    serving.up()
    assert serving.answers("far")["choices"]


def test_a_host_that_is_lost_is_forgotten_and_what_is_left_serves(serving: Serving) -> None:
    serving.second.power_off()
    file = file_of(list(serving.hosts))
    del file["hosts"]["studio-2"], file["models"]["far"], file["models"]["sim"], file["gateway"]["fallbacks"]
    file["models"]["both"]["replicas"].pop()
    left = StackFile.model_validate(file)
    with pytest.raises(automation.CommandError):
        serving.up(file=left)
    serving.project.forget("studio-2")
    serving.up(file=left)
    for model in ("near", "both"):
        assert serving.answers(model)["choices"], model
    assert serving.chat("far")["status"] == 404
    assert serving.up(file=left) == {}
