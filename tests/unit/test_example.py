"""The components serve another program too."""

import runpy

from tests.unit.built import built, of_type
from tests.unit.test_containers import CONTAINER, VOLUME
from tools.setup.paths import REPO


def test_another_program_serves_one_model_with_our_components() -> None:
    def program() -> None:
        runpy.run_path(str(REPO / "examples" / "one-model" / "__main__.py"))

    made = built(program)
    names = {m.name: m.inputs["name"] for m in of_type(made, CONTAINER)}
    assert names["chat-0"] == "inference-one-model-chat-0"
    assert "chat-fetch" in names
    assert not any(name.startswith(("nginx", "litellm", "prometheus")) for name in names)
    server = next(m for m in made if m.type == "inference-stack:serving:ModelServer")
    children = {m.name for m in made if m.parent == server.urn}
    assert {"chat-0", "chat-fetch"} <= children
    assert "models-volume" in {m.name for m in of_type(made, VOLUME)}
