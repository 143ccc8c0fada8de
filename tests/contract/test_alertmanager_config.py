"""Alertmanager's own tool reads the configuration, and says where an alert goes."""

from pathlib import Path

import pytest

from tests.contract.monitoring import monitored, planned_files, run_tool


@pytest.mark.parametrize(("webhook", "receiver"), [(None, "nowhere"), ("http://alerts.example:8080/hook", "webhook")])
def test_alerts_go_to_the_webhook_if_there_is_one(webhook: str | None, receiver: str, tmp_path: Path) -> None:
    files = planned_files(monitored(webhook=webhook), "alertmanager")

    run_tool(
        *("alertmanager", "amtool", "check-config", "/config/alertmanager.yml"),
        files=files,
        folder=tmp_path / "check",
    )

    run_tool(
        *("alertmanager", "amtool", "config", "routes", "test", "--config.file=/config/alertmanager.yml"),
        *(f"--verify.receivers={receiver}", "alertname=QueueGrowing", "severity=warning", "model=chat"),
        files=files,
        folder=tmp_path / "route",
    )
