"""Debian's real driver packages, whose modules DKMS really builds for Debian's real kernels, and really fails to.

nvidia-open-kernel-dkms 535.261.03 builds for kernel 6.1.0-50 and not for 6.1.0-56; 535.309.01 with proprietary modules
builds for both. A build takes four minutes on four cores.
"""

from collections.abc import Iterator

import pytest

from tests.hosts.host import bare_host
from tests.hosts.repository import Repository, toolkit
from tests.hosts.steps import QUIET, Target

pytestmark = pytest.mark.campaign

OLD, NEW = "6.1.0-50-amd64", "6.1.0-56-amd64"
FITS_OLD, FITS_BOTH = "535.261.03", "535.309.01"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish(*toolkit())
    with bare_host("dkms", distribution="debian-12") as host:
        repository.copy_to(host)
        driver = {"branch": "535", "packages": "distribution"}
        target = Target(host, repository, {"driver": driver, "engine": "distribution"}, version(FITS_OLD))
        target.run("base")
        # Nothing boots from it, and it takes minutes.
        host.put("/usr/local/sbin/update-initramfs", "#!/bin/sh\n", mode="0755")
        _install(target, f"linux-image-{OLD}")
        yield target


def version(of: str) -> dict[str, object]:
    return {"drivers": {"535": {"version": of, "distributions": {"debian-12": of}, "source": "tests"}}}


def _install(target: Target, names: str) -> str:
    """By hand; what it prints, whether it succeeds or not."""
    words = "sudo DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends"
    return target.host.ssh(f"{words} {names} 2>&1", check=False, timeout_s=3600).stdout


def _modules(target: Target) -> str:
    return target.host.inside("dkms status")


def test_modules_are_built_for_the_kernel_that_will_boot(target: Target) -> None:
    target.run("driver")
    assert target.installed()["nvidia-smi"].startswith(FITS_OLD)
    assert f"{FITS_OLD}, {OLD}, x86_64: installed" in _modules(target)
    assert {"nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-persistenced"} <= target.held()
    assert target.run("driver").strip() == QUIET


def test_a_kernel_that_dkms_cannot_build_for_does_not_boot(target: Target) -> None:
    out = _install(target, f"linux-image-{NEW} linux-headers-{NEW}")
    assert "Error! Bad return status for module build on kernel" in out
    assert f"{NEW}, x86_64: installed" not in _modules(target)
    # Test hosts have no GRUB; that it boots the old one is in test_scripts.py.
    assert target.pending("kernel").startswith(
        f"the driver {FITS_OLD} has no module for kernel {NEW}, which boots next"
    )
    target.run("driver")
    assert target.host.inside("dpkg --audit") == ""
    assert target.pending("kernel") != ""


def test_a_driver_that_fits_the_new_kernel_sets_it_free(target: Target) -> None:
    driver = {"branch": "535", "packages": "distribution", "modules": "proprietary"}
    moved = target.with_(version(FITS_BOTH), driver=driver)
    moved.run("driver")
    assert f"{FITS_BOTH}, {NEW}, x86_64: installed" in _modules(target)
    assert moved.pending("kernel") == ""
    assert "nvidia-open-kernel-dkms" not in moved.installed()
    assert moved.run("driver").strip() == QUIET


def test_a_driver_that_fits_no_kernel_is_told_and_can_be_changed(target: Target) -> None:
    """Back to the one that can't be built for the newest kernel, whose package then stays half installed."""
    target.host.ssh(f"sudo DEBIAN_FRONTEND=noninteractive apt-get purge -qy linux-image-{OLD} linux-headers-{OLD}")
    assert "can't be built" in target.fails("driver")
    driver = {"branch": "535", "packages": "distribution", "modules": "proprietary"}
    target.with_(version(FITS_BOTH), driver=driver).run("driver")
    assert target.host.inside("dpkg --audit") == ""
