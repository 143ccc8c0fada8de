"""The whole dev and two-LiteLLM stacks, on mocks: what must hold for every container of every component."""

import json

import pytest

from components.stack import InferenceStack, InferenceStackArgs
from planning.containers import ContainerPlan
from planning.stack import plan_stack
from stack_configs.load import ROOT, Settings, resolve
from stack_configs.schema.stack import StackSpec
from stack_configs.source import parse
from tests.unit.built import Made, built, of_type
from tests.unit.test_containers import CONTAINER, VOLUME

GPU = "GPU-00000000-0000-0000-0000-000000000001"


def spec(*, instances: int = 1, gpus: tuple[str, ...] = (), images: str = "registry") -> StackSpec:
    text = (ROOT / "stack_configs" / "dev.yaml").read_text().replace("instances: 1", f"instances: {instances}")
    settings = Settings(key_hashes={"me": "0" * 64}, gpus=gpus, images="built" if images == "built" else "registry")
    return resolve(parse(text, "dev.yaml"), "dev", settings)


def stack(of: StackSpec) -> list[Made]:
    def program() -> None:
        InferenceStack("dev", InferenceStackArgs(plan=plan_stack(of)))

    return built(program)


SPECS = {
    "built": spec(images="built"),
    "registry": spec(),
    "two-gateways": spec(instances=2),
    "gpu": spec(gpus=(GPU,)),
}


def running(made: list[Made]) -> list[Made]:
    """Containers that are started: the carriers of config files never are."""
    return [m for m in of_type(made, CONTAINER, at_least=6) if m.inputs.get("start") is not False]


def exceptions(of: StackSpec) -> dict[str, ContainerPlan]:
    return {plan.service: plan for plan in plan_stack(of).containers}


@pytest.mark.parametrize("name", SPECS)
def test_names_are_unique_and_everything_has_a_parent(name: str) -> None:
    made = stack(SPECS[name])
    assert len({m.urn for m in made}) == len(made)
    docker_names = [(m.type, m.inputs["name"]) for m in made if m.type.startswith("docker:")]
    assert len(set(docker_names)) == len(docker_names)
    assert all("InferenceStack" in m.parent or m.type == "inference-stack:index:InferenceStack" for m in made)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_published_beyond_loopback(name: str) -> None:
    ports = [port for m in running(stack(SPECS[name])) for port in m.inputs.get("ports", [])]
    assert ports
    assert {port["ip"] for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("name", SPECS)
def test_no_container_lacks_hardening_and_each_exception_has_its_reason(name: str) -> None:
    plans = exceptions(SPECS[name])
    for m in running(stack(SPECS[name])):
        plan = plans[m.name]
        assert all(len(reason) > 15 for reason in plan.exceptions.values()), m.name
        assert m.inputs["readOnly"] or "writable" in plan.exceptions, m.name
        assert m.inputs["capabilities"]["drops"] == ["ALL"], m.name
        assert not plan.capabilities or "capabilities" in plan.exceptions, m.name
        assert m.inputs["user"].split(":")[0] not in ("0", "root") or "root" in plan.exceptions, m.name
        assert m.inputs["memory"] > 0, m.name
        assert m.inputs["logOpts"]["max-size"], m.name
        assert "healthcheck" in m.inputs or m.inputs["attach"], m.name


@pytest.mark.parametrize("service", ["chat-0", "litellm-0", "nginx", "prometheus", "alertmanager"])
def test_the_five_that_serve_are_non_root_and_read_only_without_exception(service: str) -> None:
    for of in SPECS.values():
        plan = exceptions(of)[service]
        assert not {"root", "writable", "capabilities"} & set(plan.exceptions)


def test_the_model_cache_outlives_the_stack() -> None:
    volumes = {m.name: m.request.retainOnDelete for m in of_type(stack(SPECS["built"]), VOLUME)}
    assert volumes.pop("models-volume") is True
    assert not any(volumes.values())


def test_gateways_are_replaced_one_after_the_other() -> None:
    made = {m.name: m for m in running(stack(SPECS["two-gateways"]))}
    assert made["litellm-0"].urn in made["litellm-1"].request.dependencies
    assert made["litellm-1"].urn not in made["litellm-0"].request.dependencies


def test_a_gateway_change_touches_no_model() -> None:
    """No edge leads from a model to the gateway, in either direction."""
    made = {m.name: m for m in running(stack(SPECS["two-gateways"]))}
    gateway = {made[name].urn for name in ("litellm-0", "litellm-1", "nginx")}
    assert not gateway & set(made["chat-0"].request.dependencies)
    assert not {made["chat-0"].urn} & {
        urn for name in ("litellm-0", "nginx") for urn in made[name].request.dependencies
    }


def test_no_key_reaches_the_engine() -> None:
    """The program never sees a key: only its hash, which is in one file."""
    text = json.dumps([dict(m.inputs) for m in stack(SPECS["built"])], default=str)
    assert "sk-" not in text.replace('LITELLM_MASTER_KEY=\\"sk-$(', "")
