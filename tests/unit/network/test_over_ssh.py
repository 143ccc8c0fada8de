"""An ingress of a stack on hosts over SSH: the connector is on the gateway's host, the rest at Cloudflare."""

from pathlib import Path

import pytest

from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from tests.golden.specs import ingress, spec, stack_file
from tests.unit.built import Made, built
from tests.unit.network.cloudflare import APPLICATION, AUD, GET_TOKEN, SERVICE_TOKEN, TOKEN

ON_THE_GATEWAYS_HOST = {"cloudflared", "cloudflared-files", "cloudflared-files-carrier"}
ON_THE_GATEWAYS_HOST |= {"studio-1-tunnel-network", "studio-1-outside-volume", "nginx"}


def test_the_connector_is_where_nginx_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # ssh's files are written there
    prod = plan_stack(spec("prod", {**stack_file("prod"), "network": {"ingress": ingress()}}))

    def program() -> None:
        InferenceStack("prod", InferenceStackArgs(plan=prod))

    secrets = {"clientId": "id.access", "clientSecret": "s3cret", "expiresAt": "2027-11-21T00:00:00Z"}
    known = {GET_TOKEN: {"token": TOKEN}, APPLICATION: {"aud": AUD}, SERVICE_TOKEN: secrets}
    made = {m.name: m for m in built(program, stack="prod", known=known)}

    def on(resource: Made) -> str:
        return resource.request.provider.rsplit("::", 2)[-2] if resource.request.provider else ""

    assert {on(made[name]) for name in ON_THE_GATEWAYS_HOST} == {"studio-1-docker"}
    assert not [name for name in made if name.startswith("studio-2") and ("tunnel" in name or "outside" in name)]
    assert {on(m) for m in made.values() if m.type.startswith("cloudflare:")} == {""}
