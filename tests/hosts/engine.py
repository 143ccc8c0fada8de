"""Pulumi's real engine for programs of a test's own, which run inside the test."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulumi import automation
from pulumi.runtime._callbacks import _CallbackServicer
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS

from tests.hosts.host import login
from tests.hosts.plugin import install
from tools import forget
from tools.setup import engine, paths
from tools.setup.progress import Step

# Each run has an engine at a port of its own, and some day one gets the port of an engine that has ended. All channels
# of a process share what they know of an address by default: that nobody answers there.
_GRPC_CHANNEL_OPTIONS.append(("grpc.use_local_subchannel_pool", 1))


@dataclass
class Project:
    """A stack whose program is `program`; change `inputs` and run again."""

    folder: Path
    program: Callable[[dict[str, Any]], None]
    inputs: dict[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=lambda: login().env)
    """By default with the SSH agent of this test run."""

    def __post_init__(self) -> None:
        home = self.folder / "home"
        install(home)
        paths.LOGS.mkdir(parents=True, exist_ok=True)
        step = Step("Pulumi", paths.LOGS / "test-pulumi.log")
        try:
            found = engine.ensure(step)
        finally:
            step.close()
        engine.link_plugin(found, home)
        backend = self.folder / "backend"
        backend.mkdir(exist_ok=True)
        env = {
            **self.env,
            "PATH": f"{found.bin_dir}:{self.env['PATH']}",
            "PULUMI_HOME": str(home),
            "PULUMI_BACKEND_URL": f"file://{backend}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }
        self._stack = automation.create_or_select_stack(
            "test",
            project_name="test",
            program=self._run,
            opts=automation.LocalWorkspaceOptions(
                env_vars=env,
                work_dir=str(self.folder),
                pulumi_command=automation.PulumiCommand(root=str(found.bin_dir.parent)),
            ),
        )

    def _run(self) -> None:
        # The SDK ends servers of hooks with every program, also those of programs before it, whose event loop is gone.
        _CallbackServicer._servicers.clear()
        self.program(self.inputs)

    def up(self) -> Mapping[str, int]:
        """Operation → number of resources. Raises automation.CommandError."""
        return _counts(self._stack.up().summary.resource_changes)

    def output_of_up(self) -> str:
        return self._stack.up(color="never").stdout

    def preview(self) -> dict[str, list[str]]:
        """Resource → names of the inputs that differ, for all that would change."""
        found: dict[str, list[str]] = {}

        def note(event: automation.EngineEvent) -> None:
            told = event.resource_pre_event
            if told is not None and str(getattr(told.metadata.op, "value", told.metadata.op)) != "same":
                found[told.metadata.urn.rsplit("::", 1)[1]] = sorted(told.metadata.diffs or [])

        self._stack.preview(on_event=note)
        return found

    def state(self) -> dict[str, Any]:
        """Resource → what the state on disk holds of it, its secrets encrypted."""
        file = self.folder / "backend" / ".pulumi" / "stacks" / "test" / "test.json"
        rows = json.loads(file.read_text())["checkpoint"]["latest"].get("resources", [])
        return {row["urn"].rsplit("::", 1)[1]: row for row in rows}

    def forget(self, host: str) -> None:
        """As `make forget` does it."""
        exported = self._stack.export_stack()
        state = {"version": exported.version, "deployment": exported.deployment}
        rows: list[dict[str, Any]] = (exported.deployment or {})["resources"]
        going = forget.of_host(rows, host)
        assert going
        assert forget.needed_by_others(rows, going) == []
        self._stack.import_stack(automation.Deployment(**forget.without(state, going)))

    def refresh(self) -> Mapping[str, int]:
        return _counts(self._stack.refresh().summary.resource_changes)

    def destroy(self) -> None:
        self._stack.destroy()


def _counts(changes: Mapping[Any, int] | None) -> dict[str, int]:
    return {str(getattr(op, "value", op)): count for op, count in (changes or {}).items()}


def plain(of: Any) -> str:
    return json.dumps(of)
