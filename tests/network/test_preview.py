"""`make preview` of a stack with an ingress: the program itself, on the real Pulumi."""

import pytest
import yaml

from tests.deploy.clone import Clone
from tests.golden.specs import ingress, stack_file
from tests.network.plugin import install, recorded, set_token
from tests.network.previewed import preview, previewed

STACK = "out"
API_TOKEN = "api-token-of-nobody"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """This working tree with a stack that the internet reaches, and no Cloudflare token yet."""
    folder = tmp_path_factory.mktemp("clone")
    made = previewed(folder, STACK)
    install(folder / "home", folder)
    set_token(folder, "unused")
    file = {**stack_file("dev"), "network": {"ingress": ingress()}}
    file["gateway"]["max_body_mib"] = 150
    made.spec_file.write_text(yaml.safe_dump(file))
    made.run("pulumi", "config", "set", "--path", "inference-stack:key-hashes.me", "0" * 64, "-s", STACK)
    return made


def test_without_a_token_it_is_told_before_anything_else(clone: Clone) -> None:
    status, said = preview(clone)
    assert status != 0
    assert "cloudflare:apiToken\n    is missing, and the stack has an ingress" in said


def test_a_token_in_plain_is_refused(clone: Clone) -> None:
    clone.run("pulumi", "config", "set", "cloudflare:apiToken", API_TOKEN, "--plaintext", "-s", STACK)
    status, said = preview(clone)
    assert status != 0
    assert "stands in plain in the file" in said
    assert API_TOKEN not in said


def test_it_says_what_is_made_what_users_meet_and_no_secret(clone: Clone) -> None:
    clone.run("pulumi", "config", "set", "--secret", "cloudflare:apiToken", "-s", STACK, stdin=API_TOKEN)
    status, said = preview(clone)
    assert status == 0, said
    for part in (
        "create   cloudflared",
        "create   tunnel-config  (zerotrusttunnelcloudflaredconfig)",
        "create   team.example.org-access  (zerotrustaccessapplication)",
        "create   llm.example.org-record  (dnsrecord)",
        "Ingress: new; its names resolve once the connector is connected.",
        "ends at Cloudflare's edge with error 524",
        "stream long answers (`stream: true`)",
        "Cloudflare's edge only 100 MB on Free and Pro\n",
    ):
        assert part in said, said
    assert API_TOKEN not in said
    assert [c for c in recorded(clone.path.parent) if c["operation"] != "configure"] == []
