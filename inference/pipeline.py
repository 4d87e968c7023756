"""Read, compute and write at once, in threads: nothing waits for a disk, and never more than a few batches are in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import UsageError

WAITING = 1  # batches that are read ahead of those being computed
T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")
W = TypeVar("W")


@dataclass(frozen=True)
class Stages(Generic[T, D, R, W]):
    """What is done to an item: `read` it (UsageError: it is broken), `compute` a batch of them, `write` its result."""

    read: Callable[[T], D]
    compute: Callable[[list[D]], Sequence[R]]
    write: Callable[[T, D, R], W]


def run(
    batches: Iterable[Sequence[T]],
    stages: Stages[T, D, R, W],
    streams: int,
    helpers: int,
    begin: Callable[[], None] | None = None,
) -> Iterator[tuple[T, W | UsageError]]:
    """Yield each item, in order, with what `write` returned, or with the error of `read`; other errors end the run.

    `streams` threads compute whole batches, each after a call of `begin`; `helpers` threads read and write.
    """
    with ThreadPoolExecutor(helpers) as pool, ThreadPoolExecutor(streams, initializer=begin) as network:

        def compute(batch: Sequence[T], reads: list[Future[D]]) -> list[tuple[T, Future[W] | UsageError]]:
            errors = [read.exception() for read in reads]  # waits for them
            good = [read.result() for read, error in zip(reads, errors, strict=True) if not _is_broken(error)]
            results = iter(zip(good, stages.compute(good) if good else [], strict=True))
            return [
                (item, error if isinstance(error, UsageError) else pool.submit(stages.write, item, *next(results)))
                for item, error in zip(batch, errors, strict=True)
            ]

        def finished(computed: Future[list[tuple[T, Future[W] | UsageError]]]) -> Iterator[tuple[T, W | UsageError]]:
            for item, outcome in computed.result():
                yield item, outcome.result() if isinstance(outcome, Future) else outcome

        window: deque[Future[list[tuple[T, Future[W] | UsageError]]]] = deque()
        try:
            for batch in batches:
                reads = [pool.submit(stages.read, item) for item in batch]
                window.append(network.submit(compute, batch, reads))
                if len(window) > streams + WAITING:
                    yield from finished(window.popleft())
            while window:
                yield from finished(window.popleft())
        finally:
            for executor in (network, pool):  # an error or Ctrl-C: what has not begun is dropped
                executor.shutdown(wait=False, cancel_futures=True)


def _is_broken(error: BaseException | None) -> bool:
    return isinstance(error, UsageError)
