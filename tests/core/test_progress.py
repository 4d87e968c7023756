"""Progress is shown in one language, on a terminal and in a log."""

from __future__ import annotations

import io
import itertools
import sys
import time

import pytest

from core import console
from core.i18n import language_scope, tr


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 8 s pass at each look at the clock."""
    times = itertools.count(0, 8)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(times)))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("language", "total", "expected"),
    [
        ("en", 4, "upload: 2/4 images, 0.1/s, 16 s left"),
        ("ko", 4, "upload: 2/4장, 초당 0.1장, 남은 시간 16초"),
        ("en", None, "upload: 2 images, 0.1/s"),
        ("ko", None, "upload: 2장, 초당 0.1장"),
    ],
)
def test_lines_of_a_log(language: str, total: int | None, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with language_scope(language):
        assert list(console.show_progress(range(4), total, "upload", tr("images"))) == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines()[0] == expected


@pytest.mark.parametrize("total", [3, None])
def test_bar_of_a_terminal_has_a_rate_without_unit(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(console.show_progress(range(3), total, "학습", "배치 {}")) == [0, 1, 2]
    assert "배치 {} [00:00" in terminal.getvalue() and "배치 {}/s" not in terminal.getvalue()
