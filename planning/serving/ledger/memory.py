"""Where a GPU's memory goes when vLLM runs a model on it, before the KV cache gets the rest.

vLLM's own sum (vllm/v1/worker/gpu_worker.py, determine_available_memory):
    KV cache = ceil(total x utilization) - consumed - transient peak - estimate of CUDA graphs
Consumed is weights and what CUDA, NCCL and workspaces hold. The constants below are fitted to the public start-up logs
in tests/unit/ledger/logs.yaml; `python -m bench.ledger` prints how far off they are. They count a start that compiles
the model: one that finds it compiled has about 1 GiB more. Bytes, per GPU.
"""

from dataclasses import dataclass
from math import ceil

from planning.serving.ledger.kv import Batch
from planning.serving.ledger.shape import Architecture, Parameters, State

GIB = 1024**3
ENGINE = (0, 31)
"""The vLLM whose behaviour this is, where a version isn't told."""

GRAPHS_COUNTED_SINCE = (0, 21)
"""Before it, CUDA graphs were captured outside of what utilization allows."""
NO_SORT_SINCE = (0, 15)
"""Before it, the sampler sorted all logits in the profiling run."""

LOADED = int(0.03 * GIB)
"""What loading adds to the sum of the tensors: tables of positions, small buffers."""
CONTEXT = int(0.30 * GIB)
"""Consumed besides weights by one process on one GPU: 0.26 to 0.47 GiB seen since 0.27, 0.02 to 0.14 before."""
CONTEXT_PARALLEL = int(0.35 * GIB)
"""More of it with tensor parallelism: NCCL and the buffers of custom all-reduce. 0 and 0.45 GiB seen."""
PEAK = int(0.10 * GIB)
"""Transient memory that no formula below gives."""
COMPILE = int(0.80 * GIB)
"""Transient memory of compiling, which happens while vLLM measures: with it 4.92, without it 5.91 GiB were left on one
card. More than a full step takes where steps are short."""
SORT_BYTES = 38.9
"""Of a sorting sampler, per request and word of the vocabulary: 38.4 to 38.9 in logs of vLLM 0.9 and 0.11."""
SAMPLE_BYTES = 10
"""Of later samplers: logits in 16 and in 32 bits, and a copy."""
GRAPH = int(0.0055 * GIB)
"""One captured CUDA graph, as vLLM estimates it: 0.27 to 1.04 GiB for 86 graphs, 0.08 to 0.4 for 18."""
STATE_GRAPHS = int(1.0 * GIB)
"""What that estimate has on top for models with state layers: it counts a workspace of the size of the batch."""
MARGIN = int(1.75 * GIB)
"""What the sum may be too high by: it was 1.6 GiB in the worst of those logs, and below 0.3 in most."""
ACCURACY = int(0.5 * GIB)
"""What it may be too low by before a start is refused; two of three logs are nearer than that."""
MXFP4_TILE = (256, 128)
"""Hidden size and expert width are filled up to multiples of these (mxfp4_round_up_hidden_size_and_intermediate_size in
vllm/model_executor/layers/fused_moe/oracle/mxfp4.py): 13.72 instead of 12.8 GiB for gpt-oss-20b."""
BESIDE_AT_LEAST = int(0.20 * GIB)
"""The least that one process was seen to hold outside of its utilization, on an L4 and an RTX 5060 Ti."""
BESIDE = int(0.55 * GIB)
"""What one more process holds outside of its utilization: CUDA's context, taken before vLLM looks."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the engine is run: what of its arguments changes memory."""

    tensor_parallel: int = 1
    max_model_len: int
    max_num_seqs: int
    utilization: float
    eager: bool = False
    batched_tokens: int | None = None
    """--max-num-batched-tokens; None takes vLLM's default for the card."""
    kv_bytes: int = 2
    """Of an element of K and V: 2, or 1 with --kv-cache-dtype=fp8."""
    block_tokens: int = 0
    """--block-size; 0 takes vLLM's own."""
    dtype: str = "auto"
    engine: tuple[int, int] = ENGINE


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One GPU's share of one replica."""

    requested: int
    """Of the card's memory, by utilization."""
    weights: int
    context: int
    activation: int
    graphs: int

    @property
    def kv(self) -> int:
        """Left for the KV cache; negative when the rest already asks for more."""
        return self.requested - self.weights - self.context - self.activation - self.graphs


def memory_of(
    architecture: Architecture, run: Run, total: int, card: str = "", weights_bytes: int | None = None
) -> Memory:
    """Expected use of a card of `total` bytes. `weights_bytes`: of all tensors; None counts them from config.json."""
    batch = batched_tokens(architecture, run, total, card)
    return Memory(
        requested=ceil(total * run.utilization),
        weights=weights_on_gpu(architecture, run, weights_bytes),
        context=CONTEXT + (CONTEXT_PARALLEL if run.tensor_parallel > 1 else 0),
        activation=_activation(architecture, run, batch),
        graphs=_graphs(architecture, run),
    )


