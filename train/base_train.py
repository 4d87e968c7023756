"""BaseTrain: the loop of epochs and steps; it knows nothing of networks, files or servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from config import Settings
from utils.console import AppError, progress, t

SMOKE_BATCHES = 2  # of training and of validation, when the whole chain is tried out


@dataclass(frozen=True)
class Validation:
    """Figures over the whole validation split at native size; `iou` is None for a class that is absent from it."""

    loss: float
    accuracy: float
    miou: float
    iou: dict[str, float | None]


@dataclass(frozen=True)
class EpochResult:
    """One epoch: mean training loss, validation, speed in pictures a second of training, learning rate at its end."""

    epoch: int
    train_loss: float
    validation: Validation
    images_per_second: float
    learning_rate: float
    best: bool


@dataclass
class BaseTrain:
    """The loop. Subclasses say what a batch, a step and a validation are, and what to do with the best epoch."""

    settings: Settings
    smoke: bool = False
    history: list[EpochResult] = field(default_factory=list)

    def fit(self) -> EpochResult:
        """Train all epochs and return the best one, whose model was saved. Raises AppError for a non-finite loss."""
        self.prepare()
        for epoch in range(self.epochs):
            loss, speed = self.train_epoch(epoch)
            validation = self.validate()
            best = not self.history or validation.miou > self.best.validation.miou
            self.history.append(EpochResult(epoch, loss, validation, speed, self.current_learning_rate(), best))
            if best:
                self.save_best(self.history[-1])
            self.on_epoch_end(self.history[-1])
        return self.best

    @property
    def epochs(self) -> int:
        """Epochs of this run; trying out takes one."""
        return 1 if self.smoke else self.settings.epochs

    @property
    def best(self) -> EpochResult:
        """The first epoch with the highest validation mIoU so far."""
        return max(self.history, key=lambda result: result.validation.miou)

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training split: its mean loss, and pictures a second."""
        self.start_epoch(epoch)
        start, images = time.perf_counter(), 0
        label = t(f"에폭 {epoch + 1}/{self.epochs} 학습", f"epoch {epoch + 1}/{self.epochs} train")
        for step, batch in enumerate(progress(self.batches(epoch), self.steps_per_epoch, label, "batches")):
            images += self.train_step(epoch, step, batch)
        loss = self.mean_train_loss()
        if not loss < float("inf"):
            raise AppError(
                t(
                    f"에폭 {epoch + 1}: 손실이 {loss} 입니다: LEARNING_RATE 를 낮추세요 (현재 {self.settings.learning_rate})",
                    f"epoch {epoch + 1}: the loss is {loss}: lower LEARNING_RATE (now {self.settings.learning_rate})",
                )
            )
        return loss, images / (time.perf_counter() - start)

    # --- what a subclass says -------------------------------------------------------------------------------------

    steps_per_epoch: int = 0  # batches of one epoch

    def prepare(self) -> None:
        """Read the data and build the network; called once, before the first epoch."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Called before the first batch of each epoch."""
        raise NotImplementedError

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of one epoch, in an order made from (seed, epoch)."""
        raise NotImplementedError

    def train_step(self, epoch: int, step: int, batch: Any) -> int:
        """One step of the optimiser; returns the number of pictures in the batch."""
        raise NotImplementedError

    def mean_train_loss(self) -> float:
        """Mean training loss since `start_epoch`."""
        raise NotImplementedError

    def current_learning_rate(self) -> float:
        """Learning rate of the last step."""
        raise NotImplementedError

    def validate(self) -> Validation:
        """Measure the network on the validation split."""
        raise NotImplementedError

    def save_best(self, result: EpochResult) -> None:
        """Keep the network of this epoch: it is the best so far."""
        raise NotImplementedError

    def on_epoch_end(self, result: EpochResult) -> None:
        """Show or record a finished epoch."""
        raise NotImplementedError
