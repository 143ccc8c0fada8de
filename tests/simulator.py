"""llm-d-inference-sim: vLLM's API without a model, as fast as it is told. For tests and bench; no stack runs it.

Its flags: https://github.com/llm-d/llm-d-inference-sim/blob/v0.10.2/docs/configuration.md.
"""

import functools

import pytest

from images import recipes
from planning.containers import ContainerPlan
from planning.names import VLLM_PORT
from tools.setup import images
from tools.setup.progress import SetupError, run_step


@functools.cache
def simulator_image() -> str:
    """Its tag. `make parts` leaves it out, so it is built here when it is missing; skips where it can't be."""
    try:
        run_step("Simulator", lambda step: images.build(["llm-d-sim"], step))
    except SetupError as error:
        pytest.skip(str(error))
    return recipes.tag("llm-d-sim")


def simulator(
    *more: str,
    token_ms: int = 20,
    model: str = "chat",
    service: str = "simulator",
    aliases: tuple[str, ...] = (),
    port: int = VLLM_PORT,
) -> ContainerPlan:
    """One simulator that answers by these network names. `token_ms`: for the first token and for each further one.
    `more`: further flags. It listens 0.5 s after its start; its image has no program for a health check.
    """
    return ContainerPlan(
        service=service,
        host="local",
        component="serving",
        image=simulator_image(),
        user="65532:65532",
        command=(
            *("--model", model, "--port", str(port), "--max-num-seqs", "256", "--max-model-len", "32768"),
            *("--time-to-first-token", f"{token_ms}ms", "--inter-token-latency", f"{token_ms}ms", *more),
        ),
        aliases=aliases,
        memory_mib=512,
        max_processes=1024,
    )
