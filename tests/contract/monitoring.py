"""A spec with everything that can be watched, and the real images' programs to read what is made of it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from images import recipes
from planning.observability.plan import plan_observability
from stack_configs.schema.stack import StackSpec

GPU = "GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43"
"""The card of tests/fixtures/expositions/dcgm.prom."""


def monitored(*, gpus: bool = True, grafana: bool = True, webhook: str | None = None, **model: object) -> StackSpec:
    """A stack `dev` with one model `chat`, on images as built here; more of the model by keyword."""
    images = {name: recipes.tag(name) for name in ("prometheus", "alertmanager", "node-exporter")}
    # Nobody can build these two, and no test runs them.
    images |= {"dcgm-exporter": "dcgm-exporter"} if gpus else {}
    images |= {"grafana": "grafana"} if grafana else {}
    return StackSpec.model_validate(
        {
            "stack": "dev",
            "file": {
                "versions": "2026.11",
                "hosts": {"here": {"connection": {"kind": "local"}}},
                "models": {
                    "chat": {
                        "source": {"repo": "some/model", "revision": "0" * 40},
                        "replicas": [{"host": "here"}],
                        "start_timeout_s": 300,
                        **model,
                    }
                },
                "gateway": {"keys": {"me": {}}},
                "observability": {
                    "prometheus": {"scrape_interval_s": 1},
                    "alertmanager": {"webhook_url": webhook},
                },
            },
            "images": {name: {"ref": ref, "starts_in_s": 1} for name, ref in images.items()},
            "local_gpus": [GPU] if gpus else [],
            "key_hashes": {"me": "0" * 64},
        }
    )


def planned_files(spec: StackSpec, service: str) -> Mapping[str, str]:
    """The configuration that the plan gives to a service."""
    (plan,) = (c for c in plan_observability(spec).containers if c.service == service)
    return plan.files


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(("docker", *arguments), capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def need_image(recipe: str) -> str:
    """The tag of a built image; the test is skipped, with the reason, where there is none."""
    tag = recipes.tag(recipe)
    try:
        found = docker("image", "inspect", tag, check=False)
    except FileNotFoundError:
        pytest.skip("there is no docker command")
    if found.returncode != 0:
        pytest.skip(f"image {tag} is not here: {found.stderr.strip()}")
    return tag


def run_tool(
    recipe: str, tool: str, *arguments: str, files: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program of a built image on files that it sees under /config."""
    image = need_image(recipe)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
    return docker(
        *("run", "--rm", "--network=none", "--workdir=/config", f"--volume={folder}:/config:ro"),
        *(f"--entrypoint={tool}", image, *arguments),
        check=False,
    )
