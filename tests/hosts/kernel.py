"""Kernels of a test host, their modules and GRUB's menu, all as files: what the driver's step looks at."""

from tests.hosts.steps import Target

KERNELS = "6.1.0-50-amd64", "6.1.0-56-amd64"
METAS = "linux-image-amd64", "linux-headers-amd64"
MENU = "/boot/grub/grub.cfg"
UPDATE_GRUB = f"""#!/bin/sh
GRUB_DEFAULT=0
for file in /etc/default/grub.d/*; do [ ! -e "$file" ] || . "$file"; done
sed -i '/set default=/d' {MENU}
echo "   set default=\\"$GRUB_DEFAULT\\"" >>{MENU}
"""
"""Writes that line as the real one does, and nothing else."""


def boots(target: Target) -> str:
    """GRUB's choice, by its menu."""
    return target.host.inside(f"sed -n 's/.*set default=\"\\(.*\\)\"/\\1/p' {MENU}")


def install_kernel(target: Target, name: str) -> None:
    target.host.put(f"/boot/vmlinuz-{name}", "")
    target.host.put(f"/lib/modules/{name}/build/Makefile", "")


def build(target: Target, name: str, version: str) -> None:
    target.host.put(f"/lib/modules/{name}/updates/dkms/nvidia.ko", f"{version}\n")
