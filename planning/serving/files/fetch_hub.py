"""Download one revision of a model from the Hugging Face hub into a folder, so that it can be served offline.

`python3 fetch.py --repo OWNER/NAME --revision COMMIT --into FOLDER`. Takes the safetensors, the configuration and the
tokenizer, and no second format of the same weights. A cut download goes on where it was cut. The note FOLDER/.complete,
written last, lists each file's size: with it and the sizes as noted, the folder is complete and no hub is asked.
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


def is_complete(folder: Path) -> bool:
    """Whether the note is there and every file has the size it says."""
    try:
        sizes: dict[str, int] = json.loads((folder / NOTE).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


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


def verify(folder: Path, files: list[Any]) -> None:
    """Compare sizes, and checksums where the hub tells them; what is wrong is removed, for the next run to fetch."""
    for file in files:
        path = folder / file.rfilename
        good = path.stat().st_size == file.size
        if good and file.lfs is not None:
            good = sha256_of(path) == file.lfs.sha256
        if not good:
            path.unlink()
            raise FetchError(f"{file.rfilename} differs from what the hub says; it was removed: run this again")


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


def download(repo: str, revision: str, folder: Path) -> None:
    """Complete `folder`. Raises FetchError, or what the hub's client raises."""
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    names = set(wanted([s.rfilename for s in info.siblings or []]))
    files = [s for s in info.siblings or [] if s.rfilename in names]
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
    verify(folder, files)
    for path in folder.iterdir():
        path.chmod(0o644)  # engines run as other users
    note = folder / f"{NOTE}.new"
    note.write_text(json.dumps({f.rfilename: f.size for f in files}))
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
    args = parser.parse_args()
    os.umask(0o022)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    folder: Path = args.into
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            # Two models may have the same source: the second waits, and finds the folder complete.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(folder):
                print(f"{args.repo} at {args.revision[:12]} is already there", flush=True)
            else:
                download(args.repo, args.revision, folder)
    except Exception as error:
        print(f"error: {explain(error, args.repo, args.revision)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
