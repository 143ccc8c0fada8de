"""Download one revision of a model from the Hugging Face hub into a folder, so that it can be served offline.

`python3 fetch.py --repo OWNER/NAME --revision COMMIT --into FOLDER [--lock FILE]`. Takes the safetensors, the
configuration and the tokenizer, and no second format of the same weights. A cut download goes on where it was cut. The
lock says what files were when they were reviewed, `{"NAME": [SIZE, SHA256 or null]}`; without it the hub's word counts.
The note FOLDER/.complete, written last, lists each file's size and verified SHA-256: with it, sizes as noted and sums
as locked, the folder is complete and no hub is asked.
Exit code 1 and one line say why a folder can't be completed.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

NOTE = ".complete"
REPORT_EVERY_S = 5.0
ROOM_TO_SPARE = 64 * 1024 * 1024
"""Bytes that must be free beside the download itself."""
WANTED_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}


FILES_AT_ONCE = 4
PAUSES_S = (1.0, 5.0, 15.0)
"""Before each new try of a broken download."""
HTTP: dict[str, Any] = {"follow_redirects": True, "timeout": 30}


Lock = dict[str, tuple[int, str | None]]
"""File → its size in bytes and its SHA-256, where that is known."""


class FetchError(Exception):
    """What is wrong and what to do, in one line."""


def wanted(names: list[str]) -> list[str]:
    """The files that vLLM reads: at the repository's top, in one weights format.

    Raises FetchError when there are no safetensors: other formats can run code when they are read.
    """
    top = [n for n in names if "/" not in n and PurePosixPath(n).suffix in WANTED_SUFFIXES]
    weights = [n for n in top if n.endswith(".safetensors")]
    if not weights:
        raise FetchError("the repository has no safetensors files at its top; choose one that has")
    if any(not n.startswith("consolidated") for n in weights):
        # Mistral's own layout of the same weights.
        top = [n for n in top if not n.startswith("consolidated")]
    return sorted(n for n in top if n != "README.txt")


def is_complete(folder: Path, locked: Lock) -> bool:
    """Whether the note is there, every file has the size it says, and those that are locked were verified so."""
    try:
        noted: Lock = {name: (size, sha256) for name, (size, sha256) in json.loads((folder / NOTE).read_text()).items()}
        return all(
            (folder / name).stat().st_size == size and (name not in locked or agree(locked[name], (size, sha256)))
            for name, (size, sha256) in noted.items()
        )
    except (OSError, ValueError, TypeError):
        return False


def agree(locked: tuple[int, str | None], found: tuple[int, str | None]) -> bool:
    return locked[0] == found[0] and (locked[1] is None or locked[1] == found[1])


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e8 else f"{count / 1e9:.3f}"


def bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a partial file was just renamed
            continue
    return total


@contextmanager
def progress(folder: Path, total: int) -> Iterator[None]:
    """A line every few seconds while the body runs."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(REPORT_EVERY_S):
            print(f"{gigabytes(min(bytes_in(folder), total))} of {gigabytes(total)} GB", flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(files: list[Any], locked: Lock) -> None:
    """Raises FetchError where the hub itself says that a file is another one than was locked."""
    for file in files:
        size, sha256 = locked.get(file.rfilename, (file.size, None))
        there = file.lfs.sha256 if file.lfs is not None else None
        if size != file.size or (sha256 and there and sha256 != there):
            raise FetchError(
                f"{file.rfilename} on the hub is not the file that was locked ({file.size} bytes, sha256 {there}; "
                f"locked: {size} bytes, sha256 {sha256}); nothing was fetched: find out which of both is wrong"
            )


def verify(folder: Path, files: list[Any], locked: Lock) -> Lock:
    """Compare sizes, and checksums where lock or hub tell them; what is wrong is removed, for the next run to fetch.

    Returns what was found.
    """
    found: Lock = {}
    for file in files:
        path = folder / file.rfilename
        size, sha256 = path.stat().st_size, None
        said = file.lfs.sha256 if file.lfs is not None else None
        wanted_sum = locked.get(file.rfilename, (size, None))[1] or said
        if size == file.size and wanted_sum:
            sha256 = sha256_of(path)
        if size != file.size or sha256 != wanted_sum:
            path.unlink()
            whose = "was locked" if wanted_sum != said else "the hub says"
            raise FetchError(f"{file.rfilename} differs from what {whose}; it was removed: run this again")
        found[file.rfilename] = (size, sha256)
    return found


def get(url: str, path: Path, size: int) -> None:
    """Complete one file. What an earlier run has got of it is kept, and a broken connection is tried again.

    The hub's own client throws a half-fetched file away (huggingface_hub 1.33). Raises what httpx raises.
    """
    import httpx  # type: ignore[import-not-found,unused-ignore]

    if path.exists() and path.stat().st_size == size:
        return
    part = path.with_name(f"{path.name}.part")
    part.touch()
    pauses = iter(PAUSES_S)
    while (have := part.stat().st_size) != size:
        # The bytes as they are: a compressed answer could not go on in its middle.
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if 0 < have < size else {})
        try:
            with httpx.stream("GET", url, headers=headers, **HTTP) as answer:
                answer.raise_for_status()
                with part.open("ab" if answer.status_code == 206 else "wb") as file:
                    for chunk in answer.iter_raw():
                        file.write(chunk)
            break
        except httpx.HTTPError:
            pause_s = next(pauses, None)
            if pause_s is None:
                raise
            time.sleep(pause_s)
    part.rename(path)


