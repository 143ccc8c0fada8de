"""Models: what clients ask for by name, and the engine processes that answer."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stack_configs.schema.base import CommitSha, Frozen, GpuUuid, Name


class ModelSource(Frozen):
    """Weights on a Hugging Face hub."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    """Repository on the hub, `owner/name`."""
    revision: CommitSha
    """Full commit of that repository: a branch or a tag can move."""


class Replica(Frozen):
    """One engine process of a model."""

    host: Name
    """A name under `hosts`."""
    gpus: tuple[GpuUuid, ...] = ()
    """GPUs of that host, by UUID; none means the CPU."""


class Model(Frozen):
    """A model that clients ask for by its key under `models`."""

    engine: Literal["vllm"] = "vllm"
    """The inference engine."""
    source: ModelSource
    """Where the weights come from."""
    replicas: Annotated[tuple[Replica, ...], Field(min_length=1)]
    """The engine processes; requests are shared between them."""
    max_model_len: Annotated[int, Field(ge=128, le=10_000_000)] = 4096
    """Longest prompt plus answer, in tokens (vLLM's --max-model-len)."""
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 16
    """Requests computed at once; more of them wait (vLLM's --max-num-seqs)."""
    max_num_queued_reqs: Annotated[int, Field(ge=1)] = 256
    """Requests that may wait; beyond it the engine answers 503 (vLLM's --max-num-queued-reqs)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and computation (vLLM's --dtype); `auto` takes the model's own."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.98)] = 0.90
    """Share of each GPU's memory for the engine. Ignored on a CPU, where `cpu_kv_cache_mib` counts."""
    cpu_kv_cache_mib: Annotated[int, Field(ge=8)] = 256
    """KV cache of a replica on the CPU, MiB (vLLM's --kv-cache-memory-bytes)."""
    memory_mib: Annotated[int, Field(ge=512)] = 4096
    """The container's limit of main memory, MiB."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation: a faster start, slower answers. Always on for a CPU replica."""
    start_timeout_s: Annotated[int, Field(ge=30, le=7200)] = 900
    """How long a replica may take from its start until it has answered a completion, seconds."""
    drain_timeout_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long running requests may finish after a stop is asked for, seconds (vLLM's --shutdown-timeout)."""
    extra_args: tuple[str, ...] = ()
    """More arguments of `vllm serve`, each as `--name=value` or `--name`."""
