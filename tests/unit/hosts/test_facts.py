"""A host's answers, and what they become; a question without an answer is a problem, and never counts as absent."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from planning.hosts.facts import SCRIPT, BrokenAnswers, parse_facts, read_answers, settings
from planning.hosts.facts_answers import MARKER, Answer
from stack_configs.schema.facts import Disk, Facts, Package
from tests.unit.hosts import shaped
from tests.unit.hosts.answers import ABSENT, HEALTHY, answers, failed, parsed

PINNED = "5:28.5.1-1~ubuntu.24.04~noble"


def test_a_healthy_host_has_no_problems() -> None:
    facts = parsed()
    assert facts.problems == ()
    assert (facts.os.id, facts.os.version, facts.os.codename, facts.arch) == ("ubuntu", "24.04", "noble", "x86_64")
    assert facts.virtual is None
    assert facts.packages == {"docker-ce": Package(version=PINNED, held=True, status="installed")}
    assert facts.disks == {"/": Disk(mount="/", size_gib=915.0, free_gib=666.0)}
    assert facts.steps == {"base": "aaaabbbbcccc", "engine": "0a1b2c3d4e5f"}
    assert facts.memory_mib == 128256
    engine = facts.engine
    assert engine is not None
    assert (engine.version, engine.running, engine.cdi, engine.live_restore) == ("28.5.1", True, True, True)
    assert engine.containers == {"prod/chat-0": "vllm/vllm-openai:v0.32.0"}
    assert (engine.settings, engine.settings_in_force) == ("0123456789ab", "0123456789ab")
    assert Facts.model_validate_json(facts.model_dump_json(), strict=True) == facts


def test_the_node_as_it_is_and_as_it_was_left() -> None:
    facts = parsed(mesh="0123456789ab\n", mesh_noted="aaaabbbbcccc\n")
    assert (facts.mesh, facts.mesh_noted) == ("0123456789ab", "aaaabbbbcccc")
    assert (parsed().mesh, parsed().mesh_noted) == (None, None)


def test_the_firewall_that_is_loaded_and_the_one_that_was_confirmed() -> None:
    facts = parsed(firewall="0123456789ab\n", firewall_noted="aaaabbbbcccc\n")
    assert (facts.firewall, facts.firewall_confirmed) == ("0123456789ab", "aaaabbbbcccc")
    assert (parsed().firewall, parsed().firewall_confirmed) == (None, None)


SECOND_SOURCES = {"grub_env", "secure_boot_byte", "cdi_files"}
"""Asked only where the first source says nothing."""


@pytest.mark.parametrize("question", sorted(HEALTHY.keys() - SECOND_SOURCES - {"smi", "secure_boot", "docker_version"}))
def test_a_question_that_failed_is_a_problem(question: str) -> None:
    """nvidia-smi's failure is in `driver.smi_error`; the other two have a second source."""
    facts = parsed(**{question: failed("something broke")})
    assert any(problem.endswith(": something broke") for problem in facts.problems)


@pytest.mark.parametrize(
    ("first", "second"),
    [("grub_menu", "grub_env"), ("secure_boot", "secure_boot_byte"), ("cdi_list", "cdi_files")],
)
def test_a_second_source_that_failed_is_a_problem_where_it_is_needed(first: str, second: str) -> None:
    said = {"grub_menu": MENU}.get(first, ABSENT)
    facts = parsed(**{first: said, second: failed("something broke")})
    assert any(problem.endswith(": something broke") for problem in facts.problems)


@pytest.mark.parametrize("question", sorted(HEALTHY.keys() - SECOND_SOURCES))
def test_a_question_without_an_answer_is_a_problem(question: str) -> None:
    given = answers()
    del given[question]
    facts = parse_facts("studio-1", given, shaped.NOW)
    assert f"the host's answer to {question!r} is missing" in facts.problems


def test_whatever_a_host_says_it_becomes_facts() -> None:
    """Answers cut off, repeated, swapped or of random bytes: problems, and no exception."""
    chance = random.Random(7)
    texts = [said for said in HEALTHY.values() if isinstance(said, str)]
    for _ in range(400):
        changed: dict[str, str | Answer] = {}
        for question in chance.sample(sorted(HEALTHY), 5):
            text = chance.choice(texts)
            noise = "".join(chr(chance.choice([9, 10, 32, 34, 39, 44, 58, 91, 123, 233, 0x1F600])) for _ in range(20))
            said = chance.choice([text[: chance.randrange(len(text) + 1)], text * 2, noise, text + noise])
            changed[question] = Answer(rc=chance.choice([0, 0, 1, 124]), out=said, err=noise)
        facts = parsed(**changed)
        assert Facts.model_validate_json(facts.model_dump_json(), strict=True) == facts


