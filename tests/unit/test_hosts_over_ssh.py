"""A stack on two hosts over SSH: what runs where, how it is reached, and what a host that waits leaves out."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import connection
from components.ssh import write_ssh_files
from components.stack import InferenceStack, InferenceStackArgs
from planning.plans import StackPlan
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import spec, stack_file
from tests.unit.built import Made, built, of_type
from tests.unit.test_containers import CONTAINER, NETWORK, VOLUME

PROVIDER = "pulumi:providers:docker"
GATEWAY_HOST, OTHER = "studio-1", "studio-2"
ON_EVERY_HOST = {"dcgm-exporter", "node-exporter"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh's files are written below the folder that Pulumi starts the program in."""
    monkeypatch.chdir(tmp_path)


def prod(changes: Mapping[str, Any] | None = None, **choices: Any) -> StackSpec:
    return spec("prod", {**stack_file("prod"), **(changes or {})}, **choices)


def stack(plan: StackPlan) -> list[Made]:
    def program() -> None:
        InferenceStack("prod", InferenceStackArgs(plan=plan))

    return built(program, stack="prod")


def host_of(made: Made, providers: Mapping[str, str]) -> str:
    """The host whose provider makes the resource."""
    return providers[made.request.provider.rsplit("::", 1)[0]]


def providers(made: list[Made]) -> dict[str, str]:
    return {m.urn: m.inputs["host"].removeprefix("ssh://") for m in of_type(made, PROVIDER, at_least=2)}


def test_each_container_runs_under_its_hosts_own_provider() -> None:
    plan = plan_stack(prod())
    made = stack(plan)
    hosts = providers(made)
    assert sorted(hosts.values()) == [GATEWAY_HOST, OTHER]
    planned = {container.service: container.host for container in plan.containers}
    ran = {m.name: host_of(m, hosts) for m in of_type(made, CONTAINER) if m.inputs.get("start") is not False}
    assert ran == planned
    assert {service for service, host in ran.items() if host == OTHER} == {
        "dcgm-exporter-studio-2",
        "front-studio-2",
        "node-exporter-studio-2",
        "small-0",
        "small-fetch-studio-2",
    }


def test_nothing_of_a_stack_over_ssh_is_made_on_this_machine() -> None:
    made = stack(plan_stack(prod()))
    hosts = providers(made)
    ours = [m for m in made if m.type.startswith("docker:")]
    assert len(ours) > 20
    assert all(host_of(m, hosts) for m in ours)


def test_a_container_finds_its_networks_volumes_and_files_on_its_own_host() -> None:
    made = stack(plan_stack(prod()))
    hosts = providers(made)
    there = {(host_of(m, hosts), m.inputs["name"]) for m in of_type(made, NETWORK) + of_type(made, VOLUME)}
    assert {host for host, name in there if name == "inference-prod-inner"} == {GATEWAY_HOST, OTHER}
    for m in of_type(made, CONTAINER):
        names = [network["name"] for network in m.inputs.get("networksAdvanced", [])]
        names += [mount["source"] for mount in m.inputs.get("mounts", []) if mount["type"] == "volume"]
        assert {(host_of(m, hosts), name) for name in names} <= there, m.name


def test_no_two_resources_share_a_name_on_one_host() -> None:
    made = stack(plan_stack(prod()))
    hosts = providers(made)
    docker_names = [(host_of(m, hosts), m.type, m.inputs["name"]) for m in made if m.type.startswith("docker:")]
    assert len(set(docker_names)) == len(docker_names)
    assert len({m.urn for m in made}) == len(made)


def test_only_fronts_listen_beyond_loopback_and_only_on_the_lan_address() -> None:
    ports = {
        (m.name, port["ip"], port["external"])
        for m in of_type(stack(plan_stack(prod())), CONTAINER)
        for port in m.inputs.get("ports", [])
        if port["ip"] != "127.0.0.1"
    }
    assert ports == {("front-studio-2", "192.168.40.12", 8300)}


def test_weights_lie_in_the_hosts_folder_and_outlive_the_stack() -> None:
    plan = plan_stack(prod())
    volumes = {m.name: m for m in of_type(stack(plan), VOLUME) if m.name.endswith("models-volume")}
    assert set(volumes) == {"studio-1-models-volume", "studio-2-models-volume"}
    for volume in volumes.values():
        assert volume.inputs["driverOpts"] == {
            "type": "none",
            "o": "bind",
            "device": "/var/lib/inference-stack/models",
        }
        assert volume.request.retainOnDelete
    moved = stack(replace(plan, models_dirs={**plan.models_dirs, OTHER: "/data/models"}))
    (other,) = [m for m in of_type(moved, VOLUME) if m.name == "studio-2-models-volume"]
    assert other.inputs["name"] != volumes["studio-2-models-volume"].inputs["name"]


