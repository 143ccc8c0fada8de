"""What is done after a run that was killed, decided from lock files, state and Docker's objects."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.setup import objects, paths, recover, state
from tools.setup.objects import Found
from tools.setup.progress import SetupError, Step
from tools.setup.recover import Lock, Plan, decide

HERE = "studio"
LOCK = Lock(pid=100, hostname=HERE, username="ann")
NETWORK = Found("network", "id-net", "inference-dev-inner", created=1000)
CHAT = Found("container", "id-chat", "inference-dev-chat-0", created=1001)
STATE: dict[str, Any] = {"resources": [{"id": "id-net"}, {"id": "id-chat"}, {"urn": "a component, without an id"}]}


def creating(name: str) -> dict[str, Any]:
    return {"type": "creating", "resource": {"inputs": {"name": name}}}


def test_nothing_is_done_where_nothing_was_cut_off() -> None:
    assert decide([], [], HERE, STATE, [NETWORK, CHAT], None) == Plan()


def test_a_dead_lock_is_cleared_and_the_state_refreshed() -> None:
    assert decide([LOCK], [], HERE, STATE, [NETWORK, CHAT], None) == Plan(cancel=True, refresh=True)


@pytest.mark.parametrize(("lock", "alive"), [(LOCK, [100]), (Lock(100, "other-machine"), [])])
def test_a_living_lock_stops_everything(lock: Lock, alive: list[int]) -> None:
    stray = Found("container", "id-x", "inference-dev-x", created=2000)
    assert decide([lock], alive, HERE, {}, [stray], 1500) == Plan(living=lock)


def test_one_living_lock_beside_a_dead_one_counts() -> None:
    living = Lock(200, HERE)
    assert decide([LOCK, living], [200], HERE, {}, [], None) == Plan(living=living)


def test_a_pending_create_that_docker_has_is_removed() -> None:
    half = Found("container", "id-new", "inference-dev-nginx", created=1)
    latest = {**STATE, "pending_operations": [creating("inference-dev-nginx")]}
    plan = decide([LOCK], [], HERE, latest, [NETWORK, CHAT, half], None)
    assert plan == Plan(cancel=True, remove=(half,), refresh=True)


def test_a_pending_create_that_never_came_to_be_needs_a_refresh_only() -> None:
    latest = {**STATE, "pending_operations": [creating("inference-dev-nginx")]}
    assert decide([], [], HERE, latest, [NETWORK, CHAT], None) == Plan(refresh=True)


def test_what_is_in_state_is_never_removed_even_when_it_is_pending_and_new() -> None:
    latest = {**STATE, "pending_operations": [creating("inference-dev-chat-0")]}
    assert decide([LOCK], [], HERE, latest, [NETWORK, CHAT], 500).remove == ()


def test_what_came_after_the_cut_off_run_began_is_its_own() -> None:
    late = Found("container", "id-late", "inference-dev-late", created=2000)
    assert decide([], [], HERE, STATE, [NETWORK, CHAT, late], 1999) == Plan(remove=(late,), refresh=True)


def test_another_clones_containers_are_never_removed() -> None:
    """Both clones have a stack `dev`; the other one's runs, ours was killed at its start."""
    theirs = [NETWORK, CHAT]
    plan = decide([LOCK], [], HERE, {}, theirs, 1500)
    assert plan.remove == ()
    assert plan.foreign == (CHAT,)


def test_containers_go_before_the_networks_and_volumes_that_they_use() -> None:
    kinds = [Found(kind, f"id-{kind}", kind, created=2000) for kind in ("volume", "network", "container")]
    assert [o.kind for o in decide([], [], HERE, {}, kinds, 1500).remove] == ["container", "network", "volume"]


def test_a_container_put_aside_serves_again_when_its_successor_never_came() -> None:
    aside = replace(CHAT, name=f"{CHAT.name}-previous-aaaaaaaa")
    assert decide([LOCK], [], HERE, STATE, [NETWORK, aside], None).back == (aside,)
    half = Found("container", "new", CHAT.name, 2000)
    plan = decide([LOCK], [], HERE, STATE, [NETWORK, aside, half], 1999)
    assert (plan.remove, plan.back) == ((half,), (aside,))


def test_a_container_put_aside_stays_so_when_its_successor_is_there() -> None:
    aside = Found("container", "old", f"{CHAT.name}-previous-aaaaaaaa", 1000)
    latest = {"resources": [*STATE["resources"], {"id": "old", "type": "x", "delete": True}]}
    assert decide([LOCK], [], HERE, latest, [NETWORK, CHAT, aside], None).back == ()


def test_a_job_that_failed_is_removed_so_that_it_runs_again() -> None:
    job = Found("container", "id-chat", "inference-dev-chat-fetch", failed_job=True)
    assert decide([], [], HERE, STATE, [NETWORK, job], None) == Plan(remove=(job,), refresh=True)


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:01:00.123456789Z", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T02:01:00.5+02:00", 60.0),
        ("1970-01-01T02:01:00+02:00", 60.0),
        ("", 0.0),
    ],
)
def test_dockers_times(stamp: str, seconds: float) -> None:
    assert objects.seconds(stamp) == seconds


def test_a_damaged_state_is_told_with_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path)
    file = state.checkpoint("dev")
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 3, "checkpo')
    env = {"PULUMI_BACKEND_URL": f"file://{tmp_path}/backend"}
    with pytest.raises(SetupError) as told:
        recover.recover("dev", Step("Earlier runs", tmp_path / "log"), env)
    assert "the state of the stack dev is damaged" in told.value.reason
    assert f"cp {file}.bak {file}" in told.value.remedy


def test_the_note_of_a_run_stays_when_it_does_not_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path)
    with recover.noted("dev"):
        assert recover._began("dev") is not None
    assert recover._began("dev") is None
    (tmp_path / "run-began-dev").write_text("77 1\n")
    with pytest.raises(KeyboardInterrupt), recover.noted("dev"):
        raise KeyboardInterrupt
    assert recover._began("dev") == 77.0, "the first of two runs that were cut off counts"


def test_locks_are_read_as_the_backend_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path)
    folder = tmp_path / "backend/.pulumi/locks/organization/inference-stack/dev"
    folder.mkdir(parents=True)
    note = {"pid": 26716, "username": "ann", "hostname": HERE, "timestamp": "2026-11-21T03:32:31Z"}
    (folder / "809a4b18.json").write_text(json.dumps(note))
    (folder / "809a4b18.json.attrs").write_text("{}")
    assert recover.locks("dev") == [Lock(26716, HERE, "ann")]


def test_a_lock_that_a_full_disk_left_half_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path)
    folder = tmp_path / "backend/.pulumi/locks/organization/inference-stack/dev"
    folder.mkdir(parents=True)
    torn, new = folder / "809a4b18.json.18ea0110516e2cb6.tmp", folder / "9f5c9a52.json"
    torn.touch()
    new.write_text('{"pid": 2')  # being written now
    monkeypatch.setattr("time.sleep", lambda _s: new.write_text('{"pid": 2, "hostname": "elsewhere"}'))
    (folder / "31f7a670.json").write_text(json.dumps({"pid": 1, "hostname": "elsewhere"}))
    assert recover.torn_locks("dev") == [torn]