def test_without_sudo_it_is_said_first() -> None:
    facts = parsed(sudo=failed("sudo: a password is required\n"))
    assert facts.problems == (
        "sudo without a password: sudo: a password is required; what only root can see was not read",
    )
    assert parsed(sudo=ABSENT).problems[0].startswith("sudo without a password: there is no sudo; ")
    assert parsed(sudo=Answer()).problems == ()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            f"docker-ce\tamd64\t{PINNED}\tinstall ok installed\n",
            {"docker-ce": Package(version=PINNED, held=True, status="installed")},
        ),
        ("linux-image-6.1.0-50-amd64\tamd64\t6.1.158-1\tinstall ok installed\n", "linux-image-6.1.0-50-amd64"),
        ("libcuda1\ti386\t535.261.03-1\tinstall ok installed\n", "libcuda1:i386"),
        ("nvidia-smi\tamd64\t535.261.03-1\tdeinstall ok config-files\n", None),
        ("vim\tamd64\t2:9.0\tinstall ok installed\n", None),
        ("vim\tamd64\t2:9.0\thold ok installed\n", "vim"),
        ("vim\tamd64\t2:9.0\tinstall ok half-configured\n", "vim"),
        ("vim\tamd64\t2:9.0\tinstall reinstreq half-installed\n", "vim"),
    ],
)
def test_packages_that_matter_are_kept(lines: str, found: dict[str, Package] | str | None) -> None:
    facts = parsed(packages=lines)
    assert facts.problems == ()
    if isinstance(found, dict):
        assert facts.packages == found
    else:
        assert list(facts.packages) == ([found] if found else [])


def test_how_dpkg_left_a_package_is_told() -> None:
    half = "vim\tamd64\t2:9.0\tinstall reinstreq half-installed\n"
    assert parsed(packages=half).packages["vim"].status == "half-installed reinstreq"
    assert parsed(packages="nonsense\n").problems == ("dpkg-query: this line can't be read: nonsense",)


@pytest.mark.parametrize(
    ("version", "info", "running", "problems"),
    [
        ("28.5.1\n", HEALTHY["docker_info"], True, ()),
        (
            "28.5.1\n",
            failed(
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
            ),
            False,
            (),
        ),
        (
            "29.1.0\n",
            failed(
                "failed to connect to the docker API at unix:///var/run/docker.sock; check if the daemon is running\n"
            ),
            False,
            (),
        ),
        (
            "28.5.1\n",
            failed("permission denied while trying to connect to the Docker daemon socket\n"),
            False,
            ("Docker: permission denied while trying to connect to the Docker daemon socket",),
        ),
        ("28.5.1\n", failed(rc=124), False, ("Docker: no answer in time",)),
    ],
)
def test_whether_docker_runs(version: str, info: str | Answer, running: bool, problems: tuple[str, ...]) -> None:
    facts = parsed(docker_version=version, docker_info=info)
    assert facts.engine is not None
    assert (facts.engine.version, facts.engine.running) == (version.strip(), running)
    assert facts.problems == problems


def test_a_host_without_docker_has_none() -> None:
    assert parsed(docker_version=ABSENT, docker_info=ABSENT, containers=ABSENT).engine is None


def test_podmans_docker_is_told() -> None:
    facts = parsed(docker_info='{"host":{},"version":{"Version":"5.4.2"}}')
    assert facts.engine is None
    assert facts.problems == ("Docker: the program `docker` of this host is Podman's; remove podman-docker",)


def test_cdi_devices_are_those_that_the_toolkit_lists_or_else_those_in_the_files() -> None:
    files = '# /etc/cdi/nvidia.yaml\nkind: "nvidia.com/gpu"\n  - name: "0"\n  - name: GPU-1\n'
    files += '# /var/run/cdi/x.json\n  "kind":"x.org/nic"\n  "name":"a"\n'
    assert parsed(cdi_list=ABSENT, cdi_files=files).cdi_devices == (
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=GPU-1",
        "x.org/nic=a",
    )
    listed = 'time="2026-11-20T08:00:00Z" level=info msg="Found 2 CDI devices"\nnvidia.com/gpu=all\nnvidia.com/gpu=0\n'
    assert parsed(cdi_list=listed, cdi_files=files).cdi_devices == ("nvidia.com/gpu=0", "nvidia.com/gpu=all")


