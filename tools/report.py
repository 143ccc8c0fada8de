"""`make preview`: what `make up` would change, which models restart, and for how long users feel it.

A short reading of `pulumi preview --json`. The seconds are those that the version set states for each image
(measured with the built images on 4 cores) and each container carries as a label; stopping an idle container takes
about a second. What happens to hosts over SSH is told by their last facts, see planning.hosts.outlook.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from planning.hosts.outlook import outlook, reboots
from planning.hosts.plan import STEPS
from planning.names import COOLDOWN_S
from planning.network.compare import access, read
from planning.placement import gateway_host, placed
from stack_configs.schema.stack import StackSpec
from tools.stack import load_stack, with_new_keys

CONTAINER = "docker:index/container:Container"
COMMAND = "command:remote:Command"
"""A step of a host's preparation, called `<host>-<step>`."""
STASH = "pulumi:index:Stash"
"""What is written to a headscale."""
OF_A_MESH = ("mesh-policy", "mesh-policy-tests", "tailnet-policy", "tailnet-names")
"""What a mesh's owner leaves behind when it goes: see components.network.mesh_policy."""
PREFIX = "inference-stack."
FILES_TARGET = "/config"
NO_KEY = "has no key yet"
"""What the program says of an API key without a hash."""
STOP_S = 1
"""Seconds to stop a container that has nothing left to do."""
DIFF_LINES = 12
"""Lines shown of one config file's change."""

VERBS = {
    "create": "create",
    "create-replacement": "replace",
    "replace": "replace",
    "delete-replaced": "replace",
    "delete": "delete",
    "update": "update",
}
"""Pulumi's operations in the report's words. An update happens in place: nothing restarts."""


@dataclass(frozen=True)
class Change:
    """What happens to one resource."""

    verb: str
    kind: str
    name: str
    parent: str
    """Name of the component that it belongs to: the model, `gateway`, `monitoring`."""
    old: Mapping[str, Any]
    new: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        rows = self.new.get("labels") or self.old.get("labels") or []
        return {row["label"].removeprefix(PREFIX): str(row["value"]) for row in rows}

    @property
    def is_service(self) -> bool:
        """A container that serves: neither a job nor a carrier of files."""
        return self.kind == CONTAINER and "starts-in-s" in self.labels and self.labels.get("job") != "true"

    @property
    def starts_in_s(self) -> int:
        return int(self.labels.get("starts-in-s", "0"))

    @property
    def grace_s(self) -> int:
        """How long requests in flight may hold up the old container's stop, seconds."""
        return int(self.old.get("destroyGraceSeconds") or 0)


def changes(preview: Mapping[str, Any]) -> list[Change]:
    """One Change per resource, in the order in which Pulumi takes them; the unchanged have the verb `same`."""
    found: dict[str, Change] = {}
    for step in preview.get("steps", []):
        old, new = step.get("oldState") or {}, step.get("newState") or {}
        state = new or old
        kind = state.get("type", "")
        if not state.get("custom") or (kind.startswith("pulumi:") and kind != STASH):
            continue
        found[step["urn"]] = Change(
            verb=VERBS.get(step["op"], "same"),
            kind=kind,
            name=step["urn"].rsplit("::", 1)[1],
            parent=state.get("parent", "").rsplit("::", 1)[-1],
            old=old.get("inputs") or {},
            new=new.get("inputs") or {},
        )
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """What is told of hosts over SSH."""

    lines: tuple[str, ...] = ()
    stops: Mapping[str, str] = field(default_factory=dict)
    """Service, or `gateway` → why it stops although its container stays as it is."""


