"""What the first step refuses, and that it changes nothing then. On one bare Debian 12, over SSH."""

from collections.abc import Iterator

import pytest

from planning.hosts import steps
from tests.hosts.host import bare_host
from tests.hosts.repository import Repository
from tests.hosts.steps import Target


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish()
    with bare_host("refused", distribution="debian-12") as host:
        repository.copy_to(host)
        yield Target(host, repository, {"driver": {"branch": "580"}}, {})


@pytest.fixture(scope="module")
def before(bare: Target) -> dict[str, str]:
    return bare.files()


def test_a_mirror_that_cannot_be_reached_changes_nothing(bare: Target, before: dict[str, str]) -> None:
    bare.host.ssh("sudo apt-get update -q && sudo apt-get install -qy --no-install-recommends curl gpg gpg-agent")
    dead = bare.with_(mirrors={"nvidia-driver": {"url": "http://127.0.0.1:9/debian12"}})
    assert "a package mirror can't be reached" in dead.fails("base")
    dead = bare.with_(mirrors={"nvidia-driver": {"url": "http://x", "key_url": "http://127.0.0.1:9/key"}})
    assert "the key of the repository nvidia_driver can't be fetched" in dead.fails("base")
    assert bare.host.inside("ls /etc/apt/sources.list.d /etc/apt/keyrings | grep inference-stack", check=False) == ""
    assert set(before) <= set(bare.files())


def test_a_repository_signed_by_another_key_is_refused(bare: Target, before: dict[str, str]) -> None:  # noqa: ARG001
    other = "0" * 40
    wrong = bare.with_(mirrors={"nvidia-driver": {"url": "http://x", "key_fingerprint": other}})
    says = wrong.fails("base")
    assert f"not {other}" in says
    assert bare.repository.fingerprint in says


@pytest.mark.parametrize(
    ("id_", "number", "says"),
    [("fedora", "43", "fedora 43 is not supported"), ("debian", "11", "debian 11 is not supported")],
)
def test_another_system_is_refused(bare: Target, before: dict[str, str], id_: str, number: str, says: str) -> None:
    bare.host.inside("cp -a /etc/os-release /root/kept; rm /etc/os-release")
    bare.host.put("/etc/os-release", f"ID={id_}\nVERSION_ID={number}\n")
    try:
        assert says in bare.fails("base")
        kept = [path for path in before if "/etc/apt" in path]
        assert {path: bare.files()[path] for path in kept} == {path: before[path] for path in kept}
    finally:
        bare.host.inside("rm /etc/os-release; cp -a /root/kept /etc/os-release")


def test_without_root_it_says_so(bare: Target) -> None:
    done = bare.host.ssh("bash -s apply", stdin=_text(bare), check=False)
    assert done.returncode == 1
    assert "this must run as root" in done.stderr


def _text(target: Target) -> str:
    plan = steps.plan_host(target.host.name, target.repository.spec(target.host, target.settings))
    return steps.text(plan.steps[0])
