"""Run a Pulumi program against mocks to its end, and look at what it asked for.

Assertions belong after the program: inside `apply` a failing one can pass unnoticed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pytest
from pulumi.runtime import mocks, rpc
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import run_pulumi_func
from pulumi.runtime.sync_await import _sync_await

SECRET_KEY = "4dabf18193072939515e22adb298388d"
"""The wire format's mark on a secret value."""


@dataclass(frozen=True)
class Made:
    """One resource that the program registered."""

    urn: str
    type: str
    name: str
    parent: str
    inputs: Mapping[str, Any]
    request: resource_pb2.RegisterResourceRequest
    """Everything else: dependencies, protect, retainOnDelete, deleteBeforeReplace …"""


class _Monitor(mocks.MockMonitor):
    def __init__(self, provider: mocks.Mocks) -> None:
        super().__init__(provider)
        self.made: list[Made] = []

    def RegisterResource(self, request: resource_pb2.RegisterResourceRequest) -> Any:
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type != "pulumi:pulumi:Stack":
            inputs = rpc.deserialize_properties(request.object, keep_unknowns=True)
            self.made.append(Made(response.urn, request.type, request.name, request.parent, inputs, request))
        return response


class _Hooks:
    """Stands in for the server that the engine calls hooks at."""

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None: ...

    def register_error_hook(self, hook: pulumi.ErrorHook) -> None: ...


class _Echo(mocks.Mocks):
    """Answers with the inputs, as the real provider does, and with what only Docker knows."""

    def __init__(self, exit_code: int, known: Mapping[str, Mapping[str, Any]]) -> None:
        self.exit_code = exit_code
        self.known = known

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        assert args.token in self.known, f"the program looked something up: {args.token}"
        return {**args.args, **self.known[args.token]}, []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        known = {"exitCode": self.exit_code, "containerLogs": "the last line"} if args.inputs.get("attach") else {}
        return f"{args.name}-id", {**args.inputs, **known, **self.known.get(args.typ, {})}


def built(
    program: Callable[[], None],
    *,
    stack: str = "dev",
    exit_code: int = 0,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Made]:
    """All resources that `program` registers, in order. Raises what the program raises.

    `known`: what only the provider knows, by the token of a resource or of a question that the program may ask.
    """
    monitor = _Monitor(_Echo(exit_code, known or {}))
    mocks.set_mocks(monitor.mocks, project="inference-stack", stack=stack, preview=False, monitor=monitor)
    SETTINGS.callbacks = cast(Any, _Hooks())
    SETTINGS.rpc_manager.clear()
    SETTINGS.outputs.clear()
    _sync_await(run_pulumi_func(program))
    return monitor.made


def of_type(made: list[Made], token: str, *, at_least: int = 1) -> list[Made]:
    """Those of one type; fails when there are fewer than `at_least`, so that no check runs over nothing."""
    found = [m for m in made if m.type == token]
    assert len(found) >= at_least, f"{len(found)} resources of type {token}, expected at least {at_least}"
    return found


def is_secret(value: object) -> bool:
    return isinstance(value, dict) and SECRET_KEY in cast(dict[str, Any], value)


@contextmanager
def fails_with(text: str) -> Iterator[None]:
    with pytest.raises(pulumi.RunError, match=text):
        yield