def report(preview: Mapping[str, Any], stack: str, hosts: Hosts = Hosts()) -> str:
    """The whole report. `preview` is what `pulumi preview --json --show-sames` prints."""
    every = changes(preview)
    changed = [c for c in every if c.verb != "same"]
    if not changed:
        same = f"Nothing would change in `{stack}`: {len(every)} resources are as they should be."
        return "\n".join([same, *hosts.lines])
    counts = [f"{n} to {verb}" for verb in ("create", "update", "replace", "delete") if (n := _count(changed, verb))]
    lines = [f"Preview of `{stack}`: {', '.join(counts)}, {len(every) - len(changed)} unchanged", ""]
    shown = [c for c in changed if c.kind == CONTAINER and not c.name.endswith("-files-carrier")]
    carriers = {c.name: c for c in every if c.name.endswith("-files-carrier")}
    width = max((len(c.name) for c in shown), default=0)
    for change in shown:
        why = reasons(change, carriers.get(f"{change.name}-files-carrier"))
        lines.append(f"  {change.verb:<8} {change.name:<{width}}  {why[0] if why else ''}".rstrip())
        lines += [f"  {'':<8} {'':<{width}}  {more}" for more in why[1:]]
    rest = [c for c in changed if c.kind != CONTAINER and not c.name.endswith("-files")]
    for change in rest:
        lines.append(f"  {change.verb:<8} {change.name}  ({change.kind.rsplit(':', 1)[1].lower()})")
        lines += _policy(change)
    return "\n".join([*lines, "", *hosts.lines, *_effects(every, hosts.stops)])


def of_hosts(every: Sequence[Change], spec: StackSpec, now: datetime) -> Hosts:
    """What the preview's steps mean for each host over SSH; and which hosts leave."""
    changed = {c.name: c.verb for c in every if c.kind == COMMAND and c.verb != "same"}
    lines: list[str] = []
    stops: dict[str, str] = {}
    for host in (name for name, host in spec.file.hosts.items() if host.connection.kind == "ssh"):
        verbs = {step: changed.pop(f"{host}-{step}", "same") for step in STEPS}
        runs = [step for step, verb in verbs.items() if verb not in ("same", "delete")]
        lines += outlook(host, spec, runs, now)
        if undone := [step for step in reversed(STEPS) if verbs[step] == "delete"]:
            lines.append(f"  undone    {', '.join(undone)}")
        if (will := reboots(host, spec, runs, now)) != "no":
            there = [replica.service for replica in placed(spec) if replica.host == host]
            there += ["gateway"] if host == gateway_host(spec) else []
            stops |= dict.fromkeys(there, f"{'while' if will == 'yes' else 'if'} {host} reboots")
    leaving: dict[str, list[str]] = {}
    for name, verb in changed.items():
        host, _, step = name.rpartition("-")
        if verb == "delete":
            leaving.setdefault(host, []).append(step)
    lines += [f"Host {host}: leaves the stack; undone: {', '.join(steps)}." for host, steps in leaving.items()]
    return Hosts(lines=tuple(lines), stops=stops)


def reasons(change: Change, carrier: Change | None) -> list[str]:
    """What differs in a container's inputs, one line each; for its config files, the lines that differ."""
    if change.verb in ("create", "delete"):
        return []
    told: list[str] = []
    for key in sorted({*change.old, *change.new} - {"__defaults"}):
        old, new = _plain(change.old.get(key)), _plain(change.new.get(key))
        if old == new:
            continue
        if key == "mounts":
            told += [t for t in _listed("mounts", _without_files(old), _without_files(new)) if t]
        elif isinstance(old, list) or isinstance(new, list):
            told += _listed(key, old or [], new or [])
        else:
            told.append(f"{key}: {_short(old)} → {_short(new)}")
    if carrier is not None and carrier.verb != "same":
        told += _files(carrier)
    return told or ["its dependencies are replaced"]


def _policy(change: Change) -> list[str]:
    """Of a mesh's policy: who may reach what from now on, and no more."""
    if change.verb == "delete" and change.name in OF_A_MESH:
        return [f"  {'':<8}     stays in force as it is: the stack doesn't write it any more"]

    def of(inputs: Mapping[str, Any]) -> list[str]:
        made = (inputs.get("input") or {}).get("policy") if change.name == "mesh-policy" else inputs.get("acl")
        return access(read(made) if isinstance(made, str) else made or {})

    old, new = of(change.old), of(change.new)
    lines = [f"    - {line}" for line in old if line not in new] + [f"    + {line}" for line in new if line not in old]
    return [f"  {'':<8} {line}" for line in lines]


