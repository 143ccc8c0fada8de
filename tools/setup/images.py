"""The images that a stack needs: pulled by digest where the registries answer, built from images/ elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from images import builder, recipes
from tools import registry
from tools.setup import paths
from tools.setup.progress import Step

if TYPE_CHECKING:  # set-up starts before the environment that has pydantic
    from stack_configs.schema.versions import ImageName, ImagePin, VersionSet

Way = Literal["registry", "built"]

NOT_BEFOREHAND = frozenset({"vllm-cuda", "dcgm-exporter", "cloudflared"})
"""The deployment pulls them where there is an NVIDIA GPU, or an ingress."""
CACHE_GIB = {"vllm": 5.2, "litellm": 0.5}
"""Wheels, downloaded and unpacked, measured."""
DOCKER_GIB = {"vllm": 13.5, "litellm": 2.0, "base": 0.6}
"""The image, and the copies of its files that `docker build` makes before; measured. Others: a tenth."""
IMAGE_GIB = {"vllm": 4.5, "litellm": 0.5}
"""The image alone. Others: a tenth."""
UNPACKED = 3.5
"""An image's size on disk while it is pulled, packed and unpacked, over its packed size. An estimate, from above."""


@dataclass(frozen=True)
class Decision:
    """Where images come from, and why."""

    way: Way
    reason: str


def version_set(name: str | None = None) -> VersionSet:
    """The version set of that name; without one, the newest."""
    from tools import lock

    return lock.read(lock.VERSIONS / f"{name}.yaml" if name else lock.newest())


def decide(versions: VersionSet | None = None) -> Decision:
    """`registry` when every pinned manifest that any stack needs can be had there, else `built`."""
    pins = _wanted(versions or version_set(), None)

    def missing(name: ImageName) -> str | None:
        pin = pins[name]
        try:
            registry.digest_of(pin.repository, pin.digest or pin.tag)
        except (registry.Unreachable, registry.Absent) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(pins)) as pool:
        failures = [reason for reason in pool.map(missing, pins) if reason]
    if not failures:
        return Decision("registry", f"all {len(pins)} pinned images are there")
    return Decision("built", failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""))


def ensure(
    way: str,
    step: Step,
    names: Iterable[ImageName] | None = None,
    versions: VersionSet | None = None,
    *,
    one_by_one: bool = False,
) -> None:
    """Have the images (default: all that any stack needs) on this machine. A no-op when they are. Raises SetupError.

    Building `one_by_one` takes longer and less disk.
    """
    pins = _wanted(versions or version_set(), names)
    if way == "registry":
        _pull({_reference(pin): pin for pin in pins.values()}, step)
    else:
        build([pin.built.recipe for pin in pins.values() if pin.built], step, one_by_one=one_by_one)


def absent(way: str, versions: VersionSet) -> list[str]:
    """Of the images that any stack needs, those that `ensure` would get: their names, or recipes."""
    pins = _wanted(versions, None)
    if way == "registry":
        return [name for name, pin in pins.items() if not _exists(_reference(pin))]
    recipes_ = [recipe for pin in pins.values() if pin.built for recipe in recipes.chain(pin.built.recipe)]
    return _missing(dict.fromkeys(recipes_))


def _reference(pin: ImagePin) -> str:
    return f"{pin.repository}:{pin.tag}" + (f"@{pin.digest}" if pin.digest else "")


def _wanted(versions: VersionSet, names: Iterable[ImageName] | None) -> dict[ImageName, ImagePin]:
    chosen = set(names) if names is not None else set(versions.images) - NOT_BEFOREHAND
    return {name: pin for name, pin in versions.images.items() if name in chosen}


def _exists(reference: str) -> bool:
    done = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, check=False)
    return done.returncode == 0


def _pull(references: Mapping[str, ImagePin], step: Step) -> None:
    missing = [reference for reference in references if not _exists(reference)]
    _check_room_for_pulls([references[reference] for reference in missing], step)

    def pull(reference: str) -> None:
        step.run(
            ["docker", "pull", reference],
            remedy=f"Check that this machine's Docker reaches {reference.split('/')[0]} (proxy? login?), then run the\n"
            "command again. To build images instead: `pulumi config set inference-stack:images built`.",
            show=lambda line: f"{reference.rsplit('/', 1)[-1].split('@')[0]}: {line}",
        )

    with ThreadPoolExecutor(2) as pool:  # Docker itself fetches three layers of an image at a time
        for done in [pool.submit(pull, reference) for reference in missing]:
            done.result()
    step.note = f"{len(missing)} pulled, {len(references) - len(missing)} there" if missing else "all there"


