"""What set-up must know of a stack's file and config before Pulumi runs, as JSON.

    python -m tools.describe dev

Runs in .venv, since it reads YAML; set-up itself has the standard library only.
"""

import json
import sys
from typing import Any

import yaml

from stack_configs.load import ROOT, version_set
from stack_configs.problems import Problem, SpecError
from stack_configs.source import parse


def describe(stack: str) -> dict[str, Any]:
    """Keys, ports, hub and images of `stack`, and the choices made for it. Raises SpecError, ValueError."""
    path = ROOT / "stack_configs" / f"{stack}.yaml"
    source = parse(path.read_text(), f"stack_configs/{stack}.yaml")
    data = source.data
    problems: list[Problem] = []
    versions = version_set(source, ROOT, problems)
    if problems:
        raise SpecError(problems)
    config_file = ROOT / f"Pulumi.{stack}.yaml"
    text = config_file.read_text() if config_file.exists() else ""
    config = (yaml.safe_load(text) or {}).get("config") or {}
    chosen = {key.removeprefix("inference-stack:"): value for key, value in config.items()}
    return {
        "over_ssh": [n for n, h in data.get("hosts", {}).items() if h.get("connection", {}).get("kind") == "ssh"],
        "gateway_host": (data.get("gateway") or {}).get("host") or next(iter(data.get("hosts", {})), None),
        "keys": list(data.get("gateway", {}).get("keys", {})),
        "ports": _ports(data, grafana=versions is not None and "grafana" in versions.images),
        # Of Pulumi's, besides those that every stack of its kind needs.
        "plugins": _plugins(data.get("network") or {}),
        "repos": sorted({m["source"]["repo"] for m in data.get("models", {}).values() if "source" in m}),
        "hub": data.get("hub"),
        "images": chosen.get("images"),
        "weights": chosen.get("weights"),
        "gpus": chosen.get("gpus"),
        "key_hashes": chosen.get("key-hashes") or {},
        "versions": data["versions"] if versions else None,
    }


def _plugins(network: dict[str, Any]) -> list[str]:
    mesh = network.get("mesh") or {}
    owned = mesh.get("control") == "tailscale" and mesh.get("policy") == "owned"
    return [*(["cloudflare"] if network.get("ingress") else []), *(["tailscale"] if owned else [])]


def _ports(data: dict[str, Any], *, grafana: bool) -> dict[str, int]:
    """Setting → port of everything that will be published; of Grafana's too, where it has an image."""
    watching = data.get("observability") or {}
    ports = {"gateway.port": (data.get("gateway") or {}).get("port", 8080)}
    for name, default in (("prometheus", 9090), ("alertmanager", 9093)):
        ports[f"observability.{name}.port"] = (watching.get(name) or {}).get("port", default)
    if grafana and watching.get("grafana", {}) is not None:
        ports["observability.grafana.port"] = (watching.get("grafana") or {}).get("port", 3000)
    return ports


def main() -> int:
    try:
        print(json.dumps(describe(sys.argv[1])))
    except FileNotFoundError:
        print(f"there is no stack_configs/{sys.argv[1]}.yaml", file=sys.stderr)
        return 1
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
