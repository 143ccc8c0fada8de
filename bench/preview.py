"""What our program costs on top of Pulumi itself: preview and no-op `up` against a flat program.

    make up && .venv/bin/python -m bench.preview

The floor is a program without components, schema and plans, that registers the same resources of the same types with
the same inputs (taken from the stack's state), against the same plugin, in the same git repository and the same run, in
turns. Goal: ratio ≤ 1.15 in time. CPU time (Pulumi's, the plugin's and Python's together) is told as well: it changes
less than time does where the machine has other work. Last comes a whole `make up` with nothing to do; goal: below 10 s.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
FLAT = """
import json
import pulumi
import pulumi_docker  # as any program with these types does
made = {}
for r in json.load(open("resources.json")):
    opts = pulumi.ResourceOptions(
        depends_on=[made[d] for d in r["depends_on"]],
        delete_before_replace=r["delete_before_replace"],
        retain_on_delete=r["retain"],
    )
    made[r["key"]] = pulumi.CustomResource(r["type"], r["name"], r["inputs"], opts)
"""


def activated() -> dict[str, str]:
    """The environment after `. ./activate`, with compiled modules kept, as Python does unless told otherwise."""
    shell = subprocess.run(["sh", "-c", ". ./activate && env -0"], cwd=REPO, capture_output=True, text=True, check=True)
    env = dict(item.split("=", 1) for item in shell.stdout.split("\0") if "=" in item)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def pulumi(folder: Path, env: dict[str, str], *args: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["pulumi", *args, "--non-interactive"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"pulumi {' '.join(args)} failed:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return done.stdout


def plain(urn: str, project: str) -> str:
    """The URN without the types of its parents, in the flat project."""
    head, _, types, name = urn.split("::", 3)
    return f"{head}::{project}::{types.rsplit('$', 1)[-1]}::{name}"


def flatten(deployment: dict[str, Any], project: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The state of the flat program, and what it registers."""
    resources = deployment["deployment"]["resources"]
    components = {r["urn"] for r in resources if not r.get("custom")}
    stack = next(r for r in resources if r["type"] == "pulumi:pulumi:Stack")
    stack_urn = plain(stack["urn"], project).rsplit("::", 1)[0] + f"::{project}-flat"
    kept: list[dict[str, Any]] = [{"urn": stack_urn, "custom": False, "type": "pulumi:pulumi:Stack"}]
    registered: list[dict[str, Any]] = []
    for r in resources:
        if r["urn"] in components:
            continue
        r = {**r, "urn": plain(r["urn"], project)}
        if r["type"].startswith("pulumi:providers:"):
            kept.append(r)
            continue
        r["parent"] = stack_urn
        r["provider"] = plain(r["provider"].rsplit("::", 1)[0], project) + "::" + r["provider"].rsplit("::", 1)[1]
        deps = [plain(d, project) for d in r.get("dependencies", []) if d not in components]
        r["dependencies"] = deps
        r.pop("propertyDependencies", None)
        kept.append(r)
        inputs = {k: v for k, v in r["inputs"].items() if k not in ("__defaults",)}
        registered.append(
            {
                "key": r["urn"],
                "type": r["type"],
                "name": r["urn"].rsplit("::", 1)[1],
                "inputs": undefaulted(inputs),
                "depends_on": deps,
                "delete_before_replace": r["type"].endswith(":Container"),
                "retain": bool(r.get("retainOnDelete")),
            }
        )
    flat = {**deployment, "deployment": {**deployment["deployment"], "resources": kept}}
    return json.loads(json.dumps(flat).replace("::dev::", "::flat::").replace("urn:pulumi:dev", "urn:pulumi:flat")), [
        json.loads(json.dumps(r).replace("urn:pulumi:dev", "urn:pulumi:flat")) for r in registered
    ]


def undefaulted(value: Any) -> Any:
    """Without the plugin's own notes on which inputs were defaults."""
    if isinstance(value, dict):
        return {k: undefaulted(v) for k, v in value.items() if k != "__defaults"}
    return [undefaulted(v) for v in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Cost:
    """Seconds: by the clock, and of all processors together."""

    time: float
    cpu: float


def timed(folder: Path, env: dict[str, str], *args: str) -> Cost:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    pulumi(folder, env, *args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - start, cpu)


def make_up(stack: str) -> float:
    """Seconds of a `make up` that finds everything as it should be."""
    start = time.perf_counter()
    subprocess.run(["make", "up", f"STACK={stack}"], cwd=REPO, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--stack", default="dev")
    args = parser.parse_args()
    env = activated()
    scratch = Path(tempfile.mkdtemp(prefix="flat-", dir=REPO / ".state"))
    try:
        exported = json.loads(pulumi(REPO, env, "stack", "export", "-s", args.stack))
        exported = json.loads(json.dumps(exported).replace(f"urn:pulumi:{args.stack}::", "urn:pulumi:dev::"))
        state, registered = flatten(exported, "flat")
        (scratch / "Pulumi.yaml").write_text("name: flat\nruntime: python\n")
        (scratch / "__main__.py").write_text(FLAT)
        (scratch / "resources.json").write_text(json.dumps(registered))
        flat_env = {**env, "PULUMI_BACKEND_URL": f"file://{scratch}", "PULUMI_CONFIG_PASSPHRASE": "bench"}
        flat_env.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        pulumi(scratch, flat_env, "stack", "init", "flat")
        state["deployment"].pop("secrets_providers", None)
        pulumi(scratch, flat_env, "stack", "import", stdin=json.dumps(state))
        said = pulumi(scratch, flat_env, "preview", "-s", "flat")
        if f"{len(registered) + 1} unchanged" not in said:
            sys.exit(f"the flat program is not the same:\n{said}")
        for name, command in (("preview", ["preview"]), ("no-op up", ["up", "--yes", "--skip-preview"])):
            timed(REPO, env, *command, "-s", args.stack)
            timed(scratch, flat_env, *command, "-s", "flat")
            pairs = [
                (timed(REPO, env, *command, "-s", args.stack), timed(scratch, flat_env, *command, "-s", "flat"))
                for _ in range(args.pairs)
            ]
            for kind in ("time", "cpu"):
                ours, floor = ([getattr(cost, kind) for cost in side] for side in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in zip(ours, floor, strict=True))
                print(
                    f"{name}, {kind}: ours {statistics.median(ours):.2f} s, flat {statistics.median(floor):.2f} s, "
                    f"ratio {ratio:.2f} (medians of {args.pairs} pairs); least {min(ours):.2f} s, {min(floor):.2f} s, "
                    f"ratio {min(ours) / min(floor):.2f}; {len(registered)} resources, {os.cpu_count()} cores",
                    flush=True,
                )
        whole = statistics.median(make_up(args.stack) for _ in range(3))
        print(
            f"make up again: {whole:.2f} s (median of 3), its question included; ratio to the flat no-op up "
            f"{whole / statistics.median(cost.time for _, cost in pairs):.1f}"
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