def batched_tokens(architecture: Architecture, run: Run, total: int, card: str = "") -> int:
    """Tokens of one step. Defaults by the card's size as in vllm/engine/arg_utils.py, get_batch_defaults."""
    if run.batched_tokens:
        return run.batched_tokens
    if total >= 160 * GIB:
        default = 16384
    elif total >= 70 * GIB and "a100" not in card.lower():
        default = 8192
    else:
        default = 2048
    if architecture.kind != "generate":  # without chunked prefill a whole prompt must go into a step
        default = max(default, run.max_model_len)
    return min(default, run.max_num_seqs * run.max_model_len)


def batch_of(architecture: Architecture, run: Run, total: int, card: str = "") -> Batch:
    """What the KV cache has to hold for running steps; two are under way at once."""
    batch = batched_tokens(architecture, run, total, card)
    return Batch(in_flight=2 * batch if run.engine >= (0, 27) else batch, encoder=batch)


def weights_on_gpu(architecture: Architecture, run: Run, weights_bytes: int | None) -> int:
    element = element_bytes(run)
    numbers, bits = architecture.parameters, 8.0 * element
    if architecture.quantization and architecture.quantization.bits:
        bits = architecture.quantization.bits
    here = _stored(numbers, bits, element, run.tensor_parallel, architecture.kv_heads, _padding(architecture, run))
    if weights_bytes is not None and not _recast(architecture, run):
        whole = _stored(numbers, bits, element, 1, architecture.kv_heads)
        here = weights_bytes * here / whole
    return int(here) + LOADED


def element_bytes(run: Run) -> int:
    """Of a number that isn't quantized, as loaded: `auto` makes 16 bits of 32."""
    return 4 if run.dtype == "float32" else 2


def _recast(architecture: Architecture, run: Run) -> bool:
    """Whether the engine loads numbers of another size than the files hold."""
    return (architecture.dtype == "float32") != (run.dtype == "float32")


def _padding(architecture: Architecture, run: Run) -> float:
    """By how much the experts grow in memory."""
    width = architecture.mlp.expert_width / run.tensor_parallel
    if not width or architecture.quantization is None or architecture.quantization.method != "mxfp4":
        return 1.0
    hidden_tile, width_tile = MXFP4_TILE
    grown = ceil(architecture.hidden / hidden_tile) * hidden_tile * ceil(width / width_tile) * width_tile
    return grown / (architecture.hidden * width)


def _stored(
    numbers: Parameters, bits: float, element: int, tensor_parallel: int, kv_heads: int, padding: float = 1.0
) -> float:
    shrunk = padding * numbers.linear / tensor_parallel + numbers.kv / min(tensor_parallel, max(1, kv_heads))
    return shrunk * bits / 8 + numbers.plain * element / tensor_parallel + numbers.replicated * element


def _activation(architecture: Architecture, run: Run, batch: int) -> int:
    """The largest of the profiling run's peaks: a full step through the model, sampling for all requests, compiling."""
    mlp, hidden, element = architecture.mlp, architecture.hidden, element_bytes(run)
    gate = 2 if architecture.kind == "generate" else 1  # gate and up projection, then their product
    narrow = bool(architecture.quantization and architecture.quantization.method == "fp8")
    dense = mlp.width / run.tensor_parallel * (gate * element + (1 if narrow else element))
    expert = mlp.expert_width / run.tensor_parallel
    experts = mlp.experts_per_token * (max(2 * expert, hidden if expert else 0) + expert) * element
    forward = batch * (max(dense, experts) + 2 * hidden * element)
    per_word = SORT_BYTES if run.engine < NO_SORT_SINCE else SAMPLE_BYTES
    sampling = per_word * run.max_num_seqs * architecture.vocabulary if architecture.kind != "embed" else 0
    return int(max(forward, sampling, 0 if run.eager else COMPILE)) + PEAK


def captured_graphs(max_num_seqs: int, limit: int = 512) -> int:
    """CUDA graphs: one a batch size, for mixed batches up to twice the requests and for decoding up to the requests."""

    def sizes(largest: int) -> int:
        wanted = [1, 2, 4, *range(8, 256, 8), *range(256, limit + 1, 16)]
        return sum(size <= largest for size in wanted)

    return sizes(min(2 * max_num_seqs, limit)) + sizes(min(max_num_seqs, limit))


def _graphs(architecture: Architecture, run: Run) -> int:
    if run.eager or run.engine < GRAPHS_COUNTED_SINCE or architecture.kind == "embed":
        return 0
    states = any(isinstance(layer, State) for layer in architecture.layers)
    return captured_graphs(run.max_num_seqs) * GRAPH + (STATE_GRAPHS if states else 0)