def _files(carrier: Change) -> list[str]:
    def texts(inputs: Mapping[str, Any]) -> dict[str, str]:
        return {row["file"]: str(row.get("content", "")) for row in inputs.get("uploads") or []}

    if any(isinstance(inputs.get("uploads"), str) for inputs in (carrier.old, carrier.new)):
        return ["its secret files"]  # Pulumi shows one word in place of the list
    old, new = texts(carrier.old), texts(carrier.new)
    told: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        if before == after:
            continue
        gone = [f"    - {line.strip()}" for line in before if line not in set(after)]
        come = [f"    + {line.strip()}" for line in after if line not in set(before)]
        lines = [*gone, *come]
        told += [f"{name}:", *(_short(line, 100) for line in lines[:DIFF_LINES])]
        if len(lines) > DIFF_LINES:
            told.append(f"    … {len(lines) - DIFF_LINES} more lines")
    return told


def _effects(every: list[Change], stops: Mapping[str, str]) -> list[str]:
    """Who feels it, and for how many seconds."""
    lines: list[str] = []
    services = [c for c in every if c.is_service]
    for model in dict.fromkeys(c.parent for c in services if c.labels.get("component") == "serving"):
        lines += _model(model, [c for c in services if c.parent == model], stops)
    lines += _gateway([c for c in services if c.labels.get("component") == "gateway"], stops)
    lines += _ingress([c for c in services if c.labels.get("component") == "network"])
    watching = [c for c in services if c.labels.get("component") == "observability" and c.verb == "replace"]
    if watching:
        seconds = max(c.starts_in_s for c in watching) + STOP_S
        lines.append(f"Monitoring: {_names(watching)} away for about {seconds} s; nothing that serves depends on it.")
    return lines


def _model(model: str, replicas: list[Change], stops: Mapping[str, str]) -> list[str]:
    touched = [c for c in replicas if c.verb == "replace"]
    new = [c for c in replicas if c.verb == "create"]
    staying = [c for c in replicas if c.verb in ("same", "update", "replace")]
    if not staying and replicas and all(c.verb == "delete" for c in replicas):
        return [f"Model {model}: goes away."]
    if not staying and new:
        slowest = max(c.starts_in_s for c in new)
        return [f"Model {model}: new; ready about {slowest} s after its weights are there."]
    if not touched:
        stopped = [f"{c.name} stops {stops[c.name]}" for c in staying if c.name in stops]
        return [f"Model {model}: {'; '.join(stopped) or 'not restarted'}."]
    seconds = sum(c.starts_in_s + STOP_S for c in touched) + COOLDOWN_S * (len(touched) - 1)
    grace = max(c.grace_s for c in touched)
    waits = f"; running requests may finish first, {grace} s at the most" if grace else ""
    if len(staying) > 1:
        return [
            f"Model {model}: {_names(touched)} restart one at a time, about {seconds} s in all{waits}. "
            f"The other {len(staying) - 1} of {len(staying)} replicas answer meanwhile: away for 0 s."
        ]
    return [f"Model {model}: {_names(touched)} restarts, away for about {seconds} s{waits}."]


def _gateway(services: list[Change], stops: Mapping[str, str]) -> list[str]:
    if not services:
        return []
    if all(c.verb == "create" for c in services):
        return [f"Gateway: new; answers after about {max(c.starts_in_s for c in services)} s."]
    touched = [c for c in services if c.verb == "replace"]
    if not touched:
        return [f"Gateway: stops {stops['gateway']}." if "gateway" in stops else "Gateway: not touched."]
    front = [c for c in touched if not c.name.startswith("litellm-")]
    proxies = [c for c in services if c.name.startswith("litellm-") and c.verb != "create"]
    away = sum(c.starts_in_s + STOP_S for c in front)
    behind = [c for c in touched if c.name.startswith("litellm-")]
    if behind and len(proxies) < 2:
        away += sum(c.starts_in_s + STOP_S for c in behind)
        more = " (with `gateway.instances: 2` LiteLLM's part of it would be 0 s)"
    else:
        more = "; LiteLLM's instances are replaced one at a time" if behind else ""
    return [f"Gateway: {_names(touched)} restarts, away for about {away} s{more}."]


def _ingress(connectors: list[Change]) -> list[str]:
    return [
        {
            "create": "Ingress: new; its names resolve once the connector is connected.",
            "delete": "Ingress: goes away; nobody outside reaches the stack any more.",
            "replace": f"Ingress: {c.name} restarts, nobody outside reaches the stack for about "
            f"{c.starts_in_s + STOP_S} s; running requests may finish first, {c.grace_s} s at the most.",
        }.get(c.verb, "Ingress: not touched.")
        for c in connectors
    ]


