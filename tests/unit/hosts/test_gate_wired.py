"""The gate's refusals reach whoever runs `pulumi preview`: in load's form, with the line, before any resource."""

import json
import runpy
import shutil
from datetime import datetime
from pathlib import Path

import pulumi
import pytest

from planning.hosts import gate
from planning.hosts.checked import Found
from planning.hosts.gate import gate_problems
from stack_configs import facts_files
from stack_configs.load import ROOT, Settings, load, located
from stack_configs.problems import SpecError
from stack_configs.schema.stack import StackSpec
from tests.unit.built import Made, built, fails_with
from tests.unit.hosts.shaped import GPU, NOW, SECOND, driver, facts, gpu

STACK = f"""\
versions: "2026.11"
hosts:
  studio-1:
    connection:
      kind: ssh
      address: studio-1.mesh.example.org
      user: ops
      host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIumnuqwAbwVxkW3A3ilAXsq50U+4ysZRVQ/mbTSRxUJ
    gpus:
      - {GPU}
      - {SECOND}
    driver:
      branch: "580"
      modules: proprietary
models:
  chat:
    source: {{repo: Qwen/Qwen3-8B, revision: b968826d9c46dd6066d109eabc6255188de91218}}
    replicas: [{{host: studio-1, gpus: [{GPU}]}}]
    memory_mib: 32768
gateway:
  keys:
    me: {{}}
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository's stack_configs with one stack `scratch` on an RTX 5090 that lost its neighbour."""
    folder = tmp_path / "stack_configs"
    shutil.copytree(ROOT / "stack_configs" / "versions", folder / "versions")
    (folder / "scratch.yaml").write_text(STACK)
    said = facts(gpus=(gpu("RTX 5090"), gpu("RTX 5090", None, "0000:42:00.0")), driver=driver("580.173.02"))
    facts_files.write("scratch", said, tmp_path)
    return tmp_path


def test_refusals_read_like_those_of_load(scratch: Path) -> None:
    spec = load("scratch", Settings(key_hashes={"me": "0" * 64}), scratch)
    told = str(SpecError(located("scratch", gate_problems(spec, NOW), scratch)))
    assert told == (
        "the stack's description can't be used:\n"
        "stack_configs/scratch.yaml:11  hosts.studio-1.gpus[1]\n"
        f"    {SECOND} can't be seen: the machine has 2 cards, and the driver lists 1; 0000:42:00.0 may have fallen "
        "off the bus\n"
        "    look at `sudo dmesg | grep -i xid` there, then switch the machine off and on, then "
        "`make facts STACK=scratch HOST=studio-1`; or take the GPU out, and out of its replicas\n"
        "stack_configs/scratch.yaml:14  hosts.studio-1.driver.modules\n"
        "    NVIDIA GeForce RTX 5090 (Blackwell) has proprietary modules, and only the open ones drive it\n"
        "    write `modules: open`\n"
        "2 problems. Nothing was changed."
    )


@pytest.fixture
def dev_config() -> None:
    config = {"images": "built", "weights": "random", "key-hashes": json.dumps({"me": "0" * 64})}
    pulumi.runtime.set_all_config({f"inference-stack:{key}": value for key, value in config.items()})


def program() -> None:
    runpy.run_path(str(ROOT / "__main__.py"))


@pytest.mark.usefixtures("dev_config")
def test_the_program_stops_at_a_refusal_before_any_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: StackSpec, _now: datetime) -> tuple[Found, ...]:
        return ((("hosts", "local", "gpus"), f"can't run {spec.stack}", "write something else"),)

    monkeypatch.setattr(gate, "gate_problems", refuse)
    with fails_with(
        r"stack_configs/dev\.yaml:\d+  hosts\.local\.gpus\n    can't run dev\n    write something else\n1 problem\."
    ):
        built(program)


@pytest.mark.usefixtures("dev_config")
def test_the_program_goes_on_where_nothing_is_refused_and_says_the_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    monkeypatch.setattr(gate, "gate_warnings", lambda _spec, _now: ((("hosts", "local"), "is slow", "wait"),))
    made: list[Made] = built(program)
    assert len(made) > 10
    assert said[-1].startswith("stack_configs/dev.yaml:")
    assert said[-1].endswith("  hosts.local\n    is slow\n    wait")
