"""ssh's files for a stack's hosts. They lie in the project's folder, ignored by git, and are written by every run.

Their path stands in Pulumi's state: it is relative, so that it is the same in every clone. Pulumi starts plugins and
programs in the project's folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from planning.hosts.plan import HostPlan
from planning.hosts.ssh_config import ssh_files

FOLDER = Path(".state") / "ssh"


def write_ssh_files(stack: str, hosts: Sequence[HostPlan]) -> Path:
    """Write them, and return the path of the configuration, for `ssh -F`.

    Hosts that have left the spec stay known: what is still there has to be removed from them.
    """
    folder = FOLDER / stack
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for host in hosts:
        _write(folder / "hosts" / host.name, ssh_files([host], folder))
    parts = sorted((folder / "hosts").iterdir())
    _write(folder, {name: "".join((part / name).read_text() for part in parts) for name in ("config", "known_hosts")})
    return folder / "config"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        # In one step: a connection of another run may be reading it.
        scratch = folder / f"{name}.new"
        scratch.write_text(text)
        scratch.replace(folder / name)


def command_on(host: str, config: Path) -> tuple[str, ...]:
    """The beginning of a command that runs what follows on the host."""
    return ("ssh", "-F", str(config), "-T", host, "--")
