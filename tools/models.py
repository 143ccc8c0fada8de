"""`make models`: the weights that each host keeps, who needs them, and the way to be rid of the rest.

    python -m tools.models --stack prod [--host studio-1] [--remove OWNER--NAME/COMMIT]

Weights outlive models, hosts' containers and stacks: nothing is removed unless it is named.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.naming import COMPONENT_LABEL, SERVICE_LABEL, STACK_LABEL
from components.ssh import command_on, write_ssh_files
from planning.hosts.steps import plan_host
from planning.names import MODELS_VOLUME, uid_of
from planning.placement import placed, ready_hosts
from planning.serving.engines import vllm
from planning.serving.plan import gpus_of
from planning.serving.weights import FETCHER, MODELS_DIR, weights_of
from stack_configs.problems import SpecError
from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import StackSpec
from tools.stack import load_stack

LIST = f'cd {MODELS_DIR} && for folder in */*/; do [ -d "$folder" ] && du -sk "$folder"; done; true'


class CantTellError(Exception):
    """A host's weights can't be looked at. The text says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The weights of one model's commit, on one host."""

    host: str
    name: str
    """Below the volume's root: `Qwen--Qwen3-8B/b968826d…`."""
    mib: int
    models: tuple[str, ...]
    """Models of the spec that are served from it."""
    running: tuple[str, ...]
    """Containers that were started with it; after a change of the spec, until the next `up`."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One host's volume of weights."""

    spec: StackSpec
    host: str
    shell: tuple[str, ...]
    """What runs a command on the host; empty on this machine."""

    def folders(self) -> list[Folder]:
        """What is there. Raises CantTellError."""
        volumes = self._volumes()
        if not volumes:
            return []
        wanted: dict[str, list[str]] = {}
        for replica in placed(self.spec):
            if replica.host == self.host:
                folder = weights_of(self.spec.file.models[replica.model], self.spec).folder
                wanted.setdefault(folder, []).append(replica.model)
        runs = self._running()
        found = []
        for line in self._in_volume(volumes[0], LIST).splitlines():
            kib, _, name = line.partition("\t")
            name = name.rstrip("/")
            found.append(
                Folder(
                    host=self.host,
                    name=name,
                    mib=int(kib) // 1024,
                    models=tuple(dict.fromkeys(wanted.get(name, ()))),
                    running=tuple(service for service, arguments in runs if f"{MODELS_DIR}/{name}" in arguments),
                )
            )
        return found

    def remove(self, folder: Folder) -> None:
        """Raises CantTellError."""
        path = shlex.quote(f"{MODELS_DIR}/{folder.name}")
        self._in_volume(
            self._volumes()[0], f'rm -rf {path} && rmdir --ignore-fail-on-non-empty "$(dirname {path})"', "rw"
        )

    def _volumes(self) -> list[str]:
        labels = (f"label={STACK_LABEL}={self.spec.stack}", f"label={SERVICE_LABEL}={MODELS_VOLUME}")
        filters = [word for label in labels for word in ("--filter", label)]
        return self._docker("volume", "ls", "--quiet", *filters).split()

    def _running(self) -> list[tuple[str, list[str]]]:
        labels = (f"label={STACK_LABEL}={self.spec.stack}", f"label={COMPONENT_LABEL}=serving")
        ids = self._docker("ps", "--quiet", *(word for label in labels for word in ("--filter", label))).split()
        show = f'{{{{index .Config.Labels "{SERVICE_LABEL}"}}}} {{{{join .Args " "}}}}'
        rows = self._docker("inspect", "--format", show, *ids).splitlines() if ids else []
        return [(words[0], words[1:]) for words in (row.split() for row in rows)]

    def _in_volume(self, volume: str, script: str, how: str = "ro") -> str:
        """Run a shell script where the weights are, as the user who fetched them."""
        gpus = [gpus_of(replica.replica, self.spec) for replica in placed(self.spec) if replica.host == self.host]
        image = self.spec.images[vllm.image(gpus[0] if gpus else ())].ref
        user = uid_of(FETCHER)
        return self._docker(
            *("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--user", f"{user}:{user}"),
            *("--volume", f"{volume}:{MODELS_DIR}:{how}", "--entrypoint", "sh", image, "-c", script),
        )

    def _docker(self, *words: str) -> str:
        argv = ["docker", *words]
        try:
            done = subprocess.run(
                [*self.shell, shlex.join(argv)] if self.shell else argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise CantTellError(f"{self.host}: there is no `{error.filename}` command here") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise CantTellError(f"{self.host}: `docker {words[0]}` failed: {last}")
        return done.stdout


def stores(spec: StackSpec, only: str | None = None) -> Iterator[Store]:
    """Of every host that is ready, or of one."""
    hosts = [
        plan_host(name, spec) for name, host in spec.file.hosts.items() if isinstance(host.connection, SshConnection)
    ]
    config = write_ssh_files(spec.stack, hosts) if hosts else None
    over_ssh = {host.name for host in hosts}
    for name in ready_hosts(spec):
        if only in (None, name):
            shell = command_on(name, config) if config and name in over_ssh else ()
            yield Store(spec=spec, host=name, shell=shell)


def table(folders: Sequence[Folder]) -> str:
    """For reading."""
    if not folders:
        return "No host of this stack keeps weights."
    rows = [("host", "weights", "GiB", "needed by")]
    for one in folders:
        rows.append((one.host, one.name, f"{one.mib / 1024:.1f}", needed_by(one) or "nothing"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    idle = [one for one in folders if not needed_by(one)]
    if idle:
        lines += ["", f"{sum(one.mib for one in idle) / 1024:.1f} GiB are needed by nothing. To remove one of them:"]
        lines += [f"  make models STACK={{stack}} REMOVE={name}" for name in dict.fromkeys(one.name for one in idle)]
    return "\n".join(lines)


def needed_by(folder: Folder) -> str:
    runs = tuple(
        f"{service}, which runs" for service in folder.running if service.rsplit("-", 1)[0] not in folder.models
    )
    return ", ".join((*folder.models, *runs))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.models", description=__doc__)
    parser.add_argument("--stack", default="dev")
    parser.add_argument("--host", help="this one alone")
    parser.add_argument("--remove", metavar="WEIGHTS", help="remove these, as the list names them")
    given = parser.parse_args(arguments)
    try:
        spec = load_stack(given.stack)
        if given.host is not None and given.host not in spec.file.hosts:
            raise CantTellError(f"there is no host {given.host}; write one of: {', '.join(spec.file.hosts)}")
        found = [(store, folder) for store in stores(spec, given.host) for folder in store.folders()]
        if given.remove is not None:
            return removed(found, given.remove)
    except (SpecError, CantTellError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table([folder for _, folder in found]).replace("{stack}", spec.stack))
    return 0


def removed(found: Sequence[tuple[Store, Folder]], name: str) -> int:
    """Remove these weights from every host, unless something on one of them needs them. Raises CantTellError."""
    those = [(store, folder) for store, folder in found if folder.name == name]
    if not those:
        raise CantTellError(f"no host keeps {name}; `make models` lists what there is")
    for _, folder in those:
        if needed_by(folder):
            raise CantTellError(f"{folder.host}: {name} is needed by {needed_by(folder)}; nothing was removed")
    for store, folder in those:
        store.remove(folder)
        print(f"{folder.host}: removed {name}, {folder.mib / 1024:.1f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
