"""`make up`, `policy`, `drift`, `exposure` and `down` of a stack in a mesh, as an operator types them.

The operator's laptop is a node, as docs/mesh.md says.

The tests of this module are one story, told in order.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.deploy.clone import Clone, make_clone
from tests.hosts.host import Host, bare_hosts, login
from tests.hosts.plugin import install
from tests.hosts.repository import Repository, tailscale_package
from tests.hosts.test_up import DEBIANS_DOCKER
from tests.network import programs
from tests.network.headscale import DOMAIN, Headscale, control_server
from tests.network.laptop import Laptop, laptop

STACK = "meshed"
OWN_POLICY = {"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}


@dataclass
class Site:
    clone: Clone
    laptop: Laptop
    server: Headscale
    hosts: dict[str, Host]
    file: dict[str, Any]
    api_key: str

    def types(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.clone.run(*self.laptop.argv(*words), stdin=stdin, check=check)

    def make(self, *words: str, ends_with: int = 0) -> str:
        """What it prints. Other than 0, it is make's own status for a command that failed that holds: 2."""
        done = self.types("make", *words, f"STACK={STACK}", check=False)
        assert done.returncode == (2 if ends_with else 0), f"{words}\n{done.stdout}\n{done.stderr}"
        if ends_with:
            assert f"Error {ends_with}\n" in done.stderr
        return done.stdout + done.stderr

    def save(self) -> None:
        self.clone.spec_file.write_text(yaml.safe_dump(self.file, sort_keys=False))


def file_of(hosts: dict[str, Host], server: Headscale, operator: Host) -> dict[str, Any]:
    model = {
        "source": {"repo": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "7ae557604adf67be50417f59c2c2f167def9a775"},
        "replicas": [{"host": "two"}],
        "max_model_len": 2048,
        "max_num_seqs": 4,
        "memory_mib": 4096,
    }
    mesh = {"control": "headscale", "login_server": server.url, "domain": DOMAIN, "operators": ["kim@"]}
    settings = {"engine": "distribution", "models_free_gib": 1}
    ssh = {"port": 22, "sources": [f"{operator.address}/32"]}
    return {
        "versions": "2026.11",
        "hosts": {name: {"connection": host.connection, **settings} for name, host in hosts.items()},
        "models": {"chat": model},
        "gateway": {"host": "one", "keys": {"me": {"models": "all", "rpm": 60, "tpm": 40000}}},
        "network": {"mesh": {**mesh, "policy": "owned"}, "firewall": {"allow": [ssh]}},
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("apt", "headscale", "laptop", "typed")}
    repository = Repository(folders["apt"])
    repository.publish(tailscale_package(programs.folder()))
    clone = make_clone(folders["typed"] / "clone", stack=STACK, env={"SSH_AUTH_SOCK": str(login().agent)})
    versions = clone.path / "stack_configs" / "versions" / "2026.11.yaml"
    changed = yaml.safe_load(versions.read_text())
    changed["hosts"] = repository.versions(docker=DEBIANS_DOCKER).model_dump(mode="json")
    versions.write_text(yaml.safe_dump(changed, sort_keys=False))
    install(clone.path / ".state" / "pulumi")
    with (
        bare_hosts("one", "two", "laptop", distribution="debian-13") as (one, two, own),
        control_server(folders["headscale"]) as server,
    ):
        server.say("users", "create", "kim")
        hosts = {"one": one, "two": two}
        for host in hosts.values():
            repository.copy_to(host)
            server.trusted_by(host)
        with laptop(own, server, folders["laptop"], "kim") as machine:
            found = Site(clone, machine, server, hosts, file_of(hosts, server, own), server.api_key())
            found.save()
            yield found


def test_without_an_api_key_nothing_is_touched_and_it_is_told_what_to_type(site: Site) -> None:
    said = site.make("up", ends_with=1)
    assert f"Pulumi.{STACK}.yaml  inference-stack:headscaleApiKey\n        is missing" in said
    assert f"`pulumi config set --secret inference-stack:headscaleApiKey -s {STACK}`" in said
    assert "tailscale" not in site.hosts["one"].inside("dpkg-query -W -f '${Package} '")


def test_a_policy_of_another_is_kept_until_somebody_says_so(site: Site) -> None:
    site.server.set_policy(OWN_POLICY)
    line = f". ./activate && pulumi config set --secret inference-stack:headscaleApiKey -s {STACK}"
    site.types("bash", "-c", line, stdin=site.api_key)
    said = site.make("up", ends_with=1)
    assert (
        f"has a policy that the stack {STACK} did not write: `make policy STACK={STACK}` shows the difference" in said
    )
    assert set(site.server.nodes()) == {"laptop"}
    assert "`up` won't replace it" in site.make("policy", ends_with=1)
    assert "The next `pulumi up` replaces it" in site.make("policy", "TAKE_OVER=yes", ends_with=1)


def test_up_makes_nodes_of_the_hosts(site: Site) -> None:
    said = site.make("up")
    assert f"The stack `{STACK}` is as its file says" in said
    assert set(site.server.nodes()) == {"one", "two", "laptop"}
    assert site.api_key not in (site.clone.path / f"Pulumi.{STACK}.yaml").read_text()
    assert "Nothing would change" in site.make("preview")


def test_the_policy_is_the_specs(site: Site) -> None:
    said = site.make("policy")
    assert "The policy in force is as the spec has it." in said
    assert "Its tests hold: " in said
    assert site.laptop.reaches(f"two.{DOMAIN}", 22)


def test_nothing_is_exposed_but_what_the_file_says(site: Site) -> None:
    said = site.make("exposure", "FROM=here")
    for host in site.hosts.values():
        assert f"{host.address}: TCP 22 open, " in said
    assert f"nothing but what stack_configs/{STACK}.yaml allows" in said


def test_drift_finds_a_node_that_has_lost_its_place_and_up_brings_it_back(site: Site) -> None:
    site.make("drift")
    lose = "systemctl stop tailscaled && rm -rf /var/lib/tailscale/* && systemctl start tailscaled"
    site.hosts["two"].inside(lose)
    said = site.make("drift", ends_with=1)
    assert "two: 1 difference\n  join" in said
    assert "two join: counters in" in site.make("drift", ends_with=1)
    site.make("up")
    assert site.laptop.reaches(f"two.{DOMAIN}", 22)
    site.make("drift")


def test_a_host_that_leaves_is_no_node_any_more(site: Site) -> None:
    site.file["models"]["chat"]["replicas"] = [{"host": "one"}]
    del site.file["hosts"]["two"]
    site.save()
    assert "removed two" in site.make("up")
    assert set(site.server.nodes()) == {"one", "laptop"}


def test_down_leaves_hosts_and_mesh_as_they_were(site: Site) -> None:
    said = site.make("down")
    assert "removed " in said
    assert set(site.server.nodes()) == {"laptop"}
    for host in site.hosts.values():
        assert host.inside("nft list ruleset | grep -c inference || true") == "0"
        assert host.inside("systemctl is-active tailscaled || true") == "inactive"
