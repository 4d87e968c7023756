"""FoldsTraining: train the models of all folds in turn, and measure each on the images that it holds out."""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import Settings
from core.files import link_or_copy, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify
from segmentation.losses import build_loss
from segmentation.model_file import load_model
from segmentation.reliability.calibration import LogitSamples, Reliability
from train.base_train import EpochResult, Validation
from train.folds.division import Counts, Division
from train.folds.fold_train import FOLD, LastEpochTrain
from train.folds.out_of_fold import OutOfFold, confusion_of, metrics_of
from train.loading.loader import SegmentationDataset
from train.model_train import ModelTrain
from train.setup import TrainingSetup, prepare_training
from train.tracking.result import split_metrics
from train.validation import evaluate
from train.warm_start.initial import Initial, InitialModel, start_of_fold
from utils.ensemble_file import ENSEMBLE_FILE, Ensemble, Member


@dataclass(frozen=True)
class FinishedFold:
    """A trained fold: its run (empty outside of MLflow), the SHA-256 of its model file, and its epochs.

    `counts` are the confusion matrices of its held-out images, (images, num_classes, num_classes), in their order;
    `reliability` is that of its calibrated probabilities on them; None in checkpoints of earlier versions.
    """

    number: int
    run_id: str
    sha256: str
    history: tuple[EpochResult, ...]
    counts: Counts
    reliability: Reliability | None

    @property
    def file_name(self) -> str:
        """The name of its model file."""
        return f"fold-{self.number}.pth"

    def metrics(self, names: tuple[str, ...]) -> Validation:
        """Return its metrics on the held-out images over the classes `names`; the loss is not measured."""
        return metrics_of(confusion_of(self.counts.sum(0)), names)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        history = [dataclasses.asdict(result) for result in self.history]
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts = () if self.reliability is None else vars(self.reliability).values()
        reliability = [torch.from_numpy(part) for part in parts]
        return {**values, "history": history, "counts": torch.from_numpy(self.counts), "reliability": reliability}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> FinishedFold:
        """Restore from `to_dict`."""
        history = tuple(map(EpochResult.from_dict, content["history"]))
        parts = content.get("reliability", [])
        reliability = Reliability(*(part.numpy() for part in parts)) if parts else None
        read = {"history": history, "counts": content["counts"].numpy(), "reliability": reliability}
        return FinishedFold(**{**content, **read})


