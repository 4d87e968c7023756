"""The other processes of a training under torchrun: they take over what the main process has decided, and train along."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from dataset.layout import DataSet
from train import distributed
from train.model_train import ModelTrain
from utils.lakefs_utils import LakePath, connect
from versioning.checkout import checked_data


@dataclass(frozen=True)
class Job:
    """What every process must have in common, besides the data."""

    settings: dict[str, Any]  # those that decide the result
    smoke: bool
    data_path: LakePath
    state: dict[str, Any] | None  # of the checkpoint that training goes on from


def lead(job: Job, data: DataSet) -> None:
    """In the main process, when the data are committed: let the others begin."""
    distributed.share(lambda: job)
    distributed.share_on_node(lambda: data)


def follow(settings: Settings) -> None:
    """In the others: wait for the job, then train along. On another machine, the first process fetches the data."""
    job = distributed.share(_only_the_main_process_knows)
    settings = dataclasses.replace(settings, **job.settings)
    data = distributed.share_on_node(lambda: _fetch(settings, job))
    ModelTrain(settings, job.smoke, data=data, resume_from=job.state).fit()


def _only_the_main_process_knows() -> Job:
    raise AssertionError("called in a process that is not the main one")


def _fetch(settings: Settings, job: Job) -> DataSet:
    """The data of the run's commit, through this machine's own cache."""
    if settings.lakefs_endpoint is None:
        raise UsageError(tr("training on several machines needs a lakeFS server: set LAKEFS_ENDPOINT on each of them"))
    with connect(settings) as lake:
        return checked_data(settings, lake, str(job.data_path))[1]
