"""`make preview`'s report, read from a recorded `pulumi preview --json --show-sames`.

The recording is of the stack `dev` with one LiteLLM: new images for LiteLLM and vLLM, another random model. Inputs that
no line of the report uses were cut out of it.
"""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning.hosts.plan import STEPS
from planning.hosts.ready import with_waiting
from planning.network.policy import text
from tests.unit.hosts import prepared, shaped
from tools import report
from tools.stack import with_new_keys

RECORDED = Path(__file__).parent / "recorded" / "new-images-and-weights.json"
INSTEAD = "`make preview STACK=dev` shows what the first `make up` would make"
Step = dict[str, Any]


def recorded() -> dict[str, Any]:
    return dict(json.loads(RECORDED.read_text()))


def only(keep: Callable[[Step], bool]) -> dict[str, Any]:
    """The recording with every step but these unchanged."""
    preview = recorded()
    for step in preview["steps"]:
        if not keep(step) and step["op"] != "same":
            step["op"] = "same"
            step["newState"] = copy.deepcopy(step["oldState"])
    return preview


def named(step: Step, *names: str) -> bool:
    return step["urn"].rsplit("::", 1)[1] in names


def twin(preview: dict[str, Any], name: str, new: str, op: str) -> None:
    """Add a copy of a resource under another name."""
    for step in [s for s in preview["steps"] if named(s, name)]:
        text = json.dumps(step).replace(f"::{name}", f"::{new}").replace(f'"{name}"', f'"{new}"')
        preview["steps"].append({**json.loads(text), "op": op})


def line(text: str, start: str) -> str:
    found = [row for row in text.splitlines() if row.startswith(start)]
    assert len(found) == 1, text
    return found[0]


def test_says_what_is_replaced_why_and_for_how_long() -> None:
    said = report.report(recorded(), "dev")
    assert said.startswith("Preview of `dev`: 6 to replace, 18 unchanged\n")
    assert "image: inference-stack/litellm:8010acfe9a92 → inference-stack/litellm:72c7d18b4cc2" in said
    assert "envs: with TORCHDYNAMO_DISABLE=1" in said
    assert line(said, "Model chat") == (
        "Model chat: chat-0 restarts, away for about 46 s; running requests may finish first, 50 s at the most."
    )
    assert line(said, "Gateway").startswith("Gateway: litellm-0 restarts, away for about 9 s")


def test_carriers_of_files_are_told_as_the_lines_that_differ() -> None:
    said = report.report(recorded(), "dev")
    assert "carrier" not in said
    assert "/config/fetch.py:" in said
    assert "- from safetensors import serialize_file" in said
    assert "more lines" in said


def test_a_models_change_leaves_the_gateway_alone() -> None:
    said = report.report(only(lambda step: named(step, "chat-0")), "dev")
    assert line(said, "Gateway") == "Gateway: not touched."
    assert "chat-0 restarts" in line(said, "Model chat")


def test_a_gateways_change_restarts_no_model() -> None:
    said = report.report(only(lambda step: named(step, "litellm-0")), "dev")
    assert line(said, "Model chat") == "Model chat: not restarted."


def test_with_two_litellm_instances_the_gateway_is_away_for_0_s() -> None:
    preview = only(lambda step: named(step, "litellm-0"))
    twin(preview, "litellm-0", "litellm-1", "replace")
    assert line(report.report(preview, "dev"), "Gateway").startswith(
        "Gateway: litellm-0, litellm-1 restarts, away for about 0 s; LiteLLM's instances are replaced one at a time"
    )


def test_a_litellm_instance_that_is_only_now_created_does_not_help_yet() -> None:
    preview = only(lambda step: named(step, "litellm-0"))
    twin(preview, "litellm-0", "litellm-1", "create")
    assert "away for about 9 s" in line(report.report(preview, "dev"), "Gateway")


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ("create", "Ingress: new; its names resolve once the connector is connected."),
        ("replace", "Ingress: cloudflared restarts, nobody outside reaches the stack for about 2 s; running requests"),
        ("delete", "Ingress: goes away; nobody outside reaches the stack any more."),
        ("same", "Ingress: not touched."),
    ],
)
def test_what_outsiders_notice_is_told(operation: str, told: str) -> None:
    preview = only(lambda step: named(step, "litellm-0"))
    twin(preview, "nginx", "cloudflared", operation)
    for step in [s for s in preview["steps"] if named(s, "cloudflared")]:
        for state in (step.get("oldState"), step.get("newState")):
            for label in (state or {}).get("inputs", {}).get("labels", ()):
                if label["label"].endswith(".component"):
                    label["value"] = "network"
    assert line(report.report(preview, "dev"), "Ingress").startswith(told)


