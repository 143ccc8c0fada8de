"""`make drift`: what it prints, its exit status, and the counters that the real Pulumi writes into its config."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from planning.hosts.plan import HostPlan
from planning.hosts.steps import plan_host
from stack_configs.schema.facts import Facts
from stack_configs.schema.stack import StackSpec
from tests.unit.hosts import prepared, shaped
from tests.unit.network import mesh
from tools import drift, invite
from tools.setup import paths
from tools.ssh import Completed

HOST = shaped.HOST
SPEC = prepared.spec(shaped.host(reboot="allowed"))
UNHELD = {"packages": {name: of.model_copy(update={"held": False}) for name, of in prepared.packages().items()}}


def run(
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Facts | str],
    root: Path,
    spec: StackSpec = SPEC,
    *,
    raise_counters: bool = True,
) -> int:
    monkeypatch.setattr(drift, "load_stack", lambda stack, root: spec)  # noqa: ARG005
    monkeypatch.setattr(drift, "ask_all", lambda hosts: {name: answers[name] for name in hosts})
    return drift.run("prod", None, root, raise_counters=raise_counters)


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the stack prod, in the real Pulumi."""
    engine = paths.STATE / "engine-bin"
    found = engine.read_text().strip() if engine.exists() else ""
    monkeypatch.setenv("PATH", f"{found}:{os.environ['PATH']}")
    if subprocess.run(["sh", "-c", "command -v pulumi"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Pulumi here yet: `make parts` gets it")
    (tmp_path / "Pulumi.yaml").write_text("name: drift\nruntime: python\n")
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "a test")
    monkeypatch.setenv("PULUMI_SKIP_UPDATE_CHECK", "true")
    subprocess.run(["pulumi", "stack", "init", "prod"], cwd=tmp_path, capture_output=True, check=True)
    return tmp_path


def test_a_host_as_the_spec_has_it_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, {HOST: prepared.facts(SPEC)}, tmp_path) == 0
    assert capsys.readouterr().out == "studio-1: as the spec has it\n"


def test_a_difference_ends_with_1_and_raises_the_counters(
    monkeypatch: pytest.MonkeyPatch, pulumi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, {HOST: prepared.facts(SPEC, **UNHELD)}, pulumi) == 1
    assert capsys.readouterr().out.splitlines() == [
        "studio-1: 3 differences",
        "  driver  no longer held: nvidia-open-580, libnvidia-compute-580, nvidia-kernel-open-dkms-580",
        "  engine  no longer held: docker-ce, docker-ce-cli, containerd.io",
        "  engine  no longer held: nvidia-container-toolkit, nvidia-container-toolkit-base, "
        "libnvidia-container-tools, libnvidia-container1",
        "The next `pulumi up` repairs studio-1 driver, studio-1 engine: counters in Pulumi.prod.yaml were raised. "
        "Check it in.",
    ]
    config = yaml.safe_load((pulumi / "Pulumi.prod.yaml").read_text())["config"]
    assert config == {"inference-stack:repairs": {HOST: {"driver": 1, "engine": 1}}}


def test_a_host_that_has_lost_its_place_in_the_mesh_joins_again(
    monkeypatch: pytest.MonkeyPatch, pulumi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drift, "is_out", lambda plan: plan.name == HOST)
    monkeypatch.setattr(drift, "rejoins", lambda plan: int(plan.name == HOST))
    assert run(monkeypatch, {HOST: f"{HOST}: the name is unknown here"}, pulumi) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == "  join    is no node of the mesh any more: it joins again"
    assert said.err == ""
    config = yaml.safe_load((pulumi / "Pulumi.prod.yaml").read_text())["config"]
    assert config == {"inference-stack:repairs": {HOST: {"join": 1}}}


