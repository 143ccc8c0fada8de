"""LiteLLM's config.yaml as typed models.

LiteLLM ignores a key that it doesn't know, without a word, and hands an unknown `litellm_params` key to the engine
inside the request body. So each key that we set is a field here, and nothing else can be written. Names and meanings
are those of LiteLLM 1.103.2 (`proxy/_types.py` ConfigGeneralSettings, `types/router.py`,
`__init__.py` of the package).
"""

from dataclasses import asdict, dataclass

import yaml


@dataclass(frozen=True, kw_only=True)
class LitellmParams:
    """How one replica is called."""

    model: str
    """`hosted_vllm/<name>`: the provider, and the name that the engine serves."""
    api_base: str
    api_key: str
    """The OpenAI client insists on one. Engines ask for none: they are reached on the inner network alone."""
    timeout: int
    """Seconds without a byte from the engine until a request that doesn't stream is given up."""
    stream_timeout: int
    """Seconds without a byte from the engine until a stream is given up; waiting for the first token counts."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    id: str
    """The replica's service name, so that logs and metrics name it."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One replica of a model. Entries that share `model_name` share its requests."""

    model_name: str
    litellm_params: LitellmParams
    model_info: ModelInfo


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Retries by kind of error, where `num_retries` doesn't hold."""

    TimeoutErrorRetries: int
    """0: who has waited for the whole time is not made to wait for it again."""


@dataclass(frozen=True, kw_only=True)
class GroupRetryPolicy:
    """Retries of one model, in place of RetryPolicy and `num_retries`."""

    DefaultRetries: int
    """After an error of any kind."""


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    routing_strategy: str
    num_retries: int
    retry_policy: RetryPolicy
    model_group_retry_policy: dict[str, GroupRetryPolicy]
    """By model."""
    retry_after: int
    """Seconds before a retry, at least."""
    allowed_fails: int
    """Failures in a minute that a replica may have before it rests."""
    cooldown_time: int
    """Seconds that it rests."""
    fallbacks: tuple[dict[str, tuple[str, ...]], ...]
    timeout: int
    stream_timeout: int


@dataclass(frozen=True, kw_only=True)
class LitellmSettings:
    callbacks: tuple[str, ...]
    request_timeout: int
    drop_params: bool
    """False: a parameter that can't be passed on is an error, never dropped unseen."""
    require_auth_for_metrics_endpoint: bool
    """False: Prometheus has no key. nginx does not let /metrics through."""
    json_logs: bool
    set_verbose: bool
    global_disable_no_log_param: bool
    """True: a request can't ask to be left out of the log."""


@dataclass(frozen=True, kw_only=True)
class GeneralSettings:
    master_key: str
    """`os.environ/NAME`: read by LiteLLM when it starts."""
    custom_auth: str
    """`module.function`, a file beside config.yaml."""
    custom_auth_run_common_checks: bool
    cancel_on_disconnect: bool
    """Stop the engine's work for a client that has gone (requests that don't stream; streams always do)."""


@dataclass(frozen=True, kw_only=True)
class ProxyConfig:
    model_list: tuple[ModelEntry, ...]
    router_settings: RouterSettings
    litellm_settings: LitellmSettings
    general_settings: GeneralSettings

    def to_yaml(self) -> str:
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False, width=110)


def _plain(value: object) -> object:
    """Tuples become lists: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
