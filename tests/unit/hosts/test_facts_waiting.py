"""First contact: which hosts' models wait, and what ends it."""

from datetime import timedelta
from typing import Any

import pytest

from planning.hosts.ready import waiting, with_waiting
from stack_configs.schema.facts import Facts
from tests.unit.hosts import shaped

AGAIN = "`make facts STACK=prod HOST=studio-1`, then `pulumi up`"
NOTED = {"base": "0" * 12, "driver": "1" * 12, "engine": "2" * 12}
UNLOADED = shaped.driver(None)
UNMANAGED = {"driver": None}
WITHOUT_GPUS = {"driver": None, "gpus": None}


@pytest.mark.parametrize(
    ("host", "facts", "why"),
    [
        ({}, None, f"it has no facts yet: after it was prepared by `pulumi up`, {AGAIN}"),
        (WITHOUT_GPUS, None, f"it has no facts yet: after it was prepared by `pulumi up`, {AGAIN}"),
        ({}, shaped.bare(), f"its facts are from before it was prepared: after `pulumi up`, {AGAIN}"),
        (UNMANAGED, shaped.facts(), f"its facts are from before it was prepared: after `pulumi up`, {AGAIN}"),
        (
            {},
            shaped.facts(steps={"base": "0" * 12, "driver": "1" * 12}),
            f"its facts are from before it was prepared: after `pulumi up`, {AGAIN}",
        ),
        ({}, shaped.bare(steps=NOTED), f"its NVIDIA driver isn't loaded: after a reboot, {AGAIN}"),
        (UNMANAGED, shaped.bare(steps=NOTED), f"its NVIDIA driver isn't loaded: after a reboot, {AGAIN}"),
        (
            {},
            shaped.bare(steps=NOTED, pending={"reboot": "580.105.08 is installed and no module is loaded"}),
            "its NVIDIA driver isn't loaded (580.105.08 is installed and no module is loaded): "
            f"after a reboot, {AGAIN}",
        ),
    ],
)
def test_models_wait_until_facts_from_after_the_preparation_are_there(
    host: dict[str, Any], facts: Facts | None, why: str
) -> None:
    assert waiting(shaped.spec(shaped.host(**host), facts)) == {"studio-1": why}


@pytest.mark.parametrize(
    ("host", "facts"),
    [
        ({}, shaped.facts(steps=NOTED)),
        (WITHOUT_GPUS, shaped.bare(steps={"base": "0" * 12, "engine": "2" * 12})),
        # What ran goes on running: another branch in the spec, another digest, facts of long ago.
        ({"driver": {"branch": "590"}}, shaped.facts(steps=NOTED)),
        ({}, shaped.facts(steps=NOTED, read_at=shaped.NOW - timedelta(days=400))),
    ],
)
def test_a_prepared_host_waits_for_nothing(host: dict[str, Any], facts: Facts) -> None:
    assert with_waiting(shaped.spec(shaped.host(**host), facts)).waiting == {}


def test_this_machine_is_never_waited_for() -> None:
    here = shaped.host(connection={"kind": "local"}, driver=None)
    assert waiting(shaped.spec(here)) == {}
