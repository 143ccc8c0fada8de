"""Each built image keeps what the official one promises, run as a stranger on a read-only file system."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from images import debian, recipes
from tools import lock
from tools.setup import images
from tools.setup.progress import Step, run_step

STRANGER = "54321:54321"
HARDENED = (
    "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--tmpfs", "/tmp:size=64m", "-e", "HOME=/tmp",
)  # fmt: skip


def run(recipe: str, entrypoint: str, *words: str, user: str = STRANGER) -> str:
    done = subprocess.run(
        ["docker", "run", *HARDENED, "--user", user, "--entrypoint", entrypoint, recipes.tag(recipe), *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def config(recipe: str) -> dict[str, Any]:
    text = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config}}", recipes.tag(recipe)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return dict(json.loads(text))


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker does not answer")
    if debian.find_mirror() is None:
        pytest.skip("images can't be built here: apt knows no Debian mirror")
    run_step("Images under test", lambda step: images.ensure("built", step))


@pytest.mark.parametrize(
    ("recipe", "entrypoint", "user", "port"),
    [
        ("nginx", ["/docker-entrypoint.sh"], "101", "8080/tcp"),
        ("prometheus", ["/bin/prometheus"], "65534:65534", "9090/tcp"),
        ("alertmanager", ["/bin/alertmanager"], "65534:65534", "9093/tcp"),
        ("node-exporter", ["/bin/node_exporter"], "65534:65534", "9100/tcp"),
        ("litellm", ["docker/prod_entrypoint.sh"], "", "4000/tcp"),
        ("vllm", ["vllm", "serve"], "", "8000/tcp"),
    ],
)
def test_entrypoint_user_and_port(recipe: str, entrypoint: list[str], user: str, port: str) -> None:
    found = config(recipe)
    assert found["Entrypoint"] == entrypoint
    assert found.get("User", "") == user
    assert port in found["ExposedPorts"]
    assert found["Labels"][recipes.LABEL] == recipe


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("nginx", ["nginx", "-v"]),
        ("prometheus", ["/bin/prometheus", "--version"]),
        ("prometheus", ["/bin/promtool", "--version"]),
        ("alertmanager", ["/bin/alertmanager", "--version"]),
        ("alertmanager", ["/bin/amtool", "--version"]),
        ("node-exporter", ["/bin/node_exporter", "--version"]),
        ("litellm", ["litellm", "--version"]),
        ("litellm", ["/app/docker/prod_entrypoint.sh", "--version"]),
        ("vllm", ["vllm", "--version"]),
        ("litellm", ["python3", "-c", "import prisma, prometheus_client, opentelemetry.sdk; print('litellm 1')"]),
        ("vllm", ["python3", "-c", "import huggingface_hub, transformers, tokenizers; print('vllm 1')"]),
    ],
)
def test_programs_run_as_a_stranger_and_say_the_pinned_version(recipe: str, words: list[str]) -> None:
    said = run(recipe, *words)
    pin = next(p for p in lock.read(lock.newest()).images.values() if p.built and p.built.recipe == recipe)
    assert pin.built is not None
    if any(word in {"-v", "--version"} for word in words):
        assert pin.built.version in said


@pytest.mark.parametrize(("recipe", "folder"), [("prometheus", "/prometheus"), ("alertmanager", "/alertmanager")])
def test_a_fresh_volume_takes_over_the_data_folders_owner(recipe: str, folder: str) -> None:
    volume = f"images-test-{recipe}"
    done = subprocess.run(
        ["docker", "run", *HARDENED, "-v", f"{volume}:{folder}", "--entrypoint", "touch", recipes.tag(recipe),
         f"{folder}/written"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    subprocess.run(["docker", "volume", "rm", "--force", volume], check=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "recipe", ["base", "python", "nginx", "prometheus", "alertmanager", "node-exporter", "litellm"]
)
def test_every_file_can_be_read_by_a_stranger(recipe: str) -> None:
    """Except Debian's own secrets (shadow files and a few log folders), which no program of ours opens."""
    places = "|".join(
        (
            "root", r"etc/\.pwd\.lock", "etc/.*shadow-?", "etc/passwd-", "etc/security/opasswd", "etc/ssl/private",
            "proc/.*", "tmp/.*", "var/cache/.*", "var/lib/.*", "var/log/.*",
        )
    )  # fmt: skip
    found = run(
        recipe, "sh", "-c",
        f"find / -xdev ! -perm -004 ! -type l 2>/dev/null | grep -Ev '^/({places})$' | head -5; true",
    )  # fmt: skip
    assert found.strip() == ""


@pytest.mark.parametrize("recipe", ["litellm", "vllm"])
def test_bytecode_is_there(recipe: str) -> None:
    package = recipe
    site = f"/usr/local/lib/python3.11/dist-packages/{package}"
    assert run(recipe, "sh", "-c", f"ls {site}/__pycache__/*.pyc | wc -l").strip() not in {"", "0"}


def test_nginx_serves_what_its_own_configuration_says() -> None:
    assert "test is successful" in run("nginx", "/docker-entrypoint.sh", "nginx", "-t", "-g", "daemon off;")


def test_a_rebuild_leaves_nothing_dangling_and_no_older_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    shutil.copytree(recipes.ROOT, root)
    monkeypatch.setattr(recipes, "ROOT", root)
    recipes.tag.cache_clear()
    dockerfile = root / "leftover" / "Dockerfile"
    dockerfile.parent.mkdir()
    mine = ["docker", "image", "ls", "--filter", f"label={recipes.LABEL}=leftover"]

    def build(content: str) -> str:
        dockerfile.write_text(
            f"FROM {recipes.REPOSITORY}/base\nLABEL {recipes.LABEL}=leftover\nRUN echo {content} > /content\n"
        )
        recipes.tag.cache_clear()
        run_step("Images under test", lambda step: images.build(["leftover"], step))
        return recipes.tag("leftover")

    def listed(*more: str) -> list[str]:
        words = [*mine, *more, "--format", "{{.Repository}}:{{.Tag}}"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()

    try:
        older, newer = build("one"), build("two")
        assert older != newer
        assert listed() == [newer]
        subprocess.run(["docker", "image", "tag", recipes.tag("base"), newer], check=True)  # as a lost tag would
        run_step("Images under test", images.remove_old)
        assert listed("--filter", "dangling=true") == []
    finally:
        subprocess.run(["docker", "image", "rm", recipes.tag("leftover")], capture_output=True, check=False)
        recipes.tag.cache_clear()


def test_a_second_run_builds_nothing() -> None:
    notes: list[str] = []

    def again(step: Step) -> None:
        images.ensure("built", step)
        notes.append(step.note)

    run_step("Images under test", again)
    assert notes == ["8 images there"]
