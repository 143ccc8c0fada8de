"""Fetch a model's files from the hub, at one commit.

    fetch_hub.py --repo Qwen/Qwen2.5-0.5B-Instruct --revision 7ae5… --into /var/tmp/Qwen--…/7ae5…

Resumes where it was cut, and prints a line every few seconds. A note written last says that the folder is whole: run
again, it finds the note and ends. Runs in the engine's image. Ends with 1 and one line when it can't.
"""

import argparse
import sys
import threading
import time
from pathlib import Path

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
"""Weights once, as safetensors; the hub often has the same ones in other formats too."""
WHOLE = ".whole"
EVERY_S = 5


def have(folder: Path) -> int:
    """Bytes below the folder, half-fetched files included."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def fetch(repo: str, revision: str, into: Path) -> str | None:
    """Fetch into the folder; returns why not, in one line, or None."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        files = HfApi().model_info(repo, revision=revision, files_metadata=True).siblings or []
        wanted = [f for f in files if any(Path(f.rfilename).match(pattern) for pattern in PATTERNS)]
        total = sum(f.size or 0 for f in wanted)
        if not any(f.rfilename.endswith(".safetensors") for f in wanted):
            return f"{repo} at {revision} has no weights as safetensors"
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(EVERY_S):
                print(f"{repo}: {have(into) / 1e9:.2f} of {total / 1e9:.2f} GB", flush=True)

        threading.Thread(target=tell, daemon=True).start()
        into.mkdir(parents=True, exist_ok=True)
        snapshot_download(
            repo,
            revision=revision,
            local_dir=into,
            allow_patterns=[f.rfilename for f in wanted],
            max_workers=4,
        )
        ended.set()
        for file in wanted:
            got = (into / file.rfilename).stat().st_size
            if file.size is not None and got != file.size:
                return f"{file.rfilename} has {got} bytes, and the hub says {file.size}"
    except GatedRepoError:
        return f"{repo} is gated: its owner must let you in, and this version sends no token"
    except RevisionNotFoundError:
        return f"{repo} has no commit {revision}: correct the model's `source.revision`"
    except RepositoryNotFoundError:
        return f"there is no model {repo} on the hub: correct the model's `source.repo`"
    except HfHubHTTPError as error:
        return f"the hub refused: {str(error).splitlines()[0]}"
    except OSError as error:
        return f"{type(error).__name__}: {error}: check the network and the disk; the next run goes on from here"
    except Exception as error:  # the hub's client lets its HTTP library's errors through
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    for path in [into, *into.rglob("*")]:
        # Engines run as other users: a file of mode 0600 would look missing to them.
        path.chmod(0o755 if path.is_dir() else 0o644)
    (into / WHOLE).write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    if (args.into / WHOLE).exists():
        print(f"{args.into}: already fetched")
        return 0
    why_not = fetch(args.repo, args.revision, args.into)
    print(why_not or f"{args.into}: fetched {have(args.into) / 1e9:.2f} GB", flush=True)
    return 1 if why_not else 0


if __name__ == "__main__":
    sys.exit(main())
