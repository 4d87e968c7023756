"""Progress is shown in one language, on a terminal and in a log."""

from __future__ import annotations

import io
import itertools
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from core import console, progress, reporting
from core.hashing import file_sha256
from core.i18n import language_scope, tr
from core.reporting import ByteCount, LoggingReporter
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from lineage import predictions
from train.tracking.publication import hash_files
from utils.local_lakefs import maintenance
from utils.local_lakefs.store import Store

T = TypeVar("T")


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
        ("en", 4, "upload: 1/4 images, 0.1/s, 24 s left"),
        ("ko", 4, "upload: 1/4장, 초당 0.1장, 남은 시간 24초"),
        ("en", None, "upload: 1 images, 0.1/s"),
        ("ko", None, "upload: 1장, 초당 0.1장"),
    ],
)
def test_lines_of_a_log(language: str, total: int | None, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with language_scope(language):
        assert list(progress.show_progress(range(4), total, "upload", tr("images"))) == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines()[0] == expected


@pytest.mark.parametrize("total", [3, None])
def test_bar_of_a_terminal_has_a_rate_without_unit(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    assert list(progress.show_progress(range(3), total, "학습", "배치 {}")) == [0, 1, 2]
    assert "배치 {} [00:00" in terminal.getvalue() and "배치 {}/s" not in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "lines"), [(1, 0), (2, 1), (6, 1), (7, 2), (30, 6)])
def test_log_has_no_line_for_a_short_step_and_few_for_a_long_one(
    seconds: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = itertools.count(0.0, 0.1)  # one look at the clock for each item
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    list(progress.show_progress(range(10 * seconds + 1), None, "upload", "images"))
    assert len(capsys.readouterr().out.splitlines()) == lines


@pytest.mark.parametrize("terminal", [True, False])
def test_bytes_of_one_long_transfer_are_shown_before_it_ends(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, moved, shown = Terminal(), ByteCount(), threading.Event()
    monkeypatch.setattr(progress, "TICK_S", 0.01)
    monkeypatch.setattr(progress, "LINE_AFTER_S", 0.0)
    if terminal:
        monkeypatch.setattr(sys, "stderr", screen)
    moved.add(7 << 20)  # of an earlier step

    def format_size(count: float) -> str:
        if count == 3 << 20:
            shown.set()
        return console.format_size(count)

    monkeypatch.setattr(progress, "format_size", format_size)

    def transfer() -> Iterator[str]:
        moved.add(3 << 20)
        assert shown.wait(60)
        yield "model.pth"

    with language_scope("en"):
        assert list(progress.show_progress(transfer(), 1, "upload", "files", None, moved)) == ["model.pth"]
    if terminal:
        assert "0/1 files" in screen.getvalue() and "3.0 MB" in screen.getvalue()
    else:
        assert "upload: 0/1 files, 3.0 MB" in capsys.readouterr().out


def test_short_step_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress.show_progress(range(3), 3, "upload", "images")) == [0, 1, 2]
    assert terminal.getvalue() == ""


class Recorder(LoggingReporter):
    """A reporter that keeps the steps that report progress, and how many items they had."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def progress(
        self, items: Iterable[T], total: int | None, description: str, unit: str, moved: ByteCount | None
    ) -> Iterator[T]:
        for item in items:
            self.steps[description] = self.steps.get(description, 0) + 1
            yield item


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    recorder = Recorder()
    monkeypatch.setattr(reporting, "_reporter", recorder)
    return recorder.steps


def test_reading_and_hashing_of_data_report_progress(tmp_path: Path, steps: dict[str, int]) -> None:
    generate_sample(tmp_path, 0, count=12)
    data = check_data(tmp_path, 0)
    files = hash_files(data)
    assert steps["checking data"] == 12 and steps["hashing the data"] == len(files) > 24
    assert steps["looking for near duplicates"] > 0


def test_verification_of_predictions_reports_progress(tmp_path: Path, steps: dict[str, int]) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    sha256 = file_sha256(tmp_path / "a.png")
    assert list(predictions._file_faults(tmp_path, {"a.png": sha256})) == []
    assert predictions._check_inputs([{"input": str(tmp_path / "a.png"), "input_sha256": sha256}]) == ([], 0)
    assert steps == {"verifying the predictions": 1, "verifying the input images": 1}


def test_check_of_an_embedded_store_reports_progress(tmp_path: Path, steps: dict[str, int]) -> None:
    store = Store(tmp_path)
    with store.db.transaction("durable"):
        store.files.record(store.files.receive(iter([b"content"])))
    assert maintenance.repair(store, [tmp_path]) == [] and steps["verifying"] == 1
