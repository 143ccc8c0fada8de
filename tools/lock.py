"""Renews what is locked.

    python -m tools.lock images [--check] [--stack STACK | --file FILE]   digests of a version set, from registries
    python -m tools.lock models [--check] [--stack STACK]   stack_configs/models, from the hub at the pinned commits
    python -m tools.lock wheels                           images/*/requirements.txt, from their requirements.in

The version set is edited line by line, so that comments and order stay; the result is read again and compared with
what was meant before it is written.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from images import builder, recipes
from stack_configs.schema.versions import ImagePin, VersionSet
from tools import registry
from tools.hub import Hub
from tools.lock_models import lock_models
from tools.setup import paths

VERSIONS = paths.REPO / "stack_configs" / "versions"


@dataclass(frozen=True)
class Finding:
    """What a registry says about one pin."""

    image: str
    digest: str | None
    """None: the registry could not be asked, or has no such tag."""
    says: str
    good: bool


def newest() -> Path:
    """The version set in force: the newest."""
    return max(VERSIONS.glob("*.yaml"))


def of_stack(stack: str) -> Path:
    """The version set that stack_configs/<stack>.yaml names."""
    named = yaml.safe_load((VERSIONS.parent / f"{stack}.yaml").read_text())["versions"]
    return VERSIONS / f"{named}.yaml"


def read(path: Path) -> VersionSet:
    return VersionSet.model_validate(yaml.safe_load(path.read_text()))


def ask(name: str, pin: ImagePin) -> Finding:
    """Resolve a pin's tag, and compare. A moved tag whose old digest can still be had is told apart."""
    try:
        digest = registry.digest_of(pin.repository, pin.tag)
    except (registry.Unreachable, registry.Absent) as error:
        return Finding(name, None, str(error), good=False)
    if digest == pin.digest:
        return Finding(name, digest, "is as pinned", good=True)
    if pin.digest is None:
        return Finding(name, digest, f"had no digest; the registry says {digest}", good=False)
    try:
        registry.digest_of(pin.repository, pin.digest)
        kept = "which the registry still has"
    except registry.Absent:
        kept = "which the registry does NOT have: it was wrong, or was deleted"
    except registry.Unreachable as error:
        kept = f"which could not be asked for ({error})"
    return Finding(name, digest, f"tag {pin.tag} is {digest}, pinned is {pin.digest}, {kept}", good=False)


def edited(text: str, digests: dict[str, str], today: datetime.date) -> str:
    """The version set's text with these digests. Raises ValueError when the result isn't what was meant."""
    lines: list[str] = []
    image = ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"  ([a-z0-9-]+):\s*", line):
            image = heading[1]
        key = re.match(r"    (digest|source):", line)
        if key and image in digests:
            if key[1] == "source":
                lines.append(f"    digest: {digests[image]}")
                lines.append(f"    source: its registry, resolved from the tag on {today}")
            continue
        lines.append(line)
    result = "\n".join(lines) + "\n"
    meant = yaml.safe_load(text)
    for name, digest in digests.items():
        source = f"its registry, resolved from the tag on {today}"
        meant["images"][name].update(digest=digest, source=source)
    if yaml.safe_load(result) != meant:
        raise ValueError("the version set is not laid out as tools/lock expects: one key a line, two spaces a level")
    return result


def lock_images(path: Path, check: bool, say: Callable[[str], None] = print) -> int:
    """Resolve every tag; write what differs unless `check`. Returns the exit status: 0 when nothing is left to do."""
    pins = read(path).images
    with ThreadPoolExecutor(len(pins)) as pool:
        findings = list(pool.map(lambda item: ask(*item), pins.items()))
    for finding in findings:
        say(f"{'ok' if finding.good else '!!':<3} {finding.image:<14} {finding.says}")
    differing = {f.image: f.digest for f in findings if f.digest and not f.good}
    unknown = [f.image for f in findings if f.digest is None]
    if differing and not check:
        path.write_text(edited(path.read_text(), differing, datetime.datetime.now(datetime.UTC).date()))
        say(f"wrote {len(differing)} of {len(pins)} digests to {path.name}; read `git diff` before you trust them")
    if unknown:
        say(f"left as they were, because they could not be resolved: {', '.join(unknown)}")
    if differing and check:
        say("`python -m tools.lock images` writes what the registries say")
    return 1 if unknown or (check and differing) else 0


def lock_wheels() -> int:
    """Resolve every recipe's requirements.in anew. Wheels alone, with hashes, for Debian 12's Python."""
    for name in recipes.names():
        folder = recipes.ROOT / name
        if (folder / "requirements.in").exists():
            own = paths.VENV / "bin" / "uv"
            subprocess.run(
                [
                    str(own) if own.exists() else "uv", "pip", "compile", "--quiet", "--no-config", "--upgrade",
                    "--python-version", builder.PYTHON_VERSION, "--python-platform", builder.PLATFORM,
                    "--generate-hashes", "--only-binary", ":all:", "--no-emit-index-url",
                    "--custom-compile-command", "python -m tools.lock wheels",
                    "--override", "overrides.txt", "requirements.in", "--output-file", "requirements.txt",
                ],
                cwd=folder, check=True, env=dict(os.environ),
            )  # fmt: skip
            print(f"wrote {folder.relative_to(paths.REPO)}/requirements.txt")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    images = commands.add_parser("images", help="resolve the version set's tags to digests at their registries")
    images.add_argument("--check", action="store_true", help="compare only, change nothing")
    images.add_argument("--stack", help="the version set that this stack names")
    images.add_argument("--file", type=Path, help="the version set (default: the newest)")
    models = commands.add_parser("models", help="look up what stacks' models hold at their commits, on the hub")
    models.add_argument("--check", action="store_true", help="compare only, change nothing")
    models.add_argument("--stack", help="models of this stack alone")
    commands.add_parser("wheels", help="resolve the Python packages of the images that we build")
    given = parser.parse_args(argv)
    if given.what == "wheels":
        return lock_wheels()
    if given.what == "models":
        stacks = VERSIONS.parent.glob("*.yaml") if given.stack is None else [VERSIONS.parent / f"{given.stack}.yaml"]
        return lock_models(sorted(stacks), paths.REPO, given.check, Hub.from_environment())
    return lock_images(given.file or (of_stack(given.stack) if given.stack else newest()), given.check)


if __name__ == "__main__":
    sys.exit(main())