def test_an_address_is_no_input_of_anything_but_front_and_gateway() -> None:
    """Neither engines nor providers are touched when a host moves in the network; its steps find nothing to do."""
    file = stack_file("prod")
    moved = json.loads(
        json.dumps(file).replace("192.168.40.12", "192.168.40.99").replace("mesh.example", "lan.example")
    )
    before = {m.urn: (m.inputs, m.name) for m in stack(plan_stack(spec("prod", file)))}
    after = {m.urn: m.inputs for m in stack(plan_stack(spec("prod", moved)))}
    assert before.keys() == after.keys()
    touched = {name for urn, (inputs, name) in before.items() if after[urn] != inputs}
    expected = {"front-studio-2", *(f"{host}-{step}" for host in file["hosts"] for step in ("base", "engine"))}
    for service in ("litellm-0", "litellm-1", "prometheus"):
        expected |= {service, f"{service}-files", f"{service}-files-carrier"}
    assert touched == expected


def test_the_gateway_reaches_its_own_host_by_name_and_others_by_their_front() -> None:
    plan = plan_stack(prod())
    assert plan.gateway
    config = yaml.safe_load(plan.gateway.litellm[0].files["config.yaml"])
    assert {entry["model_info"]["id"]: entry["litellm_params"]["api_base"] for entry in config["model_list"]} == {
        "large-0": "http://large-0:8000/v1",
        "small-0": "http://192.168.40.12:8300/small-0/v1",
    }
    assert all("edge" in instance.networks for instance in plan.gateway.litellm)
    alone = plan_stack(spec("dev", stack_file("dev")))
    assert alone.gateway
    assert [instance.networks for instance in alone.gateway.litellm] == [("inner",)]


def test_a_new_model_needs_no_other_front() -> None:
    file = stack_file("prod")
    more = {**file, "models": {**file["models"], "third": file["models"]["small"]}}
    fronts = [plan.gateway.fronts for plan in (plan_stack(spec("prod", f)) for f in (file, more)) if plan.gateway]
    assert len(fronts) == 2
    assert fronts[0] == fronts[1]


def test_a_model_with_replicas_on_two_hosts_is_fetched_to_both_before_any_is_touched() -> None:
    file = stack_file("prod")
    replicas = [*file["models"]["large"]["replicas"], *file["models"]["small"]["replicas"]]
    made = stack(
        plan_stack(spec("prod", {**file, "models": {"small": {**file["models"]["small"], "replicas": replicas}}}))
    )
    by_name = {m.name: m for m in of_type(made, CONTAINER)}
    fetches = {by_name[name].urn for name in ("small-fetch", "small-fetch-studio-2")}
    assert fetches <= set(by_name["small-0"].request.dependencies)
    assert by_name["small-0"].urn in by_name["small-1"].request.dependencies


def test_a_model_is_touched_once_the_one_that_stands_in_for_it_is_ready_again() -> None:
    made = {m.name: m for m in of_type(stack(plan_stack(prod())), CONTAINER)}
    assert made["small-0"].urn in made["large-0"].request.dependencies
    assert made["small-0"].urn not in made["large-fetch"].request.dependencies


def test_a_host_that_waits_has_neither_provider_nor_containers_and_its_models_are_not_offered() -> None:
    plan = plan_stack(prod(waiting={OTHER: "it has no facts yet"}))
    made = stack(plan)
    assert [m.inputs["host"] for m in of_type(made, PROVIDER)] == [f"ssh://{GATEWAY_HOST}"]
    assert {container.host for container in plan.containers} == {GATEWAY_HOST}
    assert plan.waiting == {OTHER: "it has no facts yet"}
    assert plan.gateway
    config = yaml.safe_load(plan.gateway.litellm[0].files["config.yaml"])
    assert [entry["model_name"] for entry in config["model_list"]] == ["large"]
    assert not config["router_settings"].get("fallbacks")
    keys = json.loads(plan.gateway.litellm[0].files["keys.json"])["keys"]
    assert {key["id"]: key["models"] for key in keys.values()} == {"editors": ["large"], "batch": []}
    scraped = yaml.safe_load(plan.observability.containers[0].files["prometheus.yml"])["scrape_configs"]
    assert "studio-2" not in json.dumps(scraped)


def test_while_the_gateways_host_waits_the_others_serve_nobody_but_keep_running() -> None:
    plan = plan_stack(prod(waiting={GATEWAY_HOST: "it has no facts yet"}))
    stack(plan)
    assert plan.gateway is None
    assert {container.service for container in plan.containers} == {
        "dcgm-exporter-studio-2",
        "node-exporter-studio-2",
        "small-0",
        "small-fetch-studio-2",
    }


def test_while_all_hosts_wait_nothing_is_made() -> None:
    plan = plan_stack(prod(waiting={GATEWAY_HOST: "it has no facts yet", OTHER: "it has no facts yet"}))
    assert plan.containers == ()
    assert [m.type for m in stack(plan) if m.type.startswith(("docker:", "pulumi:"))] == []


