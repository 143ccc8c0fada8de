"""What no mirror here has: small packages with NVIDIA's and Docker's real names and versions, in a signed repository.

    repository = Repository(tmp_path)
    repository.publish(*driver("580.173.02"), *toolkit(), *docker())
    repository.copy_to(host)
    spec = repository.spec(host, {"driver": {"branch": "580"}})

They hold what the steps look at and nothing of NVIDIA's: units that start, and an `nvidia-ctk` and an `nvidia-smi` that
know the cards of card.py, the latter in containers.
"""

import gzip
import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from planning.hosts.packages import UNSUFFIXED_SINCE
from stack_configs.schema.stack import StackSpec
from stack_configs.schema.versions import HostVersions, RepositoryName
from tests.hosts.host import Host
from tests.network.programs import TAILSCALE

ON_HOST = "/srv/repository"

SMI = """#!/bin/sh
# Stands in for nvidia-smi in a container: names the cards that it was given. All that it needs is a shell.
[ "$*" = "--query-gpu=uuid --format=csv,noheader" ] || { echo "the stand-in doesn't know $*" >&2; exit 64; }
found=
while IFS='=' read -r name uuid; do
    case $name in TEST_GPU_*) uuid=${uuid#\\'}; echo "${uuid%\\'}"; found=yes ;; esac
done <<END
$(set)
END
[ "$found" ] || { echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9; }
"""

CTK = """#!/bin/sh
# Stands in for nvidia-ctk: CDI devices that carry a card's name in a variable.
set -eu
out=/var/run/cdi/nvidia.yaml
case "$*" in
"cdi generate")
    mkdir -p /var/run/cdi
    {
        printf 'cdiVersion: 0.5.0\\nkind: nvidia.com/gpu\\ncontainerEdits:\\n  mounts:\\n'
        smi=/usr/bin/nvidia-smi
        printf '  - {hostPath: %s, containerPath: %s, options: [ro, bind]}\\ndevices:\\n' $smi $smi
        number=0
        while read -r uuid; do
            printf -- '- name: %s\\n  containerEdits: {env: [TEST_GPU_%s=%s]}\\n' "$uuid" "$number" "$uuid"
            number=$((number + 1))
        done </opt/card/gpus
    } >$out.new
    mv $out.new $out ;;
"cdi list")
    sed -n 's|^- name: |nvidia.com/gpu=|p' $out ;;
*) echo "stand-in: can't answer $*" >&2; exit 2 ;;
esac
"""

DAEMON = """[Unit]
Description=Stands in for {name}
[Service]
ExecStart=/bin/sleep infinity
ExecReload=/bin/true
[Install]
WantedBy=multi-user.target
"""

DOCKER = """#!/bin/sh
# Stands in for Docker's client where no container is run.
case "$*" in
"info --format {{.DockerRootDir}}") sed -n 's/.*"data-root": "\\(.*\\)".*/\\1/p' /etc/docker/daemon.json ;;
ps*) ;;
*) echo "stand-in: can't do $*" >&2; exit 1 ;;
esac
"""

REFRESH = """[Unit]
Description=Stands in for NVIDIA's unit of that name
ConditionPathExists=/opt/card/gpus
After=multi-user.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/nvidia-ctk cdi generate
[Install]
WantedBy=multi-user.target
"""

WATCH = """[Path]
PathChanged=/opt/card/gpus
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str
    version: str
    depends: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    files: Mapping[str, str | Path] = field(default_factory=dict)
    """Path → text, or the file to copy; below bin/ and sbin/ they can be executed."""
    postinst: str = ""
    size_mib: int = 0
    """Of a file that nobody needs."""


def driver(version: str, *, revision: str = "-1", size_mib: int = 0) -> list[Package]:
    """NVIDIA's driver of that version, open modules, with all that its meta packages bring."""
    branch = version.split(".")[0]
    full = version + revision
    suffix = f"-{branch}" if int(branch) < UNSUFFIXED_SINCE else ""
    parts = ["nvidia-kernel-open-dkms", "libcuda1", "libnvidia-ml1", "nvidia-driver-cuda", "nvidia-persistenced"]
    exact = tuple(f"{part} (= {full})" for part in parts)
    files: dict[str, dict[str, str]] = {
        "nvidia-driver-cuda": {"usr/bin/nvidia-smi": SMI},
        "nvidia-persistenced": {
            "lib/systemd/system/nvidia-persistenced.service": DAEMON.format(name="nvidia-persistenced")
        },
    }
    found = [
        Package(name=part, version=full, files=files.get(part, {}), size_mib=size_mib if part == "libcuda1" else 0)
        for part in parts
    ]
    unit = {"lib/systemd/system/nvidia-fabricmanager.service": DAEMON.format(name="nvidia-fabricmanager")}
    found.append(Package(name=f"nvidia-open{suffix}", version=full, depends=exact))
    found.append(Package(name="nvidia-fabricmanager", version=full, files=unit))
    if not suffix:
        # The real one is an apt preferences file too.
        pinning = {f"etc/apt/preferences.d/nvidia-driver-pinning-{version}": _preferences(version)}
        found.append(Package(name=f"nvidia-driver-pinning-{version}", version=full, files=pinning))
    return found


