"""Pulumi config + YAML + version set → StackSpec, or everything that is wrong with them."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from images.recipes import tag as built_tag
from stack_configs import certificates, facts_files, lock_files, neighbours
from stack_configs.mesh_rules import neighbour_problems
from stack_configs.problems import Problem, SpecError
from stack_configs.rules import Found, Parsed, broken_rules
from stack_configs.schema.gateway import Gateway
from stack_configs.schema.hosts import Host
from stack_configs.schema.models import Model
from stack_configs.schema.network import Mesh, Network
from stack_configs.schema.observability import Observability
from stack_configs.schema.reached import over_ssh
from stack_configs.schema.stack import HubAddress, Image, StackFile, StackSpec
from stack_configs.schema.versions import ImageName, VersionSet
from stack_configs.source import Source, parse
from stack_configs.validation import T, short, unknown, validated

if TYPE_CHECKING:
    import pulumi

ROOT = Path(__file__).resolve().parent.parent
MESH_KEY = certificates.KEY.split(":")[1]
OPTIONAL_IMAGES = frozenset({"grafana", "dcgm-exporter", "vllm-cuda", "vllm-cpu", "cloudflared"})
"""Needed by some stacks only."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is this user's own: the stack's Pulumi config, namespace `inference-stack`."""

    images: Literal["registry", "built"] = "registry"
    weights: Literal["hub", "random"] = "hub"
    gpus: tuple[str, ...] = ()
    key_hashes: Mapping[str, str] = field(default_factory=dict)
    repairs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Host → step → count."""
    taken_over_policy: str | None = None
    """SHA-256 of the mesh's policy that this stack may replace."""


CONFIG_KEYS = {
    "images": "images",
    "weights": "weights",
    "gpus": "gpus",
    "key-hashes": "key_hashes",
    "repairs": "repairs",
    "taken-over-policy": "taken_over_policy",
}
"""Key in Pulumi's config → field of Settings."""


def spec_from_pulumi() -> StackSpec:
    """The spec of the stack that Pulumi runs. The only reader of Pulumi's config. Raises SpecError."""
    import pulumi

    config = pulumi.Config("inference-stack")
    plain = ("images", "weights", "taken-over-policy")
    raw = {key: config.get(key) if key in plain else config.get_object(key) for key in CONFIG_KEYS}
    spec = load(pulumi.get_stack(), settings_of(raw, pulumi.get_stack()))
    if spec.file.network.ingress:
        token = pulumi.Config("cloudflare").get("apiToken")
        if wrong := _token_problem(spec.stack, token, pulumi.runtime.is_config_secret("cloudflare:apiToken")):
            raise SpecError([wrong])
    if spec.file.network.mesh:
        plain_keys = {
            key for key, value in mesh_secrets().items() if value and not pulumi.runtime.is_config_secret(key)
        }
        problems = _mesh_problems(spec.stack, spec.file.network.mesh, mesh_secrets(), plain_keys)
        secret = pulumi.runtime.is_config_secret(certificates.KEY)
        for found in certificates.key_problems(spec, config.get(MESH_KEY), secret):
            path, says, write = found
            in_config = Problem(path=path, says=says, write=write, file=f"Pulumi.{spec.stack}.yaml")
            problems += [in_config] if path == (certificates.KEY,) else located(spec.stack, [found])
        if problems:
            raise SpecError(problems)
        told = certificates.expiring(spec, config.get(MESH_KEY))
        spec = spec.model_copy(update={"warnings": (*spec.warnings, *told)})
    return spec


def mesh_key() -> "pulumi.Output[str] | None":
    """The key of the certificate that the API in the mesh has; a secret."""
    import pulumi

    return pulumi.Config("inference-stack").get_secret(MESH_KEY)


