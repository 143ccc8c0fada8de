"""LiteLLM's configuration, from models of our own: LiteLLM ignores keys that it does not know, without a word."""

import json
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from planning.names import VLLM_PORT, replica_service
from stack_configs.schema.stack import StackSpec

ALLOWED_FAILS = 1
COOLDOWN_S = 10
"""A replica that failed more than ALLOWED_FAILS times a minute is left alone for so long."""


class Part(BaseModel):
    """A part of config.yaml; a misspelt key is an error here, where LiteLLM would drop it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Deployment(Part):
    """Where a replica answers."""

    model: str
    api_base: str
    api_key: str = "none"
    timeout: int
    """Seconds for a whole answer."""
    stream_timeout: int
    """Seconds until the first token, when streaming."""


class ModelInfo(Part):
    id: str
    """The replica's service name: it stands in metrics and in the request log."""


class ModelEntry(Part):
    model_name: str
    litellm_params: Deployment
    model_info: ModelInfo


class RouterSettings(Part):
    routing_strategy: Literal["simple-shuffle"] = "simple-shuffle"
    """Splits evenly; the ones that measure latency or usage starve equal replicas (seen with 1.106)."""
    num_retries: int
    allowed_fails: int = ALLOWED_FAILS
    cooldown_time: int = COOLDOWN_S
    timeout: int
    fallbacks: list[dict[str, list[str]]]


class LitellmSettings(Part):
    callbacks: list[str]
    require_auth_for_metrics_endpoint: bool = False
    """Only the inner network reaches it."""
    request_timeout: int
    telemetry: bool = False
    drop_params: bool = False
    turn_off_message_logging: bool = True


class GeneralSettings(Part):
    custom_auth: str = "key_auth.check_key"
    custom_auth_run_common_checks: bool = True
    disable_adding_master_key_hash_to_db: bool = True
    cancel_on_disconnect: bool = True


class Config(Part):
    """config.yaml as a whole."""

    model_list: list[ModelEntry]
    router_settings: RouterSettings
    litellm_settings: LitellmSettings
    general_settings: GeneralSettings = GeneralSettings()


def config(spec: StackSpec) -> Config:
    """One entry a replica, under the model's name; fallbacks as the spec says."""
    gateway = spec.file.gateway
    timeout = gateway.request_timeout_s
    entries = [
        ModelEntry(
            model_name=name,
            litellm_params=Deployment(
                model=f"hosted_vllm/{name}",
                api_base=f"http://{replica_service(name, index)}:{VLLM_PORT}/v1",
                timeout=timeout,
                stream_timeout=timeout,
            ),
            model_info=ModelInfo(id=replica_service(name, index)),
        )
        for name, model in spec.file.models.items()
        for index in range(len(model.replicas))
    ]
    return Config(
        model_list=entries,
        router_settings=RouterSettings(
            num_retries=gateway.num_retries,
            timeout=timeout,
            fallbacks=[{name: list(others)} for name, others in gateway.fallbacks.items()],
        ),
        litellm_settings=LitellmSettings(callbacks=["prometheus", "request_log.request_log"], request_timeout=timeout),
    )


def config_yaml(spec: StackSpec) -> str:
    """The text of config.yaml."""
    return yaml.safe_dump(config(spec).model_dump(), sort_keys=False)


def keys_json(spec: StackSpec) -> str:
    """What key_auth.py reads: SHA-256 of a key → what its holder may do. Holds no key."""
    gateway = spec.file.gateway
    every = list(spec.file.models)
    keys = {
        spec.key_hashes[name]: {
            "id": name,
            "models": every if key.models == "all" else list(key.models),
            "rpm": key.rpm,
            "tpm": key.tpm,
        }
        for name, key in gateway.keys.items()
    }
    return json.dumps({"keys": keys, "fallbacks": gateway.fallbacks}, indent=1, sort_keys=True) + "\n"