def ssh_says(host: str) -> dict[str, str]:
    """What ssh itself makes of the file that was written."""
    done = subprocess.run(
        ["ssh", "-G", "-F", ".state/ssh/prod/config", host], capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_trusts_the_pinned_key_alone_and_asks_nothing() -> None:
    made = stack(plan_stack(prod()))
    assert [json.loads(m.inputs["sshOpts"]) for m in of_type(made, PROVIDER)] == [["-F", ".state/ssh/prod/config"]] * 2
    said = ssh_says(OTHER)
    assert (said["hostname"], said["user"], said["port"]) == ("studio-2.mesh.example.org", "ops", "22")
    assert said["userknownhostsfile"] == ".state/ssh/prod/known_hosts"
    assert said["globalknownhostsfile"] == "/dev/null"
    assert said["stricthostkeychecking"] in ("true", "yes")
    assert said["batchmode"] == "yes"
    assert said["controlmaster"] == "auto"
    assert said["controlpath"].startswith(".state/ssh/prod/")
    known = Path(".state/ssh/prod/known_hosts").read_text().splitlines()
    keys = {name: host["connection"]["host_key"] for name, host in stack_file("prod")["hosts"].items()}
    assert known == [f"{name} {key}" for name, key in keys.items()]
    assert Path(".state/ssh/prod").stat().st_mode & 0o077 == 0


def test_a_host_that_has_left_the_file_can_still_be_reached_to_remove_what_is_there() -> None:
    stack(plan_stack(prod()))
    before = ssh_says(OTHER)
    without = plan_stack(prod())
    write_ssh_files("prod", [host for host in without.hosts if host.name != OTHER])
    assert ssh_says(OTHER) == before
    known = Path(".state/ssh/prod/known_hosts").read_text().splitlines()
    assert len([line for line in known if line.startswith(f"{OTHER} ")]) == 1


def test_a_jump_is_pinned_like_the_host_behind_it() -> None:
    file = stack_file("prod")
    key = file["hosts"][GATEWAY_HOST]["connection"]["host_key"]
    file["hosts"][OTHER]["connection"]["jump"] = {
        "address": "gate.example",
        "user": "me",
        "port": 2222,
        "host_key": key,
    }
    stack(plan_stack(spec("prod", file)))
    assert ssh_says(OTHER)["proxycommand"] == "ssh -F .state/ssh/prod/config -W [%h]:%p jump-to-studio-2"
    said = ssh_says("jump-to-studio-2")
    assert (said["hostname"], said["port"]) == ("gate.example", "2222")
    assert said["stricthostkeychecking"] in ("true", "yes")
    assert f"jump-to-studio-2 {key}" in Path(".state/ssh/prod/known_hosts").read_text().splitlines()


@pytest.fixture
def ssh_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stand-in for ssh was asked for. It refuses as often as the file `refusals` has lines."""
    log, program = tmp_path / "log", tmp_path / "ssh"
    (tmp_path / "refusals").touch()
    program.write_text(f"""#!/bin/sh
cd {tmp_path}
case "$*" in
*"-O check"*) echo check >>log; [ -e open ] || exit 255 ;;
*)
    echo open >>log
    if [ -s refusals ]; then sed -i 1d refusals; echo "kex: reset by peer" >&2; exit 255; fi
    touch open
    ;;
esac
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(connection, "PAUSE_S", 0)
    return log


def test_one_connection_is_opened_and_then_only_looked_at(ssh_log: Path) -> None:
    for _ in range(3):
        connection.connect(OTHER, Path("config"))
    assert ssh_log.read_text().split() == ["check", "open", "check", "check"]


def test_a_server_that_is_too_busy_is_asked_again(ssh_log: Path) -> None:
    (ssh_log.parent / "refusals").write_text("1\n2\n")
    connection.connect(OTHER, Path("config"))
    assert ssh_log.read_text().split() == ["check", "open"] * 3


def test_a_host_that_can_not_be_reached_is_named_with_what_ssh_says(ssh_log: Path) -> None:
    (ssh_log.parent / "refusals").write_text("1\n2\n3\n")
    with pytest.raises(connection.NotConnectedError, match=r"^studio-2 can't be reached over SSH: kex: reset by peer$"):
        connection.connect(OTHER, Path("config"))
    assert ssh_log.read_text().count("open") == 3


def test_all_that_is_made_on_a_host_is_made_over_that_connection() -> None:
    made = stack(plan_stack(prod()))
    hosts = providers(made)
    for m in (m for m in made if m.type.startswith("docker:")):
        hooks = m.request.hooks
        assert f"{host_of(m, hosts)}-connected" == hooks.before_create[0] == hooks.before_update[0], m.name
