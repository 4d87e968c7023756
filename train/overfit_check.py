"""train.py --overfit N: a network that cannot overfit N images has a fault that longer training does not fix."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr, trn
from core.reporting import result
from dataset.data import SegmentationData
from segmentation.means import format_mean
from train.model_train import ModelTrain
from train.setup import prepare_training
from train.warm_start.initial import Initial

GOAL = 0.95  # mIoU on the images that were trained on, at native size
EPOCHS = 400  # at most


class OverfitTrain(ModelTrain):
    """Stops when the goal is reached."""

    @property
    def done(self) -> bool:
        return super().done or bool(self.history and self.best.val.miou >= GOAL)

    def measure_best(self) -> None:
        pass


def overfit_check(settings: Settings, data: SegmentationData, count: int, initial: Initial | None = None) -> None:
    """Train on `count` images and measure on the same. Raises AppError if the mIoU stays below GOAL."""
    settings = dataclasses.replace(
        settings, epochs=EPOCHS, max_seconds=None, augmentation="none", ema=0.0, validate_every=1
    )
    setup = prepare_training(settings, subset(data, count), initial=initial)
    with tempfile.TemporaryDirectory() as folder:
        best = OverfitTrain(setup, Path(folder)).fit()
    mean = format_mean(best.val.miou, best.val.coverage)
    if best.val.miou < GOAL:
        raise AppError(
            trn(
                "mIoU {miou} on {count} image, expected {goal}: check masks, input size, learning rate and network",
                "mIoU {miou} on {count} images, expected {goal}: check masks, input size, learning rate and network",
                count,
                miou=mean,
                goal=GOAL,
            )
        )
    result(
        tr(
            "the model overfits the images ({count}): mIoU {miou} after epoch {epochs}",
            count=count,
            epochs=best.number,
            miou=mean,
        )
    )


def subset(data: SegmentationData, count: int) -> SegmentationData:
    """Return `count` images, evenly taken from the training split, as training and as validation split."""
    train = data.split("train")
    if not 1 <= count <= len(train):
        raise UsageError(tr("--overfit {count}: expected 1 to {maximum}", count=count, maximum=len(train)))
    pairs = [train[int(i)] for i in np.linspace(0, len(train) - 1, count).round()]
    return dataclasses.replace(data, pairs=(*pairs, *(dataclasses.replace(pair, split="val") for pair in pairs)))
