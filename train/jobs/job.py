"""Job: a training of checked data within one MLflow run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dataset.data import SegmentationData
    from train.mlflow_train import MlflowTrain
    from train.resume import Interrupted
    from train.tracking.publication import Publication
    from train.tracking.result import Result
    from train.tracking.run_tracker import RunFacts
    from utils.lakefs_utils import LakeFS, LakePath


@dataclass(frozen=True)
class Job:
    """The checked data of a training and what is known of its run."""

    data: SegmentationData
    pinned: LakePath | None  # the lakeFS commit that the data comes from; None: it is published
    facts: RunFacts
    interrupted: Interrupted | None = None
    replace: bool = False  # whether the data may undo changes of the branch


def train_and_publish(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job
) -> tuple[MlflowTrain, Publication, Result]:
    """Commit the data, train, commit the model, all within one MLflow run. Raises AppError."""
    from train.mlflow_train import MlflowTrain
    from train.parallel.workers import WorkerJob, broadcast_job
    from train.reports import figures
    from train.setup import prepare_training
    from train.tracking.publication import Publication
    from train.tracking.run_tracker import RunTracker

    if job.interrupted is None:
        tracker = RunTracker.start(client, settings, job.facts)
    else:
        tracker = RunTracker.reopen(client, settings, job.facts, job.interrupted)
    publication = Publication(lake, tracker, job.data, job.replace)
    with tracker.closing():
        state = job.interrupted.state if job.interrupted else None
        data = publication.commit_data(job.pinned)
        if job.interrupted is None:
            images = {split: len(job.data.split(split)) for split in job.data.pixel_counts}
            tracker.log_data(data.path, data.manifest_sha256, images, list(job.data.classes.names))
            tracker.log_warnings(job.data.warnings)
        broadcast_job(WorkerJob(settings.reproducible_settings(), job.facts.smoke, data.path, state), job.data)
        training = MlflowTrain(prepare_training(settings, job.data, job.facts.smoke), tracker, data)
        if job.interrupted is None:
            training.record_setup()
        best = training.fit(state)
        tracker.background.finish()
        with tempfile.TemporaryDirectory() as folder:
            samples = figures.draw_all(Path(folder), training)
            result = publication.commit_model(training.best_file, best, training.test, data)
            training.log_report(result, Path(folder), samples)
    return training, publication, result
