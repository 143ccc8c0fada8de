"""Rules that span the parts of a spec: references, clashes, impossible numbers. Pure.

Each yields `(path, what is wrong, what to write)`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from stack_configs.firewall_rules import firewall_problems
from stack_configs.ingress_rules import ingress_problems
from stack_configs.mesh_rules import mesh_problems
from stack_configs.problems import Path
from stack_configs.schema.gateway import Gateway
from stack_configs.schema.hosts import Host, SshConnection, SshServer
from stack_configs.schema.models import Model
from stack_configs.schema.network import MESHED_PORT, Network
from stack_configs.schema.observability import Observability
from stack_configs.uplink_rules import uplink_problems

Found = tuple[Path, str, str]

RESERVED = ("nginx", "prometheus", "alertmanager", "node-exporter", "dcgm-exporter", "grafana", "cloudflared")
"""Services of the stack; containers share one set of names."""

OWNED_FLAGS: Mapping[str, str] = {
    "--model": "`source:`",
    "--served-model-name": "the model's key under `models:`",
    "--config": "this file's settings, which a file of vLLM's could contradict",
    "--hf-token": "nothing: the engine runs offline, and `ps` would show the token",
    "--revision": "`source.revision:`",
    "--host": "nothing: the engine listens inside its container",
    "--port": "nothing: the gateway's port is `gateway.port`",
    "--max-model-len": "`max_model_len:`",
    "--max-num-seqs": "`max_num_seqs:`",
    "--max-num-queued-reqs": "`max_num_queued_reqs:`",
    "--dtype": "`dtype:`",
    "--gpu-memory-utilization": "`gpu_memory_utilization:`",
    "--kv-cache-memory-bytes": "`cpu_kv_cache_mib:`",
    "--tensor-parallel-size": "the replica's `gpus:`",
    "--enforce-eager": "`enforce_eager:`",
    "--shutdown-timeout": "`drain_timeout_s:`",
    "--api-key": "`gateway.keys:` (an engine's own key guards a part of its paths only, and shows in `ps`)",
}
"""Flags of `vllm serve` that a field sets → what to write instead."""

CPU_FLOOR_MIB = 1600
"""A vLLM process on the CPU before any weights and KV cache: about 1.45 GiB (run, vLLM 0.32)."""

HOST_KEY = re.compile(r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{60,}={0,2}$")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The parts that could be read; `broken` names those that could not, so that nobody complains twice."""

    hosts: Mapping[str, Host]
    models: Mapping[str, Model]
    gateway: Gateway | None
    observability: Observability
    network: Network
    broken: frozenset[Path]


def broken_rules(spec: Parsed, weights: str, local_gpus: tuple[str, ...]) -> Iterator[Found]:
    """Every rule over every part."""
    yield from _hosts(spec)
    yield from _between_hosts(spec)
    yield from uplink_problems(spec.hosts)
    for name, model in spec.models.items():
        yield from _model(name, model, spec)
        yield from _replicas(name, model, spec)
    yield from _gpu_shares(spec, local_gpus)
    yield from _services(spec)
    if spec.gateway:
        yield from _gateway(spec.gateway, spec)
    yield from _ports(spec)
    if spec.network.ingress:
        yield from ingress_problems(spec.network.ingress, spec.observability)
    if spec.network.mesh:
        yield from mesh_problems(spec.network.mesh, spec.hosts)
    yield from firewall_problems(spec.network, spec.hosts, spec.broken)
    url = spec.observability.alertmanager.webhook_url
    if url is not None and not _is_web_address(url):
        yield (
            ("observability", "alertmanager", "webhook_url"),
            "is no address that alerts can be sent to",
            "write `https://host/path`, or leave it out",
        )
    elif url is not None and "@" in urlsplit(url).netloc:
        yield (
            ("observability", "alertmanager", "webhook_url"),
            "holds a user or password, which would stand in plain here and in Pulumi's state",
            "leave it out of the address",
        )
    if weights == "random":
        for name, host in spec.hosts.items():
            if host.connection.kind != "local":
                yield (
                    ("hosts", name),
                    "would serve random weights: this stack's config says `inference-stack:weights: random`",
                    "`pulumi config set inference-stack:weights hub`",
                )


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or beyond 65535
        return False


