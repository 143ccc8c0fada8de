"""What the steps do to a driver: packages, pins, holds, and what goes wrong with them. On one Debian 12, over SSH.

The packages are dummies with NVIDIA's names; apt, dpkg, systemd, sshd and unattended-upgrades are real.
"""

from collections.abc import Iterator

import pytest

from tests.hosts.host import bare_host
from tests.hosts.kernel import KERNELS, MENU, METAS, UPDATE_GRUB, boots, build, install_kernel
from tests.hosts.repository import Package, Repository, docker, driver
from tests.hosts.steps import QUIET, Target

OLD, PINNED, NEW = "580.170.01", "580.173.02", "580.180.03"
OTHER_BRANCH = "595.71.05"
FAMILY = {"libcuda1", "libnvidia-ml1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"}
UNATTENDED = "/etc/apt/apt.conf.d/99tests"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    filled = [driver(version, size_mib=8 if version == OTHER_BRANCH else 0) for version in (OLD, PINNED, OTHER_BRANCH)]
    stuck = Package(name="stuck", version="1", postinst="#!/bin/sh\n[ -e /stuck ] || { touch /stuck; sleep 300; }\n")
    repository.publish(*(package for one in filled for package in one), *docker(suite="debian.12~bookworm"), stuck)
    with bare_host("old", distribution="debian-12") as host:
        repository.copy_to(host)
        yield Target(host, repository, {"driver": {"branch": "580"}}, {})


@pytest.fixture(scope="module")
def before(bare: Target) -> dict[str, str]:
    return bare.files()


@pytest.fixture
def target(bare: Target, before: dict[str, str]) -> Target:  # noqa: ARG001 (taken before anything is done)
    """With the pinned driver on it, however the test before left it."""
    bare.run("base", "driver")
    return bare


def version(of: str) -> dict[str, object]:
    """A version set whose driver is another."""
    return {"drivers": {of.split(".")[0]: {"version": of, "source": "tests"}}}


def test_a_disk_too_small_for_models_is_told(bare: Target) -> None:
    says = bare.with_(models_free_gib=900_000).fails("base")
    assert "`models_free_gib: 900000` needs 921600000 MiB" in says


def test_from_bare_to_a_driver_that_waits_for_its_reboot(bare: Target, before: dict[str, str]) -> None:  # noqa: ARG001
    bare.run("base", "driver")
    assert {name for name, of in bare.installed().items() if of == f"{PINNED}-1"} == FAMILY | {"nvidia-open-580"}
    assert bare.held() == FAMILY | {"nvidia-open-580"}
    assert bare.run("reboot").startswith("waiting: driver 580.173.02 is installed, none is loaded")
    assert "none is loaded" in bare.pending("reboot")


def test_the_second_time_there_is_nothing_to_change(target: Target) -> None:
    target.run("reboot")
    for step in ("base", "driver", "reboot"):
        assert target.run(step).strip() == QUIET


@pytest.mark.parametrize(
    ("wanted", "meta"),
    [(OLD, "nvidia-open-580"), (OTHER_BRANCH, "nvidia-open"), (PINNED, "nvidia-open-580")],
    ids=["within the branch, down", "another branch", "back"],
)
def test_a_driver_moves_as_a_whole(target: Target, wanted: str, meta: str) -> None:
    moved = target.with_(version(wanted), driver={"branch": wanted.split(".")[0]})
    moved.run("driver")
    have = {name: of for name, of in target.installed().items() if "nvidia" in name or name == "libcuda1"}
    pinning = {f"nvidia-driver-pinning-{wanted}"} if wanted == OTHER_BRANCH else set()
    assert have == dict.fromkeys(FAMILY | {meta} | pinning, f"{wanted}-1")
    assert target.held() == set(have)
    assert moved.run("driver").strip() == QUIET


def test_a_hold_that_somebody_removed_comes_back(target: Target) -> None:
    target.host.ssh("sudo apt-mark unhold libcuda1 nvidia-open-580")
    assert target.run("driver").strip() == "held libcuda1 nvidia-open-580"


