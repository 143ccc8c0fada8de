"""A clone of this working tree with a stack of its own, driven as a user drives it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
STACK = "test"
"""Not `dev`: whoever runs the tests may have one running."""
PORTS = {"gateway": 18080, "prometheus": 19090, "alertmanager": 19093, "grafana": 13000}


@dataclass(frozen=True)
class Clone:
    """`path` is a copy of what git tracks here, with a stack and ports of its own."""

    path: Path
    env: Mapping[str, str]
    stack: str = STACK

    @property
    def spec_file(self) -> Path:
        return self.path / "stack_configs" / f"{self.stack}.yaml"

    def run(
        self, *command: str, check: bool = True, timeout_s: int = 1500, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone, as after `. ./activate`; its output is shown when it fails."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=dict(self.env),
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def setup(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`make up` and its like, for this clone's stack."""
        return self.run("make", *args, f"STACK={self.stack}", check=check)

    def pulumi(self, *args: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Plain `pulumi`, as typed after `. ./activate`."""
        line = f". ./activate && exec pulumi {' '.join(args)} -s {self.stack} --non-interactive --color never"
        return self.run("bash", "-c", line, check=check, stdin=stdin)

    def changes(self, *args: str) -> dict[str, list[str]]:
        """What `pulumi preview` would do: operation → names of the resources (unchanged ones left out)."""
        preview = json.loads(self.pulumi("preview", "--json", *args).stdout)
        found: dict[str, list[str]] = {}
        for step in preview["steps"]:
            if step["op"] != "same":
                found.setdefault(step["op"], []).append(step["urn"].rsplit("::", 1)[1])
        return {op: sorted(names) for op, names in found.items()}

    def outputs(self) -> dict[str, Any]:
        return dict(json.loads(self.pulumi("stack", "output", "--json").stdout))

    def key(self) -> str:
        return self.setup("key").stdout.strip()

    def edit(self, pattern: str, replacement: str) -> None:
        """Change the stack's YAML; fails when `pattern` isn't there exactly once."""
        text = self.spec_file.read_text()
        changed, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1, f"{pattern!r} occurs {count} times"
        self.spec_file.write_text(changed)


def docker(*args: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(args)}: {done.stderr}")
    return done.stdout.strip()


def logs(name: str) -> str:
    """Both streams of a container."""
    argv = ["docker", "logs", name]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def ours(kind: str, *extra: str, stack: str = STACK) -> list[str]:
    """Names of a stack's Docker objects: `container`, `network` or `volume`."""
    show = "{{.Names}}" if kind == "container" else "{{.Name}}"
    every = ["--all"] if kind == "container" else []
    label = f"label=inference-stack.stack={stack}"
    out = docker(kind, "ls", *every, "--filter", label, "--format", show, *extra)
    return sorted(out.splitlines())


def container_ids(stack: str = STACK) -> dict[str, str]:
    """Container name → id, of those that run."""
    label = f"label=inference-stack.stack={stack}"
    rows = docker("ps", "--no-trunc", "--filter", label, "--format", "{{.Names}} {{.ID}}").splitlines()
    return {row.split()[0]: row.split()[1] for row in rows}


def remove_leftovers(stack: str = STACK) -> None:
    """What an earlier, killed test run may have left: only what carries the stack's label."""
    for kind in ("container", "network", "volume"):
        for name in ours(kind, stack=stack):
            docker(kind, "rm", *(["--force"] if kind != "network" else []), name, check=False)
    docker("volume", "rm", f"inference-{stack}-models", check=False)


def make_clone(
    path: Path, *, stack: str = STACK, ports: Mapping[str, int] = PORTS, env: Mapping[str, str] | None = None
) -> Clone:
    """Copy what git tracks (as it is in the working tree), and give the copy its stack; `env` adds settings."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, tracked.decode().split("\0")):
        source, target = REPO / name, path / name
        if not source.exists() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    _git(path, "init", "-q")
    _git(path, "add", "-A")
    _git(path, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "clone")
    (path / ".venv").symlink_to(REPO / ".venv")
    clone = Clone(path, {**_environment(), **(env or {})}, stack)
    spec = (path / "stack_configs" / "dev.yaml").read_text()
    clone.spec_file.write_text(_with_ports(spec, ports))
    return clone


def _with_ports(spec: str, ports: Mapping[str, int]) -> str:
    for section, port in ports.items():
        spec, count = re.subn(rf"(^( *){section}:\n(?:\2 +.*\n)*?\2 +port: )\d+", rf"\g<1>{port}", spec, flags=re.M)
        assert count == 1, f"dev.yaml has no {section}.port"
    return spec


def _git(path: Path, *args: str) -> None:
    subprocess.run(["git", *args], cwd=path, check=True, capture_output=True)


def _environment() -> dict[str, str]:
    """This process's, less what would let the clone use another clone's state."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
    mine["PATH"] = os.pathsep.join(p for p in mine["PATH"].split(os.pathsep) if "inference-stack" not in p)
    # Of the `make test` around us: a make that knows it is a child prints what folder it is in, here into the key.
    for name in ("VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        mine.pop(name, None)
    mine["PYTHONDONTWRITEBYTECODE"] = "1"
    return mine


def is_clean(clone: Clone) -> Sequence[str]:
    """Paths that `git status` reports in the clone, apart from the stack file that the test itself added."""
    lines = clone.run("git", "status", "--porcelain").stdout.splitlines()
    return [
        line
        for line in lines
        if not re.search(rf"(stack_configs/{clone.stack}\.yaml|Pulumi\.{clone.stack}\.yaml)$", line)
    ]


if __name__ == "__main__":
    print(make_clone(Path(sys.argv[1])).path)