def download(repo: str, revision: str, folder: Path, locked: Lock) -> None:
    """Complete `folder`. Raises FetchError, or what the hub's client raises."""
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    names = set(wanted([s.rfilename for s in info.siblings or []]))
    files = [s for s in info.siblings or [] if s.rfilename in names]
    compare(files, locked)
    total = sum(f.size or 0 for f in files)
    missing = max(0, total - bytes_in(folder))
    free = shutil.disk_usage(folder).free
    if missing + ROOM_TO_SPARE > free:
        raise FetchError(
            f"the disk is too small: {gigabytes(missing)} GB are missing and {gigabytes(free)} GB are free"
        )
    print(f"fetching {repo} at {revision[:12]}: {len(files)} files, {gigabytes(total)} GB", flush=True)
    with progress(folder, total), ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        urls = {f.rfilename: hf_hub_url(repo, f.rfilename, revision=revision) for f in files}
        for done in [pool.submit(get, urls[f.rfilename], folder / f.rfilename, f.size or 0) for f in files]:
            done.result()
    found = verify(folder, files, locked)
    for path in folder.iterdir():
        path.chmod(0o644)  # engines run as other users
    note = folder / f"{NOTE}.new"
    note.write_text(json.dumps(found))
    note.chmod(0o644)
    note.rename(folder / NOTE)
    print(f"complete: {gigabytes(total)} GB", flush=True)


def explain(error: Exception, repo: str, revision: str) -> str:
    """One line for what went wrong."""
    import httpx  # type: ignore[import-not-found,unused-ignore]
    from huggingface_hub import errors

    if isinstance(error, FetchError):
        return str(error)
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: its owner must let you in, and no hub token is used here; choose an open model"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no public model {repo}; check `source.repo`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no commit {revision}; check `source.revision`"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run this again, it goes on from here"
    if isinstance(error, httpx.TransportError | errors.LocalEntryNotFoundError | ConnectionError):
        first = (str(error).splitlines() or [""])[0]
        return (
            f"the hub could not be reached or the connection broke ({type(error).__name__}: {first});"
            " run this again, it goes on from here"
        )
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--into", required=True, type=Path)
    parser.add_argument("--lock", type=Path)
    args = parser.parse_args()
    os.umask(0o022)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    folder: Path = args.into
    locked: Lock = (
        {name: (size, sha256) for name, (size, sha256) in json.loads(args.lock.read_text()).items()}
        if args.lock
        else {}
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            # Two models may have the same source: the second waits, and finds the folder complete.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(folder, locked):
                print(f"{args.repo} at {args.revision[:12]} is already there", flush=True)
            else:
                download(args.repo, args.revision, folder, locked)
    except Exception as error:
        print(f"error: {explain(error, args.repo, args.revision)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
