"""What all tests share: their markers, and a list of what was skipped at the end of every run."""

from collections import Counter

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deploy: runs the real Pulumi engine against the real Docker")
    config.addinivalue_line("markers", "campaign: takes many minutes; `make test-all` runs it, `make test` does not")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every reason for which a test did not run, so that no gap goes unseen."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        where, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
        name = report.nodeid or where
        reasons[f"{name.split('::')[0]}: {reason.removeprefix('Skipped: ')}"] += 1
    chosen = terminalreporter.config.getoption("markexpr", "")
    left_out = terminalreporter.stats.get("deselected", [])
    if left_out:
        reasons[f"left out by -m '{chosen}'"] += len(left_out)
    terminalreporter.section("not run, and why")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:4} x {reason}")
    if not reasons:
        terminalreporter.write_line("   0: everything was run")
