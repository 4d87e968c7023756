"""One training with folds, from the data to the report of its result."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings
from train.folds.division import relevant_warnings
from train.folds.out_of_fold import OutOfFold
from train.folds.recorded import RecordedFolds
from train.folds.report import draw_folds, report_metrics, summary_of
from train.mlflow_train import record_report
from train.tracking.publication import Publication
from train.tracking.result import OOF, DataCommit, Result, TrainedModel
from train.tracking.run_tracker import RunTracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from train.jobs.job import Job
    from utils.lakefs_utils import LakeFS


def train_folds(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job
) -> tuple[RecordedFolds, Publication, Result]:
    """Commit the data, train the models of all folds, and commit them as one, all within one MLflow run.

    Raises AppError.
    """
    assert job.folds is not None
    if job.interrupted is None:
        tracker = RunTracker.start(client, settings, job.facts)
    else:
        tracker = RunTracker.reopen(client, settings, job.facts, job.interrupted)
    judged = dataclasses.replace(job.data, warnings=relevant_warnings(job.data))
    publication = Publication(lake, tracker, judged, job.replace, job.initial.record() if job.initial else {})
    with tracker.closing():
        data = publication.commit_data(job.pinned)
        if job.interrupted is None:
            images = {split: len(judged.split(split)) for split in judged.pixel_counts}
            tracker.log_data(data.path, data.manifest_sha256, images, list(judged.classes.names))
            tracker.log_warnings(judged.warnings)
        division = dataclasses.replace(job.folds, data=judged)
        training = RecordedFolds(settings, division, tracker, data, job.initial)
        if job.interrupted is not None:
            training.resume(job.interrupted.state)
        training.fit()
        result = publish(publication, training, data)
    return training, publication, result


def publish(publication: Publication, training: RecordedFolds, data: DataCommit) -> Result:
    """Commit the models of all folds as one, and record metrics and report. Raises AppError."""
    found, tracker = training.out_of_fold(), training.tracker
    report_metrics(found, training.test)
    model = TrainedModel(
        file=training.ensemble_file,
        judged=found.metrics,
        test=training.test,
        step=training.division.count,
        split=OOF,
        members=tuple(training.member_files),
        figures={**interval_metrics(found), **training.calibration_errors()},
    )
    with tempfile.TemporaryDirectory() as folder:
        samples = draw_folds(Path(folder), training, found)
        _record_folds(tracker, training)
        result = publication.commit_model(model, data)
        used = {**tracker.settings.public(), **training.resolved, **publication.initial}
        record_report(tracker, summary_of(training, found, result), used, Path(folder), samples)
    return result


def interval_metrics(found: OutOfFold) -> dict[str, float]:
    """Return the ends of the interval as metrics of the run; none where there are too few groups."""
    interval = found.interval()
    return {} if interval is None else {"oof_miou_low": interval[0], "oof_miou_high": interval[1]}


def _record_folds(tracker: RunTracker, training: RecordedFolds) -> None:
    """Record the metrics of each fold in the run of all folds, at its number as the step; none is recorded twice."""
    recorded = tracker.recorded_steps("fold_miou")
    for fold, figures in enumerate(training.fold_figures(), 1):
        if fold not in recorded:
            tracker.log_metrics(figures, fold)
