"""The house's rules on who imports what: data flows one way, from the spec over plans to resources."""

import ast
import functools
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = {"gateway", "hosts", "network", "observability", "serving"}
UPLOADED = "files"
"""Folders of programs that run inside containers: they import what their image has."""


def modules(*places: str) -> list[Path]:
    found = [path for place in places for path in ([ROOT / place] if place.endswith(".py") else _below(place))]
    assert found, f"nothing below {places}: this test would hold nothing"
    return found


def _below(place: str) -> list[Path]:
    return sorted(path for path in (ROOT / place).rglob("*.py") if UPLOADED not in path.parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree, made without a collection in between.

    Below 3.11.8 a finaliser that runs Python code while ast.parse builds its tree makes it raise SystemError "recursion
    depth mismatch" (python/cpython#106905), and the mocks of other tests leave such objects behind.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a.b import c` counts as a.b and as a.b.c."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which this test can't place"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fresh(*modules: str, flags: tuple[str, ...] = ()) -> set[str]:
    """Top-level names of all that a new Python has loaded after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    argv = [sys.executable, *flags, "-B", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_schema_is_loaded_without_pulumi() -> None:
    loaded = fresh(*(named(path)[:-3].replace("/", ".") for path in modules("stack_configs/schema")))
    assert "pydantic" in loaded
    assert not loaded & {"pulumi", "pulumi_docker", "components", "planning"}


def test_plans_are_made_without_pulumi() -> None:
    loaded = fresh("planning.stack")
    assert "stack_configs" in loaded
    assert not loaded & {"pulumi", "pulumi_docker", "components"}


@pytest.mark.parametrize("path", modules("planning"), ids=named)
def test_planning_knows_the_schema_alone(path: Path) -> None:
    assert not tops(path) & {"pulumi", "pulumi_docker", "components", "tools", "requests", "socket"}
    own = {name for name in imports(path) if name.startswith("stack_configs.")}
    assert all(name.startswith("stack_configs.schema") for name in own)


def test_one_module_talks_to_docker() -> None:
    every = modules("components", "planning", "stack_configs", "tools", "__main__.py")
    assert [named(path) for path in every if "pulumi_docker" in tops(path)] == ["components/containers.py"]


def test_one_module_talks_to_cloudflare_and_only_a_stack_with_an_ingress_loads_it() -> None:
    every = modules("components", "planning", "stack_configs", "tools", "__main__.py")
    own = "components/network/tunnel_ingress.py"
    assert [named(path) for path in every if "pulumi_cloudflare" in tops(path)] == [own]
    assert "pulumi_cloudflare" not in fresh("components.stack", "planning.stack", "stack_configs.load")


def test_one_module_has_tailscales_plugin_and_only_an_owner_of_a_tailnets_policy_loads_it() -> None:
    every = modules("components", "planning", "stack_configs", "tools", "__main__.py")
    assert [named(path) for path in every if "pulumi_tailscale" in tops(path)] == ["components/network/tailnet.py"]
    assert "pulumi_tailscale" not in fresh("components.stack", "components.network.mesh_policy", "planning.stack")


def test_one_module_runs_scripts_on_hosts() -> None:
    every = modules("components", "planning", "stack_configs", "tools", "__main__.py")
    assert [named(path) for path in every if "pulumi_command" in tops(path)] == ["components/remote.py"]


@pytest.mark.parametrize("path", modules("components"), ids=named)
def test_components_know_plans_and_no_other_domain(path: Path) -> None:
    used = set(imports(path))
    assert not tops(path) & {"stack_configs", "tools"}
    domains = {name.split(".")[1] for name in used if name.startswith("components.") and name.split(".")[1] in DOMAINS}
    if named(path) == "components/stack.py":
        assert domains == DOMAINS
    else:
        assert domains <= {path.parent.name}


def test_one_module_reads_pulumis_config() -> None:
    readers = []
    for path in modules("components", "planning", "stack_configs", "tools", "__main__.py"):
        reads = any(isinstance(n, ast.Attribute) and n.attr == "Config" for n in ast.walk(tree(path)))
        if "pulumi" in tops(path) and (reads or "pulumi.Config" in imports(path)):
            readers.append(named(path))
    assert readers == ["stack_configs/load.py"]


def test_set_up_starts_on_pythons_standard_library_alone() -> None:
    loaded = fresh("tools.setup.__main__", flags=("-S", "-E"))
    assert "tools" in loaded
    assert loaded - set(sys.stdlib_module_names) <= {"tools", "images", "__main__", "__mp_main__"}


def test_modules_have_400_lines_at_most_give_or_take_a_few() -> None:
    every = modules("bench", "components", "images", "planning", "stack_configs", "tests", "tools", "__main__.py")
    assert {named(path): lines for path in every if (lines := len(path.read_text().splitlines())) > 420} == {}
