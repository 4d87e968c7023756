"""Library code reports through one interface and prints nothing itself."""

from __future__ import annotations

import logging

import pytest

from core import reporting
from core.console_reporter import ConsoleReporter


def test_messages_are_logged_if_no_reporter_is_installed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reporting.use_reporter(reporting.LoggingReporter())
    try:
        with caplog.at_level(logging.INFO, "reporting"):
            reporting.notify("uploaded")
            reporting.warn("slow")
        assert list(reporting.progress([1, 2], 2, "reading", "files")) == [1, 2]
    finally:
        reporting.use_reporter(ConsoleReporter())
    assert capsys.readouterr() == ("", "")
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", "uploaded"), ("WARNING", "slow")]


def test_console_reporter_separates_messages_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    reporting.notify("uploaded")
    reporting.warn("slow")
    assert capsys.readouterr() == ("uploaded\n", "warning: slow\n")
