"""What somebody changes on a real host is seen in its facts, and the repaired step puts it right: the next facts differ
in nothing. Docker, apt, dpkg and systemd are real, NVIDIA's packages and the card stand-ins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from planning.hosts import steps
from planning.hosts.drift import differences, repairs
from planning.hosts.outlook import outlook
from planning.hosts.plan import StepName
from planning.hosts.ready import waiting
from stack_configs.schema.facts import Facts
from stack_configs.schema.stack import StackSpec
from tests.hosts.card import RTX_4090, Card
from tests.hosts.host import Host, bare_host, login
from tests.hosts.repository import Repository, driver, toolkit
from tools.facts import ask_all

OLD, PINNED = "580.170.01", "580.173.02"
DEBIANS_DOCKER = {"version": "29.8.2", "distributions": {"debian-13": "26.1.5"}, "source": "tests"}
ALL: tuple[StepName, ...] = ("base", "driver", "reboot", "engine")
INSTALL = "apt-get install -qy --allow-downgrades --allow-change-held-packages"
CARD = Card.of(RTX_4090)


@dataclass
class Prepared:
    """A host and the spec that it was prepared by."""

    host: Host
    spec: StackSpec

    def facts(self) -> Facts:
        found = ask_all({self.host.name: self.spec.file.hosts[self.host.name]})[self.host.name]
        assert isinstance(found, Facts), found
        return found

    def said(self, facts: Facts | None = None) -> list[str]:
        return [f"{d.step}: {d.says}" for d in differences(self.host.name, self.spec, facts or self.facts())]

    def apply(self, *wanted: StepName) -> str:
        """Run steps of the spec as it is now; what they print."""
        out = ""
        for step in steps.plan_host(self.host.name, self.spec).steps:
            if step.name in wanted:
                out += self.host.ssh("sudo -n bash -s apply", stdin=steps.text(step)).stdout
        return out

    def repaired(self, before: Facts | None = None) -> set[StepName]:
        """Raise the counters that drift would raise, and run what the next `up` would then run; which steps that is."""
        name, facts = self.host.name, self.facts()
        raised = {str(step): count for step, count in repairs(name, self.spec, facts, before).items()}
        counters = {**self.spec.repairs.get(name, {}), **raised}
        self.spec = self.spec.model_copy(update={"repairs": {name: counters}})
        noted = {**(before.steps if before else {}), **facts.steps}
        runs = [step.name for step in steps.plan_host(name, self.spec).steps if noted.get(step.name) != step.digest]
        self.apply(*runs)
        return set(runs)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish(*driver(OLD), *driver(PINNED), *toolkit())
    settings: dict[str, Any] = {"driver": {"branch": "580"}, "engine": "distribution", "gpus": list(CARD.uuids)}
    with bare_host("drift", distribution="debian-13", card=CARD) as host:
        repository.copy_to(host)
        yield Prepared(host, repository.spec(host, settings, docker=DEBIANS_DOCKER))


@pytest.fixture(autouse=True)
def at_ease(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))
    # systemd refuses a fourth start of Docker within a minute, and these tests restart it often.
    prepared.host.inside("systemctl reset-failed docker.service docker.socket 2>/dev/null || true")


def test_from_bare_to_nothing_that_differs(prepared: Prepared) -> None:
    name = prepared.host.name
    bare = prepared.facts()
    assert [line for line in prepared.said(bare) if "never applied" in line] == [
        f"{step}: was never applied: the next `up` does it" for step in ALL
    ]
    assert "from before it was prepared" in waiting(prepared.spec.model_copy(update={"facts": {name: bare}}))[name]
    prepared.apply(*ALL)
    if prepared.facts().driver.loaded is None:
        prepared.host.reboot()  # `reboot: manual`: a person's
        assert prepared.repaired() <= {"engine"}
    ready = prepared.facts()
    assert ready.problems == ()
    assert prepared.said(ready) == []
    assert waiting(prepared.spec.model_copy(update={"facts": {name: ready}})) == {}


@pytest.mark.parametrize(
    ("change", "told", "runs"),
    [
        (
            "apt-mark unhold libcuda1 nvidia-open-580",
            ["driver: no longer held: nvidia-open-580, libcuda1"],
            {"driver"},
        ),
        (
            f"{INSTALL} libnvidia-ml1={OLD}-1 nvidia-open-580-",
            [
                f"driver: nvidia-open-580 is not installed, the spec has {PINNED}",
                f"driver: libnvidia-ml1 is {OLD}-1, the spec has {PINNED}",
                "driver: no longer held: libnvidia-ml1",  # apt takes the hold away when it is told to change it
            ],
            {"driver"},
        ),
        ("systemctl stop docker.socket docker.service", ["engine: Docker doesn't run"], {"engine"}),
        (
            "echo '{}' >/etc/docker/daemon.json && systemctl restart docker",
            [
                "engine: /etc/docker/daemon.json is not the spec's",
                "engine: Docker's live-restore is off: its restart would stop containers",
                "engine: Docker takes no CDI devices",
            ],
            {"engine"},
        ),
    ],
)
def test_what_somebody_changed_is_seen_and_repaired(
    prepared: Prepared, change: str, told: list[str], runs: set[StepName]
) -> None:
    prepared.host.inside(change)
    assert prepared.said() == told
    assert prepared.repaired() == runs
    assert prepared.said() == []
    assert repairs(prepared.host.name, prepared.spec, prepared.facts()) == {}


def test_notes_that_vanished_are_written_again(prepared: Prepared) -> None:
    before = prepared.facts()
    prepared.host.inside("rm -r /var/lib/inference-stack/steps")
    assert prepared.repaired(before) == {"base", "driver", "reboot", "engine"}
    assert prepared.said() == []


def test_a_preview_says_what_then_happens(prepared: Prepared) -> None:
    """The facts before, what is said by them, and what the steps then do."""
    host, name = prepared.host, prepared.host.name
    host.inside(f"{INSTALL} libcuda1={OLD}-1 nvidia-open-580-")
    known = prepared.spec.model_copy(update={"facts": {name: prepared.facts()}})
    said = outlook(name, known, ("driver", "engine"), datetime.now(UTC))
    assert said[1:] == [
        f"  packages  nvidia-open-580 not installed → {PINNED}",
        f"            libcuda1 {OLD}-1 → {PINNED}",
        "  holds     libcuda1 held",
        "  reboot    no",
        "  Docker    no restart",
        "  models    none runs there",
    ]
    started = host.inside("systemctl show -p ActiveEnterTimestampMonotonic docker")
    done = prepared.apply("driver", "engine")
    assert f"libcuda1 {OLD}-1 -> {PINNED}-1" in done
    assert host.inside("systemctl show -p ActiveEnterTimestampMonotonic docker") == started
    assert prepared.said() == []
