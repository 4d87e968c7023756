"""Read, compute and write in parallel threads, with a bounded number of batches in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import UsageError

READ_AHEAD = 1  # batches that are read ahead of those being computed
T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")
W = TypeVar("W")


@dataclass(frozen=True)
class Stages(Generic[T, D, R, W]):
    """Steps for an item: `read` it (raises UsageError if it is unreadable), `compute` a batch, `write` its result."""

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
    """Yield each item, in order, with the result of `write`, or with the UsageError of `read`; other errors are raised.

    `streams` threads compute one batch each, after a call of `begin`; `helpers` threads read and write.
    """
    with ThreadPoolExecutor(helpers) as pool, ThreadPoolExecutor(streams, initializer=begin) as network:

        def compute(batch: Sequence[T], reads: list[Future[D]]) -> list[tuple[T, Future[W] | UsageError]]:
            errors = [read.exception() for read in reads]  # waits until they are read
            # Errors other than UsageError are raised here by result().
            readable = [
                read.result() for read, error in zip(reads, errors, strict=True) if not isinstance(error, UsageError)
            ]
            results = iter(zip(readable, stages.compute(readable) if readable else [], strict=True))
            return [
                (item, error if isinstance(error, UsageError) else pool.submit(stages.write, item, *next(results)))
                for item, error in zip(batch, errors, strict=True)
            ]

        def await_writes(
            computed: Future[list[tuple[T, Future[W] | UsageError]]],
        ) -> Iterator[tuple[T, W | UsageError]]:
            for item, outcome in computed.result():
                yield item, outcome.result() if isinstance(outcome, Future) else outcome

        window: deque[Future[list[tuple[T, Future[W] | UsageError]]]] = deque()
        try:
            for batch in batches:
                reads = [pool.submit(stages.read, item) for item in batch]
                window.append(network.submit(compute, batch, reads))
                if len(window) > streams + READ_AHEAD:
                    yield from await_writes(window.popleft())
            while window:
                yield from await_writes(window.popleft())
        finally:
            for executor in (network, pool):  # after an error or Ctrl-C: cancel what has not started
                executor.shutdown(wait=False, cancel_futures=True)