@pytest.mark.parametrize("moved", ["libcuda1", "libnvidia-ml1 libcuda1 nvidia-driver-cuda"])
def test_a_package_that_somebody_moved_is_moved_back(target: Target, moved: str) -> None:
    exact = " ".join(f"{name}={OLD}-1" for name in moved.split())
    target.host.ssh(
        f"sudo apt-get install -qy --allow-downgrades --allow-change-held-packages {exact} nvidia-open-580-"
    )
    out = target.run("driver")
    for name in moved.split():
        assert f"{name} {OLD}-1 -> {PINNED}-1" in out
    assert {target.installed()[name] for name in FAMILY} == {f"{PINNED}-1"}


def test_modules_of_the_other_kind_go(target: Target) -> None:
    target.repository.publish(Package(name="nvidia-kernel-dkms", version=f"{PINNED}-1"))
    target.repository.copy_to(target.host)
    target.host.inside("apt-get update -q; apt-get install -qy nvidia-kernel-dkms")
    assert f"nvidia-kernel-dkms {PINNED}-1 -> removed" in target.run("driver")
    assert "nvidia-kernel-dkms" not in target.installed()


def test_a_version_that_no_repository_has_changes_nothing(target: Target) -> None:
    was = target.files(), target.installed(), target.held()
    says = target.with_(version("580.999.99")).fails("driver")
    assert says.startswith("driver: no repository has nvidia-open-580 580.999.99")
    assert f"apt knows {PINNED}-1" in says
    assert (target.files(), target.installed(), target.held()) == was


def test_other_packages_are_never_removed_for_a_driver(target: Target) -> None:
    against = Package(name="nvidia-open-581", version="581.1-1", conflicts=("unattended-upgrades",))
    target.repository.publish(against)
    target.repository.copy_to(target.host)
    says = target.with_(version("581.1"), driver={"branch": "581"}).fails("driver")
    assert "would remove other packages: unattended-upgrades" in says
    assert "unattended-upgrades" in target.installed()


def test_an_unattended_upgrade_leaves_the_driver(target: Target) -> None:
    """Pin and black list each see to it; with neither, the driver goes, so the test can fail."""
    target.repository.withdraw(OTHER_BRANCH)  # it removes packages, which unattended-upgrades never does
    target.repository.publish(*driver(NEW))
    target.repository.copy_to(target.host)
    patterns = "Unattended-Upgrade::Origins-Pattern"
    target.host.put(UNATTENDED, f'#clear {patterns};\n{patterns} {{ "origin=tests"; }};\n')
    pin = "/etc/apt/preferences.d/inference-stack-driver"
    listed = "/etc/apt/apt.conf.d/60inference-stack-driver"
    gone = {"pin": listed, "black list": pin, "neither": f"{pin} {listed}"}
    try:
        for kept, taken in gone.items():
            target.host.inside(f"apt-mark unhold {' '.join(FAMILY)} nvidia-open-580; rm {taken}")
            assert (_unattended(target) == set()) == (kept != "neither"), kept
            target.run("driver")
    finally:
        target.host.inside(f"rm {UNATTENDED}")
        target.repository.withdraw(NEW)
        target.repository.publish(*driver(OTHER_BRANCH, size_mib=8))
        target.repository.copy_to(target.host)
        target.host.inside("apt-get update -q")


def _unattended(target: Target) -> set[str]:
    out = target.host.inside("apt-get update -qq; unattended-upgrade --dry-run --debug 2>&1")
    rows = [row for row in out.splitlines() if row.startswith("pkgs that look like they should be upgraded:")]
    assert rows, out
    return {name for row in rows for name in row.split(":", 1)[1].split()}


def test_a_lock_that_another_process_holds_is_waited_for(target: Target) -> None:
    target.host.ssh("sudo apt-mark unhold libcuda1")
    with _lock_held(target, for_s=4):
        out = target.run("driver")
    assert out.startswith("waiting for apt: process ")
    assert "python3 -c import fcntl" in out
    assert "held libcuda1" in out


def test_a_lock_that_is_held_too_long_is_told(target: Target) -> None:
    target.host.ssh("sudo apt-mark unhold libcuda1")
    with _lock_held(target, for_s=60):
        says = target.fails("driver", APT_LOCK_S="1")
    assert "apt has been in use for 1 s: process " in says
    assert "let it end, or stop it, and run `up` again" in says


class _lock_held:
    def __init__(self, target: Target, *, for_s: int) -> None:
        self._host, self._for_s = target.host, for_s

    def __enter__(self) -> None:
        code = (
            "import fcntl, time; lock = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); "
            f"open('/run/locked', 'w'); time.sleep({self._for_s})"
        )
        self._host.inside(
            f'systemd-run -q --unit=lock python3 -c "{code}"; until [ -e /run/locked ]; do sleep 0.1; done'
        )

    def __exit__(self, *_: object) -> None:
        self._host.inside("systemctl stop lock; rm -f /run/locked")