class FoldsTraining:
    """The trainings of all folds, which write to `folder` and to no server.

    The first fold decides what the settings leave open; the other ones use the same values. Each starts from another
    seed, so that the models differ by more than their data.
    """

    def __init__(
        self, settings: Settings, division: Division, folder: Path, smoke: bool, initial: Initial | None = None
    ) -> None:
        """Train in `folder`; `initial` is what the folds start from."""
        self.settings, self.division, self.folder, self.smoke = settings, division, folder, smoke
        self.initial = initial
        self.finished: list[FinishedFold] = []
        self.test: Validation | None = None  # of the mean of all models
        self.test_ece: float | None = None  # its expected calibration error on the test split
        self.decided = False

    def fit(self) -> None:
        """Train the folds that are not finished, and measure the mean of their models on the test split once."""
        for fold in self.division.folds[len(self.finished) :]:
            notify(
                tr(
                    "fold {number} of {count} (images to train on: {trained}, held out: {held_out})",
                    number=fold,
                    count=self.division.count,
                    trained=len(self.division.trained(fold)),
                    held_out=len(self.division.held_out(fold)),
                )
            )
            settings, data = self.settings_of(fold), self.division.data_of(fold)
            setup = prepare_training(settings, data, self.smoke, start_of_fold(self.initial, fold))
            if not self.decided:
                self.decide(setup)
            self.finished.append(self.train_fold(fold, setup))
            self.save()
        self.write_ensemble()
        if self.test is None and self.division.data.split("test"):
            self.test, self.test_ece = self.measure_test()
            self.save()

    def settings_of(self, fold: int) -> Settings:
        """Return the settings that a fold is trained with."""
        settings, start = self.settings, start_of_fold(self.initial, fold)
        if isinstance(start, InitialModel):  # published weights are no INIT
            settings = dataclasses.replace(settings, init=start.reference, init_sha256=start.sha256)
        return dataclasses.replace(settings, seed=settings.seed + fold - 1)

    def decide(self, setup: TrainingSetup) -> None:
        """Fix for all folds what data and machine have decided for the first one."""
        own = {name: getattr(self.settings, name) for name in ("seed", "init", "init_sha256")}
        decided = {**setup.resolved_settings(), "image_size": setup.size, **own}
        self.settings = dataclasses.replace(self.settings, **decided)
        self.decided = True

    def train_fold(self, fold: int, setup: TrainingSetup) -> FinishedFold:
        """Train the model of a fold and measure it."""
        training = LastEpochTrain(setup, self.folder / f"fold-{fold}")
        training.fit()
        return self.finish(fold, training)

    def finish(self, fold: int, training: ModelTrain, run_id: str = "") -> FinishedFold:
        """Keep the model of a fold, and measure it on the held-out images, as it is read from its file."""
        setup, history = training.setup, tuple(training.history)
        images, classes, sha256 = setup.val_images, setup.data.classes.num_classes, file_sha256(training.best_file)
        counts, samples = np.zeros((len(images), classes, classes), np.int64), LogitSamples(len(images), classes)
        model = load_model(training.best_file, sha256, setup.device)
        evaluate(model, images, setup.device, setup.criterion, self.smoke, counts, samples)
        reliability = Reliability.of(*samples.pixels(), model.temperature)
        found = FinishedFold(fold, run_id, sha256, history, counts, reliability)
        link_or_copy(training.best_file, self.folder / found.file_name)
        return found

    def save(self) -> None:
        """Keep what is finished, so that a killed run can be resumed."""

    # --- results ---

    @property
    def ensemble_file(self) -> Path:
        """The file that names the models of all folds."""
        return self.folder / ENSEMBLE_FILE

    @property
    def member_files(self) -> list[Path]:
        """The model files of the finished folds."""
        return [self.folder / fold.file_name for fold in self.finished]

    def out_of_fold(self) -> OutOfFold:
        """Return the predictions of all held-out images."""
        return OutOfFold.of(self.division, [fold.counts for fold in self.finished])

    def calibration_errors(self) -> dict[str, float]:
        """Return the expected calibration errors: out of fold, and of the mean on the test split, where they are known."""
        parts = [fold.reliability for fold in self.finished if fold.reliability is not None]
        known = reduce(operator.add, parts) if len(parts) == len(self.finished) else None
        out_of_fold = {} if known is None or not known.pixels.any() else {"oof_ece": known.error}
        return out_of_fold | ({} if self.test_ece is None else {"test_ece": self.test_ece})

    def fold_figures(self) -> list[dict[str, float]]:
        """Return the metrics of each finished fold: of its model on the held-out images, and its last training loss."""
        names = self.division.data.classes.names
        return [
            {**split_metrics(fold.metrics(names), None, FOLD), f"{FOLD}_train_loss": fold.history[-1].train_loss}
            for fold in self.finished
        ]

    def write_ensemble(self) -> None:
        """Write the file that names the models and the images that each of them has not been trained on."""
        members = [Member(fold.file_name, fold.sha256, self.held_out(fold.number)) for fold in self.finished]
        write_atomically(self.ensemble_file, Ensemble(tuple(members)).to_json())

    def held_out(self, fold: int) -> tuple[str, ...]:
        """Return the SHA-256 of the image files that the model of a fold has not been trained on, sorted."""
        held_out, trained = (
            {self.division.pairs[index].image_sha256 for index in part(fold)}
            for part in (self.division.held_out, self.division.trained)
        )
        return tuple(sorted(held_out - trained))  # a file of several pages may be in both

    def measure_test(self) -> tuple[Validation, float | None]:
        """Return the metrics of the mean of all models on the test split, as inference computes them, and its ECE."""
        settings, data = self.settings, self.division.data
        assert settings.image_size is not None  # decided
        device = self.device
        model = load_model(self.ensemble_file, file_sha256(self.ensemble_file), device)
        images = SegmentationDataset(
            data.split("test"), data.classes, settings.image_size, True, data.reading, data.source
        )
        criterion, _ = build_loss(settings.loss, settings.class_weights, self.division.all_pixels())
        samples = LogitSamples(len(images), data.classes.num_classes)
        measured, _, _ = evaluate(model, images, device, criterion.to(device), self.smoke, samples=samples)
        reliability = Reliability.of(*samples.pixels(), model.temperature)
        return measured, reliability.error if reliability.pixels.any() else None

    @property
    def device(self) -> torch.device:
        """The device of the settings."""
        from train.setup import check_device

        return check_device(self.settings)
