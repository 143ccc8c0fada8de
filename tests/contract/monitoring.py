"""A spec with everything that can be watched, and the real images' programs to read what is made of it."""

from collections.abc import Mapping
from pathlib import Path

from images import recipes
from planning.observability.plan import plan_observability
from stack_configs.schema.stack import StackSpec
from tests.docker_run import docker, need_image
from tests.unit.hosts.shaped import facts, gpu
from tests.unit.ledger import shapes

GPU = "GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43"
"""The card of tests/fixtures/expositions/dcgm.prom."""


INGRESS = {
    "provider": "cloudflare",
    "account_id": "0123456789abcdef0123456789abcdef",
    "zone": {"name": "example.org", "id": "fedcba9876543210fedcba9876543210"},
    "team": "example",
    "hostnames": {"llm.example.org": {"to": "api", "guards": ["keys"]}},
}


def monitored(
    *, gpus: bool = True, grafana: bool = True, webhook: str | None = None, ingress: bool = False, **model: object
) -> StackSpec:
    """A stack `dev` with one model `chat`, on images as built here; more of the model by keyword.

    With `gpus`, an 8B model on an H100: the ledger is sure of 385,104 tokens of KV cache.
    """
    images = {name: recipes.tag(name) for name in ("prometheus", "alertmanager", "node-exporter")}
    # Nobody can build these two, and no test runs them.
    images |= {"dcgm-exporter": "dcgm-exporter"} if gpus else {}
    images |= {"grafana": "grafana"} if grafana else {}
    return StackSpec.model_validate(
        {
            "stack": "dev",
            "file": {
                "versions": "2026.11",
                "hosts": {"here": {"connection": {"kind": "local"}, "gpus": [GPU] if gpus else []}},
                "models": {
                    "chat": {
                        "source": {"repo": "some/model", "revision": "0" * 40},
                        "replicas": [{"host": "here", "gpus": [GPU] if gpus else []}],
                        "max_model_len": 16384,
                        "start_timeout_s": 300,
                        **model,
                    }
                },
                "gateway": {"keys": {"me": {}}},
                "observability": {
                    "prometheus": {"scrape_interval_s": 1, "port": 29090},
                    "alertmanager": {"webhook_url": webhook, "port": 29093},
                },
                "network": {"ingress": INGRESS if ingress else None},
            },
            "images": {name: {"ref": ref, "starts_in_s": 1} for name, ref in images.items()},
            "local_gpus": [GPU] if gpus else [],
            "facts": {"here": facts(host="here", gpus=(gpu("H100", GPU),))} if gpus else {},
            "locks": {
                "chat": {
                    "repo": "some/model",
                    "revision": "0" * 40,
                    "source": "a test",
                    "config": shapes.config("Qwen3-8B"),
                }
            },
            "key_hashes": {"me": "0" * 64},
        }
    )


def planned_files(spec: StackSpec, service: str) -> Mapping[str, str]:
    """The configuration that the plan gives to a service."""
    (plan,) = (c for c in plan_observability(spec).containers if c.service == service)
    return plan.files


def run_tool(recipe: str, tool: str, *arguments: str, files: Mapping[str, str], folder: Path) -> str:
    """What a program of a built image says of files that it sees under /config. Fails when the program does."""
    image = need_image(recipe)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
    return docker(
        *("run", "--rm", "--network=none", "--workdir=/config", f"--volume={folder}:/config:ro"),
        *(f"--entrypoint={tool}", image, *arguments),
    )
