"""BaseTrain: the loop of epochs and steps, and where it stands; it knows nothing of networks or servers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from config import Settings
from core.errors import AppError
from core.i18n import tr
from core.process import uninterrupted
from core.reporting import notify, progress

SMOKE_BATCHES = 2  # of training and of validation, when the whole chain is tried out


class Diverged(AppError):
    """The loss is no number any more: going on from a checkpoint would give the same."""


@dataclass(frozen=True)
class Validation:
    """Figures over the whole validation split at native size; `iou` is None for a class that is absent from it."""

    loss: float
    accuracy: float
    miou: float
    iou: dict[str, float | None]


@dataclass(frozen=True)
class EpochResult:
    """One epoch: mean training loss, validation, seconds and pictures a second of training, learning rate at its end."""

    epoch: int
    train_loss: float
    validation: Validation
    seconds: float
    images_per_second: float
    learning_rate: float
    best: bool


@dataclass
class BaseTrain:
    """The loop. Subclasses say what a batch, a step and a validation are, and what to do with the best epoch.

    `epoch`, `step` and the sums below are where training stands. They change together with the weights, so that a
    checkpoint taken between two steps goes on exactly where it was: order and augmentation come from (seed, epoch, step).
    """

    settings: Settings
    smoke: bool = False
    history: list[EpochResult] = field(default_factory=list)
    epoch: int = 0  # whole epochs that are done
    step: int = 0  # steps of the current epoch that are done
    images: int = 0  # pictures of the current epoch that were trained on
    seconds: float = 0.0  # that they took
    resume_from: dict[str, Any] | None = None  # the state of a checkpoint
    torn: bool = False  # a step was broken off: the weights are not those of `step`

    def fit(self) -> EpochResult:
        """Train to the end and return the best epoch, whose model was saved. Raises AppError for a non-finite loss."""
        self.prepare()
        if self.resume_from is None:
            self.save_checkpoint()
        else:
            self.load_state(self.resume_from)
        self.saved_at = time.monotonic()
        try:
            while not self.done:
                loss = self.train_epoch()
                self.end_epoch(loss, self.validate())
        except KeyboardInterrupt:
            if not self.torn:
                self.save_checkpoint()
            raise
        return self.best

    @property
    def epochs(self) -> int:
        """Epochs of this run; trying out takes one."""
        return 1 if self.smoke else self.settings.epochs

    @property
    def best(self) -> EpochResult:
        """The first epoch with the highest validation mIoU so far."""
        return max(self.history, key=lambda result: result.validation.miou)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - 1 - self.best.epoch if self.history else 0

    @property
    def timed(self) -> bool:
        """Whether MAX_SECONDS and not a number of epochs ends this training."""
        return self.settings.max_seconds is not None and not self.smoke

    @property
    def trained_seconds(self) -> float:
        """Seconds of training so far; validation and tracking are left out."""
        return sum(result.seconds for result in self.history) + (self.seconds if self.step else 0.0)

    def share(self, batches: int) -> float:
        """Share of the training that is done, 0 to 1, after this number of batches since its beginning."""
        if self.settings.max_seconds is not None and self.timed:
            return min(1.0, self.trained_seconds / self.settings.max_seconds)
        return batches / (self.epochs * self.steps_per_epoch)

    @property
    def stalled(self) -> bool:
        """Whether PATIENCE epochs in a row brought nothing better."""
        return 0 < self.settings.patience <= self.epochs_without_gain

    @property
    def done(self) -> bool:
        """Whether the epochs or the seconds are over, or nothing gets better any more."""
        return self.stalled or (self.share(0) >= 1 if self.timed else self.epoch >= self.epochs)

    def epoch_label(self, epoch: int) -> str:
        """'epoch 3/10', or 'epoch 3' where time and not their number ends the training."""
        of = "" if self.timed else f"/{self.epochs}"
        return tr("epoch {epoch}{of}", epoch=epoch + 1, of=of)

    def train_epoch(self) -> float:
        """What is left of the current pass over the training split; its mean loss."""
        if self.step == 0:
            self.images, self.seconds = 0, 0.0
        self.start_epoch()
        start = time.perf_counter() - self.seconds
        label = self.epoch_label(self.epoch) + tr(" train")
        for batch in progress(self.batches(), self.steps_per_epoch - self.step, label, tr("batches")):
            with uninterrupted():  # a step is whole or not begun
                self.torn = True
                self.images += self.train_step(self.epoch, self.step, batch)
                self.step, self.torn = self.step + 1, False
            self.seconds = self.agreed_seconds(time.perf_counter() - start)
            self.save_checkpoint_if_due()
            if self.timed and self.share(0) >= 1:
                break
        loss = self.mean_train_loss()
        self.seconds = self.agreed_seconds(time.perf_counter() - start)
        return loss

    def end_epoch(self, loss: float, validation: Validation) -> None:
        """Put a finished epoch into the history, keep its model if it is the best, and save where training stands."""
        best = not self.history or validation.miou > self.best.validation.miou
        speed = self.images / max(self.seconds, 1e-9)
        result = EpochResult(self.epoch, loss, validation, self.seconds, speed, self.current_learning_rate(), best)
        with uninterrupted():
            self.history.append(result)
            if best:
                self.save_best(result)
            self.epoch, self.step = self.epoch + 1, 0
            self.save_checkpoint()
        self.on_epoch_end(result)
        if self.stalled:
            notify(
                tr(
                    "nothing better for {epochs_without_gain} epochs: training ends (PATIENCE={patience})",
                    epochs_without_gain=self.epochs_without_gain,
                    patience=self.settings.patience,
                )
            )

    def save_checkpoint_if_due(self) -> None:
        """Save within an epoch every CHECKPOINT_MINUTES: an epoch of a large data set takes hours."""
        minutes = self.settings.checkpoint_minutes
        if 0 < minutes * 60 <= time.monotonic() - self.saved_at:
            with uninterrupted():
                self.save_checkpoint()
            self.saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """All that training needs to go on from here, as plain values and tensors; subclasses add theirs."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "history": [dataclasses.asdict(result) for result in self.history],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to where `state()` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.images, self.seconds = state["images"], state["seconds"]
        self.history = [
            EpochResult(**{**result, "validation": Validation(**result["validation"])}) for result in state["history"]
        ]

    # --- what a subclass says -------------------------------------------------------------------------------------

    steps_per_epoch: int = 0  # batches of one epoch

    def prepare(self) -> None:
        """Read the data and build the network; called once, before the first epoch."""
        raise NotImplementedError

    def start_epoch(self) -> None:
        """Called before the batches of each epoch; with `step` > 0 in the middle of one that is taken up again."""
        raise NotImplementedError

    def batches(self) -> Iterator[Any]:
        """The batches of this epoch from `step` on, in an order made from (seed, epoch)."""
        raise NotImplementedError

    def train_step(self, epoch: int, step: int, batch: Any) -> int:
        """One step of the optimiser; returns the number of pictures in the batch."""
        raise NotImplementedError

    def agreed_seconds(self, seconds: float) -> float:
        """What counts as the seconds of this epoch so far, the same in all processes where time decides anything."""
        raise NotImplementedError

    def mean_train_loss(self) -> float:
        """Mean training loss of this epoch."""
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

    def save_checkpoint(self) -> None:
        """Keep `state()`, so that a killed run can go on."""
        raise NotImplementedError

    def on_epoch_end(self, result: EpochResult) -> None:
        """Show or record a finished epoch."""
        raise NotImplementedError
