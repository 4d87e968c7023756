"""Parallel work: cancellation, an unavailable server, and bounded read-ahead."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import AppError
from core.threads.workers import (
    MAX_UNAVAILABLE,
    ServerUnavailable,
    Skipped,
    iterate_successes,
    parallel,
    raise_if_cancelled,
)
from tests.support.servers import SOURCE


def test_interrupted_process_exits_without_waiting_for_workers(tmp_path: Path) -> None:
    """Runs in a subprocess, whose exit could wait for the workers too."""
    program = (
        "import os, signal, threading, time\nfrom core.threads.workers import parallel\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "for _ in parallel(lambda n: time.sleep(3600), range(100), 4): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, timeout=300)
    assert "KeyboardInterrupt" in done.stderr, "and it did not wait for an hour"


def test_workers_stop_when_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.threads.workers.CANCEL_WAIT_S", 60.0)
    ended, completed = list[int](), list[int]()
    begun = threading.Barrier(3)

    def work(number: int) -> None:
        begun.wait(30)
        if number == 0:
            raise KeyboardInterrupt
        try:
            for _ in parallel(inner, range(2), 2):  # like the parts of a file
                pass
        finally:
            ended.append(number)

    def inner(number: int) -> None:
        for _ in range(1000):
            raise_if_cancelled()
            time.sleep(0.01)
        completed.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(parallel(work, [1, 2, 0], 3))
    assert sorted(ended) == [1, 2] and not completed


def test_remaining_work_is_skipped_when_server_is_unavailable() -> None:
    def work(number: int) -> int:
        if number in (3, 5) or number >= 8:  # isolated failures (3, 5) do not stop the work
            raise AppError(f"no {number}") from ServerUnavailable()
        return number

    tried = list(parallel(work, range(1000), 1))
    assert [n for n, result in tried if isinstance(result, Skipped)] == list(range(8 + MAX_UNAVAILABLE, 1000))
    with pytest.raises(AppError) as error:
        list(iterate_successes(parallel(work, range(1000), 1), lambda count: f"{count} failed"))
    assert str(error.value).startswith("994 failed:\n  10: no 10\n  3: no 3")
    assert str(error.value).endswith("  9: no 9\n  … and 989 more not tried: the server is unavailable")


def test_parallel_limits_read_ahead_and_returns_every_result() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    results = parallel(lambda n: n if n % 7 else 1 // 0, source(), workers=2)
    first = next(results)
    assert taken <= 8, "the source is not read far ahead of the work"
    found = dict([first, *results])
    assert sorted(found) == list(range(200))
    assert all(isinstance(found[n], ZeroDivisionError) if n % 7 == 0 else found[n] == n for n in found)