def _hosts(spec: Parsed) -> Iterator[Found]:
    local = [name for name, host in spec.hosts.items() if host.connection.kind == "local"]
    for name in local[1:]:
        yield (("hosts", name), f"is this machine, and so is {local[0]}", "keep one host of `kind: local`")
    if local and len(local) < len(spec.hosts):
        yield (
            ("hosts", local[0]),
            "is this machine, in a stack with SSH hosts: who runs Pulumi would change what runs",
            "give this machine a `kind: ssh` connection too, or a stack of its own",
        )
    seen: dict[tuple[str, int], str] = {}
    for name, host in spec.hosts.items():
        if not isinstance(host.connection, SshConnection):
            continue
        at = (host.connection.address, host.connection.port)
        if at in seen:
            yield (
                ("hosts", name, "connection", "address"),
                f"{at[0]}:{at[1]} is host {seen[at]} already: GPUs would be counted twice",
                "one entry per machine",
            )
        seen.setdefault(at, name)
        yield from _server(("hosts", name, "connection"), host.connection)
        if host.connection.jump:
            yield from _server(("hosts", name, "connection", "jump"), host.connection.jump)
        if host.connection.address in ("localhost", "127.0.0.1", "::1"):
            yield (
                ("hosts", name, "connection", "address"),
                "is this machine: who runs Pulumi would change what runs",
                "write the host's own name, or `kind: local` in a stack of its own",
            )
    for name, host in spec.hosts.items():
        for gpu, count in Counter(host.gpus).items():
            if count > 1:
                yield (("hosts", name, "gpus"), f"{gpu} is listed {count} times", "list each GPU once")
    owners: dict[str, str] = {}
    for name, host in spec.hosts.items():
        for gpu in dict.fromkeys(host.gpus):
            if gpu in owners:
                yield (
                    ("hosts", name, "gpus"),
                    f"{gpu} is in host {owners[gpu]} too",
                    "a GPU is in one machine",
                )
            owners.setdefault(gpu, name)


def _server(at: Path, server: SshServer) -> Iterator[Found]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]*", server.address):
        yield (
            (*at, "address"),
            "is no name or IP address alone",
            "write it without user, port or spaces; `user` and `port` are settings of their own",
        )
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", server.user):
        yield ((*at, "user"), "is no user's name", "write the name alone, of letters, digits, `_`, `.`, `-` and `@`")
    if not HOST_KEY.match(server.host_key):
        yield (
            (*at, "host_key"),
            "is no public host key; without one, anybody could pose as this host",
            f"write what `ssh-keyscan -t ed25519 {server.address}` prints after the name",
        )


def _between_hosts(spec: Parsed) -> Iterator[Found]:
    """Which host is the gateway's, and the addresses by which it and the others know each other."""
    every = [*spec.hosts, *(str(path[1]) for path in spec.broken if path[0] == "hosts" and len(path) > 1)]
    # This machine beside others is refused already.
    several = len(every) > 1 and all(host.connection.kind == "ssh" for host in spec.hosts.values())
    gateway = spec.gateway
    if gateway and gateway.host is None and several:
        says = f"is missing, and there are {len(every)} hosts: one of them runs gateway and monitoring"
        yield (("gateway", "host"), says, _choose(spec.hosts))
    elif gateway and gateway.host is not None and gateway.host not in every:
        yield (("gateway", "host"), f"there is no host {gateway.host}", _choose(spec.hosts))
    owners: dict[str, str] = {}
    for name, host in spec.hosts.items():
        at, address = ("hosts", name, "lan_address"), host.lan_address
        if address is None:
            if several and spec.network.mesh is None and ("network", "mesh") not in spec.broken:
                yield (
                    at,
                    "is missing: between several hosts, the gateway's reaches the engines of the others by it",
                    "write the host's IP address in a network of yours, as `ip -brief address` shows it there",
                )
            continue
        if owners.setdefault(address, name) != name:
            yield (at, f"{address} is host {owners[address]}'s already", "write each host's own address")
        if ip_address(address).is_global:
            yield (
                at,
                f"{address} is a public address: engines would be offered to the internet, without a key or TLS",
                "write an address of a private network, or of a mesh",
            )
        elif not _can_be_reached(address):
            yield (at, f"{address} can't be reached from another host", "write its address in a network they share")


