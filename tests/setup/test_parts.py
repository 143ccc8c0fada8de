"""In which order the parts of a stack are got."""

import time
from pathlib import Path
from typing import Any

import pytest

from tools.setup import choices, docker, engine, images, paths, preflight, state, up, venv


@pytest.mark.parametrize("roomy", [True, False])
def test_a_disk_without_room_for_both_builds_pulumi_first_then_images_one_by_one(
    roomy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def pulumi(_step: Any) -> engine.Engine:
        time.sleep(1)
        ended.append("Pulumi")
        return engine.Engine(tmp_path, tmp_path, "built")

    def build(_way: str, _step: Any, *, one_by_one: bool, **_: Any) -> None:
        assert one_by_one != roomy
        ended.append("Images")

    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path))
    paths.cache().mkdir()
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")
    monkeypatch.setattr(preflight, "is_roomy", lambda: roomy)
    monkeypatch.setattr(venv, "ensure", lambda _: None)
    monkeypatch.setattr(docker, "ensure", lambda _: None)
    monkeypatch.setattr(engine, "ensure", pulumi)
    monkeypatch.setattr(state, "describe", lambda _stack, _step: {"versions": None})
    monkeypatch.setattr(images, "version_set", lambda _: None)
    monkeypatch.setattr(choices, "image_way", lambda *_: images.Decision("built", "asked for"))
    monkeypatch.setattr(images, "ensure", build)
    up.parts("dev")
    assert ended == (["Images", "Pulumi"] if roomy else ["Pulumi", "Images"])
