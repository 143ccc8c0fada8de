"""After set-up Pulumi finds its Docker plugin, and nothing of ours stands in for the user's own."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.setup import engine, paths

FOLDER = f"resource-docker-v{engine.DOCKER_PLUGIN}"
DISABLED = "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"
OWN_BACKEND = {"PULUMI_BACKEND_URL": "s3://states"}
PREPARE = "import sys; from pathlib import Path; from tools.setup import engine, state; "
PREPARE += "state.prepare(engine.Engine(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))"


@dataclass(frozen=True)
class Clone:
    """A clone's set-up, a user's home, and an engine with a plugin."""

    path: Path
    home: Path
    got: Path

    def prepare(self, way: str, **mine: str) -> dict[str, str]:
        """The environment after set-up and `. ./activate`, for a user with these settings."""
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), **mine}
        argv = [sys.executable, "-B", "-c", PREPARE, str(self.got / "bin"), str(self.got / FOLDER), way]
        subprocess.run(argv, cwd=self.path, env=env, check=True)
        after = ["sh", "-eu", "-c", ". ./activate && env -0"]
        shown = subprocess.run(after, cwd=self.path, env=env, capture_output=True, text=True, check=True).stdout
        return dict(item.split("=", 1) for item in shown.split("\0") if item)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "clone", tmp_path / "home", tmp_path / "got")
    shutil.copytree(paths.REPO / "tools/setup", made.path / "tools/setup", ignore=shutil.ignore_patterns("go"))
    shutil.copy(paths.REPO / "activate", made.path)
    made.home.mkdir()
    (made.got / FOLDER).mkdir(parents=True)
    (made.got / FOLDER / engine.PLUGIN_BINARY).write_text("ours")
    return made


@pytest.mark.parametrize("way", [engine.DOWNLOADED, engine.BUILT])
def test_in_this_clones_own_home_the_plugin_is_a_link(clone: Clone, way: str) -> None:
    env = {}
    for _ in range(2):
        env = clone.prepare(way)
    folder = clone.path / ".state/pulumi/plugins" / FOLDER
    assert env["PULUMI_HOME"] == str(clone.path / ".state/pulumi")
    # Pulumi skips a plugin's folder that is itself a link.
    assert folder.is_dir()
    assert not folder.is_symlink()
    assert (folder / engine.PLUGIN_BINARY).readlink() == clone.got / FOLDER / engine.PLUGIN_BINARY
    assert list(clone.home.iterdir()) == []


@pytest.mark.parametrize("mine", [OWN_BACKEND, {"PULUMI_ACCESS_TOKEN": "pul-1"}])
def test_the_official_plugin_is_copied_to_the_users_home(clone: Clone, mine: dict[str, str]) -> None:
    """As Pulumi itself would put it there: other programs of the user's may come to need it."""
    clone.prepare(engine.DOWNLOADED, **mine)
    shutil.rmtree(clone.got)  # as `make clean` does
    plugins = clone.home / ".pulumi/plugins"
    assert (plugins / FOLDER / engine.PLUGIN_BINARY).read_text() == "ours"
    assert [path.name for path in plugins.iterdir()] == [FOLDER]


def test_a_built_plugin_stays_out_of_the_users_home(clone: Clone) -> None:
    """It has less than Pulumi's of that name and version."""
    env = clone.prepare(engine.BUILT, **OWN_BACKEND)
    assert list(clone.home.iterdir()) == []
    assert str(clone.got / FOLDER) in env["PATH"].split(":")


def test_a_plugin_that_the_user_installed_stays(clone: Clone) -> None:
    own = clone.home / ".pulumi/plugins" / FOLDER / engine.PLUGIN_BINARY
    own.parent.mkdir(parents=True)
    own.write_text("the user's")
    clone.prepare(engine.DOWNLOADED, **OWN_BACKEND)
    assert own.read_text() == "the user's"


def test_pulumi_looks_for_plugins_itself_unless_its_downloads_are_out_of_reach(clone: Clone) -> None:
    assert DISABLED not in clone.prepare(engine.DOWNLOADED)
    assert clone.prepare(f"on PATH, plugin: {engine.BUILT}")[DISABLED] == "true"
    assert clone.prepare(engine.BUILT, **{DISABLED: "false"})[DISABLED] == "false", "the user's setting wins"
    assert DISABLED not in clone.prepare(engine.DOWNLOADED), "the network has changed"


def test_a_clone_reached_by_a_link_is_the_same_clone(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(clone.path)
    line = f"cd {tmp_path}/link && . ./activate && echo $PULUMI_BACKEND_URL"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(clone.home)}
    said = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"file://{clone.path}/.state/backend"
