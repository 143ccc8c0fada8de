"""The key and the certificate of the API in the mesh: what would keep the gateway from answering is told at load."""

import re
import subprocess
from pathlib import Path

import pytest

from stack_configs.certificates import KEY, expiring, key_problems, read
from stack_configs.load import ROOT
from stack_configs.schema.network import MeshCertificates
from stack_configs.schema.stack import StackSpec
from tests.network.authority import NAME, Authority
from tests.unit.network.mesh import prod


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def having(certificate: str) -> StackSpec:
    of = prod(tls={"certificate": "gateway.pem", "client_ca": "clients.pem"})
    texts = MeshCertificates(certificate=certificate, client_ca="not looked at here")
    return of.model_copy(update={"mesh_certificates": texts})


@pytest.mark.parametrize("names", [NAME, "*.mesh.example.net"])
def test_a_certificate_for_the_gateways_host_with_its_key_is_good(authority: Authority, names: str) -> None:
    good = authority.certify("good", names)
    assert not list(key_problems(having(good.certificate + authority.certificate), good.key, secret=True))


def test_a_stack_without_certificates_needs_no_key() -> None:
    assert not list(key_problems(prod(), None, secret=False))


@pytest.mark.parametrize(
    ("key", "secret", "says"),
    [
        (None, False, "is missing"),
        ("", True, "is missing"),
        ("its own", False, "stands in plain"),
        ("another's", True, "is the key of another certificate"),
        ("no key", True, "is no private key in PEM, or has a password"),
        ("with a password", True, "is no private key in PEM, or has a password"),
        ("x" * 20_000, True, "is no private key in PEM, or has a password"),
    ],
)
def test_a_key_that_nginx_could_not_use_is_told(authority: Authority, key: str | None, secret: bool, says: str) -> None:
    good, other = authority.certify("good", NAME), authority.certify("other", NAME)
    keys = {"its own": good.key, "another's": other.key, "with a password": authority.locked(good)}
    (found,) = key_problems(having(good.certificate), keys.get(key or "", key), secret)
    assert found[0] == (KEY,)
    assert says in found[1]
    assert f"pulumi config set --secret {KEY}" in found[2]
    assert "PRIVATE KEY" not in "".join(found[1:])


@pytest.mark.parametrize(
    ("name", "days", "says"),
    [
        (NAME, -1, "has expired"),
        ("studio-2.mesh.example.net", 2, f"is not for {NAME}"),
        ("", 2, f"is not for {NAME}"),
    ],
)
def test_a_certificate_that_no_client_would_take_is_told(authority: Authority, name: str, days: int, says: str) -> None:
    bad = authority.certify("bad", name, days=days)
    (found,) = key_problems(having(bad.certificate), bad.key, secret=True)
    assert found[0] == ("network", "mesh", "tls", "certificate")
    assert says in found[1]
    assert f"DNS:{NAME}" in found[2]


@pytest.mark.parametrize(("days", "told"), [(29, True), (32, False)])
def test_a_certificate_that_expires_soon_is_told_beforehand(authority: Authority, days: int, told: bool) -> None:
    good = authority.certify("good", NAME, days=days)
    found = having(good.certificate).model_copy(
        update={"mesh_certificates": MeshCertificates(certificate=good.certificate, client_ca=authority.certificate)}
    )
    says = list(expiring(found, good.key))
    assert any("tls.certificate expires in 28 days" in one for one in says) == told
    assert any("tls.client_ca expires in 1 days" in one for one in says)
    assert not list(expiring(prod(), None))


def test_nothing_of_the_key_is_left_open_or_on_disk(authority: Authority) -> None:
    good = authority.certify("good", NAME)
    before = set(Path("/proc/self/fd").iterdir())
    assert not list(key_problems(having(good.certificate), good.key, secret=True))
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)


@pytest.mark.usefixtures("authority")
def test_the_commands_of_the_how_to_make_certificates_that_are_good(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "mesh.md").read_text()
    (commands,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "openssl req" in block)
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    files = {name: f"stack_configs/certificates/{name}.pem" for name in ("ca", "gateway")}
    of = prod(domain="mesh.example.org", tls={"certificate": files["gateway"], "client_ca": files["ca"]})
    found, problems = read(of.file.network.mesh, tmp_path)
    assert not problems
    of = of.model_copy(update={"mesh_certificates": found})
    assert not list(key_problems(of, (tmp_path / "gateway.key").read_text(), secret=True))
    assert all(name in page for name in files.values())
    verified = ["openssl", "verify", "-CAfile", files["ca"], "-purpose", "sslclient", "render.pem"]
    subprocess.run(verified, cwd=tmp_path, check=True, capture_output=True)