@pytest.mark.parametrize(
    ("state", "byte", "found"),
    [
        ("SecureBoot enabled\nSetupMode disabled\n", "   1\n", "on"),
        ("SecureBoot disabled\n", "   0\n", "off"),
        (ABSENT, "   1\n", "on"),
        (ABSENT, "   0\n", "off"),
        (ABSENT, "no UEFI\n", "off"),
        (ABSENT, ABSENT, "unknown"),
        ("EFI variables are not supported on this system\n", "no UEFI\n", "off"),
    ],
)
def test_secure_boot(state: str | Answer, byte: str | Answer, found: str) -> None:
    assert parsed(secure_boot=state, secure_boot_byte=byte).secure_boot == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("/var/lib/shim-signed/mok/MOK.der is already enrolled\n", "enrolled"),
        (failed(out="/var/lib/dkms/mok.pub is already enrolled\n"), "enrolled"),
        ("/var/lib/dkms/mok.pub is not enrolled\n", "absent"),
        ("no key\n", "absent"),
        (ABSENT, None),
    ],
)
def test_whether_the_firmware_trusts_dkms_key(said: str | Answer, found: str | None) -> None:
    facts = parsed(signing_key=said)
    assert (facts.signing_key, facts.problems) == (found, ())


MENU = """set default="${saved_entry}"
menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'gnulinux-simple' {
\tlinux\t/vmlinuz-6.8.0-60-generic root=UUID=1 ro
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced' {
\tmenuentry 'Ubuntu, with Linux 6.8.0-60-generic' --class ubuntu $menuentry_id_option 'gnulinux-60' {
\t\tlinux\t/vmlinuz-6.8.0-60-generic root=UUID=1 ro
\tmenuentry 'Ubuntu, with Linux 6.8.0-50-generic' --class ubuntu $menuentry_id_option 'gnulinux-50' {
\t\tlinux\t/vmlinuz-6.8.0-50-generic root=UUID=1 ro
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
"""
NAMED = 'set default="gnulinux-advanced>gnulinux-50"'


@pytest.mark.parametrize(
    ("menu", "env", "boots"),
    [
        (ABSENT, ABSENT, "6.8.0-60-generic"),
        (MENU, "", "6.8.0-60-generic"),
        (MENU, "saved_entry=1>1\n", "6.8.0-50-generic"),
        (MENU, "saved_entry=gnulinux-advanced>gnulinux-50\n", "6.8.0-50-generic"),
        (MENU, "saved_entry=0\nnext_entry=1>1\n", "6.8.0-50-generic"),
        (MENU, "saved_entry=Ubuntu\n", "6.8.0-60-generic"),
        (MENU.replace('set default="${saved_entry}"', NAMED), "", "6.8.0-50-generic"),
    ],
)
def test_which_kernel_boots_next_is_grubs_choice(menu: str | Answer, env: str | Answer, boots: str) -> None:
    facts = parsed(grub_menu=menu, grub_env=env)
    assert (facts.kernel.boots, facts.problems) == (boots, ())


def test_where_no_kernel_is_installed_none_boots() -> None:
    assert parsed(kernels=ABSENT).kernel.boots is None
    assert parsed(kernels="").kernel.boots is None


@pytest.mark.skipif(sys.platform != "linux", reason="the script asks Linux hosts, and this machine is none")
def test_the_script_says_what_can_be_read_again(tmp_path: Path) -> None:
    """On this machine, whatever it is: one JSON of every question."""
    given = f"DISK_PATHS='/ {tmp_path}'\n" + SCRIPT.read_text()
    done = subprocess.run(["bash", "-s"], input=given, capture_output=True, text=True, check=True, timeout=120)
    said = read_answers("a greeting\n" + done.stdout)
    assert set(HEALTHY) <= set(said) <= {*HEALTHY, "sudo"}
    assert said["kernel"].out.strip() == subprocess.check_output(["uname", "-r"], text=True).strip()
    assert json.loads(done.stdout.partition(f"{MARKER}\n")[2])


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("", "the script of facts didn't run; the host said: nothing"),
        ("bash: cannot fork\n", "the script of facts didn't run; the host said: bash: cannot fork"),
        (f'{MARKER}\n{{"kernel":{{"rc":0,"ou', "the host's answers were cut off or garbled"),
        (f"{MARKER}\n[]\n", "the host's answers were cut off or garbled"),
        (f'{MARKER}\n{{"kernel":{{"new":1}}}}\n', "the host's answers were cut off or garbled"),
    ],
)
def test_what_is_not_whole_is_no_answer(output: str, told: str) -> None:
    with pytest.raises(BrokenAnswers, match=told):
        read_answers(output)


def test_disks_are_asked_for_where_something_will_be_kept() -> None:
    assert settings(shaped.host(data_root="/srv/docker")) == {
        "DISK_PATHS": "/ /srv/docker /var/lib/inference-stack/models"
    }
