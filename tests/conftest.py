"""What every test run ends with: what was skipped and why, and what this machine can't show at all."""

import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "campaign: takes long; `make test-all` runs it")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one process runs, in order, where several share the tests (`--dist loadgroup`).

    The machines of tests/hosts and tests/faults are their own; the rest shares this machine's ports and names.
    """
    for item in items:
        folder, *_ = item.path.relative_to(TESTS).parts
        group = {"hosts": item.path.stem, "faults": folder}.get(folder, "this machine")
        item.add_marker(pytest.mark.xdist_group(group))


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
