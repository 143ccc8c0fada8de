"""`make models`, on this machine's Docker: what is kept, who needs it, and that only the rest can be removed."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from components.naming import COMPONENT_LABEL, SERVICE_LABEL, STACK_LABEL
from planning.names import uid_of
from planning.serving.weights import FETCHER, weights_of
from stack_configs.schema.stack import Image, StackSpec
from tests.docker_run import docker, need_image
from tests.golden.specs import spec, two_models
from tools import models

OLD = "someone--old/" + "a" * 40
RUNS = "someone--replaced/" + "b" * 40


@pytest.fixture(scope="module")
def stack() -> Iterator[StackSpec]:
    """A stack's volume with the weights of `chat`, those of a model that left, and some that a container still uses."""
    python = need_image("python")
    made = spec(f"models-test-{uuid4().hex[:6]}", two_models())
    made = made.model_copy(update={"images": {**made.images, "vllm-cpu": Image(ref=python, starts_in_s=1)}})
    mine = weights_of(made.file.models["chat"], made).folder
    label = ("--label", f"{STACK_LABEL}={made.stack}", "--label")
    user = f"{uid_of(FETCHER)}:{uid_of(FETCHER)}"
    script = "".join(f"mkdir -p {name}; head -c 2000000 /dev/zero >{name}/x;" for name in (mine, OLD, RUNS))
    try:
        docker("volume", "create", *label, f"{SERVICE_LABEL}=models", made.stack)
        # As the fetch job sees it: open to all users, as /var/tmp of the image is.
        fill = (
            "--volume",
            f"{made.stack}:/var/tmp",
            "--workdir",
            "/var/tmp",
            "--entrypoint",
            "sh",
            python,
            "-c",
            script,
        )
        docker("run", "--rm", "--network", "none", "--user", user, *fill)
        serving = (*label, f"{COMPONENT_LABEL}=serving", "--label", f"{SERVICE_LABEL}=chat-0", "--name", made.stack)
        sleep = ("--entrypoint", "sh", python, "-c", "sleep 600", f"/models/{RUNS}")
        docker("run", "--detach", "--network", "none", *serving, *sleep)
        yield made
    finally:
        docker("rm", "--force", made.stack, check=False)
        docker("volume", "rm", "--force", made.stack, check=False)


@pytest.fixture(autouse=True)
def _of_that_stack(stack: StackSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_stack", lambda _name: stack)


def folders(stack: StackSpec) -> dict[str, models.Folder]:
    return {folder.name: folder for store in models.stores(stack) for folder in store.folders()}


def test_each_folder_with_its_size_and_who_needs_it(stack: StackSpec) -> None:
    mine = weights_of(stack.file.models["chat"], stack).folder
    found = folders(stack)
    assert {name: (one.models, one.running) for name, one in found.items()} == {
        mine: (("chat",), ()),
        OLD: ((), ()),
        RUNS: ((), ("chat-0",)),
    }
    assert {one.mib for one in found.values()} == {1}


def test_the_list_names_what_could_go_and_how(stack: StackSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["--stack", stack.stack]) == 0
    told = capsys.readouterr().out
    assert f"make models STACK={stack.stack} REMOVE={OLD}" in told
    assert told.count("REMOVE=") == 1
    assert "nothing" in next(line for line in told.splitlines() if OLD in line)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param(RUNS, "is needed by chat-0, which runs; nothing was removed", id="what runs needs it"),
        pytest.param("someone--else/" + "c" * 40, "no host keeps someone--else", id="it is not there"),
        pytest.param("../../etc", "no host keeps ../../etc", id="it is a path"),
    ],
)
def test_nothing_else_is_removed(stack: StackSpec, name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = folders(stack)
    assert models.main(["--stack", stack.stack, "--remove", name]) == 1
    assert says in capsys.readouterr().err
    assert folders(stack) == before


def test_a_models_own_weights_are_refused(stack: StackSpec, capsys: pytest.CaptureFixture[str]) -> None:
    mine = weights_of(stack.file.models["chat"], stack).folder
    assert models.main(["--stack", stack.stack, "--remove", mine]) == 1
    assert "is needed by chat; nothing was removed" in capsys.readouterr().err


def test_what_nothing_needs_is_removed_by_its_name(stack: StackSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["--stack", stack.stack, "--remove", OLD]) == 0
    assert f"removed {OLD}" in capsys.readouterr().out
    assert OLD not in folders(stack)


def test_a_host_that_is_not_there(stack: StackSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["--stack", stack.stack, "--host", "nowhere"]) == 1
    assert "there is no host nowhere; write one of: here" in capsys.readouterr().err
