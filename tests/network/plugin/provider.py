"""Every resource of the cloud that a program asks for, accepted and recorded."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc

Properties = dict[str, PropertyValue]

COMPUTED: Mapping[str, tuple[str, ...]] = {
    "ZeroTrustAccessApplication": ("aud",),
    "ZeroTrustAccessServiceToken": ("clientId", "clientSecret", "expiresAt"),
}
"""Type → outputs that only Cloudflare knows."""
REPLACES = ("accountId", "zoneId", "tunnelId", "configSrc")
"""Inputs that name where a thing is."""


class RecordingProvider(api.Provider):
    """State holds the inputs and what COMPUTED names; secrets stay marked as such."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def diff_config(self, request: api.DiffRequest) -> api.DiffResponse:
        # Without it, a run that changes the API token still uses the old one.
        changed = sorted(
            key for key, value in request.new_inputs.items() if plain(value) != plain(request.old_state.get(key))
        )
        return api.DiffResponse(changes=bool(changed), diffs=changed)

    async def configure(self, request: api.ConfigureRequest) -> api.ConfigureResponse:
        self._record("configure", "provider", "", {"apiToken": plain(request.args.get("apiToken"))})
        return await super().configure(request)

    async def check(self, request: api.CheckRequest) -> api.CheckResponse:
        return api.CheckResponse(inputs=request.new_inputs)

    async def diff(self, request: api.DiffRequest) -> api.DiffResponse:
        old, new = request.old_state, request.new_inputs
        names = {*old, *new} - set(COMPUTED.get(_kind(request.urn), ()))
        changed = sorted(name for name in names if plain(old.get(name)) != plain(new.get(name)))
        return api.DiffResponse(
            changes=bool(changed), diffs=changed, replaces=[name for name in changed if name in REPLACES]
        )

    async def create(self, request: api.CreateRequest) -> api.CreateResponse:
        kind, name = _kind(request.urn), _name(request.urn)
        names = COMPUTED.get(kind, ())
        if request.preview:
            unknown = {key: PropertyValue(rpc.UNKNOWN) for key in names}
            return api.CreateResponse(properties={**request.properties, **unknown})
        self._record("create", kind, name, plain(PropertyValue(request.properties)))
        made = {key: PropertyValue(made_up(name, key)) for key in names}
        return api.CreateResponse(resource_id=made_up(name, "id"), properties={**request.properties, **made})

    async def update(self, request: api.UpdateRequest) -> api.UpdateResponse:
        kind, name = _kind(request.urn), _name(request.urn)
        if not request.preview:
            self._record("update", kind, name, plain(PropertyValue(request.news)))
        kept = {key: request.olds[key] for key in COMPUTED.get(kind, ())}
        return api.UpdateResponse(properties={**request.news, **kept})

    async def delete(self, request: api.DeleteRequest) -> None:
        self._record("delete", _kind(request.urn), _name(request.urn), {})

    async def read(self, request: api.ReadRequest) -> api.ReadResponse:
        return api.ReadResponse(request.resource_id, request.properties, request.inputs)

    async def invoke(self, request: api.InvokeRequest) -> api.InvokeResponse:
        assert request.tok.endswith(":getZeroTrustTunnelCloudflaredToken"), request.tok
        token = (self._folder / "token").read_text()
        # The real one says nothing of its being secret either: the program has to.
        return api.InvokeResponse(return_value={**request.args, "token": PropertyValue(token)})

    def _record(self, operation: str, kind: str, name: str, inputs: Any) -> None:
        line = json.dumps({"operation": operation, "type": kind, "name": name, "inputs": inputs})
        with (self._folder / "recorded.jsonl").open("a") as file:
            file.write(f"{line}\n")


def made_up(name: str, key: str) -> str:
    """What Cloudflare would have made; the same each time, so that a test can look for it."""
    return hashlib.sha256(f"{name} {key}".encode()).hexdigest()


def _kind(urn: str) -> str:
    return urn.split("::")[2].rsplit(":", 1)[1]


def _name(urn: str) -> str:
    return urn.rsplit("::", 1)[1]


def plain(value: PropertyValue | None) -> Any:
    """The value without what Pulumi adds to it."""
    if value is None or value.value is None:
        return None
    if isinstance(value.value, Mapping):
        return {key: plain(of) for key, of in value.value.items()}
    if isinstance(value.value, list | tuple):
        return [plain(of) for of in value.value]
    return value.value
