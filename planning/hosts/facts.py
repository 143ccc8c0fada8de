"""From what a host answered to scripts/facts.sh to its facts. Pure, and total: what can't be read becomes a problem."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from planning.hosts import facts_gpu, facts_kernel
from planning.hosts.facts_answers import Answer, Answers, BrokenAnswers, read_answers, why
from stack_configs.schema.facts import Disk, Engine, Facts, Os, Package
from stack_configs.schema.hosts import Host

SCRIPT = Path(__file__).parent / "scripts" / "facts.sh"

FAMILIES = re.compile(
    r".*nvidia.*|cuda.*|libcuda.*|libnv.*|libxnvctrl.*|libcu(blas|dnn|fft|file|rand|solver|sparse)\w*.*|libnccl.*|libnpp.*"
    r"|datacenter-gpu-manager.*|nvlsm|nvlink.*"
    r"|docker.*|podman-docker|containerd.*|runc|dkms|linux-(image|headers|modules|generic|cloud)\b.*"
)
"""Packages that are told: NVIDIA's, CUDA's, Docker's, kernels, DKMS."""

KIB_PER_GIB = 1024 * 1024


def settings(host: Host) -> dict[str, str]:
    """The script's settings: whose disks are asked for."""
    return {"DISK_PATHS": " ".join(dict.fromkeys(("/", host.data_root, host.models_dir)))}


def parse_facts(host: str, answers: Mapping[str, Answer], read_at: datetime) -> Facts:
    """The facts in a host's answers, see `read_answers`. Never raises for what a host says."""
    seen = Answers(answers)
    devices = facts_gpu.pci_devices(seen)
    if "sudo" in answers and (answers["sudo"].rc or answers["sudo"].absent):
        seen.problem(_no_sudo(answers["sudo"]))
    return Facts(
        host=host,
        read_at=read_at.astimezone(UTC).replace(microsecond=0),
        os=_os(seen),
        arch=seen.text("arch", "uname -m").strip(),
        kernel=facts_kernel.kernel(seen),
        secure_boot=facts_kernel.secure_boot(seen),
        signing_key=facts_kernel.signing_key(seen),
        boot_id=seen.text("boot_id", "/proc/sys/kernel/random/boot_id").strip(),
        virtual=_virtual(seen),
        gpus=facts_gpu.gpus(seen, devices),
        nvswitches=sum(device.is_nvswitch for device in devices),
        driver=facts_gpu.driver(seen),
        packages=_packages(seen),
        engine=_engine(seen),
        cdi_devices=_cdi_devices(seen),
        mesh=_digest(seen, "mesh", "tailscale"),
        mesh_noted=_digest(seen, "mesh_noted", "/var/lib/inference-stack/mesh-node"),
        firewall=_digest(seen, "firewall", "nft list table inet inference_stack"),
        firewall_confirmed=_digest(seen, "firewall_noted", "/var/lib/inference-stack/firewall-table"),
        memory_mib=_memory_mib(seen),
        disks=_disks(seen),
        steps=_notes(seen, "steps"),
        pending=_notes(seen, "pending"),
        time_synchronised=_time_synchronised(seen),
        problems=tuple(seen.problems),
    )


def _no_sudo(answer: Answer) -> str:
    reason = "there is no sudo" if answer.absent else why(answer)
    return f"sudo without a password: {reason}; what only root can see was not read"


def _os(answers: Answers) -> Os:
    lines = answers.lines("os_release", "/etc/os-release")
    pairs = (line.partition("=") for line in lines if "=" in line)
    said = {key: value.strip("\"'") for key, _, value in pairs}
    if lines and not {"ID", "VERSION_ID"} <= said.keys():
        answers.problem("/etc/os-release doesn't say which system and version this is")
    return Os(
        id=said.get("ID", "unknown"),
        version=said.get("VERSION_ID", "unknown"),
        codename=said.get("VERSION_CODENAME", "unknown"),
        name=said.get("PRETTY_NAME", "unknown"),
    )


def _virtual(answers: Answers) -> str | None:
    """systemd-detect-virt ends with 1 where it finds nothing, and says `none`."""
    answer = answers.raw("virtual")
    said = answer.out.strip()
    if not said:
        answers.problem(f"systemd-detect-virt: {'not on this host' if answer.absent else why(answer)}")
    return said if said and said != "none" else None


def _time_synchronised(answers: Answers) -> bool | None:
    said = answers.text("time_synchronised", "timedatectl").strip()
    return {"yes": True, "no": False}.get(said)