def _can_be_reached(address: str) -> bool:
    ip = ip_address(address)
    return not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local)


def _model(name: str, model: Model, spec: Parsed) -> Iterator[Found]:
    at = ("models", name)
    for index, arg in enumerate(model.extra_args):
        flag = arg.split("=", 1)[0]
        if not re.fullmatch(r"--[a-z0-9][a-z0-9.-]*", flag):
            yield (
                (*at, "extra_args", index),
                # Not shown in full: it may be the value, and a secret, of the flag before it.
                f"{flag!r} is no flag in one piece" if flag.startswith("-") else "is no flag in one piece",
                "write `--name=value`, or `--name` for a switch",
            )
        elif (owned := flag if flag in OWNED_FLAGS else flag.replace("--no-", "--", 1)) in OWNED_FLAGS:
            yield ((*at, "extra_args", index), f"{flag} is set already", f"use {OWNED_FLAGS[owned]}")
    for flag, count in Counter(arg.split("=", 1)[0] for arg in model.extra_args).items():
        if count > 1:
            yield ((*at, "extra_args"), f"{flag} is given {count} times", "keep one")
    needs = CPU_FLOOR_MIB + model.cpu_kv_cache_mib
    on_cpu = any(not replica.gpus for replica in model.replicas)
    if on_cpu and model.memory_mib < needs:
        yield (
            (*at, "memory_mib"),
            f"{model.memory_mib} MiB is too little: the engine needs {CPU_FLOOR_MIB} and its KV cache "
            f"{model.cpu_kv_cache_mib}, before any weights",
            f"write at least {needs} plus the size of the weights, or lower `cpu_kv_cache_mib`",
        )
    if model.max_num_queued_reqs < model.max_num_seqs:
        yield (
            (*at, "max_num_queued_reqs"),
            f"{model.max_num_queued_reqs} is fewer than the {model.max_num_seqs} computed at once: "
            "a burst would be refused before the engine is full",
            f"write {model.max_num_seqs} or more",
        )
    if spec.gateway and model.drain_timeout_s > spec.gateway.request_timeout_s:
        yield (
            (*at, "drain_timeout_s"),
            f"waits {model.drain_timeout_s} s for requests that the gateway cuts after "
            f"{spec.gateway.request_timeout_s} s",
            f"write {spec.gateway.request_timeout_s} or less",
        )


def _replicas(name: str, model: Model, spec: Parsed) -> Iterator[Found]:
    for index, replica in enumerate(model.replicas):
        at = ("models", name, "replicas", index)
        host = spec.hosts.get(replica.host)
        if host is None:
            if ("hosts", replica.host) not in spec.broken:
                yield ((*at, "host"), f"there is no host {replica.host}", _choose(spec.hosts))
            continue
        for gpu in replica.gpus:
            if gpu not in host.gpus:
                yield (
                    (*at, "gpus"),
                    f"{gpu} is not among the GPUs of {replica.host}",
                    f"add it to `hosts.{replica.host}.gpus`, or write one of {', '.join(host.gpus) or 'none'}",
                )
        if len(set(replica.gpus)) < len(replica.gpus):
            yield ((*at, "gpus"), "names a GPU twice", "name each GPU once")
        if host.gpus and not replica.gpus:
            yield (
                (*at, "gpus"),
                f"is missing, and {replica.host} has GPUs: the model would run on the CPU",
                f"write `gpus: [{host.gpus[0]}]`",
            )


def _gpu_shares(spec: Parsed, local_gpus: tuple[str, ...]) -> Iterator[Found]:
    shares: dict[str, list[tuple[str, float]]] = {}
    for name, model in spec.models.items():
        for replica in model.replicas:
            host = spec.hosts.get(replica.host)
            local = host is not None and host.connection.kind == "local"
            for gpu in dict.fromkeys(replica.gpus or (local_gpus[:1] if local else ())):
                shares.setdefault(gpu, []).append((name, model.gpu_memory_utilization))
    for gpu, users in shares.items():
        total = sum(share for _, share in users)
        if total > 0.98:
            names = ", ".join(f"{name} {share:g}" for name, share in users)
            yield (
                ("models", users[-1][0], "gpu_memory_utilization"),
                f"{gpu} is promised {total:.2f} times: {names}",
                "lower the shares until they sum to 0.98 or less, or use another GPU",
            )


