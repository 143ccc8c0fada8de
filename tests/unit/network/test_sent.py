"""What would be sent to Cloudflare, field by field.

The meaning of each field is that of Cloudflare's API, in Pulumi's spelling (pulumi_cloudflare 6.23). Each test names
the page that it follows, below https://developers.cloudflare.com/.
"""

import json

import pytest

from tests.unit.built import is_secret
from tests.unit.network.cloudflare import (
    APPLICATION,
    AUD,
    CONFIG,
    POLICY,
    RECORD,
    SERVICE_TOKEN,
    TOKEN,
    TUNNEL,
    made,
    of,
)
from tests.unit.test_containers import CONTAINER, VOLUME

ACCOUNT, ZONE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
SOCKET = "unix:/run/outside/outside.sock"


def test_the_tunnel_is_managed_at_cloudflare() -> None:
    """api/resources/zero_trust/subresources/tunnels/subresources/cloudflared/methods/create: config_src."""
    (tunnel,) = of(TUNNEL).values()
    assert dict(tunnel.inputs) == {
        "accountId": ACCOUNT,
        "name": "inference-with-ingress",
        "configSrc": "cloudflare",
    }


def test_each_hostname_has_a_rule_and_all_else_is_404_at_the_end() -> None:
    """…/cloudflared/subresources/configurations/methods/update: config.ingress, the last one without a hostname.

    The origin's own check of Access is each rule's: originRequest.access {required, teamName, audTag}.
    """
    (config,) = of(CONFIG).values()
    access = {"access": {"required": True, "teamName": "example", "audTags": [AUD]}}
    assert config.inputs == {
        "accountId": ACCOUNT,
        "tunnelId": "tunnel-id",
        "config": {
            "ingresses": [
                {"hostname": "llm.example.org", "service": SOCKET},
                {"hostname": "team.example.org", "service": SOCKET, "originRequest": access},
                {"hostname": "graphs.example.org", "service": SOCKET, "originRequest": access},
                {"service": "http_status:404"},
            ]
        },
    }


def test_records_lead_to_the_tunnel_through_cloudflares_proxy() -> None:
    """api/resources/dns/subresources/records/methods/create: ttl 1 is automatic; the content is that of
    cloudflare-one/connections/connect-networks/routing-to-tunnel/dns: UUID.cfargotunnel.com."""
    records = of(RECORD)
    assert {r.inputs["name"] for r in records.values()} == {"llm.example.org", "team.example.org", "graphs.example.org"}
    for record in records.values():
        sent = {key: record.inputs[key] for key in ("zoneId", "type", "content", "proxied", "ttl")}
        target = "tunnel-id.cfargotunnel.com"
        assert sent == {"zoneId": ZONE, "type": "CNAME", "content": target, "proxied": True, "ttl": 1}


def test_a_name_resolves_once_its_guards_stand_and_the_connector_runs() -> None:
    config, connector = of(CONFIG)["tunnel-config"], of(CONTAINER)["cloudflared"]
    for record in of(RECORD).values():
        assert {config.urn, connector.urn} <= set(record.request.dependencies)
    assert {application.urn for application in of(APPLICATION).values()} <= set(config.request.dependencies)
    assert of(CONTAINER)["nginx"].urn in connector.request.dependencies


def test_access_lets_in_who_is_named_people_by_login_and_machines_by_token() -> None:
    """api/resources/zero_trust/subresources/access/subresources/policies/methods/create: decision `allow` asks who it
    is, `non_identity` takes a service token; one of `include` is enough."""
    sent = {name: (m.inputs["decision"], m.inputs["includes"]) for name, m in of(POLICY).items()}
    people = [{"email": {"email": "ann@example.org"}}, {"emailDomain": {"domain": "studio.example"}}]
    assert sent == {
        "team.example.org-machines": ("non_identity", [{"serviceToken": {"tokenId": "render-token-id"}}]),
        "team.example.org-people": ("allow", people),
        "graphs.example.org-people": ("allow", [*people, {"group": {"id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"}}]),
    }
    assert not [m for m in of(POLICY).values() if m.inputs["decision"] == "bypass"]


def test_an_application_for_each_hostname_behind_access() -> None:
    """…/access/subresources/applications/methods/create: type self_hosted, domain, policies by id and precedence."""
    sent = {m.inputs["domain"]: dict(m.inputs) for m in of(APPLICATION).values()}
    assert set(sent) == {"team.example.org", "graphs.example.org"}
    team = sent["team.example.org"]
    assert (team["type"], team["accountId"], team["sessionDuration"]) == ("self_hosted", ACCOUNT, "8h")
    assert team["policies"] == [
        {"id": "team.example.org-machines-id", "precedence": 1},
        {"id": "team.example.org-people-id", "precedence": 2},
    ]
    assert (team["serviceAuth401Redirect"], sent["graphs.example.org"]["serviceAuth401Redirect"]) == (True, False)


def test_a_service_token_is_valid_for_a_year() -> None:
    """…/access/subresources/service_tokens/methods/create: duration in hours."""
    (token,) = of(SERVICE_TOKEN).values()
    assert token.inputs == {"accountId": ACCOUNT, "name": "inference-with-ingress-render", "duration": "8760h"}
    assert "clientSecret" in token.request.additionalSecretOutputs


def test_the_connectors_token_is_a_secret_file_and_nowhere_else() -> None:
    carrier = of(CONTAINER)["cloudflared-files-carrier"]
    assert is_secret(carrier.inputs["uploads"])
    (upload,) = carrier.inputs["uploads"]["value"]
    assert upload["content"] == TOKEN
    assert upload["file"] == of(CONTAINER)["cloudflared"].inputs["envs"][-1].removeprefix("TUNNEL_TOKEN_FILE=")
    assert list(carrier.request.additionalSecretOutputs) == ["uploads"]
    rest = json.dumps([dict(m.inputs) for m in made() if m is not carrier], default=str)
    assert TOKEN not in rest


def test_a_new_token_reaches_the_connector_by_a_new_volume_whose_name_is_no_secret() -> None:
    volume = of(VOLUME)["cloudflared-files"].inputs["name"]
    assert isinstance(volume, str)
    assert volume.startswith("inference-with-ingress-cloudflared-files-")
    assert volume in {mount["source"] for mount in of(CONTAINER)["cloudflared"].inputs["mounts"]}


@pytest.mark.parametrize("token", [TUNNEL, CONFIG, RECORD, APPLICATION, POLICY, SERVICE_TOKEN])
def test_all_of_it_is_the_ingress(token: str) -> None:
    for resource in of(token).values():
        assert resource.parent.endswith("inference-stack:network:TunnelIngress::ingress")
