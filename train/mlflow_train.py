"""MlflowTrain: a training whose epochs are recorded in an MLflow run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from core.files import atomic_replace, link_or_copy, write_atomically
from core.i18n import tr
from core.pages.cards import Gallery
from core.reporting import notify
from core.safety.urls import without_credentials
from dataset.classes import UInt8
from dataset.sources.files import FileSource
from train.base_train import EpochResult
from train.model_train import ModelTrain
from train.parallel import distributed
from train.reports import figures
from train.reports.history import CLASSES_TABLE
from train.reports.html import write_report
from train.resume import RunRecord
from train.setup import TrainingSetup
from train.tracking.description import describe_run
from train.tracking.environment import REPORT_FILE
from train.tracking.result import DataCommit, Result, RunSummary, class_metrics
from train.tracking.run_tracker import RunTracker
from train.tracking.used_settings import used_settings
from utils.lakefs_utils import LakePath
from versioning.streaming.files import shards_of

PREVIEW_FILE = "preview.jpg"  # in models/<run id>/: the overlays of the last epoch


class MlflowTrain(ModelTrain):
    """Records resolved settings, metrics and overlays; the run itself belongs to a RunTracker."""

    def __init__(self, setup: TrainingSetup, tracker: RunTracker, data: DataCommit) -> None:
        """Prepare the training; `data` is the commit that it reads."""
        lineage = {"run_id": tracker.run_id, **tracker.facts.git.metadata(), "lakefs_data_path": str(data.path)}
        lineage |= setup.initial_record()
        super().__init__(setup, tracker.folder, lineage)
        self.tracker, self.data_commit = tracker, data
        self.preview_reported = False

    def record_setup(self) -> None:
        """Record what data and machine decided, where the settings say 'auto', and the code."""
        log_setup(self.tracker, self.setup, self.setup.initial_record())
        self.tracker.log_code(self.setup.resolved_settings(), self.setup.device)

    def on_epoch_end(self, result: EpochResult) -> None:
        super().on_epoch_end(result)
        self.tracker.background.call(lambda: self._log_epoch(result))
        if result.validation is None:
            return
        images = self.setup.val_images
        indices = figures.sample_indices(images)
        predicted = figures.predictions(self.model({}), images, indices)  # now: the weights will change
        if not self.preview_reported:  # written here once, so that the file exists when it is named
            self.preview_reported = True
            self._save_preview(indices, predicted)
            notify(
                tr(
                    "first overlays: {path} (image, label, prediction; updated after each validation)",
                    path=self.run_folder / PREVIEW_FILE,
                )
            )
        self.tracker.background.call(lambda: self._log_overlays(result.number, indices, predicted))

    def on_resume(self) -> None:
        """Record the epochs that a kill kept from the run; none is recorded twice."""
        super().on_resume()
        recorded = self.tracker.recorded_steps("train_loss")
        for result in self.history:
            if self.tracker.step_of(result) not in recorded:
                self._log_epoch(result)
        notify(
            tr(
                "resuming at {epoch}, batch {batch}/{batches}",
                epoch=self.epoch_label(self.epoch),
                batch=self.step,
                batches=self.steps_per_epoch,
            )
        )

    def _log_epoch(self, result: EpochResult) -> None:
        v = result.validation
        metrics = {
            "train_loss": result.train_loss,
            "images_per_second": result.images_per_second,
            "learning_rate": result.learning_rate,
        }
        if v is not None:
            metrics |= {"val_loss": v.loss, "val_accuracy": v.accuracy, "val_miou": v.miou, **class_metrics("val", v)}
        self.tracker.log_metrics(metrics, self.tracker.step_of(result))

    def _log_overlays(self, epoch: int, indices: list[int], predicted: list[UInt8]) -> None:
        """Record the sample overlays of an epoch, counted from 1."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_preview(indices, predicted)
            link_or_copy(self.run_folder / PREVIEW_FILE, Path(folder) / f"epoch-{epoch:04d}.jpg")
            self.tracker.log_artifacts(Path(folder), "overlays")

    def _save_preview(self, indices: list[int], predicted: list[UInt8]) -> None:
        """Replace the overlays that a user can look at during the training."""
        with atomic_replace(self.run_folder / PREVIEW_FILE, durable=False) as part:
            figures.save_samples(part, self.setup.val_images, indices, predicted, "JPEG")

    def run_record(self) -> dict[str, Any]:
        return record_of_run(self.tracker, self.data_commit.path, self.setup.data.source, super().run_record())

    def log_report(self, result: Result, folder: Path, samples: Gallery) -> None:
        """Record the figures and tables in `folder` with the report, which shows `samples`; copy it to the run's folder."""
        summary = self.summary(result)
        values = {**self.settings.public(), **self.setup.resolved, **self.setup.initial_record()}
        record_report(self.tracker, summary, values, folder, samples)

    def summary(self, result: Result) -> RunSummary:
        """Return what the report shows."""
        data = self.setup.data
        return RunSummary(
            result=result,
            settings=used_settings(self.settings, self.setup.resolved, self.tracker.given),
            git=self.tracker.facts.git,
            run_page=self.tracker.page(),
            lakefs_page=without_credentials(self.settings.lakefs_endpoint or "").rstrip("/"),
            history=tuple(self.history),
            best=self.best,
            classes=data.classes,
            pixel_counts={split: tuple(counts) for split, counts in data.pixel_counts.items()},
            image_counts={split: len(data.split(split)) for split in data.pixel_counts},
            confusion=self.best_confusion,
            warnings=data.warnings,
        )


def log_setup(tracker: RunTracker, setup: TrainingSetup, initial: dict[str, str]) -> None:
    """Record what data and machine decided, where the settings say 'auto', as parameters of the run.

    `initial` is the record of what it starts from.
    """
    tracker.log_params(
        {
            **setup.resolved,
            **initial,
            **{f"resolved_{key}": value for key, value in setup.resolved.items()},
            "num_classes": setup.data.classes.num_classes,
            "num_parameters": sum(p.numel() for p in setup.network.parameters()),
            "torch": torch.__version__,
            "processes": distributed.world_size(),
        }
    )


def record_of_run(tracker: RunTracker, data: LakePath, source: FileSource, training: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of its run; `training` are `settings` and `classes`, see `ModelTrain.run_record`.

    `source` reads the files of the data.
    """
    shards = shards_of(source)
    facts = tracker.facts
    return RunRecord(
        run_id=tracker.run_id,
        smoke=facts.smoke,
        data_path=data,
        repo=facts.repo,
        branch=facts.branch,
        target_branch=facts.target_branch,
        git=facts.git,
        processes=distributed.world_size(),
        hashes=dict(tracker.record),
        resume_command=facts.resume_command,
        shards=None if shards is None else str(shards),
        **training,
    ).to_dict()


def record_report(
    tracker: RunTracker, summary: RunSummary, settings: dict[str, str], folder: Path, samples: Gallery
) -> None:
    """Record the figures and tables in `folder` with the report, which shows `samples`; copy it to the run's folder.

    `settings` are the values that were used, as text.
    """
    write_report(folder / REPORT_FILE, summary, samples)
    tracker.describe(describe_run(summary, settings))
    for name in (REPORT_FILE, CLASSES_TABLE):
        if (folder / name).exists():
            write_atomically(tracker.folder / name, (folder / name).read_bytes())
    tracker.log_artifacts(folder)
    notify(tr("report: {path}", path=tracker.folder / REPORT_FILE))
