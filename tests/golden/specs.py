"""The specs whose plans are kept as text. Images have fixed names, so that a rebuilt one changes no text."""

from collections.abc import Mapping
from typing import Any, get_args

import yaml

from stack_configs.load import ROOT
from stack_configs.schema.stack import Image, StackFile, StackSpec
from stack_configs.schema.versions import HostVersions, ImageName

GPU = "GPU-11111111-2222-3333-4444-555555555555"
SOURCE = {"repo": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "7ae557604adf67be50417f59c2c2f167def9a775"}
SECOND_SOURCE = {
    "repo": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
}


def spec(name: str, file: Mapping[str, Any], *without: ImageName, **choices: Any) -> StackSpec:
    """A stack called `name` of these settings, with every image but those named."""
    images = {image: Image(ref=f"registry.example/{image}:1", starts_in_s=7) for image in get_args(ImageName)}
    checked = StackFile.model_validate(file)
    return StackSpec(
        stack=name,
        file=checked,
        images={key: value for key, value in images.items() if key not in without},
        key_hashes={key: f"{index:064x}" for index, key in enumerate(checked.gateway.keys)},
        host_versions=host_versions(checked.versions),
        **choices,
    )


def host_versions(version_set: str) -> HostVersions:
    """What a shipped version set makes hosts of."""
    text = (ROOT / "stack_configs" / "versions" / f"{version_set}.yaml").read_text()
    return HostVersions.model_validate(yaml.safe_load(text)["hosts"])


def stack_file(stack: str) -> Any:
    """The shipped YAML of a stack."""
    return yaml.safe_load((ROOT / "stack_configs" / f"{stack}.yaml").read_text())


def two_models() -> dict[str, Any]:
    """Two models on the CPU, one with two replicas; two LiteLLM instances; a fallback; limits per key."""
    here = {"host": "here"}
    return {
        "versions": "2026.11",
        "hosts": {"here": {"connection": {"kind": "local"}}},
        "models": {
            "chat": {"source": SOURCE, "replicas": [here, here], "extra_args": ["--seed=7"]},
            "small": {
                "source": SECOND_SOURCE,
                "replicas": [here],
                "max_model_len": 16384,
                "dtype": "bfloat16",
                "drain_timeout_s": 60,
                "extra_args": ["--no-enable-prefix-caching", "--generation-config=vllm"],
            },
        },
        "gateway": {
            "instances": 2,
            "keys": {"me": {}, "guest": {"models": ["small"], "rpm": 10, "tpm": 10_000}},
            "fallbacks": {"chat": ["small"]},
        },
        "observability": {"alertmanager": {"webhook_url": "https://alerts.example/hook"}},
    }


def ingress() -> dict[str, Any]:
    """The API for everybody with a key, the API for a team and its machines, and Grafana for the team."""
    team = {"emails": ["ann@example.org"], "email_domains": ["studio.example"]}
    return {
        "provider": "cloudflare",
        "account_id": "0123456789abcdef0123456789abcdef",
        "zone": {"name": "example.org", "id": "fedcba9876543210fedcba9876543210"},
        "team": "example",
        "hostnames": {
            "llm.example.org": {"to": "api", "guards": ["keys"], "allow_from": ["203.0.113.0/24", "2001:db8::/32"]},
            "team.example.org": {
                "to": "api",
                "guards": ["keys", "access"],
                "access": {**team, "service_tokens": ["render"], "session": "8h"},
            },
            "graphs.example.org": {
                "to": "grafana",
                "guards": ["access"],
                "access": {**team, "groups": ["aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"]},
            },
        },
    }


def with_mesh() -> dict[str, Any]:
    """The shipped two machines behind firewalls, in the mesh of a headscale whose policy is theirs."""
    file = stack_file("prod")
    for name, host in file["hosts"].items():
        host["connection"]["address"] = f"{name}.example.org"
        del host["lan_address"]
    mesh = {
        "control": "headscale",
        "login_server": "https://headscale.example.org",
        "domain": "mesh.example.net",
        "operators": ["kim@"],
        "users": ["ann@"],
        "policy": "owned",
    }
    firewall = {"allow": [{"port": 22, "sources": ["192.168.40.0/24"], "hosts": ["studio-1"]}]}
    return {**file, "network": {"mesh": mesh, "firewall": firewall}}


def all_specs() -> tuple[StackSpec, ...]:
    dev = stack_file("dev")
    return (
        spec("dev-cpu", dev, "grafana", weights="random"),
        spec("dev-gpu", dev, local_gpus=(GPU,)),
        spec("two-models", two_models(), weights="random"),
        spec("prod-like", stack_file("prod")),
        spec("with-mesh", with_mesh()),
        spec("with-ingress", {**dev, "network": {"ingress": ingress()}}),
    )