@pytest.mark.parametrize(
    ("raised", "noted", "counter"),
    [
        pytest.param(0, "by 0", 1, id="lost since it joined"),
        pytest.param(1, "by 0", 1, id="asked again before the next up"),
        pytest.param(1, "by 1", 2, id="lost again since that up"),
        pytest.param(0, "another", 0, id="up has it join anyway"),
        pytest.param(1, "", 2, id="the note is gone too"),
    ],
)
def test_until_an_up_ran_joining_again_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, raised: int, noted: str, counter: int
) -> None:
    def plan(repairs: int) -> HostPlan:
        return plan_host(HOST, mesh.prod().model_copy(update={"repairs": {HOST: {"join": repairs}}}))

    notes = {f"by {repairs}": plan(repairs).steps[0].digest for repairs in (0, 1)}
    said = Completed(rc=0, out=f"{notes.get(noted, noted)}\n", err="")
    monkeypatch.setattr(invite, "run_script", lambda *_args, **_words: said)
    assert invite.rejoins(plan(raised)) == counter


def test_asked_again_it_raises_nothing_more(monkeypatch: pytest.MonkeyPatch, pulumi: Path) -> None:
    facts = prepared.facts(SPEC, **UNHELD)
    assert run(monkeypatch, {HOST: facts}, pulumi) == 1
    before = (pulumi / "Pulumi.prod.yaml").read_text()
    raised = SPEC.model_copy(update={"repairs": {HOST: {"driver": 1, "engine": 1}}})
    assert run(monkeypatch, {HOST: facts}, pulumi, raised) == 1
    assert (pulumi / "Pulumi.prod.yaml").read_text() == before
    # The `up` that follows notes the new digests, and its facts are as the spec has it.
    assert run(monkeypatch, {HOST: prepared.facts(raised)}, pulumi, raised) == 0


def test_when_it_only_tells_the_config_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drift, "set_counters", lambda *_: pytest.fail("a counter was raised"))
    answers: dict[str, Facts | str] = {HOST: prepared.facts(SPEC, **UNHELD)}
    assert run(monkeypatch, answers, tmp_path, raise_counters=False) == 1
    assert "no longer held" in capsys.readouterr().out


def test_counters_that_cant_be_set_are_told_and_end_with_2(
    monkeypatch: pytest.MonkeyPatch, pulumi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{pulumi}/nowhere")
    assert run(monkeypatch, {HOST: prepared.facts(SPEC, **UNHELD)}, pulumi) == 2
    assert "The next `up` won't repair studio-1 driver, studio-1 engine: " in capsys.readouterr().err


def test_without_pulumi_the_command_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(monkeypatch, {HOST: prepared.facts(SPEC, **UNHELD)}, tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pulumi config set-all --non-interactive --stack prod --path --plaintext "
        "inference-stack:repairs.studio-1.driver=1 --plaintext inference-stack:repairs.studio-1.engine=1"
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("studio-1: 10.1.2.3 port 22 refuses connections", "Not compared:\nstudio-1: 10.1.2.3 port 22 refuses"),
        (
            prepared.facts(SPEC, problems=["dpkg-query: no answer in time"], packages={}),
            "Not compared:\nstudio-1: could not be read: dpkg-query: no answer in time\n",
        ),
    ],
)
def test_a_host_that_cant_be_asked_or_read_ends_with_2(
    answer: Facts | str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, {HOST: answer}, tmp_path) == 2
    assert capsys.readouterr().err.startswith(told)


def test_a_spec_that_the_gate_refuses_is_told_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stack_configs").mkdir()
    (tmp_path / "stack_configs" / "prod.yaml").write_text(
        f"hosts:\n  {HOST}:\n    driver:\n      branch: '585'\n", encoding="utf-8"
    )
    unknown = shaped.spec(shaped.host(driver={"branch": "585"}))
    assert run(monkeypatch, {}, tmp_path, unknown) == 2
    said = capsys.readouterr()
    assert "stack_configs/prod.yaml:4  hosts.studio-1.driver.branch\n    585 is not in the version set" in said.err
    assert said.out == ""