def test_an_installation_that_was_cut_off_is_finished_first(target: Target) -> None:
    target.host.inside(
        "rm -f /stuck; systemd-run -q --unit=install apt-get install -qy stuck; "
        "until [ -e /stuck ]; do sleep 0.1; done; systemctl kill -s KILL install; systemctl reset-failed"
    )
    assert target.host.inside("dpkg --audit") != ""
    assert "repaired an interrupted installation" in target.run("driver")
    assert target.host.inside("dpkg --audit") == ""
    assert "stuck" in target.installed()


def test_a_full_disk_is_told_and_left_behind(target: Target) -> None:
    moved = target.with_(version(OTHER_BRANCH), driver={"branch": "595"})
    full = "/usr/share/libcuda1"
    target.host.inside(f"mkdir -p {full}; mount -t tmpfs -o size=2m none {full}")
    # Where nothing at all can be written, the reason is told all the same.
    target.host.inside("mount -t tmpfs -o size=4k none /tmp; cat /dev/zero >/tmp/full || true")
    try:
        assert "the disk is full: " in moved.fails("driver")
    finally:
        target.host.inside(f"umount {full} /tmp")
    moved.run("driver")
    assert {target.installed()[name] for name in FAMILY} == {f"{OTHER_BRANCH}-1"}
    assert moved.run("driver").strip() == QUIET


def test_too_little_room_for_packages_is_told_beforehand(target: Target) -> None:
    cache = "/var/cache/apt"
    target.host.inside(f"mount -t tmpfs -o size=8m none {cache}")
    try:
        assert "installing packages needs 1024 MiB" in target.fails("base")
    finally:
        target.host.inside(f"umount {cache}")


def test_a_fabric_manager_is_of_the_same_version(target: Target) -> None:
    fabric = target.with_(driver={"branch": "580", "fabric_manager": True})
    assert "enabled nvidia-fabricmanager.service" in fabric.run("driver")
    assert target.installed()["nvidia-fabricmanager"] == f"{PINNED}-1"
    assert "nvidia-fabricmanager" in target.held()
    # No longer asked for, it stays until somebody removes it, and isn't missed then.
    target.host.ssh("sudo apt-get purge -qy --allow-change-held-packages nvidia-fabricmanager")
    assert target.run("driver").strip() == QUIET


def test_a_cuda_toolkit_comes_in_its_version_is_held_and_let_go(target: Target) -> None:
    name, part = "cuda-toolkit-12-9", "cuda-cudart-12-9"
    for of, of_part in (("12.9.1-1", "12.9.79-1"), ("12.9.2-1", "12.9.86-1")):
        target.repository.publish(Package(name=part, version=of_part))
        target.repository.publish(Package(name=name, version=of, depends=(f"{part} (>= 12.9.79)",)))
    target.repository.copy_to(target.host)
    pins = {"cuda_toolkits": {"12.9": {"version": "12.9.1", "source": "tests"}}}
    both = target.with_(pins, cuda_toolkit="12.9")
    assert f"{name} not installed -> 12.9.1-1" in both.run("driver")
    assert target.held() == FAMILY | {"nvidia-open-580", name, part}
    target.host.inside("apt-get upgrade -qy")
    assert target.installed()[name] == "12.9.1-1"
    target.host.inside(f"apt-mark unhold {part}")
    assert f"held {part}" in both.run("driver")
    assert both.run("driver").strip() == QUIET
    # Without a driver of ours the host's own stays, and the toolkit too.
    target.with_(pins, cuda_toolkit="12.9", driver=None).run("driver")
    assert target.held() == {name, part}
    target.run("driver")
    assert target.held() == FAMILY | {"nvidia-open-580"}
    assert name in target.installed()


def test_security_updates_and_a_time_service_are_on_and_nothing_reboots_by_itself(target: Target) -> None:
    says = target.host.inside("apt-config dump APT::Periodic; apt-config dump Unattended-Upgrade::Automatic-Reboot")
    assert 'APT::Periodic::Update-Package-Lists "1";' in says
    assert 'APT::Periodic::Unattended-Upgrade "1";' in says
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in says
    units = "apt-daily.timer apt-daily-upgrade.timer systemd-timesyncd.service"
    assert target.host.inside(f"systemctl is-enabled {units}").split() == ["enabled"] * 3


