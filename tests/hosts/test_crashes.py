"""What a host does with replicas that crash, hang or lose their GPU, by what `engine` installs. On one Debian 13.

Docker, systemd and the journal are real. Stand-ins: replicas are a shell with a replica's label; a GPU is a CDI device
with nothing in it; and the kernel's lines come by `logger`, since a container's kernel is its machine's. Most cases
don't wait for the timer: `look` starts the same unit. The time in which deaths count is shortened by the unit's own
setting. A process that can't be killed waits for a file system that doesn't answer, not for a GPU.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from planning.hosts.steps import SERVING_LABEL
from tests.hosts.host import Host, bare_host
from tests.hosts.repository import Repository, toolkit
from tests.hosts.steps import QUIET, Target
from tests.hosts.test_up import DEBIANS_DOCKER

GPU, OTHER_GPU = "GPU-44ec53bd-277c-984f-fa9f-cded30fbfd5d", "GPU-8a1d2b47-52f6-4a0b-b7c3-5e9f64c0a902"
CDI = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + "".join(
    f"- {{name: {gpu}, containerEdits: {{env: [A_GPU=1]}}}}\n" for gpu in (GPU, OTHER_GPU)
)
NAMED = f"NVRM: GPU at PCI:0000:41:00: {GPU}"
"""What the driver says of a GPU before its first error (NVIDIA's documentation of Xid messages)."""
XID = "NVRM: Xid (PCI:0000:41:00): {}"
UNIT = "inference-stack-fence"
EXPORTER_LABEL = "inference-stack.component=observability"
NOTES = "/var/lib/inference-stack/pending"
WINDOW_S = 4
IMAGE = "shell"
MAKE_IMAGE = f"""
mkdir -p /tmp/image && cd /tmp/image
for program in /bin/sh /bin/sleep /bin/rm /bin/true; do
  echo $program; ldd $program | grep -oE '/[^ ]+'
done | sort -u | xargs cp -L --parents -t .
tar -c . | docker import - {IMAGE}
"""
HANGS = """
import ctypes, os, struct
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/hangs", exist_ok=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
assert ctypes.CDLL(None).mount(b"hangs", b"/hangs", b"fuse", 0, options) == 0
def answer(unique, body=b"", error=0):
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
while True:
    opcode, unique = struct.unpack("<IIQ", os.read(fd, 1 << 18)[:16])[1:]
    if opcode == 26:  # INIT, of version 7.19
        answer(unique, struct.pack("<IIIIHHI", 7, 19, 0, 0, 0, 0, 4096))
    elif opcode == 3:  # GETATTR: a folder
        answer(unique, struct.pack("<QII6Q3I7I", 3600, 0, 0, 1, *[0] * 8, 0o40755, 2, 0, 0, 0, 4096, 0))
    elif opcode not in (1, 2):  # LOOKUP and FORGET have no answer
        answer(unique, error=-38)
"""
"""A file system, /hangs, that never answers who opens a file: the kernel lets nobody end that process meanwhile."""
SERVES = "trap exit TERM; while :; do sleep 1 & wait $!; done"
DIES = "exit 3"
DIES_WHEN_TOLD = "trap exit TERM; while :; do [ -e /told/die ] && rm /told/die && exit 3; sleep 0.1 & wait $!; done"
SICK_WHEN_TOLD = f"[ ! -e /told/sick ] || exit 3; {SERVES}"


@dataclass(frozen=True)
class Site:
    target: Target

    @property
    def host(self) -> Host:
        return self.target.host

    def run(self, name: str, does: str, *options: str, label: str = SERVING_LABEL) -> None:
        """A replica as Docker runs it for us; it has the folder /told, which is the host's too."""
        options = ("--restart unless-stopped", f"--label {label}", "-v /told:/told", *options)
        run = f"docker run -d --name {name} --stop-timeout 1 {' '.join(options)} {IMAGE} /bin/sh -c '{does}'"
        # On a busy machine runc sometimes loses its own first process ("read init-p: connection reset by peer").
        self.host.inside(f"{run} || {{ docker rm -f {name}; {run}; }}")

    def look(self) -> None:
        self.host.inside(f"systemctl start {UNIT}.service")

    def says(self, *lines: str) -> None:
        """The kernel does."""
        self.host.inside("; ".join(f"logger -t kernel '{line}'" for line in lines) + "; journalctl --sync")

    def state(self, name: str) -> str:
        """`running`, `restarting`, `exited`."""
        return self.host.inside(f"docker inspect -f '{{{{.State.Status}}}}' {name}")

    def restarts(self, name: str) -> int:
        return int(self.host.inside(f"docker inspect -f '{{{{.RestartCount}}}}' {name}"))

    def note(self, name: str) -> str:
        """Why it is fenced; empty where it isn't."""
        return self.host.inside(f"cat {NOTES}/fenced-{name}", check=False)

    def until(self, what: str, condition: str) -> None:
        """Wait for a shell's condition on the host."""
        deadline = time.monotonic() + 60
        while self.host.inside(f"{{ {condition}; }} >/dev/null && echo yes", check=False) != "yes":
            assert time.monotonic() < deadline, f"waited 60 s for {what}"
            time.sleep(0.2)

    def die(self, name: str) -> None:
        """Once, and up again."""
        before = self.restarts(name)
        self.host.inside("touch /told/die")
        self.until(f"{name} to be up again", f"[ $(docker inspect -f '{{{{.RestartCount}}}}' {name}) -gt {before} ]")
        self.until(f"{name} to run", f"[ $(docker inspect -f '{{{{.State.Status}}}}' {name}) = running ]")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish(*toolkit())
    with bare_host("studio", distribution="debian-13") as host:
        repository.copy_to(host)
        yield Target(host, repository, {"engine": "distribution", "gpus": [GPU, OTHER_GPU]}, {"docker": DEBIANS_DOCKER})


@pytest.fixture(scope="module")
def prepared(bare: Target) -> str:
    """What `engine` printed on a bare host."""
    bare.run("base")
    said = bare.run("engine")
    bare.host.put("/etc/cdi/gpus.yaml", CDI)
    settings = f"[Service]\nEnvironment=WINDOW_S={WINDOW_S} KERNEL_LOG=SYSLOG_IDENTIFIER=kernel\n"
    # Tests look more often than systemd starts a unit by default.
    bare.host.put(f"/etc/systemd/system/{UNIT}.service.d/tests.conf", f"{settings}[Unit]\nStartLimitIntervalSec=0\n")
    bare.host.inside(f"mkdir /told; {MAKE_IMAGE}systemctl daemon-reload")
    return said


@pytest.fixture
def site(bare: Target, prepared: str) -> Iterator[Site]:  # noqa: ARG001 (it is ready)
    """Without replicas, and without looks but those that the test asks for."""
    bare.host.inside(f"systemctl stop {UNIT}.timer; systemctl start {UNIT}.service")
    yield Site(bare)
    bare.host.inside("docker ps -aq | xargs -r docker rm -f; rm -f /told/*")


def test_engine_brings_it_and_has_nothing_to_change_the_second_time(bare: Target, prepared: str) -> None:
    assert f"enabled {UNIT}.timer" in prepared
    assert bare.host.inside(f"systemctl is-active {UNIT}.timer") == "active"
    assert bare.run("engine").strip() == QUIET


def test_a_replica_that_dies_six_times_at_once_is_stopped_and_stays_so(site: Site) -> None:
    site.host.inside(f"systemctl start {UNIT}.timer")
    site.run("well", SERVES)
    site.run("loop", DIES)
    site.until(
        "its end", f"[ -e {NOTES}/fenced-loop ] && [ $(docker inspect -f '{{{{.State.Status}}}}' loop) = exited ]"
    )
    assert site.restarts("loop") >= 6
    assert "loop is fenced since" in site.note("loop")
    assert f"times within {WINDOW_S} s; `docker start loop` on this host brings it back" in site.note("loop")
    site.host.inside("systemctl restart docker")
    assert site.state("loop") == "exited"
    assert site.state("well") == "running"
    assert site.note("well") == ""


def test_six_deaths_far_apart_are_six_restarts(site: Site) -> None:
    site.run("model", DIES_WHEN_TOLD)
    for _ in range(6):
        site.die("model")
        site.look()
        time.sleep(WINDOW_S / 6)
    assert site.restarts("model") == 6
    assert site.state("model") == "running"
    assert site.note("model") == ""


def test_deaths_count_over_looks_and_those_of_one_replica_alone(site: Site) -> None:
    site.host.put(f"/etc/systemd/system/{UNIT}.service.d/z.conf", "[Service]\nEnvironment=WINDOW_S=600\n")
    site.host.inside("systemctl daemon-reload")
    try:
        site.run("model", DIES_WHEN_TOLD)
        for deaths in range(1, 7):
            assert site.state("model") == "running", deaths
            site.die("model")
            site.look()
        assert site.state("model") == "exited"
        assert "it died 6 times within 600 s" in site.note("model")
    finally:
        site.host.inside(f"rm /etc/systemd/system/{UNIT}.service.d/z.conf; systemctl daemon-reload")


@pytest.mark.parametrize("how", ["docker restart -t 0 model", "docker kill model; docker start model"])
def test_what_a_person_ends_and_starts_is_no_death(site: Site, how: str) -> None:
    site.run("model", SERVES)
    for _ in range(6):
        site.host.inside(how)
        site.look()
    assert site.state("model") == "running"
    assert site.note("model") == ""


def test_a_start_by_hand_is_the_way_back_for_one_that_is_well_again(site: Site) -> None:
    site.host.inside("touch /told/sick")
    site.run("model", SICK_WHEN_TOLD)
    for _ in range(2):
        site.until("six deaths", "[ $(docker inspect -f '{{.RestartCount}}' model) -ge 6 ]")
        site.look()
        assert site.state("model") == "exited"
        site.look()
        assert site.note("model"), "it is known while nobody starts it"
        site.host.inside("docker start model")  # the first time too early
    site.host.inside("rm /told/sick")
    site.until("it to run", "[ $(docker inspect -f '{{.State.Status}}' model) = running ]")
    site.look()
    assert site.note("model") == ""
    assert site.state("model") == "running"


@pytest.mark.parametrize("what", ["another container of its name", "no container of its name"])
def test_what_replaces_a_fenced_replica_is_not_fenced(site: Site, what: str) -> None:
    site.run("model", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.says(NAMED, XID.format("79, GPU has fallen off the bus."))
    site.look()
    assert site.note("model")
    site.host.inside("docker rm model")
    if what.startswith("another"):
        site.run("model", SERVES)
    site.look()
    assert site.note("model") == ""


@pytest.mark.parametrize(
    "line",
    [
        "79, pid=<unknown>, name=<unknown>, GPU has fallen off the bus.",
        "119, pid=4711, name=VLLM::Worker, Timeout after 6s of waiting for RPC response from GPU0 GSP!",
        "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
    ],
    ids=lambda line: line[:3] + line[-22:],
)
def test_a_gpu_that_needs_a_reset_stops_its_replicas_and_no_other(site: Site, line: str) -> None:
    site.run("model", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.run("two-gpus", SERVES, f"--device nvidia.com/gpu={OTHER_GPU}", f"--device nvidia.com/gpu={GPU}")
    site.run("other", SERVES, f"--device nvidia.com/gpu={OTHER_GPU}")
    site.run("exporter", SERVES, f"--device nvidia.com/gpu={GPU}", label=EXPORTER_LABEL)
    site.look()
    site.says(NAMED, XID.format(line))
    site.look()
    names = ("model", "two-gpus", "other", "exporter")
    assert [site.state(name) for name in names] == ["exited", "exited", "running", "running"]
    assert f"{GPU} needs a reset or a reboot (Xid {line.split(',')[0]})" in site.note("model")
    # Who has reset the GPU starts it again, and what was said before counts no more.
    site.host.inside("docker start model")
    site.look()
    assert site.state("model") == "running"
    assert site.note("model") == ""


def test_errors_that_a_restart_mends_stop_nothing(site: Site) -> None:
    site.run("model", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.says(
        NAMED,
        *(XID.format(f"{xid}, pid=4711, name=VLLM::Worker, whatever") for xid in (13, 31, 43, 45, 63, 94)),
        XID.format("154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"),
        XID.format("154, GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)"),
    )
    site.look()
    assert site.state("model") == "running"
    assert site.note("model") == ""


def test_a_gpu_that_the_log_does_not_name_is_told_of(site: Site) -> None:
    site.run("model", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.says("NVRM: Xid (PCI:0000:c1:00): 79, GPU has fallen off the bus.")
    site.look()
    assert site.state("model") == "running"
    assert "Xid 79 of the GPU at 0000:c1:00: the kernel's log doesn't say which GPU" in site.host.inside(
        f"journalctl -o cat -n 5 -u {UNIT}.service"
    )


def test_a_replica_that_hangs_for_as_long_as_a_start_may_take_is_stopped(site: Site) -> None:
    looks_at = "--health-cmd '[ ! -e /told/hang ]' --health-interval 1s --health-retries 1"
    for name, start in (("model", "2s"), ("patient", "600s")):
        site.run(name, SERVES, looks_at, f"--health-start-period {start}")
    site.until("both", "[ $(docker ps -q --filter health=healthy | wc -l) = 2 ]")
    site.host.inside("touch /told/hang")
    site.until("both", "[ $(docker ps -q --filter health=unhealthy | wc -l) = 2 ]")
    site.look()
    assert site.state("model") == "running", "not at once"
    time.sleep(2)
    site.look()
    assert site.state("model") == "exited"
    assert "it hangs: its health check has failed for 2 s, all that a start may take" in site.note("model")
    assert site.state("patient") == "running"


@pytest.mark.campaign
def test_a_process_that_nobody_can_end_is_told_and_ends_with_a_reboot(site: Site) -> None:
    site.host.put("/srv/hangs.py", HANGS)
    site.host.inside("systemd-run -q --unit=hangs python3 /srv/hangs.py")
    site.until("the file system", "mountpoint -q /hangs")
    health = "--health-cmd /bin/false --health-interval 1s --health-retries 1 --health-start-period 1s"
    site.run("model", "read x </hangs/file", "-v /hangs:/hangs", health)
    site.until("its health check", "[ $(docker ps -q --filter health=unhealthy | wc -l) = 1 ]")
    site.look()
    time.sleep(1)
    site.look()
    assert site.state("model") == "running"
    assert site.note("model").endswith("Its processes can't be ended: reboot this host first")
    site.host.reboot()
    site.until("Docker", "docker ps")
    site.look()
    assert site.state("model") == "exited"
    assert site.note("model").endswith("docs/troubleshooting.md says when")


def test_over_a_reboot_models_come_back_and_fenced_ones_stay_so(site: Site) -> None:
    """This Docker starts nothing with a GPU at a boot (moby#49989), and no Docker does before the CDI file is there."""
    site.run("well", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.run("stopped", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.run("well-previous-1", SERVES, f"--device nvidia.com/gpu={GPU}")
    site.run("loop", DIES, f"--device nvidia.com/gpu={GPU}")
    site.run("exporter", SERVES, f"--device nvidia.com/gpu={GPU}", label=EXPORTER_LABEL)
    site.until("six deaths", "[ $(docker inspect -f '{{.RestartCount}}' loop) -ge 6 ]")
    site.look()
    site.host.inside("docker stop stopped")
    site.says(NAMED, XID.format("79, GPU has fallen off the bus."))  # nobody has looked when it goes down
    site.host.inside("mv /etc/cdi/gpus.yaml /etc/cdi/later")
    site.host.reboot()
    site.until("Docker", "docker ps")
    site.look()
    assert site.state("well") == "exited"
    site.host.inside("mv /etc/cdi/later /etc/cdi/gpus.yaml")
    site.look()
    names = ("well", "exporter", "stopped", "well-previous-1", "loop")
    assert [site.state(name) for name in names] == ["running", "running", "exited", "exited", "exited"]
    assert site.note("loop")
    assert site.note("well") == ""
    assert site.target.run("engine").strip() == QUIET


def test_undone_it_leaves_nothing(bare: Target, prepared: str) -> None:  # noqa: ARG001 (it was there)
    bare.run("engine", what="undo")
    assert (
        bare.host.inside(
            f"find /etc /usr/local /run /var/lib/inference-stack -name '*fence*' ! -name '{UNIT}.service.d'"
        )
        == ""
    )
    assert bare.host.inside(f"systemctl is-active {UNIT}.timer", check=False) == "inactive"