def _packages(answers: Answers) -> dict[str, Package]:
    """Of the families, those installed; and all that are held or that dpkg has left in the middle."""
    native = answers.text("architecture", "dpkg --print-architecture").strip()
    held = set(answers.lines("holds", "apt-mark showhold"))
    found: dict[str, Package] = {}
    for line in answers.lines("packages", "dpkg-query"):
        fields = line.split("\t")
        state = fields[3].split() if len(fields) == 4 else []
        if len(state) != 3:
            answers.problem(f"dpkg-query: this line can't be read: {line[:100]}")
            continue
        name = fields[0] if fields[1] in (native, "all") else f"{fields[0]}:{fields[1]}"
        is_held = state[0] == "hold" or not held.isdisjoint((name, f"{fields[0]}:{fields[1]}"))
        # "reinstreq" needs a person or `apt-get install --reinstall`.
        status = state[2] if state[1] == "ok" else f"{state[2]} {state[1]}"
        gone = status in ("config-files", "not-installed")
        broken = status not in ("installed", "config-files", "not-installed")
        if is_held or broken or (not gone and FAMILIES.fullmatch(fields[0])):
            found[name] = Package(version=fields[2], held=is_held, status=status)
    return dict(sorted(found.items()))


def _engine(answers: Answers) -> Engine | None:
    if answers.is_absent("docker_version"):
        return None
    asked = answers.raw("docker_info")
    info = _json(asked.out)
    if info and "ServerVersion" not in info and "version" in info:
        answers.problem("Docker: the program `docker` of this host is Podman's; remove podman-docker")
        return None
    server = str(info.get("ServerVersion") or "")
    client = answers.raw("docker_version").out.strip()
    # "Cannot connect" is an answer: it doesn't run. "permission denied" leaves open whether it does.
    if not server and not re.search("cannot connect to|failed to connect to", asked.err + asked.out, re.IGNORECASE):
        answers.problem(f"Docker: {why(asked)}")
    return Engine(
        kind="docker",
        version=server or client,
        running=bool(server),
        data_root=info.get("DockerRootDir") or None,
        cdi=bool(info.get("CDISpecDirs")),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        settings=_digest(answers, "docker_settings", "/etc/docker/daemon.json"),
        settings_in_force=_digest(answers, "docker_settings_noted", "/var/lib/inference-stack/docker-settings"),
        containers=_containers(answers) if server else {},
    )


def _digest(answers: Answers, question: str, what: str) -> str | None:
    return answers.text(question, what, absent_is_problem=False).strip() or None


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _containers(answers: Answers) -> dict[str, str]:
    lines = answers.lines("containers", "docker ps")
    return dict(sorted((name, image) for name, _, image in (line.partition(" ") for line in lines)))


def _cdi_devices(answers: Answers) -> tuple[str, ...]:
    """What nvidia-ctk lists; without it, what the CDI files name."""
    listed = answers.raw("cdi_list")
    if not listed.absent and not listed.rc:
        devices = [line.strip() for line in listed.out.splitlines()]
        return tuple(sorted({device for device in devices if re.fullmatch(r"[\w.-]+/[\w.-]+=\S+", device)}))
    if not listed.absent:
        answers.problem(f"nvidia-ctk cdi list: {why(listed)}")
    found: set[str] = set()
    file, kind = "", ""
    for line in answers.lines("cdi_files", "/etc/cdi", absent_is_problem=False):
        if line.startswith("# "):
            file, kind = line[2:], ""
            continue
        key, _, value = (part.strip(" \"'-,") for part in line.partition(":"))
        if key == "kind":
            kind = value
        elif key == "name" and kind:
            found.add(f"{kind}={value}")
        elif key == "name":
            answers.problem(f"{file} names a device before its kind")
    return tuple(sorted(found))


def _memory_mib(answers: Answers) -> int | None:
    said = answers.text("memory", "/proc/meminfo")
    match = re.fullmatch(r"MemTotal:\s+(\d+) kB\s*", said)
    if said and match is None:
        answers.problem(f"/proc/meminfo: this line can't be read: {said}")
    return int(match[1]) // 1024 if match else None


def _disks(answers: Answers) -> dict[str, Disk]:
    found: dict[str, Disk] = {}
    for line in answers.lines("disks", "df"):
        match = re.fullmatch(r"(\S+)\t.*?\s(\d+)\s+\d+\s+(\d+)\s+\S+\s+(/.*)", line)
        if match is None:
            answers.problem(f"df: this line can't be read: {line}")
            continue
        path, size, free, mount = match.groups()
        found[path] = Disk(mount=mount, size_gib=_gib(size), free_gib=_gib(free))
    return found


def _gib(kib: str) -> float:
    """In tenths below 10 GiB, whole above, rounded down: a finer number would differ at each reading."""
    gib = int(kib) / KIB_PER_GIB
    return float(int(gib)) if gib >= 10 else int(gib * 10) / 10


def _notes(answers: Answers, folder: str) -> dict[str, str]:
    """`/var/lib/inference-stack/steps/driver:0a1b2c3d4e5f` → its name and text."""
    found: dict[str, list[str]] = {}
    for line in answers.lines(folder, f"/var/lib/inference-stack/{folder}", absent_is_problem=False):
        path, _, text = line.partition(":")
        found.setdefault(path.rsplit("/", 1)[-1], []).append(text.strip())
    return {name: " ".join(filter(None, texts)) for name, texts in sorted(found.items())}


__all__ = ["SCRIPT", "BrokenAnswers", "parse_facts", "read_answers", "settings"]
