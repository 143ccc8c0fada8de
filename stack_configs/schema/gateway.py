"""The gateway: nginx in front of LiteLLM, who may call which model, and how often."""

from typing import Annotated, Literal

from pydantic import Field

from stack_configs.schema.base import Frozen, Name, Port


class ApiKey(Frozen):
    """What the holder of one API key may do. The key itself is generated and kept in encrypted config."""

    models: Literal["all"] | tuple[Name, ...] = "all"
    """Models that this key may ask for: `all`, or a list of names."""
    rpm: Annotated[int, Field(ge=1)] | None = None
    """Requests per minute; without it there is no limit."""
    tpm: Annotated[int, Field(ge=1)] | None = None
    """Tokens per minute, prompt and answer; without it there is no limit."""


class Gateway(Frozen):
    """One OpenAI-compatible address for all models."""

    host: Name | None = None
    """The host that runs gateway and monitoring; a stack with one host needs no word of it."""
    port: Port = 8080
    """Where nginx listens: on loopback of the gateway's host."""
    instances: Annotated[int, Field(ge=1, le=4)] = 1
    """LiteLLM instances. With two, a change of the gateway fails no request."""
    keys: dict[Name, ApiKey]
    """API keys by name. `make up` makes the keys themselves; `make key` prints one."""
    fallbacks: dict[Name, tuple[Name, ...]] = {}
    """For a model that can't answer: the models to try instead, in order."""
    num_retries: Annotated[int, Field(ge=0, le=5)] = 2
    """How often a failed call is tried again, on another replica where there is one."""
    request_timeout_s: Annotated[int, Field(ge=10, le=86400)] = 3600
    """Longest time for one answer, seconds."""
    max_body_mib: Annotated[int, Field(ge=1, le=1024)] = 20
    """Largest request body, MiB."""
