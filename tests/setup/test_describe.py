"""What set-up reads of a stack's file before it fetches anything."""

import re
import shutil
from pathlib import Path

import pytest

from stack_configs.load import ROOT
from stack_configs.problems import SpecError
from tools import describe


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`dev` and its version set, to be changed."""
    (tmp_path / "stack_configs/versions").mkdir(parents=True)
    shutil.copy(ROOT / "stack_configs/dev.yaml", tmp_path / "stack_configs")
    for path in (ROOT / "stack_configs/versions").glob("*.yaml"):
        shutil.copy(path, tmp_path / "stack_configs/versions")
    monkeypatch.setattr(describe, "ROOT", tmp_path)
    return tmp_path / "stack_configs"


def test_dev_names_its_version_set(configs: Path) -> None:
    named = describe.describe("dev")["versions"]
    assert (configs / "versions" / f"{named}.yaml").is_file()


def test_every_port_that_can_be_published_is_told(configs: Path) -> None:
    ports = {"gateway": 8080, "observability.prometheus": 9090, "observability.alertmanager": 9093}
    told = {f"{name}.port": port for name, port in ports.items()}
    assert describe.describe("dev")["ports"] == {**told, "observability.grafana.port": 3000}
    file = configs / "dev.yaml"
    file.write_text(file.read_text().replace("  grafana:\n    port: 3000\n", "  grafana: null\n"))
    assert describe.describe("dev")["ports"] == told
    sets = configs / "versions/2026.11.yaml"
    file.write_text(file.read_text().replace("  grafana: null\n", ""))
    sets.write_text(re.sub(r"^  grafana:\n(?:    .*\n)+", "", sets.read_text(), flags=re.MULTILINE))
    assert describe.describe("dev")["ports"] == told


@pytest.mark.parametrize(
    ("network", "plugins"),
    [
        ("{}", []),
        ("{ingress: {provider: cloudflare}}", ["cloudflare"]),
        ("{mesh: {control: tailscale, policy: owned}}", ["tailscale"]),
        ("{mesh: {control: tailscale}}", []),
        ("{mesh: {control: headscale, policy: owned}}", []),
    ],
)
def test_some_networks_need_plugins_of_their_own(configs: Path, network: str, plugins: list[str]) -> None:
    file = configs / "dev.yaml"
    file.write_text(f"{file.read_text()}\nnetwork: {network}\n")
    assert describe.describe("dev")["plugins"] == plugins


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        (None, "there is no version set 2026.11"),
        ("images:\n  nginx: {repository: nginx, tag: v1, source: x, digest: sha256:0}\n", "nginx.digest"),
        ("images:\n  apache: {repository: apache, tag: v1, source: x}\n", "apache"),
    ],
)
def test_a_version_set_that_cannot_be_used_is_told_first(configs: Path, versions: str | None, says: str) -> None:
    path = configs / "versions/2026.11.yaml"
    if versions is None:
        path.unlink()
    else:
        path.write_text(versions)
    with pytest.raises(SpecError) as error:
        describe.describe("dev")
    assert says in str(error.value)