def test_secret_files_are_told_without_a_line_of_them() -> None:
    preview = recorded()
    for step in preview["steps"]:
        if named(step, "litellm-0-files-carrier"):
            for state in (step["oldState"], step["newState"]):
                state["inputs"]["uploads"] = "[secret]"
    said = report.report(preview, "dev")
    assert "its secret files" in said
    assert "config.yaml:" not in said


def test_a_second_replica_answers_while_the_first_restarts() -> None:
    preview = only(lambda step: named(step, "chat-0"))
    twin(preview, "chat-0", "chat-1", "replace")
    said = line(report.report(preview, "dev"), "Model chat")
    assert "restart one at a time, about 102 s in all" in said
    assert said.endswith("The other 1 of 2 replicas answer meanwhile: away for 0 s.")


def test_a_stack_that_is_new() -> None:
    preview = recorded()
    for step in preview["steps"]:
        step["op"] = "create"
        step["newState"] = step.pop("newState", None) or step["oldState"]
        step.pop("oldState", None)
    said = report.report(preview, "dev")
    assert "24 to create, 0 unchanged" in said
    assert line(said, "Model chat") == "Model chat: new; ready about 45 s after its weights are there."


def test_a_model_that_is_taken_out() -> None:
    preview = only(lambda step: named(step, "chat-0"))
    for step in preview["steps"]:
        if named(step, "chat-0"):
            step["op"] = "delete"
            step.pop("newState")
    said = report.report(preview, "dev")
    assert "  delete   chat-0" in said
    assert line(said, "Model chat") == "Model chat: goes away."


def test_nothing_to_change() -> None:
    assert report.report(only(lambda step: False), "dev").startswith("Nothing would change in `dev`")  # noqa: ARG005


def test_a_changed_flag_is_one_line_with_both_values() -> None:
    preview = only(lambda step: named(step, "chat-0"))
    for step in preview["steps"]:
        if named(step, "chat-0"):
            step["newState"] = copy.deepcopy(step["oldState"])
            flags = step["newState"]["inputs"]["command"]
            flags[flags.index("--max-num-seqs=8")] = "--max-num-seqs=16"
    said = report.report(preview, "dev")
    assert "  replace  chat-0  command: --max-num-seqs 8 → 16\n" in said


def test_errors_are_told_without_the_language_hosts_traceback() -> None:
    preview = {
        "diagnostics": [
            {"severity": "error", "message": "Traceback …\nKeyboardInterrupt"},
            {"severity": "error", "message": "an unhandled error occurred: program exited with non-zero exit code: 1"},
            {"severity": "error", "message": "preview failed"},
            {"severity": "error", "message": "stack_configs/dev.yaml:5 models.chat"},
            {"severity": "warning", "message": "warning: Grafana is left out"},
        ]
    }
    assert report.problems(preview) == ["stack_configs/dev.yaml:5 models.chat"]
    assert report.warnings(preview) == ["Grafana is left out"]


