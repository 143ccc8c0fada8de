"""The metrics that rules and dashboards read, under the names of the version set's programs.

Names of vLLM 0.31, LiteLLM 1.103, node exporter 1.5 to 1.12, DCGM exporter 4.6, Prometheus 2.42 to 3.15.
"""

from planning.observability.promql import Appears, Metric


def _metric(name: str, why: str, appears: Appears = "always") -> Metric:
    return Metric(name=name, appears=appears, why=why)


UP = _metric("up", "1 where the last scrape worked, else 0; Prometheus' own, for every target")

WAITING = _metric(
    "vllm:num_requests_waiting_by_reason",
    "requests that wait, by reason (capacity, deferred); 0 from the start",
)
RUNNING = _metric("vllm:num_requests_running", "requests being computed")
KV_USAGE = _metric("vllm:kv_cache_usage_perc", "share of the KV cache in use, 0 to 1")
CACHE_CONFIG = _metric("vllm:cache_config_info", "always 1; its labels are the KV cache's settings and size")
KV_TOKENS = "kv_cache_size_tokens"
"""The label of CACHE_CONFIG with the tokens that the KV cache holds, decimal; per engine, as the ledger counts them."""
PREEMPTIONS = _metric("vllm:num_preemptions_total", "requests thrown back for want of KV cache; 0 from the start")
PROMPT_TOKENS = _metric("vllm:prompt_tokens_total", "tokens read; 0 from the start")
GENERATION_TOKENS = _metric("vllm:generation_tokens_total", "tokens written; 0 from the start")
TTFT = _metric("vllm:time_to_first_token_seconds_bucket", "seconds to the first token; empty buckets at first")
ITL = _metric("vllm:inter_token_latency_seconds_bucket", "seconds between tokens; empty buckets at first")

REQUESTS = _metric(
    "litellm_proxy_total_requests_metric_total",
    "client requests by status_code and requested_model; with the first request",
    "after-traffic",
)
OVERHEAD = _metric(
    "litellm_overhead_latency_metric_bucket",
    "seconds the gateway adds to the backend's time; with the first answer",
    "after-traffic",
)
BACKEND_CALLS = _metric(
    "litellm_deployment_total_requests_total", "calls of each backend, with the first one", "after-traffic"
)
BACKEND_FAILURES = _metric(
    "litellm_deployment_failure_responses_total",
    "calls of each backend that failed, with the first such call",
    "only-with-failure",
)

CPU = _metric("node_cpu_seconds_total", "seconds by CPU and mode")
MEMORY_AVAILABLE = _metric("node_memory_MemAvailable_bytes", "memory that programs could still get, bytes")
MEMORY_TOTAL = _metric("node_memory_MemTotal_bytes", "the host's memory, bytes")
DISK_AVAILABLE = _metric("node_filesystem_avail_bytes", "free for users without privilege, bytes")
DISK_SIZE = _metric("node_filesystem_size_bytes", "size of the file system, bytes")

NOTIFICATIONS_FAILED = _metric(
    "alertmanager_notifications_failed_total", "alerts not delivered, by integration; 0 from the start"
)

TUNNEL_CONNECTIONS = _metric(
    "cloudflared_tunnel_ha_connections",
    "connections of the connector to Cloudflare; four when all is well",
    "only-with-ingress",
)

GPU_TEMPERATURE = _metric("DCGM_FI_DEV_GPU_TEMP", "temperature, degrees Celsius", "only-with-gpu")
GPU_UTILISATION = _metric("DCGM_FI_DEV_GPU_UTIL", "share of time with a kernel running, per cent", "only-with-gpu")
GPU_POWER = _metric("DCGM_FI_DEV_POWER_USAGE", "power draw, W", "only-with-gpu")
GPU_MEMORY_USED = _metric("DCGM_FI_DEV_FB_USED", "memory in use, MiB", "only-with-gpu")
GPU_MEMORY_FREE = _metric("DCGM_FI_DEV_FB_FREE", "memory free, MiB", "only-with-gpu")
GPU_REMAP_FAILURE = _metric(
    "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    "1 when the card has no spare rows left; not on every card",
    "only-with-gpu",
)
GPU_DOUBLE_BIT_ERRORS = _metric(
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "uncorrectable memory errors since the driver loaded", "only-with-gpu"
)
GPU_THERMAL_VIOLATION = _metric("DCGM_FI_DEV_THERMAL_VIOLATION", "time throttled by heat, nanoseconds", "only-with-gpu")
GPU_XIDS = _metric(
    "DCGM_EXP_XID_ERRORS_COUNT",
    "driver errors within the exporter's window, by xid; a series with an xid only after such an error",
    "only-with-gpu",
)
