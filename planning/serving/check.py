"""The job that has a replica's arguments read by its own image, before the replica that serves is stopped."""

from pathlib import Path

from planning.containers import FILES_DIR, ContainerPlan
from planning.names import uid_of
from planning.placement import named_on
from planning.serving.engines import vllm
from stack_configs.schema.stack import StackSpec

SCRIPT = "parse_args.py"
SOURCE = Path(__file__).parent / "files" / SCRIPT
CHECKER = "check"
"""One user for all of these jobs: they write nothing."""
LIMIT_S = 300
"""vLLM is imported for it: 10 s on a core of its own, more where others compute."""


def check_job(model: str, replica: ContainerPlan, spec: StackSpec) -> ContainerPlan:
    """What ends with 0 if the image of `replica` understands its arguments. It needs no GPU, and gets none."""
    user = uid_of(CHECKER)
    return ContainerPlan(
        service=named_on(f"{model}-check", replica.host, spec),
        host=replica.host,
        component="serving",
        image=replica.image,
        user=f"{user}:{user}",
        entrypoint=("python3", f"{FILES_DIR}/{SCRIPT}"),
        command=replica.command,
        env=vllm.env((), CHECKER),
        files={SCRIPT: SOURCE.read_text()},
        tmpfs={"/tmp": "size=64m,mode=1777"},
        networks=("inner",),
        memory_mib=2048,
        max_processes=1024,
        ready_within_s=LIMIT_S,
        job=True,
    )
