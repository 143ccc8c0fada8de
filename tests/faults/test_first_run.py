"""A first `make up` on machines that lack something: one clear message, with what to type."""

import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.clone import REPO, Clone, make_clone
from tests.docker_run import need_image
from tests.faults.conftest import Site
from tests.faults.machine import Machine

NOBODY = 65534
BUILD = """
import sys, tempfile
from pathlib import Path
from images import builder, recipes
from tools.setup.progress import SetupError, run_step
scratch = Path(tempfile.mkdtemp())
(scratch / "Dockerfile").write_text(f"FROM {recipes.tag('base')}\\nRUN head -c 300M /dev/zero > /filled\\n")
try:
    run_step("Images", lambda step: builder.build("nginx", scratch, step))
except SetupError as error:
    sys.exit(str(error))
"""
"""As `make up` builds an image, with another Dockerfile."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with nothing on it."""
    with Machine() as made:
        yield made


@pytest.fixture
def programs(machine: Machine) -> Path:
    """A folder with the programs that everybody may run here, but Docker's."""
    folder = machine.disk / "bin"
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link, real = folder / program.name, Path(os.path.realpath(program))  # even where links lead in a circle
            if not program.name.startswith("docker") and not link.is_symlink() and for_everybody(real):
                link.symlink_to(real)
    if not (folder / "python3").exists():
        pytest.skip("python3 is below a folder here that only root can enter")
    return folder


def for_everybody(program: Path) -> bool:
    return program.exists() and all(path.stat().st_mode & stat.S_IXOTH for path in (program, *program.parents))


@pytest.fixture
def nobody(machine: Machine, programs: Path) -> Site:
    """A clone of a user who isn't root, whose .venv is said to be complete: these runs end before it is used."""
    home = machine.disk / "home"
    clone = make_clone(home / "inference-stack")
    venv = clone.path / ".venv"
    venv.unlink()
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(programs / "python3")
    for stamp in (REPO / ".venv").glob(".dev-*"):
        (venv / stamp.name).touch()
    subprocess.run(["chown", "--recursive", f"{NOBODY}:{NOBODY}", home], check=True)
    return Site(machine, clone)


def make_up(site: Site, programs: Path) -> str:
    """What a `make up` prints that fails, of the user nobody with these programs."""
    user = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    return site.sh(f"{user} make up", env={"PATH": str(programs), "HOME": str(site.clone.path.parent)}, fails=True)


def test_without_docker_and_without_root_the_command_to_type_is_told(nobody: Site, programs: Path) -> None:
    said = make_up(nobody, programs)
    if (programs / "apt-get").exists():
        assert "there is no Docker, and this user can't install it" in said
        assert "What to do: `sudo apt-get install docker.io iptables`, then `sudo usermod -aG docker $USER`" in said
    else:
        assert "What to do: install Docker Engine as its documentation says" in said
    assert not (nobody.clone.path / ".state" / "passphrase").exists()


def test_a_docker_that_is_installed_and_does_not_run(nobody: Site, programs: Path) -> None:
    for name in ("docker", "dockerd"):
        (programs / name).symlink_to(str(shutil.which(name)))
    assert "Docker is installed but does not run\n  What to do: `sudo dockerd &`" in make_up(nobody, programs)


def test_a_docker_that_only_root_may_use(nobody: Site, programs: Path) -> None:
    nobody.machine.start_docker()
    said = make_up(nobody, programs)
    assert "Docker is there, but this user may not use it\n  What to do: `sudo usermod -aG docker $USER`" in said


def test_room_for_images_is_looked_at_before_one_is_built(tmp_path: Path) -> None:
    with Machine(docker_bytes=2**30) as machine:
        machine.start_docker()
        site = Site(machine, make_clone(tmp_path / "inference-stack"))
        said = site.refused()
        assert "GiB at /var/lib/docker, and 1.0 GiB are free\n  What to do: Free" in said
        assert machine.docker("image", "ls", "--quiet") == ""


def test_a_disk_that_fills_up_while_an_image_is_built(tmp_path: Path) -> None:
    base = need_image("base")
    clone: Clone = make_clone(tmp_path / "inference-stack")
    with Machine(docker_bytes=300 * 2**20) as machine:
        machine.give([base])
        site = Site(machine, clone)
        said = site.sh(f".venv/bin/python -c {shlex.quote(BUILD)}", fails=True)
        assert "No space left on device" in said
        assert "What to do: free space on the disk that is full" in said
        machine.run("mount", "-o", "remount,size=2g", "/var/lib/docker")
        site.sh(f".venv/bin/python -c {shlex.quote(BUILD)}")
        assert machine.docker("image", "ls", "--filter", "dangling=true", "--quiet") == ""
