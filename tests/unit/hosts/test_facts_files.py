"""Facts as files: what is written is read again, and what can't be read is told."""

import json
from pathlib import Path

import pytest
import yaml

from stack_configs import facts_files
from stack_configs.load import ROOT, Settings, SpecError, load, settings_of, ssh_hosts
from tests.unit.hosts import shaped
from tools.stack import load_stack

KEYS = {"editors": "a" * 64, "batch": "b" * 64}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with prod as it is shipped, whose images count as verified."""
    versions = tmp_path / "stack_configs" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "stack_configs" / "prod.yaml").write_text((ROOT / "stack_configs" / "prod.yaml").read_text())
    for path in (ROOT / "stack_configs" / "versions").glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        for image in data["images"].values():
            image["digest"] = "sha256:" + "0" * 64
        (versions / path.name).write_text(yaml.safe_dump(data))
    return tmp_path


def broken(root: Path, text: str, host: str = "studio-1") -> str:
    path = root / facts_files.name_of("prod", host)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(SpecError) as raised:
        load("prod", Settings(key_hashes=KEYS), root)
    assert len(raised.value.problems) == 1, raised.value
    return str(raised.value.problems[0])


def test_what_is_written_is_read_again(root: Path) -> None:
    facts = shaped.facts(steps={"base": "0" * 12}, packages={"docker-ce": shaped.package("5:28.5.1-1", held=True)})
    path = facts_files.write("prod", facts, root)
    assert path == root / "stack_configs/facts/prod/studio-1.json"
    assert load("prod", Settings(key_hashes=KEYS), root).facts == {"studio-1": facts}


def test_the_order_of_keys_is_fixed_and_only_what_differs_differs(root: Path) -> None:
    before = facts_files.write("prod", shaped.facts(), root).read_text().splitlines()
    after = facts_files.write("prod", shaped.facts(read_at="2026-11-21T00:00:00Z"), root).read_text().splitlines()
    assert [line for line in after if line not in before] == ['  "read_at": "2026-11-21T00:00:00Z",']
    assert before[1:3] == ['  "host": "studio-1",', '  "read_at": "2026-11-20T08:00:00Z",']


def test_a_write_that_is_cut_off_leaves_the_old_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = facts_files.write("prod", shaped.facts(), root)

    def full(self: Path, *given: object, **named: object) -> int:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        facts_files.write("prod", shaped.facts(arch="aarch64"), root)
    assert json.loads(path.read_text())["arch"] == "x86_64"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n"host": "studio-1",\n<<<<<<< HEAD\n', "prod/studio-1.json:3  (the whole file)\n    is not JSON: "),
        ("", "prod/studio-1.json:1  (the whole file)\n    is not JSON: "),
        ('{"host": "studio-1"}', "prod/studio-1.json  read_at\n    is not what this version reads: field required"),
        ('{"hots": "studio-1"}', "prod/studio-1.json"),
        ("[]", "prod/studio-1.json  (the whole file)\n    is not what this version reads: "),
    ],
)
def test_a_broken_file_is_told_with_its_path_and_the_way_out(text: str, told: str, root: Path) -> None:
    said = broken(root, text)
    assert told in said
    assert said.startswith("stack_configs/facts/")
    assert said.endswith("\n    write it anew: `make facts STACK=prod HOST=studio-1`")


def test_the_file_of_another_host_is_refused(root: Path) -> None:
    text = facts_files.write("prod", shaped.facts(), root).read_text()
    assert "is the file of another host: studio-1" in broken(root, text, "studio-2")


def test_facts_of_a_host_that_left_are_a_warning(root: Path) -> None:
    facts_files.write("prod", shaped.facts(host="studio-9"), root)
    spec = load("prod", Settings(key_hashes=KEYS), root)
    assert spec.facts == {}
    assert "stack_configs/facts/prod/studio-9.json is of no host over SSH in this stack; remove it" in spec.warnings


def test_hosts_are_known_before_the_rest_of_the_file_is_right(root: Path) -> None:
    path = root / "stack_configs" / "prod.yaml"
    path.write_text(path.read_text().partition("models:")[0])
    assert list(ssh_hosts("prod", root)) == ["studio-1", "studio-2"]
    path.write_text(path.read_text().replace("user: ops", "user: 7"))
    with pytest.raises(SpecError, match=r"hosts\.studio-1\.connection\.user"):
        ssh_hosts("prod", root)


def test_repairs_come_from_pulumis_config_by_host_and_step(root: Path) -> None:
    repairs = {"studio-1": {"driver": 2}, "gone": {"base": 1}}
    config = {"inference-stack:key-hashes": KEYS, "inference-stack:repairs": repairs, "another:repairs": 7}
    (root / "Pulumi.prod.yaml").write_text(yaml.safe_dump({"config": config}))
    assert load_stack("prod", root).repairs == {"studio-1": {"driver": 2}}


def test_a_repair_that_is_no_count_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Pulumi\.prod\.yaml  repairs\.studio-1\.driver"):
        settings_of({"repairs": {"studio-1": {"driver": "often"}}}, "prod")
