"""Several processes in one training, under `torchrun`: ranks, exact sums, and one error message if one fails.

Without torchrun there is one process, and the functions return its own values. Rank 0 is the main process: only it
communicates with lakeFS and MLflow and writes files. On every other machine, the first process fetches the data.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import AppError, UsageError, describe_error
from core.i18n import tr

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
# The others wait while the main process checks and uploads the data; torchrun detects dead processes.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=1)
ERROR_KEY = "segmentation/error"


class OtherProcessFailed(AppError):
    """Another process ended this training; `already_reported`: it has told the user why."""

    def __init__(self, message: str, already_reported: bool) -> None:
        super().__init__(message)
        self.already_reported = already_reported


def world_size() -> int:
    """Return the number of processes of this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def on_several_machines() -> bool:
    """Return whether other machines have processes of this training, too."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) < world_size()


def is_main() -> bool:
    """Return whether this process writes files and communicates with servers."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started. The first that fails tells the others why, and only it reports the error.

    The others end with the main process, which publishes after the training: they fail if that fails, or the engine of
    another machine would take its part of the job for done and not restart it.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        with contextlib.ExitStack() as stack:
            if not is_main():  # only the main process prints; errors go to stderr
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield
            _await_main()
    except BaseException as error:
        first = cause(error)
        if first is error:
            raise
        raise first from error
    distributed.destroy_process_group()


def _await_main() -> None:
    """Let the others wait until the main process is done; its death ends their wait with an error.

    This goes over the CPU's connections: no watchdog of NCCL ends it during a long upload.
    """
    if not is_main():
        broadcast_from_main(lambda: None)
        return
    with contextlib.suppress(RuntimeError):  # another process has died since: what was published stays published
        broadcast_from_main(lambda: None)


def cause(error: BaseException) -> BaseException:
    """Return the error of the process that failed first, and record it for the others."""
    if world_size() == 1 or isinstance(error, OtherProcessFailed):
        return error
    mine = f"[{rank()}] {describe_error(error)}"
    try:
        # compare_set writes only if there is no value: the first error stays.
        noted = _default_store().compare_set(ERROR_KEY, "", mine).decode()
    except (RuntimeError, ValueError):  # the store ended with its process
        noted = ""
    if noted == mine:
        return error
    if "] KeyboardInterrupt" in noted:
        return KeyboardInterrupt()
    lost = tr("another process of this training failed")
    return OtherProcessFailed(noted or lost, already_reported=bool(noted))


def _default_store() -> Any:
    """Return the key-value store of the process group: a private API of torch (2.6 to 2.x), which has no public one."""
    from torch import distributed

    return distributed.distributed_c10d._get_default_store()


def all_sum(values: Any) -> Any:
    """Sum a tensor over all processes in place and return it."""
    if world_size() > 1:
        from torch import distributed

        distributed.all_reduce(values)
    return values


def all_reduce_loss(loss: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return this process's part of the loss (differentiable), the mean loss of all processes, and their summed weight.

    DistributedDataParallel takes the mean of all gradients: with each part weighted by its fraction of the weight, that
    mean is the gradient of one large batch (exactly for the cross-entropies; dice is a mean over the processes).
    """
    if world_size() == 1:
        return loss, loss.detach(), weight
    import torch

    summed, total = all_sum(torch.stack([loss.detach() * weight, weight])).unbind()
    total = total.clamp_min(1e-6)
    return loss * weight * world_size() / total, summed / total, total


def broadcast_from_main(make: Callable[[], T]) -> T:
    """Return in every process what `make` returns in the main process."""
    if world_size() == 1:
        return make()
    from torch import distributed

    box: list[Any] = [make() if is_main() else None]
    distributed.broadcast_object_list(box, src=0)
    value: T = box[0]
    return value


def broadcast_on_node(make: Callable[[], T]) -> T:
    """Return in every process of a machine what `make` returns in its first process."""
    if world_size() == 1:
        return make()
    from torch import distributed

    made: list[Any] = [None] * world_size()
    distributed.all_gather_object(made, make() if local_rank() == 0 else None)
    value: T = made[rank() - local_rank()]
    return value


def shard(items: list[T]) -> list[T]:
    """Return this process's part of a batch, or of a list of batches."""
    return items[rank() :: world_size()]


def validate_batch_size(batch_size: int) -> None:
    """Raise UsageError if a process would get fewer than two images, which batch normalization needs."""
    if batch_size < 2 * world_size() and world_size() > 1:
        least = 2 * world_size()
        raise UsageError(
            tr(
                "BATCH_SIZE={batch_size}: {world_size} processes need at least {least}; it is the sum over all processes",
                batch_size=batch_size,
                world_size=world_size(),
                least=least,
            )
        )