def _mesh_problems(stack: str, mesh: Mesh, secrets: Mapping[str, str | None], plain: Collection[str]) -> list[Problem]:
    """What the control plane is asked with must be a secret, and be there where the stack writes the mesh's policy.

    Hosts that have joined need none of it, so a stack that owns no policy may do without.
    """
    if mesh.control == "headscale":
        key, there = "inference-stack:headscaleApiKey", bool(secrets["inference-stack:headscaleApiKey"])
    else:
        key, by_environment = "tailscale:oauthClientSecret", os.environ.get("TAILSCALE_OAUTH_CLIENT_SECRET")
        there = bool(secrets["tailscale:oauthClientSecret"] or by_environment)
    if key in plain:
        says = "stands in plain in the file: whoever reads it can let machines into the mesh"
    elif not there and mesh.policy == "owned":
        says = "is missing, and the stack owns the mesh's policy"
    else:
        return []
    write = f"`pulumi config set --secret {key} -s {stack}`; docs/mesh.md has how to make it"
    return [Problem(path=(key,), says=says, write=write, file=f"Pulumi.{stack}.yaml")]


def mesh_secrets() -> dict[str, str | None]:
    """What the control plane of a mesh is asked with: key in Pulumi's config → its value."""
    import pulumi

    keys = ("inference-stack:headscaleApiKey", "tailscale:oauthClientId", "tailscale:oauthClientSecret")
    return {key: pulumi.Config(key.split(":")[0]).get(key.split(":")[1]) for key in keys}


def _token_problem(stack: str, configured: str | None, secret: bool) -> Problem | None:
    """Cloudflare's API token is read by its plugin, from Pulumi's config or the environment; nothing else needs it."""
    set_it = f"`pulumi config set --secret cloudflare:apiToken -s {stack}`; docs/ingress.md has its permissions"
    if configured and not secret:
        says, write = "stands in plain in the file: whoever reads it can change your account", set_it
    elif not configured and not os.environ.get("CLOUDFLARE_API_TOKEN"):
        says, write = "is missing, and the stack has an ingress", set_it
    else:
        return None
    return Problem(path=("cloudflare:apiToken",), says=says, write=write, file=f"Pulumi.{stack}.yaml")


def load(stack: str, settings: Settings, root: Path = ROOT) -> StackSpec:
    """Read `stack_configs/<stack>.yaml`, its version set and its hosts' facts. Raises SpecError with all problems."""
    return resolve(_source(stack, root), stack, settings, root)


def located(stack: str, found: Iterable[Found], root: Path = ROOT) -> tuple[Problem, ...]:
    """What was found after `load`, at its lines in the stack's file."""
    if not (found := tuple(found)):
        return ()
    source = _source(stack, root)
    return tuple(sorted((source.problem(*one) for one in found), key=lambda problem: problem.line or 0))


def ssh_hosts(stack: str, root: Path = ROOT) -> dict[str, Host]:
    """Hosts over SSH, whatever is wrong elsewhere in the file. Raises SpecError for what is wrong with hosts."""
    source = _source(stack, root)
    parsed, problems = _parts(source)
    if wrong := [problem for problem in problems if problem.path[:1] == ("hosts",)]:
        raise SpecError(wrong)
    return over_ssh(parsed.hosts, parsed.network)


def _source(stack: str, root: Path) -> Source:
    path = root / "stack_configs" / f"{stack}.yaml"
    name = f"stack_configs/{stack}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise SpecError([Problem(path=(), says="does not exist", write=f"write it, or use one of: {known}", file=name)])
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError([Problem(path=(), says="is not UTF-8 text", write="save it as UTF-8", file=name)]) from error
    return parse(text, name)


