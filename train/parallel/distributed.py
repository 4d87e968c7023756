"""Several processes as one training, under `torchrun`: who does what, exact sums, and one message when one fails.

Without torchrun there is one process, and every function here does nothing or the obvious. Rank 0 is the main process:
it alone talks to lakeFS and MLflow and writes files. On every other node, the first process fetches the data's commit.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from core.errors import AppError, UsageError, one_line
from core.i18n import tr

T = TypeVar("T")
# Others wait while the main process checks and uploads the data. Dead processes are torchrun's to notice, not a clock's.
PATIENCE = datetime.timedelta(days=1)
ERROR_KEY = "segmentation/error"


class OtherProcessFailed(AppError):
    """Another process of this training ended it; `said`: that one has told the user why."""

    def __init__(self, message: str, already_reported: bool) -> None:
        super().__init__(message)
        self.already_reported = already_reported


def world_size() -> int:
    """Processes of this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this process writes files and talks to servers."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started. The first that fails tells the others why, and only it says so."""
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        with contextlib.ExitStack() as stack:
            if not is_main():  # one process speaks; errors come on stderr
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield
    except BaseException as error:
        first = cause(error)
        if first is error:
            raise
        raise first from error
    distributed.destroy_process_group()


def cause(error: BaseException) -> BaseException:
    """What ended this training: the error of the process that failed first, which is noted for the others."""
    if world_size() == 1 or isinstance(error, OtherProcessFailed):
        return error
    from torch import distributed

    mine = f"[{rank()}] {one_line(error)}"
    try:
        store = distributed.distributed_c10d._get_default_store()
        # What stands there first stays: compare_set only sets where nothing is.
        noted = store.compare_set(ERROR_KEY, "", mine).decode()
    except (RuntimeError, ValueError):  # the store went with its process
        noted = ""
    if noted == mine:
        return error
    if "] KeyboardInterrupt" in noted:
        return KeyboardInterrupt()
    lost = tr("another process of this training ended")
    return OtherProcessFailed(noted or lost, already_reported=bool(noted))


def all_sum(values: Any) -> Any:
    """The sum of a tensor over all processes, the same in each, in place; with one process, the tensor."""
    if world_size() > 1:
        from torch import distributed

        distributed.all_reduce(values)
    return values


def broadcast_from_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, in every process."""
    if world_size() == 1:
        return make()
    from torch import distributed

    box: list[Any] = [make() if is_main() else None]
    distributed.broadcast_object_list(box, src=0)
    value: T = box[0]
    return value


def broadcast_on_node(make: Callable[[], T]) -> T:
    """What `make` gives in the first process of each machine, in every process of that machine."""
    if world_size() == 1:
        return make()
    from torch import distributed

    made: list[Any] = [None] * world_size()
    distributed.all_gather_object(made, make() if local_rank() == 0 else None)
    value: T = made[rank() - local_rank()]
    return value


def shard(items: list[T]) -> list[T]:
    """This process's share of a batch, or of a list of batches."""
    return items[rank() :: world_size()]


def validate_batch_size(batch_size: int) -> None:
    """Raises UsageError for a batch that gives a process fewer than two pictures, which batch normalisation needs."""
    if batch_size < 2 * world_size() and world_size() > 1:
        least = 2 * world_size()
        raise UsageError(
            tr(
                "BATCH_SIZE={batch_size}: {world_size} processes need at least {least}; it counts the pictures of all",
                batch_size=batch_size,
                world_size=world_size(),
                least=least,
            )
        )
