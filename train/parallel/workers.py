"""The other processes of a training under torchrun: they take over what the main process has decided, and train with it."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from dataset.data import SegmentationData
from train.model_train import ModelTrain
from train.parallel import distributed
from train.setup import prepare_training
from train.warm_start.initial import Initial
from utils.lakefs_utils import LakePath, connect
from versioning.checkout import checked_data
from versioning.streaming.files import StreamedFiles


@dataclass(frozen=True)
class WorkerJob:
    """What all processes must have in common, besides the data."""

    settings: dict[str, Any]  # those that decide the result
    smoke: bool
    data_path: LakePath
    state: dict[str, Any] | None  # of the checkpoint that training resumes from
    initial: Initial | None = None  # what INIT names: the main process has verified it
    shards: LakePath | None = None  # that the data is read from


def require_servers(settings: Settings) -> None:
    """In the main process, before anything is created: raise UsageError without servers that other machines reach."""
    _require_lakefs(settings)
    if settings.mlflow_tracking_uri is None:
        raise UsageError(
            tr(
                "training on several machines needs an MLflow server: set MLFLOW_TRACKING_URI on each of them, "
                "or the run is recorded only in mlflow.db of one machine"
            )
        )


def _require_lakefs(settings: Settings) -> None:
    if settings.lakefs_endpoint is None:
        raise UsageError(tr("training on several machines needs a lakeFS server: set LAKEFS_ENDPOINT on each of them"))


def broadcast_job(job: WorkerJob, data: SegmentationData) -> None:
    """In the main process, after the data is committed: start the others."""
    distributed.broadcast_from_main(lambda: job)
    distributed.broadcast_on_node(lambda: data)


def run_worker(settings: Settings) -> None:
    """In the others: wait for the job, then train. On another machine, the first process fetches the data."""
    job = distributed.broadcast_from_main(_only_in_main)
    settings = dataclasses.replace(settings, **job.settings)
    with contextlib.ExitStack() as stack:
        data = distributed.broadcast_on_node(lambda: _fetch(settings, job, stack))
        if isinstance(data.source, StreamedFiles) and distributed.local_rank() > 0:
            data.source.connect(stack.enter_context(connect(settings)))
        setup = prepare_training(settings, data, job.smoke, job.initial)
        ModelTrain(setup, settings.model_path.parent).fit(job.state)


def _only_in_main() -> WorkerJob:
    raise AssertionError("called in a process that is not the main one")


def _fetch(settings: Settings, job: WorkerJob, stack: contextlib.ExitStack) -> SegmentationData:
    """Return the data of the run's commit, through this machine's own cache; `stack` keeps the connection open."""
    _require_lakefs(settings)  # its own environment
    lake = stack.enter_context(connect(settings))
    return checked_data(settings, lake, str(job.shards or job.data_path))[1]
