"""What a model runs as."""

import dataclasses
import json
from typing import Any

import pytest

from planning.containers import ContainerPlan
from planning.names import uid_of
from planning.serving.engines import vllm
from planning.serving.order import turns
from planning.serving.plan import plan_model
from planning.stack import plan_stack
from stack_configs.rules import OWNED_FLAGS
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import GPU, SECOND_SOURCE, SOURCE, spec, two_models

OTHER_GPU = "GPU-99999999-2222-3333-4444-555555555555"


def one_model(kind: str = "local", replica: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    connection = (
        {"kind": "local"}
        if kind == "local"
        else {"kind": "ssh", "address": "studio.example", "user": "ops", "host_key": "ssh-ed25519 AAAA"}
    )
    return {
        "versions": "2026.11",
        "hosts": {"here": {"connection": connection, "gpus": [GPU, OTHER_GPU]}},
        "models": {"chat": {"source": SOURCE, "replicas": [{"host": "here", **(replica or {})}], **model}},
        "gateway": {"keys": {"me": {}}},
    }


def replica_of(stack: StackSpec) -> ContainerPlan:
    (replica,) = plan_model("chat", stack).replicas
    return replica


def test_dev_on_a_gpu_and_prod_run_the_same_container_on_other_devices() -> None:
    dev = replica_of(spec("dev", one_model(), local_gpus=(GPU, OTHER_GPU)))
    prod = replica_of(spec("prod", one_model("ssh", {"gpus": [OTHER_GPU]})))
    assert dev.gpus == (GPU,)
    assert prod.gpus == (OTHER_GPU,)
    assert dataclasses.replace(dev, gpus=(), host="") == dataclasses.replace(prod, gpus=(), host="")


def test_without_gpus_a_replica_runs_on_the_cpu() -> None:
    replica = replica_of(spec("dev", one_model(cpu_kv_cache_mib=64)))
    assert replica.image == "registry.example/vllm-cpu:1"
    assert "--kv-cache-memory-bytes=67108864" in replica.command
    assert "--enforce-eager" in replica.command
    assert not any(flag.startswith("--gpu-memory-utilization") for flag in replica.command)
    assert "VLLM_CPU_KVCACHE_SPACE" not in replica.env
    assert "CUDA_DEVICE_ORDER" not in replica.env


def test_local_gpus_are_for_local_hosts_only() -> None:
    assert replica_of(spec("prod", one_model("ssh"), local_gpus=(GPU,))).gpus == ()


def test_several_gpus_share_the_tensors() -> None:
    both = replica_of(spec("dev", one_model(replica={"gpus": [GPU, OTHER_GPU]}, gpu_memory_utilization=0.8)))
    one = replica_of(spec("dev", one_model(replica={"gpus": [GPU]})))
    assert "--tensor-parallel-size=2" in both.command
    assert "--gpu-memory-utilization=0.8" in both.command
    assert not any(flag.startswith("--tensor-parallel-size") for flag in one.command)
    assert "--gpu-memory-utilization=0.9" in one.command
    assert "--enforce-eager" not in one.command
    assert both.shm_mib > one.shm_mib


def test_docker_waits_longer_than_vllm_drains() -> None:
    replica = replica_of(spec("dev", one_model(drain_timeout_s=90)))
    assert "--shutdown-timeout=90" in replica.command
    assert replica.stop_grace_s > 90


def test_extra_arguments_come_last() -> None:
    replica = replica_of(spec("dev", one_model(extra_args=["--seed=3", "--no-enable-prefix-caching"])))
    assert replica.command[-2:] == ("--seed=3", "--no-enable-prefix-caching")


def test_every_flag_of_ours_is_refused_among_extra_arguments() -> None:
    ours = {
        flag.split("=")[0]
        for gpus in ((), (GPU, OTHER_GPU))
        for flag in vllm.argv("chat", spec("dev", one_model()).file.models["chat"], "/models/x", gpus)[1:]
    }
    assert ours <= OWNED_FLAGS.keys()


def test_engines_are_hardened_without_exception() -> None:
    for stack in (spec("dev", two_models()), spec("dev", two_models(), local_gpus=(GPU,))):
        for name in stack.file.models:
            plan = plan_model(name, stack)
            for container in (*plan.fetches, *plan.checks, *plan.replicas):
                assert not container.exceptions
                assert not container.capabilities
                assert not container.ports
                assert int(container.user.split(":")[0]) >= 20_000
            for replica in plan.replicas:
                assert replica.networks == ("inner",)
                writable = [mount.source for mount in replica.mounts if not mount.read_only]
                assert writable == (["compiled"] if replica.gpus else [])
                assert replica.user == f"{uid_of(replica.service)}:{uid_of(replica.service)}"
                assert replica.shm_mib >= 256


def test_a_second_model_clashes_with_nothing() -> None:
    stack = spec("dev", two_models())
    plans = [plan_model(name, stack) for name in stack.file.models]
    containers = [c for plan in plans for c in (*plan.fetches, *plan.replicas)]
    assert [c.service for c in containers] == ["chat-fetch", "chat-0", "chat-1", "small-fetch", "small-0"]
    assert len({c.user for c in containers if not c.job}) == 3


def test_free_form_arguments_are_read_by_each_hosts_image_before_a_replica_is_touched() -> None:
    assert plan_model("chat", spec("dev", one_model())).checks == ()
    stack = spec("dev", one_model(replicas=[{"host": "here"}, {"host": "here"}], extra_args=["--seed=7"]))
    plan = plan_model("chat", stack)
    (check,) = plan.checks
    assert check.job
    assert (check.image, check.command) == (plan.replicas[0].image, plan.replicas[0].command)
    assert not check.gpus
    assert plan_stack(stack).containers[:2] == (plan.fetches[0], check)


def test_kinds_lengths_and_revisions_of_weights_never_share_a_folder() -> None:
    other = {**SOURCE, "revision": "1" * 40}
    stacks = [
        spec("dev", one_model()),
        spec("dev", one_model(source=other)),
        spec("dev", one_model(source=SECOND_SOURCE)),
        spec("dev", one_model(), weights="random"),
        spec("dev", one_model(max_model_len=32768), weights="random"),
    ]
    folders = [replica_of(stack).command[0] for stack in stacks]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("weights", ["hub", "random"])
def test_the_job_fills_the_folder_that_the_engine_reads(weights: str) -> None:
    plan = plan_model("chat", spec("dev", one_model(), weights=weights))
    (read,) = plan.replicas[0].mounts
    (fetch,) = plan.fetches
    (filled,) = fetch.mounts
    into = fetch.command[fetch.command.index("--into") + 1]
    assert plan.replicas[0].command[0].removeprefix(read.target) == into.removeprefix(filled.target)
    assert (read.source, read.read_only) == (filled.source, True)
    assert filled.read_only is False


def test_only_fetching_from_the_hub_has_a_way_out() -> None:
    hub = plan_model("chat", spec("dev", one_model()))
    random = plan_model("chat", spec("dev", one_model(), weights="random"))
    assert [fetch.networks for fetch in (*hub.fetches, *random.fetches)] == [("edge",), ("inner",)]


def test_a_random_model_is_long_enough_for_the_spec() -> None:
    plan = plan_model("chat", spec("dev", one_model(max_model_len=50_000), weights="random"))
    (fetch,) = plan.fetches
    assert int(fetch.command[fetch.command.index("--positions") + 1]) >= 50_000


def test_the_job_is_told_what_was_locked_and_which_mirror_to_ask() -> None:
    file = {**one_model(), "hub": "https://hub.example/mirror"}
    locked = {"model.safetensors": {"size": 3, "sha256": "a" * 64}, "config.json": {"size": 2}}
    lock = ModelLock.model_validate({**SOURCE, "source": "a test", "files": locked, "config": {}})
    (fetch,) = plan_model("chat", spec("dev", file, locks={"chat": lock})).fetches
    assert fetch.command[-2:] == ("--lock", "/config/lock.json")
    assert json.loads(fetch.files["lock.json"]) == {"config.json": [2, None], "model.safetensors": [3, "a" * 64]}
    assert fetch.env["HF_ENDPOINT"] == "https://hub.example/mirror"
    (plain,) = plan_model("chat", spec("dev", one_model())).fetches
    assert "--lock" not in plain.command
    assert "HF_ENDPOINT" not in plain.env
    (random,) = plan_model("chat", spec("dev", file, locks={"chat": lock}, weights="random")).fetches
    assert "--lock" not in random.command
    assert "HF_ENDPOINT" not in random.env


def test_what_is_compiled_for_a_gpu_outlives_the_container_in_a_folder_of_the_replicas_own() -> None:
    file = one_model()
    file["models"]["chat"]["replicas"] = [{"host": "here", "gpus": [GPU]}, {"host": "here", "gpus": [OTHER_GPU]}]
    replicas = plan_model("chat", spec("dev", file)).replicas
    assert [replica.env["VLLM_CACHE_ROOT"] for replica in replicas] == ["/var/tmp/chat-0", "/var/tmp/chat-1"]
    assert {mount.target for replica in replicas for mount in replica.mounts if not mount.read_only} == {"/var/tmp"}


@pytest.mark.parametrize(
    ("fallbacks", "order"),
    [
        pytest.param({}, {"a": None, "b": None, "c": None, "d": None}, id="nobody waits without a reason"),
        pytest.param({"a": ["b"]}, {"b": None, "a": "b", "c": None, "d": None}, id="who stands in comes first"),
        pytest.param({"a": ["b", "c"]}, {"b": None, "c": "b", "a": "c", "d": None}, id="two stand-ins take turns"),
        pytest.param({"a": ["c"], "b": ["c"]}, {"c": None, "a": "c", "b": "a", "d": None}, id="one for two"),
        pytest.param(
            {"a": ["b"], "c": ["d"]}, {"b": None, "a": "b", "d": None, "c": "d"}, id="two chains go side by side"
        ),
        pytest.param({"a": ["b"], "b": ["c"]}, {"c": None, "b": "c", "a": "b", "d": None}, id="through another"),
        pytest.param(
            {"a": ["b"], "c": ["d"], "d": ["b"]}, {"b": None, "a": "b", "d": "a", "c": "d"}, id="chains that meet"
        ),
    ],
)
def test_models_of_one_fallback_chain_take_turns(fallbacks: dict[str, Any], order: dict[str, str | None]) -> None:
    file = one_model()
    file["models"] = dict.fromkeys("abcd", file["models"]["chat"])
    file["models"] = {f"m-{name}": model for name, model in file["models"].items()}
    named = {f"m-{name}": [f"m-{target}" for target in targets] for name, targets in fallbacks.items()}
    file["gateway"]["fallbacks"] = named
    found = turns(spec("dev", file))
    assert list(found.items()) == [(f"m-{name}", after and f"m-{after}") for name, after in order.items()]