def problems(preview: Mapping[str, Any]) -> list[str]:
    """Error messages that Pulumi or the program gave, but for those that only say that there was one."""
    told = [str(d.get("message", "")).strip() for d in preview.get("diagnostics") or [] if d.get("severity") == "error"]
    empty = ("KeyboardInterrupt", "preview failed", "program exited with non-zero exit code")
    return list(dict.fromkeys(t for t in told if t and not any(words in t for words in empty)))


def warnings(preview: Mapping[str, Any]) -> list[str]:
    rows = [d for d in preview.get("diagnostics") or [] if d.get("severity") == "warning"]
    return list(dict.fromkeys(str(d.get("message", "")).strip().removeprefix("warning: ") for d in rows))


def _plain(value: Any) -> Any:
    """Without the marks that Pulumi adds to inputs."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "__defaults"}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _listed(key: str, old: list[Any], new: list[Any]) -> list[str]:
    """Entries that go and come. A flag `--name=value` or variable `NAME=value` with a new value is one line."""
    gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
    told = []
    for entry in list(gone):
        name, equals, value = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        partner = next((c for c in come if equals and isinstance(c, str) and c.startswith(f"{name}=")), None)
        if partner is not None:
            gone.remove(entry)
            come.remove(partner)
            told.append(f"{key}: {name} {_short(value)} → {_short(partner.partition('=')[2])}")
    told += [f"{key}: without {_short(entry)}" for entry in gone]
    told += [f"{key}: with {_short(entry)}" for entry in come]
    return told or [f"{key}: in another order"] if old != new else []


def _without_files(mounts: list[Any] | None) -> list[Any]:
    """Mounts but that of the config files, which are told line by line."""
    return [m for m in mounts or [] if not (isinstance(m, dict) and m.get("target") == FILES_TARGET)]


def _short(value: Any, width: int = 80) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= width else text[: width - 1] + "…"


def _names(group: Iterable[Change]) -> str:
    return ", ".join(c.name for c in group)


def _count(group: Iterable[Change], verb: str) -> int:
    return sum(c.verb == verb for c in group)


def _pulumi(stack: str, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = ["pulumi", "preview", "--json", "--show-sames", "--non-interactive", "-s", stack, *flags]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=dict(os.environ))


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _main(Path(scratch))
        except KeyboardInterrupt:
            return 130


def _main(scratch: Path) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("--stack", default="dev")
    parser.add_argument(
        "--from", dest="recorded", type=Path, help="a file that `pulumi preview --json --show-sames` wrote"
    )
    args = parser.parse_args()
    status, said = 0, ""
    config: Path | None = None
    new_keys: list[str] = []
    if args.recorded:
        preview = json.loads(args.recorded.read_text())
    else:
        try:
            done = _pulumi(args.stack)
            if NO_KEY in done.stdout:
                config, new_keys = with_new_keys(args.stack, scratch)
                done = _pulumi(args.stack, "--config-file", str(config)) if new_keys else done
        except FileNotFoundError:
            print("there is no `pulumi` here yet: run `make up` first", file=sys.stderr)
            return 1
        status, said = done.returncode, done.stderr.strip()
        if "no stack named" in said:
            instead = f"`make preview STACK={args.stack}` shows what the first `make up` would make"
            print(f"there is no stack {args.stack} here yet: {instead}", file=sys.stderr)
            return status
        try:
            preview = json.loads(done.stdout)
        except ValueError:
            print(said or done.stdout.strip(), file=sys.stderr)
            return status or 1
    told = problems(preview)
    if told or status:
        # Half a preview would read as a whole one, so none of it is shown.
        print("\n".join(told) or said or f"pulumi preview ended with status {status}", file=sys.stderr)
        return status or 1
    for warning in warnings(preview):
        print(f"warning: {warning}")
    if new_keys:
        print(f"`make up` first makes the API keys of: {', '.join(new_keys)}")
    every = changes(preview)
    over_ssh = any(c.kind == COMMAND for c in every)
    hosts = of_hosts(every, load_stack(args.stack, config_file=config), datetime.now(UTC)) if over_ssh else Hosts()
    print(report(preview, args.stack, hosts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
