"""What every test run ends with: what was skipped and why, and what this machine can't show at all."""

import shutil

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "campaign: takes long; `make test-all` runs it")


class ByMachine(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """What one process runs, in order, where several share the tests.

    The machines of tests/hosts, tests/network and tests/faults are their own; the rest shares this machine's ports and
    names.
    """

    def _split_scope(self, nodeid: str) -> str:
        match nodeid.split("::")[0].split("/"):
            case ["tests", "hosts" | "network" as folder, module]:
                return f"{folder}/{module}"
            case ["tests", "faults", _]:
                return "faults"
            case _:
                return "this machine"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByMachine:
    return ByMachine(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped, and why")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason}")
    if not skipped:
        terminalreporter.line("nothing was skipped")
    if not shutil.which("nvidia-smi"):
        terminalreporter.line(
            "not shown here: anything on a GPU (none in this machine); docs/not-verified.md has the list"
        )