def _preferences(version: str) -> str:
    return f"Package: nvidia-open libcuda1\nPin: version {version}*\nPin-Priority: 1000\n"


def toolkit(version: str = "1.20.1") -> list[Package]:
    """NVIDIA's container toolkit."""
    full = f"{version}-1"
    base = {
        "usr/bin/nvidia-ctk": CTK,
        "lib/systemd/system/nvidia-cdi-refresh.service": REFRESH,
        "lib/systemd/system/nvidia-cdi-refresh.path": WATCH,
    }
    return [
        Package(name="libnvidia-container1", version=full),
        Package(name="libnvidia-container-tools", version=full, depends=(f"libnvidia-container1 (= {full})",)),
        Package(name="nvidia-container-toolkit-base", version=full, files=base),
        Package(
            name="nvidia-container-toolkit",
            version=full,
            depends=(f"nvidia-container-toolkit-base (= {full})", f"libnvidia-container-tools (= {full})"),
        ),
    ]


def docker(version: str = "29.8.2", *, suite: str = "debian.13~trixie") -> list[Package]:
    """docker.com's packages, with a daemon that only sleeps: what really runs containers is Debian's own Docker."""
    full = f"5:{version}-1~{suite}"
    unit = {"lib/systemd/system/docker.service": DAEMON.format(name="Docker")}
    start = "#!/bin/sh\ngroupadd -f docker\nsystemctl daemon-reload\nsystemctl restart docker\n"
    return [
        Package(name="containerd.io", version=f"2.3.6-1~{suite}"),
        Package(name="docker-ce-cli", version=full, files={"usr/bin/docker": DOCKER}),
        Package(name="docker-ce", version=full, depends=("docker-ce-cli", "containerd.io"), files=unit, postinst=start),
    ]


def tailscale_package(programs: Path) -> Package:
    """Tailscale itself, as its own package lays it out. `programs`: the folder of tailscale and tailscaled."""
    unit = """[Unit]
Description=Tailscale node agent
After=network-pre.target
[Service]
EnvironmentFile=/etc/default/tailscaled
ExecStart=/usr/sbin/tailscaled --state=/var/lib/tailscale/tailscaled.state --socket=/run/tailscale/tailscaled.sock \\
    --port=${PORT} $FLAGS
ExecStopPost=/usr/sbin/tailscaled --cleanup
Restart=on-failure
RuntimeDirectory=tailscale
StateDirectory=tailscale
StateDirectoryMode=0700
Type=notify
[Install]
WantedBy=multi-user.target
"""
    return Package(
        name="tailscale",
        version=TAILSCALE,
        depends=("iptables", "iproute2"),
        files={
            "usr/bin/tailscale": programs / "tailscale",
            "usr/sbin/tailscaled": programs / "tailscaled",
            "lib/systemd/system/tailscaled.service": unit,
            "etc/default/tailscaled": 'PORT="41641"\nFLAGS=""\n',
        },
        postinst="#!/bin/sh\nsystemctl daemon-reload\nsystemctl enable --now tailscaled\n",
    )


