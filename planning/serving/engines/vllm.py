"""vLLM: the image, arguments, environment and health check of one replica.

tests/contract/test_vllm_args.py hands every argument list to vLLM's own parser. Figures are of vLLM 0.31 on a CPU with
the random model, 8 requests at once, 4 cores (tests/contract/test_vllm_serving.py prints them): 1.87 GiB of memory, 86
threads, 8 KiB of /tmp, 0.1 MiB of shared memory at a quiet moment; healthy after 25 s, or 70 s on 2 busy cores.
"""

from collections.abc import Mapping
from pathlib import Path

from planning.containers import Health, VolumeMount
from planning.names import COMPILED_VOLUME, VLLM_PORT
from stack_configs.schema.models import Model
from stack_configs.schema.versions import ImageName

READY_SOURCE = Path(__file__).parent.parent / "files" / "ready.py"

COMPILED_DIR = "/var/tmp"
"""Open to all users in the image, and so in a fresh volume that covers it."""

STOP_MARGIN_S = 20
"""From the end of draining until the process is gone, seconds; then Docker kills it."""

SHM_MIB = 256
"""The engine's process and the API's talk through shared memory. 160 MiB are needed, and with Docker's 64 the
engine dies after a minute (seen with 0.32 on a CPU)."""
SHM_MIB_PER_GPU = 512
"""NCCL and the workers' message queues, for each GPU of a replica with several. From memory: no test of ours saw it."""


def image(gpus: tuple[str, ...]) -> ImageName:
    """The version set's name of the image for a replica on these GPUs."""
    return "vllm-cuda" if gpus else "vllm-cpu"


def argv(name: str, model: Model, weights: str, gpus: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments after `vllm serve`, the image's entrypoint, always in the same order.

    `weights` is the model's folder inside the container.
    """
    device: tuple[str, ...]
    if gpus:
        device = (f"--gpu-memory-utilization={model.gpu_memory_utilization}",)
        if len(gpus) > 1:
            device += (f"--tensor-parallel-size={len(gpus)}",)
    else:
        # In bytes; the variable VLLM_CPU_KVCACHE_SPACE, in GiB, would take at least 1 GiB.
        device = (f"--kv-cache-memory-bytes={model.cpu_kv_cache_mib * 1024 * 1024}",)
    if model.enforce_eager or not gpus:
        device += ("--enforce-eager",)
    return (
        weights,
        f"--served-model-name={name}",
        "--host=0.0.0.0",
        f"--port={VLLM_PORT}",
        f"--max-model-len={model.max_model_len}",
        f"--max-num-seqs={model.max_num_seqs}",
        f"--max-num-queued-reqs={model.max_num_queued_reqs}",
        f"--dtype={model.dtype}",
        f"--shutdown-timeout={model.drain_timeout_s}",
        *device,
        *model.extra_args,
    )


def env(gpus: tuple[str, ...], service: str) -> Mapping[str, str]:
    """Offline, silent towards its makers, and with every cache below /tmp, but for what it compiles for GPUs."""
    shared = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
        # torch asks for the user's name, and our uid has none in /etc/passwd.
        "LOGNAME": "vllm",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not gpus:
        # The sampler would compile code even with --enforce-eager, and /tmp forbids to run what lies in it.
        return shared | {"TORCHDYNAMO_DISABLE": "1"}
    return shared | {
        # CUDA's own order differs from the one nvidia-smi shows.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # The image says `all`; Docker hands in the named devices, and nothing may add others.
        "NVIDIA_VISIBLE_DEVICES": "void",
        # Replicas have users of their own, and can't write into each other's folders.
        "VLLM_CACHE_ROOT": f"{COMPILED_DIR}/{service}",
    }


def compiled(gpus: tuple[str, ...]) -> tuple[VolumeMount, ...]:
    """Where compiled kernels outlive the container: a start with them is a minute or more shorter, by vLLM's word
    (https://docs.vllm.ai/en/latest/design/torch_compile/)."""
    return (VolumeMount(source=COMPILED_VOLUME, target=COMPILED_DIR, read_only=False),) if gpus else ()


def shm_mib(gpus: tuple[str, ...]) -> int:
    return max(SHM_MIB, SHM_MIB_PER_GPU * len(gpus) if len(gpus) > 1 else 0)


def tmpfs(gpus: tuple[str, ...]) -> Mapping[str, str]:
    """/tmp holds sockets, caches and, on a GPU, compiled kernels, which must be executable."""
    return {"/tmp": "size=2g,mode=1777,exec" if gpus else "size=256m,mode=1777"}


def max_processes(gpus: tuple[str, ...]) -> int:
    """12 times what 4 cores need: threads grow with the cores and, on GPUs, with a worker process each."""
    return 1024 * max(1, len(gpus)) if gpus else 1024


def health(name: str, model: Model) -> Health:
    return Health(
        # As an argument: an engine that may come back has no files.
        command=("python3", "-c", READY_SOURCE.read_text(), name),
        interval_s=5,
        timeout_s=70,
        start_period_s=model.start_timeout_s,
        retries=3,
    )
