"""A bounded thread pool with cancellation."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic

from core.errors import AppError
from core.files import R, T
from core.i18n import tr
from core.safety.terminal import escape_line

WORKERS = 32  # concurrent transfers: each waits for its server most of the time
MAX_UNAVAILABLE = 3  # consecutive items for which the server is unavailable before the rest is skipped
CANCEL_WAIT_S = 2.0  # seconds that running work gets to end after a cancellation


class ServerUnavailable(Exception):
    """Server that did not answer any retry, so that other requests would fail too."""


class Skipped(Exception):
    """Item that `parallel` did not try because the server was unavailable."""

    def __str__(self) -> str:
        return tr("not tried: the server is unavailable")


def iterate_successes(
    results: Iterable[tuple[T, R | Exception]],
    summary: Callable[[int], str],
    error: type[AppError] = AppError,
    name_of: Callable[[T], object] = str,
) -> Iterator[tuple[T, R]]:
    """Yield the successful results of `parallel`; at the end raise `error` if items failed.

    Its message is `summary(number of failed items)` and one line per failed item. Skipped items are counted only.
    """
    failed: list[tuple[str, Exception]] = []
    skipped = 0
    for item, result in results:
        if isinstance(result, Skipped):
            skipped += 1
        elif isinstance(result, Exception):
            failed.append((str(name_of(item)), result))
        else:
            yield item, result
    if failed:
        lines = "".join(
            "\n" + escape_line(f"  {name}: {result}") for name, result in sorted(failed, key=lambda pair: pair[0])
        )
        more = tr("\n  … and {count} more not tried: the server is unavailable", count=skipped) if skipped else ""
        raise error(f"{summary(len(failed) + skipped)}:{lines}{more}")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> Iterator[tuple[T, R | Exception]]:
    """Yield (item, result or exception) as they finish; at most 4 x `workers` items are queued or running.

    After `MAX_UNAVAILABLE` consecutive items for which the server was unavailable, the rest is skipped. If the caller
    stops early, by Ctrl-C or an error, running work ends at its next `raise_if_cancelled`.
    """
    pool, source = _Pool(work), iter(items)
    try:
        while True:
            for item in itertools.islice(source, 4 * workers - pool.pending):
                pool.submit(item, workers)
            if not pool.pending:
                return
            item, result = pool.next_result()
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            yield item, result
    finally:
        pool.cancel()


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Iterator[R]:
    """Yield the results of items in their order; at most `ahead` items are queued, running or waiting to be yielded.

    The error of an item is raised in its place. If the caller stops early, running work ends at its next
    `raise_if_cancelled`.
    """
    pool: _Pool[tuple[int, T], R] = _Pool(lambda numbered: work(numbered[1]))
    source = iter(items)
    finished: dict[int, R | BaseException] = {}
    submitted = taken = 0
    try:
        while True:
            for item in itertools.islice(source, taken + ahead - submitted):
                pool.submit((submitted, item), workers)
                submitted += 1
            if taken == submitted:
                return
            while taken not in finished:
                (number, _), result = pool.next_result()
                finished[number] = result
            result = finished.pop(taken)
            taken += 1
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        pool.cancel()


def raise_if_cancelled() -> None:
    """Raise KeyboardInterrupt if the pool that this thread works for was cancelled; for regular calls in long work."""
    pool = getattr(_thread, "pool", None)
    if pool and pool.is_cancelled():
        raise KeyboardInterrupt


_thread = threading.local()  # `pool`: the one that this thread works for


class _Pool(Generic[T, R]):
    """Pool of daemon threads: the process can exit without waiting for them, unlike those of concurrent.futures."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work = work
        self.pending = 0  # items without a result
        self.cancelled = False
        self.unavailable = 0  # consecutive items for which the server was unavailable
        self.todo: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.parent: _Pool[Any, Any] | None = getattr(_thread, "pool", None)

    def submit(self, item: T, workers: int) -> None:
        """Queue an item; start another thread if there are fewer than `workers`."""
        self.pending += 1
        self.todo.put((item,))
        if len(self.threads) < workers:
            self.threads.append(threading.Thread(target=self._run, daemon=True))
            self.threads[-1].start()

    def next_result(self) -> tuple[T, R | BaseException]:
        """Wait for the next finished item."""
        item, result = self.done.get()
        self.pending -= 1
        return item, result

    def cancel(self) -> None:
        """Stop the threads: idle ones at once; wait at most `CANCEL_WAIT_S` seconds for working ones."""
        self.cancelled = True
        for _ in self.threads:
            self.todo.put(None)
        end = time.monotonic() + CANCEL_WAIT_S
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))

    def is_cancelled(self) -> bool:
        """Return whether this pool, or the one whose thread created it, is cancelled."""
        return self.cancelled or (self.parent is not None and self.parent.is_cancelled())

    def _run(self) -> None:
        _thread.pool = self
        while (box := self.todo.get()) is not None:
            try:
                raise_if_cancelled()  # a result in any case: the caller may still wait for it
                result: R | BaseException = self._call(box[0])
            except BaseException as error:  # the caller of `next_result` handles it
                result = error
            self.done.put((box[0], result))

    def _call(self, item: T) -> R:
        if self.unavailable >= MAX_UNAVAILABLE:
            raise Skipped
        try:
            result = self.work(item)
        except Exception as error:
            self.unavailable = self.unavailable + 1 if is_unavailable(error) else 0
            raise
        self.unavailable = 0
        return result


def is_unavailable(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, is ServerUnavailable."""
    while error is not None and not isinstance(error, ServerUnavailable):
        error = error.__cause__
    return error is not None
