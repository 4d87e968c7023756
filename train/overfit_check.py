"""train.py --overfit N: a network that cannot learn N pictures by heart has a fault that no longer training mends."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from config import Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify
from dataset.layout import DataSet
from train.model_train import ModelTrain

GOAL = 0.95  # mIoU on the pictures that were trained on, at native size
PASSES = 400  # over them, at most


class Overfit(ModelTrain):
    """Stops when the goal is reached."""

    @property
    def done(self) -> bool:
        return super().done or bool(self.history and self.best.validation.miou >= GOAL)


def learn_by_heart(settings: Settings, data: DataSet, count: int) -> None:
    """Train on `count` pictures and measure on the same. Raises AppError where mIoU stays below GOAL."""
    chosen = dataclasses.replace(settings, epochs=PASSES, max_seconds=None, augmentation="none", ema=0.0)
    with tempfile.TemporaryDirectory() as folder:
        training = Overfit(dataclasses.replace(chosen, model_path=Path(folder) / "model.pth"), data=few(data, count))
        best = training.fit()
    if best.validation.miou < GOAL:
        raise AppError(
            tr(
                "mIoU {miou:.4f} on {count} pictures, expected {goal}: look at masks, input size, rate, network",
                miou=best.validation.miou,
                count=count,
                goal=GOAL,
            )
        )
    notify(
        tr(
            "{count} pictures learnt by heart in {epoch} passes: mIoU {miou:.4f}",
            count=count,
            epoch=best.epoch + 1,
            miou=best.validation.miou,
        )
    )


def few(data: DataSet, count: int) -> DataSet:
    """`count` pictures, evenly taken from the training split, as training and as validation split."""
    train = data.split("train")
    if not 1 <= count <= len(train):
        raise UsageError(tr("--overfit {count}: expected 1 to {train}", count=count, train=len(train)))
    pairs = [train[int(i)] for i in np.linspace(0, len(train) - 1, count).round()]
    return dataclasses.replace(data, pairs=(*pairs, *(dataclasses.replace(pair, split="val") for pair in pairs)))