@pytest.mark.parametrize(
    ("preview", "stderr", "status", "told"),
    [
        ({"steps": []}, "", 0, ""),
        ({"diagnostics": [{"severity": "error", "message": "no such key"}]}, "", 255, "no such key"),
        # An error that problems() leaves out, as saying nothing, is a failure all the same.
        ({"diagnostics": [{"severity": "error", "message": "preview failed"}]}, "error: lost", 255, "error: lost"),
        ({"steps": []}, "", 3, "pulumi preview ended with status 3"),
        (None, "error: incorrect passphrase", 255, "error: incorrect passphrase"),
        (None, "error: no stack named 'dev' found", 6, f"there is no stack dev here yet: {INSTEAD}"),
    ],
)
def test_ends_as_pulumi_ended(
    preview: dict[str, Any] | None,
    stderr: str,
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.write_text("" if preview is None else json.dumps(preview))
    pulumi = tmp_path / "pulumi"
    pulumi.write_text(f"#!/bin/sh\ncat {out}\necho '{stderr}' >&2\nexit {status}\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("sys.argv", ["report", "--stack", "dev"])
    assert report.main() == status
    printed = capsys.readouterr()
    assert printed.err.strip() == told
    assert ("Nothing would change" in printed.out) == (status == 0)


def test_an_interrupt_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "_pulumi", interrupted)
    monkeypatch.setattr("sys.argv", ["report", "--stack", "dev"])
    assert report.main() == 130


NO_KEY = {"diagnostics": [{"severity": "error", "message": "gateway.keys.you\nhas no key yet"}]}


@pytest.mark.parametrize("new", [["you"], []], ids=["others have keys", "nothing was decided yet"])
def test_a_key_that_is_only_in_the_file_hides_no_preview(
    new: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, preview in (("refused", NO_KEY), ("shown", recorded())):
        (tmp_path / name).write_text(json.dumps(preview))
    pulumi = tmp_path / "pulumi"
    with_keys = f'*"--config-file {tmp_path}/config.yaml") cat {tmp_path}/shown ;;'
    pulumi.write_text(f'#!/bin/sh\ncase "$*" in\n{with_keys}\n*) cat {tmp_path}/refused; exit 255 ;;\nesac\n')
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("sys.argv", ["report", "--stack", "dev"])
    monkeypatch.setattr(report, "with_new_keys", lambda _stack, _folder: (tmp_path / "config.yaml", new))
    assert report.main() == (0 if new else 255)
    printed = capsys.readouterr()
    assert ("has no key yet" in printed.err) == (not new)
    assert ("`make up` first makes the API keys of: you\nPreview of `dev`: 6 to replace" in printed.out) == bool(new)


@pytest.mark.parametrize(
    ("written", "new"),
    [("{me: 'ff', gone: 'aa'}", ["you"]), ('\'{"me": "ff"}\'', ["you"]), ("{}", [])],
    ids=["as by up", "as text", "nothing was decided yet"],
)
def test_keys_that_are_new_get_a_hash_for_the_preview_alone(written: str, new: list[str], tmp_path: Path) -> None:
    (tmp_path / "stack_configs").mkdir()
    (tmp_path / "stack_configs/x.yaml").write_text("gateway: {keys: {me: {}, you: {}}}\n")
    config = tmp_path / "Pulumi.x.yaml"
    config.write_text(
        f"encryptionsalt: s\nconfig:\n  inference-stack:gpus: '[]'\n  inference-stack:key-hashes: {written}\n"
    )
    before = config.read_text()
    (tmp_path / "scratch").mkdir()
    copy, found = with_new_keys("x", tmp_path / "scratch", tmp_path)
    assert found == new
    assert config.read_text() == before
    after = yaml.safe_load(copy.read_text())
    hashes = after["config"]["inference-stack:key-hashes"]
    assert (after["encryptionsalt"], after["config"]["inference-stack:gpus"]) == ("s", "[]")
    assert {"me", *new} <= {*hashes, "me"}
    assert all(re.fullmatch("[0-9a-f]{64}", hashes[name]) for name in new)
    assert hashes.get("me", "ff") == "ff"


def steps(preview: dict[str, Any], verbs: dict[str, str]) -> dict[str, Any]:
    """With steps of hosts, as components.remote names them, and what happens to each."""
    for name, verb in verbs.items():
        urn = f"urn:pulumi:prod::inference-stack::inference-stack:hosts:GpuHost$command:remote:Command::{name}"
        parent = f"urn:pulumi:prod::inference-stack::inference-stack:hosts:GpuHost::{name.rpartition('-')[0]}"
        state = {"custom": True, "type": "command:remote:Command", "parent": parent, "inputs": {"create": verb}}
        sides = {"create": {"newState": state}, "delete": {"oldState": state}}
        preview["steps"].append({"op": verb, "urn": urn, **sides.get(verb, {"oldState": state, "newState": state})})
    return preview


def test_hosts_are_told_by_the_steps_that_run() -> None:
    spec = prepared.spec(shaped.host(reboot="allowed"))
    facts = prepared.facts(spec, driver=shaped.driver("580.82.07"))
    spec = spec.model_copy(update={"facts": {"studio-1": facts}})
    of = {
        "studio-1-base": "same",
        "studio-1-driver": "update",
        "studio-1-reboot": "update",
        "studio-1-engine": "update",
    }
    preview = steps(only(lambda step: False), of)  # noqa: ARG005
    said = report.report(preview, "prod", report.of_hosts(report.changes(preview), spec, shaped.NOW))
    assert said.splitlines() == [
        "Preview of `prod`: 3 to update, 25 unchanged",
        "",
        "  update   studio-1-driver  (command)",
        "  update   studio-1-reboot  (command)",
        "  update   studio-1-engine  (command)",
        "",
        "Host studio-1: driver, reboot, engine run. Its facts are 4 hours old (2026-11-20 08:00 UTC).",
        "  packages  none moves",
        "  reboot    yes: 580.82.07 is loaded, 580.105.08 will be installed",
        "  Docker    no restart",
        "  models    chat-0: drained and stopped for the reboot, started after it",
        "Model chat: chat-0 stops while studio-1 reboots.",
        "Gateway: stops while studio-1 reboots.",
    ]


@pytest.mark.parametrize(
    ("reboot", "told"), [("allowed", "chat-0 stops if studio-1 reboots"), ("manual", "not restarted")]
)
def test_without_facts_it_is_not_said_that_models_stay(reboot: str, told: str) -> None:
    spec = prepared.spec(shaped.host(reboot=reboot))
    preview = steps(only(lambda step: False), {f"studio-1-{step}": "update" for step in STEPS})  # noqa: ARG005
    said = report.report(preview, "prod", report.of_hosts(report.changes(preview), spec, shaped.NOW))
    assert line(said, "Model chat") == f"Model chat: {told}."


def test_steps_and_hosts_that_leave_are_undone() -> None:
    spec = prepared.spec(shaped.host(driver=None))
    spec = spec.model_copy(update={"facts": {"studio-1": prepared.facts(spec)}})
    of = {f"studio-1-{step}": "same" for step in ("base", "engine")}
    of |= {
        "studio-1-reboot": "delete",
        "studio-1-driver": "delete",
        "old-one-engine": "delete",
        "old-one-base": "delete",
    }
    preview = steps(only(lambda step: False), of)  # noqa: ARG005
    assert report.of_hosts(report.changes(preview), spec, shaped.NOW).lines == (
        "Host studio-1: not touched. Its facts are 4 hours old (2026-11-20 08:00 UTC).",
        "  undone    reboot, driver",
        "Host old-one: leaves the stack; undone: engine, base.",
    )


def test_hosts_that_wait_are_told_where_nothing_would_change() -> None:
    preview = steps(only(lambda step: False), {"studio-1-base": "same"})  # noqa: ARG005
    spec = with_waiting(prepared.spec())
    said = report.report(preview, "prod", report.of_hosts(report.changes(preview), spec, shaped.NOW))
    assert said.splitlines() == [
        "Nothing would change in `prod`: 25 resources are as they should be.",
        "Host studio-1: not touched. It has no facts.",
        "  waits     it has no facts yet: after it was prepared by `pulumi up`, "
        "`make facts STACK=prod HOST=studio-1`, then `pulumi up`",
    ]


def policy_step(op: str, old: dict[str, Any], new: dict[str, Any], kind: str, name: str) -> Step:
    state = {"type": kind, "custom": True, "parent": ""}
    return {
        "op": op,
        "urn": f"urn:pulumi:prod::inference-stack::{kind}::{name}",
        "oldState": {**state, "inputs": old},
        "newState": {**state, "inputs": new},
    }


def grants(*ports: str) -> dict[str, Any]:
    return {"grants": [{"src": ["ann@"], "dst": ["tag:inference-prod-gateway"], "ip": list(ports)}]}


@pytest.mark.parametrize("where", ["headscale", "tailscale"])
def test_a_changed_policy_says_who_may_reach_what_from_now_on(where: str) -> None:
    def inputs(made: dict[str, Any]) -> dict[str, Any]:
        return {"input": {"policy": made, "taken-over": ""}} if where == "headscale" else {"acl": text(made, "prod")}

    kind, name = {
        "headscale": (report.STASH, "mesh-policy"),
        "tailscale": ("tailscale:index/acl:Acl", "tailnet-policy"),
    }[where]
    before, after = inputs(grants("tcp:22", "tcp:8080")), inputs(grants("tcp:8080", "tcp:3000"))
    said = report.report({"steps": [policy_step("update", before, after, kind, name)]}, "prod")
    gone = report.report({"steps": [policy_step("delete", before, {}, kind, name)]}, "prod")
    assert "ann@" not in gone, "nothing is taken from anybody"
    assert "stays in force as it is" in gone
    told = [row.strip() for row in said.splitlines() if "ann@" in row]
    assert told == ["- ann@ → tag:inference-prod-gateway tcp:22", "+ ann@ → tag:inference-prod-gateway tcp:3000"]
