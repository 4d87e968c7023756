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

WORKERS = 32  # transfers at once: each waits for its server most of the time
GIVE_UP = 3  # items in a row that find the server gone, before the rest is left alone
LEAVE_S = 2.0  # seconds that work in the air gets to end when nobody waits for it any more


class ServerUnavailable(Exception):
    """A server that stayed away for all of the patience that there is: what other work would meet too."""


class Skipped(Exception):
    """Work that `parallel` left alone, because the server was gone."""

    def __str__(self) -> str:
        return tr("not tried: the server is gone")


def succeeded(
    results: Iterable[tuple[T, R | Exception]],
    words: Callable[[int], str],
    error: type[AppError] = AppError,
    where: Callable[[T], object] = str,
) -> Iterator[tuple[T, R]]:
    """Pass on what `parallel` did; after the last one, raise an `error` with `words` that names every item that failed."""
    failed: list[tuple[str, Exception]] = []
    left = 0
    for item, result in results:
        if isinstance(result, Skipped):
            left += 1
        elif isinstance(result, Exception):
            failed.append((str(where(item)), result))
        else:
            yield item, result
    if failed:
        lines = "".join(f"\n  {name}: {result}" for name, result in sorted(failed, key=lambda pair: pair[0]))
        more = tr("\n  … and {left} more {nottried}", left=left, nottried=Skipped()) if left else ""
        raise error(f"{words(len(failed) + left)}:{lines}{more}")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> Iterator[tuple[T, R | Exception]]:
    """Yield (item, result or exception) as they finish; never more than 4 x `workers` items are in the air.

    When `GIVE_UP` of them have found the server gone and none has found it there since, the rest is not tried. Who
    leaves before the end, by Ctrl-C or an error, does not wait for those in the air: they stop where they `heed`.
    """
    pool, source = _Pool(work), iter(items)
    try:
        while True:
            for item in itertools.islice(source, 4 * workers - pool.pending):
                pool.put(item, workers)
            if not pool.pending:
                return
            item, result = pool.take()
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            yield item, result
    finally:
        pool.leave()


def raise_if_cancelled() -> None:
    """In work for which nobody waits any more, raise KeyboardInterrupt; long work asks now and then."""
    pool = getattr(_here, "pool", None)
    if pool and pool.is_left():
        raise KeyboardInterrupt


_here = threading.local()  # the pool that this thread works for


class _Pool(Generic[T, R]):
    """Threads that a process does not wait for when it ends, as it would for those of concurrent.futures."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work, self.pending, self.left, self.gone = work, 0, False, 0
        self.todo: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.above: _Pool[Any, Any] | None = getattr(_here, "pool", None)

    def put(self, item: T, workers: int) -> None:
        self.pending += 1
        self.todo.put((item,))
        if len(self.threads) < workers:
            self.threads.append(threading.Thread(target=self._run, daemon=True))
            self.threads[-1].start()

    def take(self) -> tuple[T, R | BaseException]:
        item, result = self.done.get()
        self.pending -= 1
        return item, result

    def leave(self) -> None:
        """Send the threads home: at once where they wait for work, in `LEAVE_S` seconds at most where they do some."""
        self.left = True
        for _ in self.threads:
            self.todo.put(None)
        end = time.monotonic() + LEAVE_S
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))

    def is_left(self) -> bool:
        return self.left or (self.above is not None and self.above.is_left())

    def _run(self) -> None:
        _here.pool = self
        while (box := self.todo.get()) is not None:
            try:
                raise_if_cancelled()  # an answer all the same: who waits for it may not know yet
                result: R | BaseException = self._tried(box[0])
            except BaseException as error:  # the one who takes it decides
                result = error
            self.done.put((box[0], result))

    def _tried(self, item: T) -> R:
        if self.gone >= GIVE_UP:
            raise Skipped
        try:
            result = self.work(item)
        except Exception as error:
            self.gone = self.gone + 1 if is_unavailable(error) else 0
            raise
        self.gone = 0
        return result


def is_unavailable(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that the server is gone."""
    while error is not None and not isinstance(error, ServerUnavailable):
        error = error.__cause__
    return error is not None
