"""`make preview`, `make up`, `make logs` and `make down` of a stack on a host over SSH, as a user types them.

The tests of this module are one story, told in order.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.deploy.clone import Clone, make_clone
from tests.hosts.host import Host, bare_host, login
from tests.hosts.plugin import install
from tests.hosts.repository import Repository
from tests.hosts.test_up import DEBIANS_DOCKER

STACK = "typed"
ANSWER = {"choices": [{"message": {"content": "By loopback."}}], "usage": {"completion_tokens": 3}}
GATEWAY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        good = self.headers["Authorization"] == "Bearer sk-test" and self.path == "/v1/chat/completions"
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""
ASK = """
from tools.setup import over_ssh
from tools.setup.progress import run_step
outputs = {"url": "http://127.0.0.1:8080/v1", "models": ["chat"]}
print(run_step("First question", lambda step: over_ssh.ask("typed", "one", step, outputs, "sk-test")))
"""


@dataclass
class Site:
    clone: Clone
    host: Host
    previewed: str = ""
    """What a preview said before the first `up`."""

    def kept(self) -> dict[str, bytes]:
        """The clone's files, but for logs and for where plugins lie."""
        scratch = [self.clone.path / ".state" / name for name in ("logs", "timings.json", "pulumi")]
        every = [path for path in self.clone.path.rglob("*") if path.is_file() and ".git" not in path.parts]
        return {str(path): path.read_bytes() for path in every if not any(path.is_relative_to(at) for at in scratch)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("typed")
    repository = Repository(folder)
    clone = make_clone(folder / "clone", stack=STACK, env={"SSH_AUTH_SOCK": str(login().agent)})
    versions = clone.path / "stack_configs" / "versions" / "2026.11.yaml"
    changed = yaml.safe_load(versions.read_text())
    changed["hosts"] = repository.versions(docker=DEBIANS_DOCKER).model_dump(mode="json")
    versions.write_text(yaml.safe_dump(changed, sort_keys=False))
    install(clone.path / ".state" / "pulumi")
    with bare_host("one", distribution="debian-13") as host:
        model = {
            "source": {"repo": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "7ae557604adf67be50417f59c2c2f167def9a775"},
            "replicas": [{"host": "one"}],
            "max_model_len": 2048,
            "max_num_seqs": 4,
            "memory_mib": 4096,
        }
        file = {
            "versions": "2026.11",
            "hosts": {"one": {"connection": host.connection, "engine": "distribution", "models_free_gib": 1}},
            "models": {"chat": model},
            "gateway": {"keys": {"me": {"models": "all", "rpm": 60, "tpm": 40000}}},
        }
        clone.spec_file.write_text(yaml.safe_dump(file, sort_keys=False))
        yield Site(clone, host)


@pytest.mark.parametrize("stack", ["dev", STACK])
def test_a_preview_before_the_first_up_tells_what_comes_and_leaves_nothing(site: Site, stack: str) -> None:
    before, status = site.kept(), site.clone.run("git", "status", "--porcelain").stdout
    said = site.clone.run("make", "preview", f"STACK={stack}").stdout
    assert site.kept() == before
    assert site.clone.run("git", "status", "--porcelain").stdout == status
    assert sorted(path.name for path in (site.clone.path / ".state").iterdir()) == ["logs", "pulumi", "timings.json"]
    _, found, site.previewed = said.partition("Nothing of it is kept.\n")
    assert found, said
    assert "to create, 0 unchanged" in site.previewed
    made = ["chat-0", "litellm-0", "nginx"] if stack == "dev" else ["one-base  (command)", "one-engine  (command)"]
    for name in made:
        assert f"  create   {name}\n" in site.previewed


def test_without_an_agent_it_is_told_what_to_type(site: Site) -> None:
    preview = site.clone.run("bash", "-c", f"unset SSH_AUTH_SOCK; make preview STACK={STACK}").stdout
    assert f"Before that, `make up STACK={STACK}` would stop. SSH agent: no SSH agent with a key in it" in preview
    line = f"unset SSH_AUTH_SOCK; make up STACK={STACK}"
    done = site.clone.run("bash", "-c", line, check=False)
    assert done.returncode != 0
    assert "no SSH agent with a key in it" in done.stderr
    assert 'eval "$(ssh-agent)" && ssh-add' in done.stderr


def test_up_prepares_the_host_and_says_what_waits(site: Site) -> None:
    said = site.clone.setup("up").stdout
    assert "command plugin 1.2.1" in said
    assert "made key me" in said
    assert site.previewed.strip() in said
    assert f"The stack `{STACK}` is as its file says" in said
    assert f"one waits: it has no facts yet: after it was prepared by `pulumi up`, `make facts STACK={STACK}" in said
    assert site.host.ssh("docker version --format '{{.Server.Version}}'").stdout.strip()
    config = (site.clone.path / f"Pulumi.{STACK}.yaml").read_text()
    assert site.clone.key().startswith("sk-")
    assert site.clone.key() not in config


def test_a_second_up_changes_nothing(site: Site) -> None:
    key = site.clone.key()
    said = site.clone.setup("up").stdout
    assert "unchanged" in next(line for line in said.splitlines() if " pulumi up " in line)
    assert site.clone.changes() == {}
    assert site.clone.key() == key


def test_a_new_key_shows_in_a_preview_that_makes_none(site: Site) -> None:
    text = site.clone.spec_file.read_text()
    file = yaml.safe_load(text)
    file["gateway"]["keys"]["you"] = {"models": "all", "rpm": 60}
    site.clone.spec_file.write_text(yaml.safe_dump(file, sort_keys=False))
    before = site.kept()
    said = site.clone.setup("preview").stdout
    assert site.kept() == before
    assert f"`make up` first makes the API keys of: you\nNothing would change in `{STACK}`" in said
    site.clone.spec_file.write_text(text)


def test_the_first_question_goes_through_a_tunnel(site: Site) -> None:
    """The host's loopback is asked, not this machine's; a stand-in answers there."""
    site.host.put("/srv/gateway.py", GATEWAY)
    if site.host.inside("command -v python3 || true") == "":
        site.host.ssh("sudo apt-get -q -y install --no-install-recommends python3")
    site.host.ssh(f"sudo systemd-run -q --unit=gateway python3 /srv/gateway.py '{json.dumps(ANSWER)}'")
    site.clone.pulumi("preview")
    said = site.clone.run("python3", "-c", ASK).stdout
    assert "3 tokens from chat" in said
    assert said.splitlines()[-1] == "By loopback."
    site.host.ssh("sudo systemctl stop gateway")
    failed = site.clone.run("python3", "-c", ASK, check=False)
    assert "no answer from the gateway on one" in failed.stderr


def test_logs_come_from_the_host(site: Site) -> None:
    label = f"--label inference-stack.stack={STACK} --label inference-stack.service=hello"
    site.host.inside(
        "tar -C / -c bin lib lib64 usr/bin usr/lib usr/lib64 2>/dev/null | docker import - tiny >/dev/null"
    )
    site.host.inside(f"docker run -d --name inference-{STACK}-hello {label} tiny bash -c 'echo I am here; sleep 1000'")
    site.host.put(f"/var/lib/inference-stack/pending/fenced-inference-{STACK}-hello", "hello is fenced since noon\n")
    listed = site.clone.setup("logs").stdout
    assert "one\n" in listed
    assert "hello" in listed
    assert "hello is fenced since noon\n" in listed
    assert site.clone.setup("logs", "SERVICE=hello").stdout == "I am here\n"
    site.host.inside(f"docker rm --force inference-{STACK}-hello")


def test_down_undoes_the_steps(site: Site) -> None:
    said = site.clone.setup("down").stdout
    assert "Kept: weights on the hosts" in said
    assert site.host.inside("ls /etc/apt/preferences.d /etc/apt/apt.conf.d | grep inference-stack || true") == ""
    assert json.loads(site.clone.pulumi("stack", "export").stdout)["deployment"].get("resources", [])[1:] == []
