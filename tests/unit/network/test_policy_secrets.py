"""What a mesh's control plane is asked with: never in plain, and there where a policy is to be written."""

import pytest

from stack_configs.load import SpecError, _mesh_problems
from stack_configs.schema.network import Mesh
from tests.unit.network.mesh import mesh

HEADSCALE, TAILSCALE = "inference-stack:headscaleApiKey", "tailscale:oauthClientSecret"
OF_TAILSCALE = {"control": "tailscale", "login_server": None, "operators": ["kim@example.org"], "users": []}


@pytest.mark.parametrize(
    ("over", "configured", "plain", "environment", "says"),
    [
        pytest.param({}, HEADSCALE, False, None, None, id="a-secret"),
        pytest.param({}, HEADSCALE, True, None, f"{HEADSCALE}\n    stands in plain", id="in-plain"),
        pytest.param({}, None, False, None, f"{HEADSCALE}\n    is missing", id="missing-where-a-policy-is-owned"),
        pytest.param({"policy": "checked"}, None, False, None, None, id="missing-where-others-write"),
        pytest.param({"policy": "checked"}, HEADSCALE, True, None, "stands in plain", id="in-plain-there-too"),
        pytest.param(OF_TAILSCALE, TAILSCALE, False, None, None, id="tailscales"),
        pytest.param(OF_TAILSCALE, None, False, "s", None, id="tailscales-by-the-environment"),
        pytest.param(OF_TAILSCALE, TAILSCALE, True, "s", f"{TAILSCALE}\n    stands in plain", id="tailscales-in-plain"),
        pytest.param(OF_TAILSCALE, HEADSCALE, False, None, f"{TAILSCALE}\n    is missing", id="that-of-the-other"),
    ],
)
def test_it_must_be_a_secret(
    over: dict[str, object],
    configured: str | None,
    plain: bool,
    environment: str | None,
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAILSCALE_OAUTH_CLIENT_SECRET", raising=False)
    if environment:
        monkeypatch.setenv("TAILSCALE_OAUTH_CLIENT_SECRET", environment)
    of = Mesh.model_validate(mesh(**over))
    secrets = {HEADSCALE: None, TAILSCALE: None, **({configured: "value"} if configured else {})}
    found = _mesh_problems("prod", of, secrets, {configured} if configured and plain else set())
    assert bool(found) == (says is not None)
    if says:
        assert says in str(SpecError(found))
        assert "pulumi config set --secret" in str(SpecError(found))
        assert "value" not in str(SpecError(found))
