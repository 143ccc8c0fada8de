"""`command:remote:Command`, as the real plugin does it, over OpenSSH."""

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

Properties = dict[str, PropertyValue]
FIRST_DELAY_S, BACKOFF, LONGEST_DELAY_S = 0.1, 1.5, 5.0
"""Between dials; those of pulumi/pulumi sdk/go/common/util/retry."""
SSH_FAILED = 255


class CommandError(Exception):
    """The command failed, or could not be run."""


class UnknownSettingError(Exception):
    """The double doesn't do what was asked for, though the real plugin does."""


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    user: str
    host_key: str
    agent: str
    dials: int
    dial_s: int

    @classmethod
    def of(cls, connection: Mapping[str, Any]) -> "Server":
        for name in ("password", "privateKey", "privateKeyPassword"):
            if connection.get(name):
                raise UnknownSettingError(f"the double of the command plugin logs in by an agent, not by `{name}`")
        return cls(
            host=connection["host"],
            port=int(connection.get("port") or 22),
            user=connection.get("user") or "root",
            host_key=connection.get("hostKey") or "",
            agent=connection.get("agentSocketPath") or os.environ.get("SSH_AUTH_SOCK", ""),
            dials=int(connection.get("dialErrorLimit", 10)),
            dial_s=int(connection.get("perDialTimeout", 15)),
        )

    def options(self, known: Path, alias: str) -> list[str]:
        # Without a key the real one verifies nothing either.
        known.write_text(f"{alias} {self.host_key}\n" if self.host_key else "")
        options = {
            "HostKeyAlias": alias,
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes" if self.host_key else "no",
            "BatchMode": "yes",
            "IdentityAgent": self.agent or "none",
            "IdentityFile": "none",
            "LogLevel": "ERROR",
        }
        return ["-F", "none", "-p", str(self.port), *(f"-o{key}={value}" for key, value in options.items())]