def _services(spec: Parsed) -> Iterator[Found]:
    owner: dict[str, str] = dict.fromkeys(RESERVED, "the stack's own")
    if spec.gateway:
        owner |= {f"litellm-{i}": "the stack's own" for i in range(spec.gateway.instances)}
    owner["litellm"] = "the stack's own"
    if spec.gateway and spec.gateway.host:
        # What several hosts have is called after its host everywhere but at the gateway's.
        others = [host for host in spec.hosts if host != spec.gateway.host]
        shared = ("front", "node-exporter", "dcgm-exporter")
        owner |= {f"{service}-{host}": "the stack's own" for service in shared for host in others}
    else:
        others = []
    for name, model in spec.models.items():
        mine = [f"{name}-{index}" for index in range(len(model.replicas))] + [f"{name}-fetch"]
        mine += [f"{name}-fetch-{host}" for host in others]
        mine += [f"{service}-files" for service in mine]
        for service in [*mine, name]:
            if service in owner:
                yield (
                    ("models", name),
                    f"would have a container {service}, which is {owner[service]}",
                    "choose another name",
                )
                break
        owner |= dict.fromkeys(mine, f"model {name}'s")


def _gateway(gateway: Gateway, spec: Parsed) -> Iterator[Found]:
    if not gateway.keys:
        yield (
            ("gateway", "keys"),
            "is empty: nobody could ask anything",
            "name at least one, such as `me: {}`",
        )
    if not spec.models:
        return
    known = {*spec.models, *(str(path[1]) for path in spec.broken if path[0] == "models" and len(path) > 1)}
    for name, key in gateway.keys.items():
        for index, model in enumerate(key.models if key.models != "all" else ()):
            if model not in known:
                yield (
                    ("gateway", "keys", name, "models", index),
                    f"there is no model {model}",
                    _choose(spec.models),
                )
        if key.models == ():
            yield (
                ("gateway", "keys", name, "models"),
                "is empty: the key could ask nothing",
                "name models, or write `models: all`",
            )
    for name, others in gateway.fallbacks.items():
        at = ("gateway", "fallbacks", name)
        if name not in known:
            yield (at, f"there is no model {name}", _choose(spec.models))
        for index, other in enumerate(others):
            if other == name:
                yield ((*at, index), "a model can't stand in for itself", "name another one")
            elif other not in known:
                yield ((*at, index), f"there is no model {other}", _choose(spec.models))
        if not others:
            yield (at, "is empty", "name a model, or leave it out")
    for circle in _circles(gateway.fallbacks):
        yield (
            ("gateway", "fallbacks", circle[-1]),
            f"goes round: {' → '.join((*circle, circle[0]))}; one failing request would be tried many times",
            f"leave {circle[0]} out",
        )


def _circles(fallbacks: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Every circle of two or more models once, from the member that the file names first."""
    order = {name: position for position, name in enumerate(fallbacks)}

    def walk(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for other in dict.fromkeys(fallbacks[path[-1]]):
            if other == path[0] and len(path) > 1:
                yield path
            elif order.get(other, -1) > order[path[0]] and other not in path:
                yield from walk((*path, other))

    for name in fallbacks:
        yield from walk((name,))


def _ports(spec: Parsed) -> Iterator[Found]:
    taken = {MESHED_PORT: "the API in the mesh"} if spec.network.mesh else {}
    settings = spec.observability
    ports: list[tuple[Path, int]] = []
    if spec.gateway:
        ports.append((("gateway", "port"), spec.gateway.port))
    ports.append((("observability", "prometheus", "port"), settings.prometheus.port))
    ports.append((("observability", "alertmanager", "port"), settings.alertmanager.port))
    if settings.grafana:
        ports.append((("observability", "grafana", "port"), settings.grafana.port))
    for path, port in ports:
        who = ".".join(map(str, path[:-1]))
        if port in taken:
            yield (path, f"{port} is the port of {taken[port]} already", "choose another port")
        taken.setdefault(port, who)


def _choose(known: Mapping[str, object]) -> str:
    return f"write one of: {', '.join(known) or 'none can be used yet'}"
