"""The base image: Debian by debootstrap from the mirror that this machine itself uses."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from images import recipes
from tools.setup.progress import Step

MIRROR_VARIABLE = "INFERENCE_STACK_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Mirror:
    """Where Debian's packages come from."""

    main: str
    security: str | None


def find_mirror(apt: Path = Path("/etc/apt")) -> Mirror | None:
    """The Debian mirror of $INFERENCE_STACK_DEBIAN_MIRROR, else of this machine's apt settings; else None."""
    own = os.environ.get(MIRROR_VARIABLE)
    if own:
        return Mirror(own.rstrip("/"), None)
    texts = [
        path.read_text(errors="replace")
        for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
        if path.suffix in {".list", ".sources"} and path.is_file()
    ]
    uris = [
        uri.rstrip("/")
        for text in texts
        for line in text.splitlines()
        if re.match(r"\s*(deb\s|URIs:)", line)
        for uri in re.findall(r"https?://\S+", line)
    ]
    main = next((uri for uri in uris if uri.endswith("/debian")), None)
    if main is None:
        return None
    return Mirror(main, next((uri for uri in uris if uri.endswith("/debian-security")), None))


def build_base(folder: Path, scratch: Path, tag: str, step: Step) -> None:
    """Make the image `tag` from images/base/recipe.toml. Raises SetupError."""
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    if os.geteuid() != 0:
        raise step.fail(
            "the base image is made by debootstrap, which only root can run",
            "Run the command once with sudo, or let the machine reach the image registries.",
        )
    mirror = find_mirror()
    if mirror is None:
        raise step.fail(
            "images are built from Debian packages, and this machine's apt settings name no Debian mirror",
            f"Set {MIRROR_VARIABLE}=http://HOST/debian, or let the machine reach the image registries.",
        )
    if shutil.which("debootstrap") is None or not KEYRING.exists():
        if shutil.which("apt-get") is None:
            raise step.fail("debootstrap is missing", "Install debootstrap and debian-archive-keyring.")
        remedy = "Run `apt-get update && apt-get install debootstrap debian-archive-keyring`."
        step.run(["apt-get", "update", "-qq"], remedy=remedy)
        step.run(
            [
                "apt-get",
                "install",
                "-y",
                "-qq",
                "--no-install-recommends",
                "debootstrap",
                "debian-archive-keyring",
            ],
            remedy=remedy,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    root = scratch / "root"
    step.run(
        [
            "debootstrap", f"--variant={recipe['variant']}", f"--keyring={KEYRING}",
            f"--include={','.join(recipe['include'])}", recipe["suite"], str(root), mirror.main,
        ],
        remedy=f"Check that the mirror answers, or name another: {MIRROR_VARIABLE}=http://HOST/debian.",
        show=lambda line: line.removeprefix("I: "),
    )  # fmt: skip
    if (root / "proc").is_mount():  # debootstrap leaves it so when another program looked into it just then (seen)
        step.run(["umount", "--lazy", str(root / "proc")], remedy=f"Run `umount {root}/proc`, then the command again.")
    _settle(root, folder / "root", recipe["suite"], mirror)
    archive = scratch / "root.tar"
    step.run(
        ["tar", "--numeric-owner", "--exclude=./dev/*", "-C", str(root), "-cf", str(archive), "."],
        remedy="Make room on the disk, then run the command again.",
    )
    step.run(
        [
            "docker", "import", "--change", f"LABEL {recipes.LABEL}=base",
            "--change", 'CMD ["/bin/sh"]', str(archive), tag,
        ],
        remedy="Look at the Docker daemon's log.",
    )  # fmt: skip


def _settle(root: Path, overlay: Path, suite: str, mirror: Mirror) -> None:
    """Lay the recipe's files over the new system, set its mirror, leave no documentation nor caches."""
    sources = [f"deb {mirror.main} {suite} main", f"deb {mirror.main} {suite}-updates main"]
    if mirror.security:
        sources.append(f"deb {mirror.security} {suite}-security main")
    (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    shutil.copytree(overlay, root, dirs_exist_ok=True)
    excluded = re.findall(r"^path-exclude=/(.+)$", (root / "etc/dpkg/dpkg.cfg.d/excludes").read_text(), re.M)
    for pattern in [*excluded, "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb"]:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("etc/resolv.conf", "etc/hostname"):  # the host's; Docker has its own
        (root / name).unlink(missing_ok=True)