class CommandProvider(api.Provider):
    """State holds the inputs, `stdout` and `stderr`; connection and standard input are secrets in it."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    async def check(self, request: api.CheckRequest) -> api.CheckResponse:
        inputs = dict(request.new_inputs)
        if "stdin" in inputs:
            inputs["stdin"] = inputs["stdin"].with_secret(True)
        return api.CheckResponse(inputs=inputs)

    async def diff(self, request: api.DiffRequest) -> api.DiffResponse:
        old, new = request.old_state, request.new_inputs
        names = sorted({*old, *new} - {"stdout", "stderr"} - set(request.ignore_changes))
        changed = [name for name in names if _plain(old.get(name)) != _plain(new.get(name))]
        replaces = [name for name in changed if name == "triggers"]
        return api.DiffResponse(changes=bool(changed), diffs=changed, replaces=replaces)

    async def create(self, request: api.CreateRequest) -> api.CreateResponse:
        if request.preview:
            return api.CreateResponse(properties={**request.properties, **_unknown()})
        out = await self._run(request.urn, request.properties, "create", request.timeout)
        ident = request.name + secrets.token_hex(4)
        return api.CreateResponse(resource_id=ident, properties={**request.properties, **out})

    async def update(self, request: api.UpdateRequest) -> api.UpdateResponse:
        if request.preview:
            return api.UpdateResponse(properties={**request.news, **_unknown()})
        which = "update" if _text(request.news.get("update")) else "create"
        out = await self._run(request.urn, request.news, which, request.timeout)
        return api.UpdateResponse(properties={**request.news, **out})

    async def delete(self, request: api.DeleteRequest) -> None:
        await self._run(request.urn, request.properties, "delete", request.timeout)

    async def read(self, request: api.ReadRequest) -> api.ReadResponse:
        # The real one has no Read: a refresh changes nothing.
        return api.ReadResponse(request.resource_id, request.properties, request.inputs)

    async def _run(self, urn: str, properties: Properties, which: str, timeout_s: float) -> Properties:
        command = _text(properties.get(which))
        if not command:
            return {"stdout": PropertyValue(""), "stderr": PropertyValue("")}
        connection = _plain(properties["connection"])
        server, jump = Server.of(connection), connection.get("proxy")
        with tempfile.TemporaryDirectory(prefix="command-double-") as folder:
            # Only dialling ends with the resource's timeout: a command that runs is waited for.
            async with asyncio.timeout(timeout_s or None):
                argv = await self._dial(server, Server.of(jump) if jump else None, Path(folder))
            try:
                rc, out, err = await self._session(urn, [*argv, command], _text(properties.get("stdin")))
            finally:
                await _hang_up(argv)
        if rc != 0:
            raise CommandError(f"Process exited with status {rc}: running {command!r}:\n{out}{err}")
        return {"stdout": PropertyValue(out.removesuffix("\n")), "stderr": PropertyValue(err.removesuffix("\n"))}

    async def _dial(self, server: Server, jump: Server | None, folder: Path) -> list[str]:
        """`ssh` to the server, once a login has succeeded."""
        argv = ["ssh", *server.options(folder / "known_hosts", "host")]
        # The login's connection is the command's too, as in the real plugin.
        argv += ["-oControlMaster=auto", f"-oControlPath={folder / 'control'}", "-oControlPersist=60"]
        if jump:
            words = [
                "ssh",
                *jump.options(folder / "known_hosts-jump", "jump"),
                "-W",
                "%h:%p",
                f"{jump.user}@{jump.host}",
            ]
            argv.append(f"-oProxyCommand={' '.join(words)}")
        argv.append(f"{server.user}@{server.host}")
        delay, dials = FIRST_DELAY_S, 0
        while True:
            why = await _login(jump or server, argv)
            dials += 1
            if why is None:
                return argv
            if dials > server.dials:
                raise CommandError(f"after {dials - 1} failed attempts: {why}")
            await asyncio.sleep(delay)
            delay = min(delay * BACKOFF, LONGEST_DELAY_S)

    async def _session(self, urn: str, argv: list[str], stdin: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            with suppress(ConnectionError):
                process.stdin.write(stdin.encode())
                await process.stdin.drain()
                process.stdin.close()
            out, err = await asyncio.gather(self._log(urn, process.stdout), self._log(urn, process.stderr))
            return await process.wait(), out, err
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    async def _log(self, urn: str, stream: asyncio.StreamReader | None) -> str:
        """Each line as it comes, as information on the resource."""
        assert stream is not None
        text = ""
        async with grpc.aio.insecure_channel(self._engine) as channel:
            engine = engine_pb2_grpc.EngineStub(channel)
            async for line in stream:
                said = line.decode(errors="replace")
                text += said
                message = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=said.rstrip("\n"), urn=urn)
                await engine.Log(message)
        return text


async def _login(first: Server, argv: list[str]) -> str | None:
    """Why it isn't possible; None where it is. The time limit of a dial covers TCP only, as in the real plugin."""
    try:
        async with asyncio.timeout(first.dial_s or None):
            _, writer = await asyncio.open_connection(first.host, first.port)
    except TimeoutError:
        return f"dial tcp {first.host}:{first.port}: i/o timeout"
    except OSError as error:
        return f"dial tcp {first.host}:{first.port}: {error.strerror}"
    writer.close()
    with tempfile.TemporaryFile() as said:  # no pipe: the process that keeps the connection would hold it open
        process = await asyncio.create_subprocess_exec(
            *(*argv, "true"), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=said
        )
        try:
            failed = await process.wait() == SSH_FAILED
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        said.seek(0)
        return f"ssh: handshake failed: {said.read().decode().strip()}" if failed else None


async def _hang_up(argv: list[str]) -> None:
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, "-O", "exit", stdin=nowhere, stdout=nowhere, stderr=nowhere)
    await process.wait()


def _unknown() -> Properties:
    return {name: PropertyValue(rpc.UNKNOWN) for name in ("stdout", "stderr")}


def _text(value: PropertyValue | None) -> str:
    return value.value if value is not None and isinstance(value.value, str) else ""


def _plain(value: PropertyValue | None) -> Any:
    """The value without what Pulumi adds to it."""
    if value is None or value.value is None:
        return None
    if isinstance(value.value, Mapping):
        return {key: _plain(of) for key, of in value.value.items()}
    if isinstance(value.value, list | tuple):
        return [_plain(of) for of in value.value]
    return value.value