def test_a_host_that_reboots_by_itself_is_refused(target: Target) -> None:
    own = "/etc/apt/apt.conf.d/99own"
    target.host.put(own, 'Unattended-Upgrade::Automatic-Reboot "true";\n')
    try:
        says = target.fails("base")
    finally:
        target.host.inside(f"rm {own}")
    assert f"this host may reboot by itself: {own} lets unattended-upgrades do so" in says


def test_a_kernel_that_is_half_installed_is_left_to_the_drivers_step(target: Target) -> None:
    ends = "#!/bin/sh\n[ -e /good ]\n"
    target.repository.publish(Package(name="linux-image-6.1.0-60-amd64", version="6.1-1", postinst=ends))
    target.repository.copy_to(target.host)
    target.host.inside("apt-get update -q; apt-get install -qy linux-image-6.1.0-60-amd64 || true")
    target.run("base")
    assert "packages are half installed: linux-image-6.1.0-60-amd64 ;" in target.fails("driver")
    target.host.inside("touch /good")
    assert "repaired an interrupted installation" in target.run("driver")
    target.host.inside("apt-get purge -qy linux-image-6.1.0-60-amd64")


@pytest.mark.parametrize(
    "reboot", ["manual", {"days": ["mon"], "opens": "00:00", "closes": "00:01"}], ids=["manual", "window"]
)
def test_a_reboot_that_is_not_allowed_now_is_only_noted(target: Target, reboot: object) -> None:
    boot = target.host.boot_id()
    asked = target.with_(reboot=reboot)
    # On a Monday right after midnight the window is open: the days are moved away.
    day = target.host.inside("date -u +%a").lower()
    if isinstance(reboot, dict):
        asked = target.with_(reboot={**reboot, "days": ["tue" if day in ("mon", "sun") else "mon"]})
    asked.run("reboot")
    assert f"driver {PINNED} is installed, none is loaded" in target.pending("reboot")
    assert target.host.boot_id() == boot
    assert target.host.inside("systemctl is-active ssh") == "active"


@pytest.fixture
def kernel(target: Target) -> Iterator[Target]:
    """With a kernel, its menu of GRUB and a module for it, all as files; `modinfo` prints what is in the module's."""
    host = target.host
    target.repository.publish(*(Package(name=name, version=of) for name in METAS for of in ("99.50-1", "99.56-1")))
    target.repository.copy_to(host)
    host.put("/usr/local/sbin/modinfo", '#!/bin/sh\ncat "$3"\n', mode="0755")
    host.put("/usr/local/sbin/update-grub", UPDATE_GRUB, mode="0755")
    menu = "".join(f"menuentry 'Debian' $menuentry_id_option 'gnulinux-{name}-advanced-1234' {{\n" for name in KERNELS)
    host.put(MENU, f"submenu 'Advanced' $menuentry_id_option 'gnulinux-advanced-1234' {{\n{menu}")
    install_kernel(target, KERNELS[0])
    build(target, KERNELS[0], PINNED)
    host.inside(f"apt-get update -q; apt-get install -qy {' '.join(f'{name}=99.50-1' for name in METAS)}")
    target.run("driver")
    yield target
    host.inside("apt-get purge -qy --allow-change-held-packages linux-image-amd64 linux-headers-amd64")
    host.inside(
        "rm -r /usr/local/sbin/modinfo /usr/local/sbin/update-grub /boot/vmlinuz-* /boot/grub /lib/modules/6.1*"
    )
    target.run("driver")


