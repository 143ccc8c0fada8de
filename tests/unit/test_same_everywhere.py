"""dev on a machine with a GPU and a host over SSH run the same containers: only the way to them differs."""

import re
from pathlib import Path
from typing import Any

import pytest

from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import GPU, spec, stack_file
from tests.unit.built import built, of_type
from tests.unit.test_containers import CONTAINER

SSH = {
    "kind": "ssh",
    "address": "studio-1.example",
    "user": "ops",
    "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
}


def containers(of: StackSpec) -> dict[str, Any]:
    """Name → all that Docker is told of it."""

    def program() -> None:
        InferenceStack("same", InferenceStackArgs(plan=plan_stack(of)))

    return {made.name: made.inputs for made in of_type(built(program, stack="same"), CONTAINER)}


def test_only_the_way_to_a_host_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # ssh's files are written below it
    dev = stack_file("dev")
    # This machine's GPUs are found by `make up`; those of a host over SSH are named.
    chat = {**dev["models"]["chat"], "replicas": [{"host": "local", "gpus": [GPU]}]}
    remote = {**dev, "hosts": {"local": {"connection": SSH, "gpus": [GPU]}}, "models": {"chat": chat}}
    here, there = containers(spec("same", dev, local_gpus=(GPU,))), containers(spec("same", remote))
    assert here["chat-0"]["deviceRequests"]
    # Weights are in a folder of a host over SSH, and Docker doesn't move a volume: its name tells which folder.
    assert {name: _one_volume(inputs) for name, inputs in there.items()} == here


def _one_volume(inputs: Any) -> Any:
    mounts = [
        {**mount, "source": re.sub(r"-models-[0-9a-f]{8}$", "-models", mount["source"])}
        for mount in inputs.get("mounts", ())
    ]
    return {**inputs, "mounts": mounts} if mounts else inputs
