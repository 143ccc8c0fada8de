"""vLLM's own parser reads every argument list that we render."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning.serving.plan import plan_model
from stack_configs.rules import OWNED_FLAGS
from tests.docker_run import Sandbox, docker, inspect, need_image
from tests.golden.render import FOLDER
from tests.golden.specs import spec
from tests.unit.test_serving import one_model

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
parsed = []
for argv in json.loads(sys.argv[1]):
    try:
        args = parser.parse_args(argv)
        validate_parsed_serve_args(args)
        parsed.append({k: v for k, v in vars(args).items() if isinstance(v, (str, int, float, list))})
    except (SystemExit, Exception) as error:
        parsed.append({"error": repr(error)})
flags = sorted(flag for action in parser._actions for flag in action.option_strings)
print("PARSED " + json.dumps({"parsed": parsed, "flags": flags}, default=str))
"""
"""Runs inside the image, for all lists at once; no engine is started."""

EXTRA = ("--seed=7", "--no-enable-prefix-caching", "--generation-config=vllm", "--max-num-batched-tokens=4096")
"""As people would write under `extra_args`."""


def argument_lists() -> dict[str, list[str]]:
    """`stack/replica` → its argument list, from the reviewed plans."""
    plans = {
        path.relative_to(FOLDER).with_suffix("").as_posix(): yaml.safe_load(path.read_text())
        for path in sorted(FOLDER.glob("*/*.yaml"))
    }
    engines = {name: plan for name, plan in plans.items() if "/vllm-" in plan.get("image", "")}  # a host has none
    return {name: plan["command"] for name, plan in engines.items() if not plan.get("job")}


LISTS = argument_lists()


@pytest.mark.parametrize(
    ("extra", "ends", "says"),
    [
        (EXTRA, 0, "takes these arguments"),
        (("--no-such-flag=1",), 1, "does not take these arguments: unrecognized arguments: --no-such-flag=1; see "),
    ],
)
def test_the_job_before_a_replacement_has_the_image_read_them(extra: tuple[str, ...], ends: int, says: str) -> None:
    file = one_model(extra_args=list(extra))
    (job,) = plan_model("chat", spec("dev", file)).checks
    box = Sandbox("check-test")
    try:
        name = box.run(replace(job, image=need_image("vllm")))
        assert inspect(name)["State"]["ExitCode"] == ends
        assert says in docker("logs", name)
    finally:
        box.close()


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script: Path = tmp_path_factory.mktemp("parse") / "parse.py"
    script.write_text(PARSE)
    lists = [*LISTS.values(), [*LISTS["dev-cpu/chat-0"], *EXTRA], ["/models/x", "--no-such-flag=1"]]
    said = docker(
        *("run", "--rm", "--network", "none", "--env", "HOME=/tmp", "--entrypoint", "python3"),
        *("--volume", f"{script}:/parse.py:ro", need_image("vllm"), "/parse.py", json.dumps(lists)),
        timeout_s=300,
    )
    (line,) = [line for line in said.splitlines() if line.startswith("PARSED ")]
    found: dict[str, Any] = json.loads(line.removeprefix("PARSED "))
    return found


def test_plans_with_and_without_gpus_are_among_the_lists() -> None:
    assert {"dev-cpu/chat-0", "dev-gpu/chat-0", "two-models/small-0", "prod-like/large-0"} <= LISTS.keys()


@pytest.mark.parametrize("name", LISTS)
def test_list_is_understood_as_meant(answer: dict[str, Any], name: str) -> None:
    parsed = answer["parsed"][list(LISTS).index(name)]
    assert "error" not in parsed
    model, *flags = LISTS[name]
    assert parsed["model_tag"] == model
    for flag in flags:
        key, _, value = flag.removeprefix("--").partition("=")
        got = parsed.get(key.replace("-", "_"), parsed.get(key.removeprefix("no-").replace("-", "_")))
        meant = value or str(not key.startswith("no-"))
        assert meant in (str(got), str(got[0]) if isinstance(got, list) else None), flag


def test_extra_arguments_are_understood(answer: dict[str, Any]) -> None:
    parsed = answer["parsed"][-2]
    assert "error" not in parsed
    assert parsed["seed"] == 7
    assert parsed["enable_prefix_caching"] is False


def test_an_unknown_flag_is_refused(answer: dict[str, Any]) -> None:
    assert "error" in answer["parsed"][-1]


def test_flags_that_are_set_from_fields_exist(answer: dict[str, Any]) -> None:
    assert OWNED_FLAGS.keys() <= set(answer["flags"])
