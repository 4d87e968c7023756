"""Job: a training of checked data within one MLflow run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dataset.data import SegmentationData
    from train.base_train import EpochResult
    from train.folds.division import Division
    from train.mlflow_train import MlflowTrain
    from train.resume import Interrupted
    from train.setup import TrainingSetup
    from train.tracking.publication import Publication
    from train.tracking.result import DataCommit, Result
    from train.tracking.run_tracker import RunFacts
    from train.warm_start.initial import Initial
    from utils.lakefs_utils import LakeFS, LakePath


@dataclass(frozen=True)
class Job:
    """The checked data of a training and what is known of its run."""

    data: SegmentationData
    pinned: LakePath | None  # the lakeFS commit that the data comes from; None: it is published
    facts: RunFacts
    interrupted: Interrupted | None = None
    folds: Division | None = None  # of --folds
    replace: bool = False  # whether the data may undo changes of the branch
    initial: Initial | None = None  # what INIT names


@dataclass(frozen=True)
class OpenTraining:
    """A training whose run is open: its data is committed, and its network is built."""

    training: MlflowTrain
    publication: Publication
    data: DataCommit
    state: dict[str, Any] | None  # of the checkpoint that it resumes from

    def publish(self, best: EpochResult) -> Result:
        """Commit the model of the best epoch, and record the report. Raises AppError."""
        from train.reports import figures
        from train.tracking.result import TrainedModel

        training = self.training
        with tempfile.TemporaryDirectory() as folder:
            samples = figures.draw_all(Path(folder), training)
            step = training.tracker.step_of(best)
            best_epoch = {"best_epoch": float(step)}
            model = TrainedModel(
                training.best_file,
                best.val,
                training.test,
                step,
                figures=best_epoch,
                calibration=training.calibration,
            )
            result = self.publication.commit_model(model, self.data)
            training.log_report(result, Path(folder), samples)
        return result


@contextlib.contextmanager
def open_training(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job, setup: TrainingSetup | None = None
) -> Iterator[OpenTraining]:
    """Open the run of a job, commit its data and build its network; the run ends with the block. Raises AppError.

    `setup` has the network if it is built already: settings that cannot be trained with should leave no run.
    """
    from train.mlflow_train import MlflowTrain
    from train.parallel.workers import WorkerJob, broadcast_job
    from train.setup import prepare_training
    from train.tracking.publication import Publication
    from train.tracking.run_tracker import RunTracker
    from versioning.streaming.files import shards_of

    if job.interrupted is None:
        tracker = RunTracker.start(client, settings, job.facts)
    else:
        tracker = RunTracker.reopen(client, settings, job.facts, job.interrupted)
    origin = job.initial.record() if job.initial else {}
    publication = Publication(lake, tracker, job.data, job.replace, origin)
    with tracker.closing():
        state = job.interrupted.state if job.interrupted else None
        data, shards = publication.commit_data(job.pinned), shards_of(job.data.source)
        if job.interrupted is None:
            images = {split: len(job.data.split(split)) for split in job.data.pixel_counts}
            tracker.log_data(data.path, data.manifest_sha256, images, list(job.data.classes.names))
            tracker.log_warnings(job.data.warnings)
            if shards is not None:
                tracker.log_params({"data_shards": shards})
        common = WorkerJob(settings.reproducible_settings(), job.facts.smoke, data.path, state, job.initial, shards)
        broadcast_job(common, job.data)
        setup = setup or prepare_training(settings, job.data, job.facts.smoke, job.initial)
        training = MlflowTrain(setup, tracker, data)
        if job.interrupted is None:
            training.record_setup()
        yield OpenTraining(training, publication, data, state)


def train_and_publish(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job
) -> tuple[MlflowTrain, Publication, Result]:
    """Commit the data, train, commit the model, all within one MLflow run. Raises AppError."""
    with open_training(settings, lake, client, job) as opened:
        best = opened.training.fit(opened.state)
        opened.training.tracker.background.finish()
        result = opened.publish(best)
    return opened.training, opened.publication, result