def resolve(source: Source, stack: str, settings: Settings, root: Path = ROOT) -> StackSpec:
    """From a parsed file to the spec. Raises SpecError with all problems."""
    parsed, problems = _parts(source)
    versions = version_set(source, root, problems)
    images: dict[ImageName, Image] = {}
    warnings: list[str] = []
    gpus = settings.gpus
    no_cuda = settings.images == "built" and versions is not None and not _can_build(versions, "vllm-cuda")
    if no_cuda and gpus:
        gpus = ()
        warnings.append("GPUs are left unused: vLLM's image for them can't be built here, and no registry is reached")
    problems += [source.problem(*found) for found in broken_rules(parsed, settings.weights, gpus)]
    problems += _key_problems(source, parsed, settings)
    if settings.images == "built":
        problems += _not_for_built(source, parsed, no_cuda)
    if versions:
        local = all(host.connection.kind == "local" for host in parsed.hosts.values())
        images = _images(source, versions, settings.images, local, problems, warnings)
    facts, unread, told = facts_files.read_all(stack, over_ssh(parsed.hosts, parsed.network), root)
    locks, unlocked = lock_files.read_all(parsed.models, root)
    problems += [*unread, *unlocked]
    warnings += told
    certified, uncertified = certificates.read(parsed.network.mesh, root)
    problems += [source.problem(*found) for found in uncertified]
    around = neighbours.Found()
    if mesh := parsed.network.mesh:
        around = neighbours.find(stack, mesh, root)
        problems += [source.problem(*found) for found in neighbour_problems(mesh, parsed.hosts, around)]
    if problems:
        raise SpecError(sorted(problems, key=lambda p: (p.file, p.line or 0, str(p.path))))
    if settings.weights == "random":
        warnings.append("models have random weights: every answer is gibberish by design")
    return StackSpec(
        stack=stack,
        file=StackFile.model_validate(source.data),
        images=images,
        weights=settings.weights,
        local_gpus=gpus,
        key_hashes={name: settings.key_hashes[name] for name in (parsed.gateway.keys if parsed.gateway else ())},
        host_versions=versions.hosts if versions else None,
        facts=facts,
        locks=locks,
        repairs={name: dict(counts) for name, counts in settings.repairs.items() if name in parsed.hosts},
        neighbours=around.neighbours,
        taken_over_policy=settings.taken_over_policy,
        mesh_certificates=certified,
        warnings=tuple(warnings),
    )


def _parts(source: Source) -> tuple[Parsed, list[Problem]]:
    """Each host and model by itself, so that a mistake in one hides none in another."""
    problems: list[Problem] = []
    data = source.data
    for key in data:
        if key not in StackFile.model_fields:
            problems.append(unknown(source, (str(key),), StackFile))
    for key, info in StackFile.model_fields.items():
        if info.is_required() and key not in data:
            problems.append(source.problem((key,), "is missing", f"add `{key}:`; stack_configs/dev.yaml has one"))
    versions = data.get("versions")
    if versions is not None and not (isinstance(versions, str) and re.fullmatch(r"\d{4}\.\d{2}", versions)):
        problems.append(source.problem(("versions",), "is not a version set", 'write it in quotes: "2026.11"'))

    try:
        TypeAdapter(HubAddress | None).validate_python(data.get("hub"), strict=True)
    except ValidationError:
        says = "is no address of a hub"
        problems.append(source.problem(("hub",), says, "write `https://host/path`, without a user or a last slash"))

    def named(section: str, kind: type[T]) -> dict[str, T]:
        entries = data.get(section, {})
        if not isinstance(entries, dict):
            problems.append(
                source.problem((section,), "is not a mapping of names", f"write `{section}:` and names below")
            )
            return {}
        if section in data and not entries:
            problems.append(source.problem((section,), "is empty", "name at least one"))
        found: dict[str, T] = {}
        for name, entry in entries.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", str(name)):
                problems.append(
                    source.problem(
                        (section, str(name)),
                        "is no name: it becomes a DNS name",
                        "use 2 to 40 lower-case letters, digits and dashes, a letter first",
                    )
                )
                continue
            made = validated(source, (section, name), kind, entry, problems)
            if made is not None:
                found[name] = made
        return found

    def single(section: str, kind: type[T]) -> T | None:
        return validated(source, (section,), kind, data[section], problems) if section in data else None

    parsed = Parsed(
        hosts=named("hosts", Host),
        models=named("models", Model),
        gateway=single("gateway", Gateway),
        observability=single("observability", Observability) or Observability(),
        network=single("network", Network) or Network(),
        broken=frozenset(p.path[:2] for p in problems),
    )
    return parsed, problems


def _key_problems(source: Source, parsed: Parsed, settings: Settings) -> list[Problem]:
    """Each key needs a hash of its own: the gateway compares what clients send with it."""
    set_it = "set its SHA-256: `pulumi config set --path 'inference-stack:key-hashes.{}' HASH`"
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for name in parsed.gateway.keys if parsed.gateway else {}:
        at, write = ("gateway", "keys", name), set_it.format(name)
        digest = settings.key_hashes.get(name)
        if digest is None:
            problems.append(source.problem(at, "has no key yet", f"run `make up`, or {write}"))
        elif not re.fullmatch(r"[0-9a-f]{64}", digest):
            problems.append(source.problem(at, "has a hash that is no SHA-256, so nobody could use it", write))
        elif owners.setdefault(digest, name) != name:
            says = f"has the same hash as {owners[digest]}: who calls could not be told"
            problems.append(source.problem(at, says, "make a key for each"))
    return problems


