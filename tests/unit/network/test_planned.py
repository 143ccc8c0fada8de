"""What follows from an ingress in a spec, and what does not."""

from dataclasses import replace

import pytest

from planning.names import OUTSIDE_VOLUME
from planning.network.limits import ingress_warnings
from planning.plans import StackPlan
from planning.stack import plan_stack
from stack_configs.ingress_rules import ingress_problems
from stack_configs.load import SpecError, _token_problem
from stack_configs.schema.observability import Observability
from stack_configs.schema.stack import StackFile, StackSpec
from tests.golden.specs import ingress, spec, stack_file
from tests.unit.network.cloudflare import with_ingress


def without() -> StackPlan:
    return plan_stack(spec("with-ingress", stack_file("dev")))


def changed(**gateway: int) -> StackSpec:
    of = with_ingress()
    data = of.file.model_dump()
    data["gateway"] |= gateway
    return of.model_copy(update={"file": StackFile.model_validate(data)})


def test_an_ingress_changes_nginx_and_what_watches_it_and_no_engine() -> None:
    before = {c.service: c for c in without().containers}
    after = {c.service: c for c in plan_stack(with_ingress()).containers}
    assert set(after) - set(before) == {"cloudflared"}
    assert {name for name in before if before[name] != after[name]} == {"nginx", "prometheus", "grafana"}


def test_the_connector_reaches_nginx_and_nothing_else_of_the_stack() -> None:
    containers = plan_stack(with_ingress()).containers
    on = {network: {c.service for c in containers if network in c.networks} for network in ("inner", "edge", "tunnel")}
    assert on["tunnel"] == {"cloudflared", "nginx"}
    assert "cloudflared" not in on["inner"] | on["edge"]
    assert {c.service for c in containers if any(m.source == OUTSIDE_VOLUME for m in c.mounts)} == on["tunnel"]


def test_nothing_more_is_published() -> None:
    def ports(plan: StackPlan) -> list[tuple[str, int, str]]:
        return [(c.service, port.host, port.address) for c in plan.containers for port in c.ports]

    assert ports(plan_stack(with_ingress())) == ports(without())


def test_the_token_is_in_no_plan_but_the_place_for_it_is() -> None:
    plan = plan_stack(with_ingress()).ingress
    assert plan
    assert plan.connector.secret_files == ("token",)
    assert plan.connector.env["TUNNEL_TOKEN_FILE"] == "/config/token"
    assert "token" not in " ".join(plan.connector.command)


def test_an_ingress_waits_for_its_gateway() -> None:
    waiting = with_ingress().model_copy(update={"waiting": {"local": "no driver yet"}})
    assert plan_stack(waiting).ingress is None


def test_nginx_names_no_provider_but_in_the_header_that_it_is_told() -> None:
    """Another provider is another header, and nothing else of the gateway."""
    nginx = next(c for c in plan_stack(with_ingress()).containers if c.service == "nginx")
    conf = nginx.files["nginx.conf"]
    assert conf.lower().count("cloudflare") == conf.lower().count("cloudflared")
    assert conf.count("CF-Connecting-IP") == 1


def test_grafana_links_to_where_it_is_opened() -> None:
    (grafana,) = (c for c in plan_stack(with_ingress()).containers if c.service == "grafana")
    assert grafana.env["GF_SERVER_ROOT_URL"] == "https://graphs.example.org/"


def test_grafana_has_no_hostname_where_it_is_left_out() -> None:
    found = with_ingress().file.network.ingress
    assert found
    (problem,) = ingress_problems(found, Observability(grafana=None))
    assert problem[0] == ("network", "ingress", "hostnames", "graphs.example.org", "to")


@pytest.mark.parametrize(
    ("gateway", "told"),
    [
        ({"request_timeout_s": 100, "max_body_mib": 95}, []),
        ({"request_timeout_s": 101, "max_body_mib": 95}, ["error 524"]),
        ({"request_timeout_s": 100, "max_body_mib": 96}, ["only 100 MB on Free and Pro"]),
        ({"request_timeout_s": 100, "max_body_mib": 200}, ["100 MB on Free and Pro, 200 MB on Business"]),
    ],
)
def test_the_edges_limits_are_told_where_the_gateways_are_beyond_them(gateway: dict[str, int], told: list[str]) -> None:
    found = [says for _, says, _ in ingress_warnings(changed(**gateway))]
    assert len(found) == len(told)
    assert all(part in says for part, says in zip(told, found, strict=True))


def test_a_name_two_levels_down_has_no_certificate_by_itself() -> None:
    hostnames = {"llm.film.example.org": {"to": "api", "guards": ["keys"]}}
    of = spec("film", {**stack_file("dev"), "network": {"ingress": {**ingress(), "hostnames": hostnames}}})
    told = [(path[-1], write) for path, _, write in ingress_warnings(of) if "hostnames" in path]
    assert told == [
        ("llm.film.example.org", "write `llm-film.example.org`, or order an advanced certificate for it"),
    ]


def test_a_stack_without_an_ingress_is_told_nothing() -> None:
    assert list(ingress_warnings(spec("dev", stack_file("dev")))) == []


@pytest.mark.parametrize(
    ("configured", "secret", "environment", "says"),
    [
        ("t", True, None, None),
        (None, False, "t", None),
        ("t", False, "t", "stands in plain"),
        (None, False, None, "is missing"),
    ],
)
def test_the_api_token_must_be_a_secret(
    configured: str | None, secret: bool, environment: str | None, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    if environment:
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", environment)
    found = _token_problem("prod", configured, secret)
    assert (found is None) == (says is None)
    if found and says:
        assert says in found.says
        assert "pulumi config set --secret cloudflare:apiToken" in str(SpecError([found]))


def test_a_comeback_has_no_secret_files_either() -> None:
    plan = plan_stack(with_ingress()).ingress
    assert plan
    with pytest.raises(ValueError, match="can't have files"):
        replace(plan.connector, comes_back=True)
