"""`make facts` against real hosts, side by side: those that answer are written, whatever the others do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stack_configs.load import ROOT
from stack_configs.schema.facts import Facts
from tests.hosts.card import H100, RTX_4090, Card
from tests.hosts.host import Host, bare_hosts, login
from tools.facts import run

CARD = Card.of(RTX_4090, H100)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with bare_hosts("studio-1", "studio-2", cards=[CARD]) as made:
        yield made


@pytest.fixture
def root(hosts: list[Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))
    file = yaml.safe_load((ROOT / "stack_configs" / "prod.yaml").read_text())
    file["hosts"] = {host.name: {"connection": host.connection} for host in hosts}
    (tmp_path / "stack_configs").mkdir()
    (tmp_path / "stack_configs" / "prod.yaml").write_text(yaml.safe_dump(file))
    return tmp_path


def written(root: Path, host: str) -> Facts:
    path = root / "stack_configs" / "facts" / "prod" / f"{host}.json"
    return Facts.model_validate_json(path.read_text(), strict=True)


def test_bare_hosts_answer(hosts: list[Host], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prod", None, root) == 0
    first, second = written(root, "studio-1"), written(root, "studio-2")
    assert (first.os.id, first.os.version, first.virtual) == ("debian", "12", "docker")
    assert first.boot_id == hosts[0].boot_id() != second.boot_id
    assert [gpu.pci_id for gpu in first.gpus] == ["10de:2684", "10de:2330"]
    assert second.gpus == ()
    assert (first.engine, first.steps, first.driver.loaded) == (None, {}, None)
    assert first.disks["/var/lib/docker"].size_gib > 0
    assert "Written to stack_configs/facts/prod/: studio-1, studio-2. Check it in." in capsys.readouterr().out


def test_a_greeting_and_a_warning_of_the_shell_do_no_harm(hosts: list[Host], root: Path) -> None:
    hosts[1].put("/home/ops/.bashrc", "echo hello; echo oh >&2\n")
    assert hosts[1].ssh("exec bash -s", stdin="true\n").stdout == "hello\n"
    assert run("prod", "studio-2", root) == 0
    assert written(root, "studio-2").host == "studio-2"


def test_without_sudo_it_says_so_and_tells_the_rest(
    hosts: list[Host], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts[1].inside("mv /etc/sudoers.d/ops /root/ops")
    try:
        assert run("prod", "studio-2", root) == 0
    finally:
        hosts[1].inside("mv /root/ops /etc/sudoers.d/ops")
    facts = written(root, "studio-2")
    assert any(problem.startswith("sudo without a password: ") for problem in facts.problems)
    assert facts.os.id == "debian"
    assert "studio-2: let ops use sudo there: " in capsys.readouterr().out


def test_a_host_that_is_away_keeps_its_facts_and_the_others_are_written(
    hosts: list[Host], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prod", None, root) == 0
    before = [written(root, host.name) for host in hosts]
    hosts[1].power_off()
    try:
        hosts[0].put("/var/lib/inference-stack/steps/base", "0123456789ab\n")
        assert run("prod", None, root) == 1
    finally:
        hosts[1].power_on()
    assert written(root, "studio-1").steps == {"base": "0123456789ab"}
    assert written(root, "studio-2") == before[1]
    said = capsys.readouterr().err
    assert said.startswith("Could not be asked, and keep the facts they have:\nstudio-2: ")
    assert "can't be reached" in said