def build(wanted: Iterable[str], step: Step, *, one_by_one: bool = False) -> None:
    """Build these recipes, and what they build FROM, as far as they don't exist. Raises SetupError.

    Side by side, unless `one_by_one`: then the largest is built before the others that are large.
    """
    needed = list(dict.fromkeys(recipe for name in wanted for recipe in recipes.chain(name)))
    if not _missing(needed):
        step.note = f"{len(needed)} images there"
        return
    with _only_one(step):
        missing = _missing(needed)
        _check_disk(missing, step, one_by_one)
        workers = 1 if one_by_one else max(2, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers) as images, ThreadPoolExecutor(2) as wheels:
            # The largest first: its packages can be fetched while the base image is made.
            order = sorted(missing, key=lambda name: (len(recipes.chain(name)), -CACHE_GIB.get(name, 0)))
            staged = {
                name: wheels.submit(builder.stage, name, step)
                for name in sorted(missing, key=lambda name: -CACHE_GIB.get(name, 0))
            }
            built: dict[str, Future[str]] = {}
            for name in order:
                built[name] = images.submit(_build_after, name, staged[name], built, step)
            _first_failure_ends_all([*staged.values(), *built.values()], step)
        remove_old(step)
    step.note = f"{len(missing)} built, {len(needed) - len(missing)} there"


def _first_failure_ends_all(futures: list[Future[Any]], step: Step) -> None:
    wait(futures, return_when=FIRST_EXCEPTION)
    failed = [future for future in futures if future.done() and future.exception()]
    if failed:
        step.stop()
        failed[0].result()


def _build_after(name: str, staged: Future[Path], built: dict[str, Future[str]], step: Step) -> str:
    """Parents are submitted before their children, so that waiting here can't starve them of a thread."""
    above = recipes.parent(name)
    if above in built:
        built[above].result()
    folder = staged.result()
    step.say(f"building {name}")
    return builder.build(name, folder, step)


def _missing(needed: Iterable[str]) -> list[str]:
    return [recipe for recipe in needed if not _exists(recipes.tag(recipe))]


@contextlib.contextmanager
def _only_one(step: Step) -> Iterator[None]:
    """One build of ours at a time on this machine: removing leftovers would pull the rug from under another."""
    lock = paths.cache() / "images.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step.say("waiting for another run that builds images")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_room_for_pulls(pins: list[ImagePin], step: Step) -> None:
    """Say what the images need before they are pulled, by what their registries say of them."""
    packed = 0
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    for pin in pins:
        # Docker may know a login or mirror that we don't: then it finds out itself.
        with contextlib.suppress(registry.Unreachable, registry.Absent):
            packed += registry.size_of(pin.repository, pin.digest or pin.tag, arch)
    if packed:
        _check_room({_docker_root(): packed * UNPACKED / 2**30}, f"pulling {len(pins)} images", "", step)


def _check_disk(missing: list[str], step: Step, one_by_one: bool) -> None:
    """Say what the builds need before they start. The wheels' cache counts in full: it may be empty."""
    wheels = sum(CACHE_GIB.get(name, 0.1) for name in missing)
    copies = [DOCKER_GIB.get(name, 0.1) - IMAGE_GIB.get(name, 0.1) for name in missing]
    builds = sum(IMAGE_GIB.get(name, 0.1) for name in missing) + (max(copies) if one_by_one else sum(copies))
    other = ", or set\nINFERENCE_STACK_CACHE to a folder on a larger disk"
    _check_room({paths.cache(): wheels, _docker_root(): builds}, f"building {len(missing)} images", other, step)


def _docker_root() -> Path:
    return Path(builder.docker("info", "--format", "{{.DockerRootDir}}").strip())


def _check_room(wanted: Mapping[Path, float], doing: str, other: str, step: Step) -> None:
    """`wanted`: folder → GiB; those on one disk count together. `other`: another way out than to free some."""
    needs: dict[int, tuple[Path, float]] = {}
    for path, gib in wanted.items():
        with contextlib.suppress(PermissionError, FileNotFoundError):  # Docker's folder may not be ours to see
            device = path.stat().st_dev
            needs[device] = (path, gib + (needs[device][1] if device in needs else 0))
    for path, gib in needs.values():
        free = shutil.disk_usage(path).free / 2**30
        if free < gib:
            raise step.fail(
                f"{doing} takes {gib:.1f} GiB at {path}, and {free:.1f} GiB are free",
                f"Free {gib - free:.1f} GiB (`docker system df` shows what Docker keeps){other}.",
            )


def remove_old(step: Step) -> None:
    """Remove what earlier recipes and broken builds left: images with our label that no container uses."""
    current = {recipes.tag(name) for name in recipes.names()}
    listed = builder.docker(
        "image", "ls", "--filter", f"label={recipes.LABEL}", "--format", "{{.Repository}}:{{.Tag}}"
    )  # fmt: skip
    for image in listed.split():
        if image.startswith(f"{recipes.REPOSITORY}/") and image not in current and not image.endswith(":<none>"):
            done = subprocess.run(["docker", "image", "rm", image], capture_output=True, text=True, check=False)
            step.write(done.stdout + done.stderr)  # one that a container uses is refused, and stays
    step.write(builder.docker("image", "prune", "--force", "--filter", f"label={recipes.LABEL}"))
