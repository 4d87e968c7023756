"""Background logging: no call is lost or reordered, and failures are raised."""

from __future__ import annotations

import threading

import pytest

from core.threads.background import MAX_QUEUED, Background


def test_calls_run_in_order_before_finish_returns() -> None:
    background, made = Background(), list[int]()
    background.finish()  # no calls were made
    for number in range(3 * MAX_QUEUED):
        background.call(lambda number=number: made.append(number))  # type: ignore[misc]
    background.finish()
    assert made == list(range(3 * MAX_QUEUED))


def test_first_failure_is_raised_and_later_calls_are_skipped() -> None:
    background, made, go = Background(), list[str](), threading.Event()

    def fail() -> None:
        go.wait()
        raise OSError("the server is gone")

    background.call(fail)
    background.call(lambda: made.append("after"))
    go.set()
    with pytest.raises(OSError, match="the server is gone"):
        background.finish()
    with pytest.raises(OSError, match="the server is gone"):
        background.call(lambda: made.append("later"))
    with pytest.raises(OSError, match="the server is gone"):
        background.finish()
    assert not made
