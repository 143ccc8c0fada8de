"""Where a model's weights lie, and the job that puts them there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from planning.containers import FILES_DIR, ContainerPlan, VolumeMount
from planning.names import MODELS_VOLUME, uid_of
from planning.placement import named_on
from planning.serving.engines import vllm
from stack_configs.schema.model_lock import LockedFile
from stack_configs.schema.models import Model
from stack_configs.schema.stack import StackSpec

MODELS_DIR = "/models"
"""Where engines see the volume, read-only."""

FILL_DIR = "/var/tmp"
"""Where the job sees it. Docker gives a fresh volume the owner and mode of the folder it covers, and this one is
open to all users in every Debian and Ubuntu image: so the job needs no root."""

FETCHER = "fetch"
"""One user for all fetch jobs, so that two models can share weights."""

SCRIPTS = Path(__file__).parent / "files"
SCRIPT = "fetch.py"
LOCK = "lock.json"

RANDOM_MIN_POSITIONS = 8192
"""Random models are made for this length at least, so that they need not be made again for a longer one."""

HUB_LIMIT_S = 6 * 3600
RANDOM_LIMIT_S = 300


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A folder below the volume's root, the script that fills it, and the script's arguments."""

    folder: str
    script: str
    args: tuple[str, ...]


def weights_of(model: Model, spec: StackSpec) -> Weights:
    """The folder depends on all that decides its content, so that kinds and revisions never mix."""
    if spec.weights == "hub":
        source = model.source
        return Weights(
            folder=f"{source.repo.replace('/', '--')}/{source.revision}",
            script=(SCRIPTS / "fetch_hub.py").read_text(),
            args=("--repo", source.repo, "--revision", source.revision),
        )
    script = (SCRIPTS / "make_random.py").read_text()
    positions = max(RANDOM_MIN_POSITIONS, model.max_model_len)
    recipe = sha256(f"{script}\n{positions}".encode()).hexdigest()[:12]
    return Weights(folder=f"random/{recipe}", script=script, args=("--positions", str(positions)))


def fetch_job(name: str, host: str, model: Model, spec: StackSpec, gpus: tuple[str, ...]) -> ContainerPlan:
    """The job that fills the model's folder on a host. Run again, it finds the folder complete and ends."""
    weights = weights_of(model, spec)
    user = uid_of(FETCHER)
    hub = spec.weights == "hub"
    locked = spec.locks[name].files if hub and name in spec.locks else {}
    return ContainerPlan(
        service=named_on(f"{name}-fetch", host, spec),
        host=host,
        component="serving",
        image=spec.images[vllm.image(gpus)].ref,
        user=f"{user}:{user}",
        entrypoint=("python3", f"{FILES_DIR}/{SCRIPT}"),
        command=(
            *(*weights.args, "--into", f"{FILL_DIR}/{weights.folder}"),
            *(("--lock", f"{FILES_DIR}/{LOCK}") if locked else ()),
        ),
        env={
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": "/tmp",
            "PYTHONUNBUFFERED": "1",
            **({"HF_ENDPOINT": spec.file.hub} if hub and spec.file.hub else {}),
        },
        files={SCRIPT: weights.script, **({LOCK: locked_files(locked)} if locked else {})},
        mounts=(VolumeMount(source=MODELS_VOLUME, target=FILL_DIR, read_only=False),),
        tmpfs={"/tmp": "size=64m,mode=1777"},
        networks=("edge",) if hub else ("inner",),
        memory_mib=1024,
        max_processes=1024,
        ready_within_s=HUB_LIMIT_S if hub else RANDOM_LIMIT_S,
        job=True,
    )


def locked_files(files: Mapping[str, LockedFile]) -> str:
    """As fetch_hub.py reads it."""
    return json.dumps({name: [file.size, file.sha256] for name, file in sorted(files.items())}, indent=1)