def test_a_kernel_that_the_driver_is_not_built_for_does_not_boot(kernel: Target) -> None:
    """However it comes, such as by an unattended upgrade. With its module it boots, and more may come."""
    assert kernel.pending("kernel") == ""
    install_kernel(kernel, KERNELS[1])
    kernel.host.inside("apt-get upgrade -qy")
    said = f"the driver {PINNED} has no module for kernel {KERNELS[1]}, so {KERNELS[0]} stays the one that boots"
    assert kernel.pending("kernel").startswith(said)
    assert boots(kernel) == f"gnulinux-advanced-1234>gnulinux-{KERNELS[0]}-advanced-1234"
    assert kernel.held() >= set(METAS)
    assert kernel.run("driver").strip() == QUIET

    # As a run leaves it that was cut off before GRUB had read its choice; and where there is no GRUB.
    kernel.host.inside(f"sed -i '/set default=/d' {MENU}")
    kernel.run("driver")
    assert boots(kernel) == f"gnulinux-advanced-1234>gnulinux-{KERNELS[0]}-advanced-1234"
    kernel.host.inside(f"mv {MENU} {MENU}.away")
    assert f"{KERNELS[1]}, which boots next, since GRUB doesn't list {KERNELS[0]}: make that one" in kernel.run(
        "driver"
    )
    kernel.host.inside(f"mv {MENU}.away {MENU}")

    build(kernel, KERNELS[1], PINNED)
    assert "no longer waiting: kernel" in kernel.run("driver")
    assert boots(kernel) == "0"
    assert not kernel.held() & set(METAS)
    assert kernel.host.inside("ls /etc/default/grub.d") == ""


def test_the_first_driver_of_a_host_is_loaded_without_a_reboot(kernel: Target) -> None:
    running = kernel.host.inside("uname -r")
    build(kernel, running, PINNED)
    kernel.host.put("/usr/local/sbin/modprobe", '#!/bin/sh\n[ "$*" = nvidia ]\n', mode="0755")
    try:
        assert f"loaded the module {PINNED}" in kernel.run("driver")
    finally:
        kernel.host.inside(f"rm -r /usr/local/sbin/modprobe /lib/modules/{running}")


def test_a_driver_without_a_module_for_any_kernel_is_told(kernel: Target) -> None:
    kernel.host.inside("rm -r /lib/modules/6.1*/updates")
    assert f"the driver {PINNED} has no module for kernel {KERNELS[0]}" in kernel.fails("driver")
    build(kernel, KERNELS[0], PINNED)


def test_docker_starts_with_its_settings_and_is_held(target: Target) -> None:
    """docker.com's package names and versions; what really runs containers is in test_scripts_engine.py."""
    target = target.with_(driver=None, data_root="/srv/docker")
    target.repository.publish(Package(name="containerd.io", version="2.4.0-1~debian.12~bookworm"))
    target.repository.copy_to(target.host)
    out = target.run("base")
    target.host.inside("apt-get update -q; apt-get install -qy docker-ce-cli; apt-mark hold docker-ce-cli")
    out += target.run("engine")
    assert "docker-ce not installed -> 5:29.8.2-1~debian.12~bookworm" in out
    assert "containerd.io not installed -> 2.3.6-1~debian.12~bookworm" in out
    assert "restarted" not in out
    assert {"docker-ce", "docker-ce-cli", "containerd.io"} <= target.held()
    target.host.inside("apt-get install -qy --allow-change-held-packages containerd.io=2.4.0-1~debian.12~bookworm")
    assert "containerd.io 2.4.0-1~debian.12~bookworm -> 2.3.6-1~debian.12~bookworm" in target.run("engine")
    started = target.host.inside("systemctl show -p ActiveEnterTimestampMonotonic --value docker")
    assert target.run("engine").strip() == QUIET
    assert target.host.inside("systemctl show -p ActiveEnterTimestampMonotonic --value docker") == started


def test_leaving_takes_back_what_was_made_and_keeps_the_driver(target: Target, before: dict[str, str]) -> None:
    target.run("engine", "reboot", "driver", "base", what="undo")
    assert target.held() == {"docker-ce-cli"}, "what somebody else held before us stays held"
    target.host.inside("apt-mark unhold docker-ce-cli")
    assert set(target.installed()) >= FAMILY
    ours = {path for path in set(target.files()) - set(before) if "inference-stack" in path}
    assert ours == set()
    assert target.host.inside("find /var/lib/inference-stack -type f") == ""
    for step in ("driver", "base"):
        assert target.run(step, what="undo").strip() == QUIET


def test_leaving_with_purge_takes_the_driver_too_but_not_from_a_host_that_stays(target: Target) -> None:
    target.host.put("/var/lib/inference-stack/steps/engine", "of a host that keeps its containers\n")
    target.with_(when_removed="purge").run("driver", what="undo")
    assert set(target.installed()) >= FAMILY
    target.host.inside("rm /var/lib/inference-stack/steps/engine")
    target.run("driver")
    target.with_(when_removed="purge").run("driver", what="undo")
    assert not FAMILY & set(target.installed())
    assert target.held() == set()
