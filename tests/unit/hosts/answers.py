"""What scripts/facts.sh brings back from a host, shaped as a test says: a healthy one with one GPU, else."""

from datetime import UTC, datetime
from typing import Any

from planning.hosts.facts import parse_facts
from planning.hosts.facts_answers import Answer
from stack_configs.schema.facts import Facts

GPU = "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11"
SECOND = "GPU-8a1d2b47-52f6-4a0b-b7c3-5e9f64c0a902"
ABSENT = Answer(absent=True)
BANNER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.105.08  Release Build  (dvs-builder@U22-I3-AM02-24-3)"
    "  Wed Oct 29 23:15:11 UTC 2025\nGCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
"""/proc/driver/nvidia/version of open modules."""

HEALTHY: dict[str, str | Answer] = {
    "os_release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n',
    "arch": "x86_64\n",
    "kernel": "6.8.0-60-generic\n",
    "boot_id": "0b0de7d8-6f0c-4d0b-8b9a-6e3d6f0f2f60\n",
    "kernels": "vmlinuz-6.8.0-50-generic\nvmlinuz-6.8.0-60-generic\n",
    "headers": "6.8.0-60-generic\n",
    "grub_menu": ABSENT,
    "grub_env": ABSENT,
    "secure_boot": "SecureBoot disabled\n",
    "secure_boot_byte": "   0\n",
    "signing_key": "no key\n",
    "virtual": Answer(rc=1, out="none\n"),
    "time_synchronised": "yes\n",
    "pci": "0000:41:00.0 0x10de 0x2684 0x030000\n",
    "module_version": "580.105.08\n",
    "module_banner": BANNER,
    "nouveau": "no\n",
    "smi": f"{GPU}, 00000000:41:00.0, NVIDIA GeForce RTX 4090, 580.105.08, 24564, 8.9, [N/A]\n",
    "dkms": "nvidia/580.105.08, 6.8.0-60-generic, x86_64: installed\n",
    "architecture": "amd64\n",
    "packages": "docker-ce\tamd64\t5:28.5.1-1~ubuntu.24.04~noble\thold ok installed\n",
    "holds": "docker-ce\n",
    "docker_version": "28.5.1\n",
    "docker_info": '{"ServerVersion":"28.5.1","DockerRootDir":"/var/lib/docker","LiveRestoreEnabled":true,'
    '"CDISpecDirs":["/etc/cdi","/var/run/cdi"]}\n',
    "docker_settings": "0123456789ab\n",
    "docker_settings_noted": "0123456789ab\n",
    "containers": "prod/chat-0 vllm/vllm-openai:v0.32.0\n",
    "cdi_list": f"nvidia.com/gpu={GPU}\nnvidia.com/gpu=all\n",
    "cdi_files": "",
    "mesh": ABSENT,
    "mesh_noted": ABSENT,
    "firewall": ABSENT,
    "firewall_noted": ABSENT,
    "memory": "MemTotal:       131334144 kB\n",
    "disks": "/\t/dev/nvme0n1p2  960380648 212345678 699173552  24% /\n",
    "steps": "/var/lib/inference-stack/steps/engine:0a1b2c3d4e5f\n/var/lib/inference-stack/steps/base:aaaabbbbcccc\n",
    "pending": ABSENT,
}


def answers(**changes: str | Answer) -> dict[str, Answer]:
    """By question; a text is what a command printed that worked."""
    given = {**HEALTHY, **changes}
    return {name: Answer(out=said) if isinstance(said, str) else said for name, said in given.items()}


def parsed(**changes: Any) -> Facts:
    return parse_facts("studio-1", answers(**changes), datetime(2026, 11, 20, 8, 0, tzinfo=UTC))


def failed(err: str = "", *, rc: int = 1, out: str = "") -> Answer:
    return Answer(rc=rc, out=out, err=err)