def _can_build(versions: VersionSet, name: ImageName) -> bool:
    pin = versions.images.get(name)
    return pin is not None and pin.built is not None


def _not_for_built(source: Source, parsed: Parsed, no_cuda: bool) -> list[Problem]:
    """What can't run on images that were built here."""
    registry = "`pulumi config set inference-stack:images registry`, where a registry is reached"
    problems = [
        source.problem(("hosts", name), "can't have images that are built on the machine that runs Pulumi", registry)
        for name, host in parsed.hosts.items()
        if host.connection.kind == "ssh"
    ]
    gpus = [
        source.problem(
            ("models", name, "replicas", index, "gpus"), "needs vLLM's image for GPUs, which can't be built", registry
        )
        for name, model in parsed.models.items()
        for index, replica in enumerate(model.replicas)
        if no_cuda and replica.gpus and not problems
    ]
    says = "needs cloudflared's image, which can't be built here"
    ingress = [source.problem(("network", "ingress"), says, registry)] if parsed.network.ingress else []
    return [*problems, *gpus, *ingress]


def version_set(source: Source, root: Path, problems: list[Problem]) -> VersionSet | None:
    """The version set that a stack's file names. None when it can't be used; then `problems` has why, where the file
    names one at all.
    """
    name = source.data.get("versions")
    if not isinstance(name, str) or not re.fullmatch(r"\d{4}\.\d{2}", name):
        return None
    path = root / "stack_configs" / "versions" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        problems.append(source.problem(("versions",), f"there is no version set {name}", f"write one of: {known}"))
        return None
    versions = parse(path.read_text(), f"stack_configs/versions/{name}.yaml")
    return validated(versions, (), VersionSet, versions.data, problems)


def _images(
    source: Source,
    versions: VersionSet,
    way: Literal["registry", "built"],
    local: bool,
    problems: list[Problem],
    warnings: list[str],
) -> dict[ImageName, Image]:
    images: dict[ImageName, Image] = {}
    for name, pin in versions.images.items():
        if way == "built":
            if pin.built:
                images[name] = Image(ref=built_tag(pin.built.recipe), starts_in_s=pin.starts_in_s)
            elif name == "grafana":
                warnings.append("Grafana is left out: its image can't be built here, and no registry is reached")
            continue
        ref = f"{pin.repository}:{pin.tag}"
        if pin.digest:
            ref += f"@{pin.digest}"
        elif local:
            warnings.append(f"image {ref} is pinned by its tag only: nobody could verify a digest")
        else:
            problems.append(
                source.problem(
                    ("versions",),
                    f"image {ref} has no digest: its tag can move under a running service",
                    "run `python -m tools.lock images` where its registry can be reached",
                )
            )
        images[name] = Image(ref=ref, starts_in_s=pin.starts_in_s, cuda=pin.cuda)
    for name in get_args(ImageName):
        if name not in images and name not in OPTIONAL_IMAGES:
            problems.append(source.problem(("versions",), f"there is no image {name}", "add it to the version set"))
    return images


def settings_of(config: Mapping[str, Any], stack: str) -> Settings:
    """From a stack's Pulumi config, by its keys without the namespace. Raises SpecError."""
    raw = {CONFIG_KEYS[key]: value for key, value in config.items() if key in CONFIG_KEYS and value is not None}
    try:
        return TypeAdapter(Settings).validate_python(raw)
    except ValidationError as error:
        raise SpecError(
            [
                Problem(
                    path=(".".join(map(str, detail["loc"])),),
                    says=f"Pulumi config has {short(detail['input'])}: {detail['msg'].lower()}",
                    write=f"`pulumi config set inference-stack:{detail['loc'][0]} …`",
                    file=f"Pulumi.{stack}.yaml",
                )
                for detail in error.errors()
            ]
        ) from error


__all__ = [
    "Settings",
    "SpecError",
    "load",
    "located",
    "mesh_secrets",
    "resolve",
    "settings_of",
    "spec_from_pulumi",
    "ssh_hosts",
]