class Repository:
    """A flat apt repository, signed with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "repository"
        self._home = folder / "gpg"
        self._home.mkdir(mode=0o700, parents=True)
        self._root.mkdir()
        self._published: dict[str, str] = {}

    @cached_property
    def fingerprint(self) -> str:
        made = ("--passphrase", "", "--quick-generate-key", "tests <tests@example.org>", "ed25519", "sign", "never")
        self._gpg("--pinentry-mode", "loopback", *made)
        rows = self._gpg("--with-colons", "--list-keys").splitlines()
        self._root.joinpath("key.asc").write_text(self._gpg("--armor", "--export"))
        return next(row.split(":")[9] for row in rows if row.startswith("fpr"))

    def publish(self, *packages: Package) -> None:
        """Add packages; those that are there already stay."""
        for package in packages:
            file = f"{package.name}_{package.version.replace(':', '%3a')}.deb"
            if file not in self._published:
                self._published[file] = _build(package, self._root / file)
        self._index()

    def withdraw(self, version: str) -> None:
        """Remove packages of an upstream version, as repositories do with old ones."""
        self._published = {file: row for file, row in self._published.items() if f"_{version}-" not in file}
        self._index()

    def copy_to(self, host: Host) -> None:
        """Bring the repository as it is now onto the host."""
        host.inside(f"rm -rf {ON_HOST}")
        _run("docker", "cp", str(self._root), f"{host.container}:{ON_HOST}")

    def versions(self, **changes: Any) -> HostVersions:
        """A version set's part for hosts whose repositories are all this one."""
        of = {
            "url": f"file:{ON_HOST}",
            "suite": "./",
            "key_url": f"file://{ON_HOST}/key.asc",
            "key_fingerprint": self.fingerprint,
            "source": "tests",
        }
        drivers = {version.split(".")[0]: version for version in ("580.173.02", "595.71.05")}
        return HostVersions.model_validate(
            {
                "repositories": dict.fromkeys(get_args(RepositoryName), of),
                "drivers": {branch: {"version": version, "source": "tests"} for branch, version in drivers.items()},
                "docker": {"version": "29.8.2", "source": "tests"},
                "containerd": {"version": "2.3.6", "source": "tests"},
                "container_toolkit": {"version": "1.20.1", "source": "tests"},
                "tailscale": {"version": TAILSCALE, "source": "tests"},
                **changes,
            }
        )

    def spec(self, host: Host, settings: Mapping[str, Any], **changes: Any) -> StackSpec:
        """A stack of that host alone; `settings` of the host as in a stack's YAML, `changes` of the version set."""
        return spec_of(host, settings, self.versions(**changes))

    def _index(self) -> None:
        assert self.fingerprint
        text = "\n".join(self._published.values())
        (self._root / "Packages").write_text(text)
        (self._root / "Packages.gz").write_bytes(gzip.compress(text.encode()))
        rows = [
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}"
            for name in ("Packages", "Packages.gz")
            for data in [(self._root / name).read_bytes()]
        ]
        release = ["Origin: tests", f"Date: {formatdate(usegmt=True)}", "Architectures: amd64 all", "SHA256:", *rows]
        signed = self._gpg("--clearsign", "--digest-algo", "SHA512", stdin="\n".join(release) + "\n")
        (self._root / "InRelease").write_text(signed)

    def _gpg(self, *words: str, stdin: str = "") -> str:
        return _run("gpg", "-q", "--batch", "--no-tty", "--homedir", str(self._home), *words, stdin=stdin)


def spec_of(host: Host, settings: Mapping[str, Any], versions: HostVersions) -> StackSpec:
    """A stack of one host."""
    return StackSpec.model_validate(
        {
            "stack": "test",
            "file": {
                "versions": "2026.11",
                "hosts": {
                    host.name: {
                        "connection": host.connection,
                        "models_free_gib": 1,
                        **settings,
                    }
                },
                "models": {
                    "chat": {
                        "source": {"repo": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"},
                        "replicas": [{"host": host.name}],
                        "max_model_len": 2048,
                        "max_num_seqs": 4,
                        "memory_mib": 4096,
                    }
                },
                "gateway": {"port": 8080, "keys": {"me": {"models": "all", "rpm": 60, "tpm": 40000}}},
            },
            "images": {},
            "key_hashes": {"me": "0" * 64},
            "host_versions": versions,
        }
    )


def _build(package: Package, file: Path) -> str:
    """Make the .deb; its paragraph in Packages."""
    tree = file.with_suffix("")
    for path, text in package.files.items():
        at = tree / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(text.read_bytes() if isinstance(text, Path) else text.encode())
        at.chmod(0o755 if {"bin", "sbin"} & set(at.parts) else 0o644)
    if package.size_mib:
        at = tree / "usr" / "share" / package.name / "filler"
        at.parent.mkdir(parents=True)
        at.write_bytes(os.urandom(package.size_mib << 20))
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": "all",
        "Maintainer": "tests <tests@example.org>",
        "Depends": ", ".join(package.depends),
        "Conflicts": ", ".join(package.conflicts),
        "Installed-Size": str(package.size_mib << 10 or 1),
        "Description": "stands in for the real one",
    }
    control = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    folder = tree / "DEBIAN"
    folder.mkdir(parents=True)
    (folder / "control").write_text(control)
    if package.postinst:
        (folder / "postinst").write_text(package.postinst)
        (folder / "postinst").chmod(0o755)
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(file))
    data = file.read_bytes()
    _run("rm", "-rf", str(tree))
    return f"{control}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"


def _run(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


__all__ = ["Package", "Repository", "docker", "driver", "spec_of", "tailscale_package", "toolkit"]
