"""BaseTrain: the loop over epochs and steps and its position; it knows nothing of networks or servers."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from config import Settings
from core.errors import AppError
from core.i18n import tr, trn
from core.process import defer_interrupt
from core.reporting import notify, progress
from segmentation.means import Coverage

SMOKE_BATCHES = 2  # of training and of validation with --smoke


class Diverged(AppError):
    """The loss became NaN or infinite; resuming would reproduce it."""


@dataclass(frozen=True)
class Validation:
    """Metrics of a whole split at native size; `iou` is None for a class that is absent from it."""

    loss: float
    accuracy: float
    miou: float
    iou: dict[str, float | None]

    @property
    def coverage(self) -> Coverage:
        """How many classes the mean is of."""
        return Coverage.of(self.iou.values())


@dataclass(frozen=True)
class EpochResult:
    """One epoch (counted from 0): mean training loss, validation, seconds and images/s of training, learning rate at its end.

    `validation` is None for an epoch that was not measured on val (VALIDATE_EVERY).
    """

    epoch: int
    train_loss: float
    validation: Validation | None
    seconds: float
    images_per_second: float
    learning_rate: float
    best: bool

    @staticmethod
    def from_dict(content: dict[str, Any]) -> EpochResult:
        """Restore from `dataclasses.asdict`."""
        validation = content["validation"]
        return EpochResult(**{**content, "validation": None if validation is None else Validation(**validation)})

    @property
    def val(self) -> Validation:
        """The validation of an epoch that was measured. Raises ValueError for another one."""
        if self.validation is None:
            raise ValueError(f"epoch {self.number} was not measured on val")
        return self.validation

    @property
    def number(self) -> int:
        """The epoch as it is shown and recorded, from 1; `epoch`, which checkpoints store, counts from 0."""
        return self.epoch + 1


def best_of(history: Sequence[EpochResult]) -> EpochResult | None:
    """Return the first epoch with the highest validation mIoU, None if no epoch was measured on val."""
    return max((r for r in history if r.validation is not None), key=lambda r: r.val.miou, default=None)


class TrainingObserver(Protocol):
    """What follows a training from outside: it may end the training early, and decides whether its model is kept.

    A resumed training asks again about its last epoch; the answer must be the same.
    """

    def ends_after(self, history: Sequence[EpochResult]) -> bool:
        """Return whether the training ends after the last of these epochs."""

    def keeps(self, best: EpochResult) -> bool:
        """Return whether the model of the best epoch is kept; only such a model is measured on the test split."""


class BaseTrain(ABC):
    """The training loop. Subclasses define a batch, a step, a validation, and what is kept of the best epoch.

    `epoch`, `step`, `images` and `seconds` are the position in the training. They change together with the weights, so
    that a checkpoint taken between two steps resumes exactly: order and augmentation depend on (seed, epoch, step) only.
    """

    def __init__(
        self, settings: Settings, epochs: int, steps_per_epoch: int, smoke: bool = False, validate_every: int = 1
    ) -> None:
        """Start at epoch 0; `smoke`: the epochs have `SMOKE_BATCHES` batches, to test the whole chain.

        Every `validate_every`-th epoch is measured on val, and the last one.
        """
        self.settings = settings
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.smoke = smoke
        self.validate_every = validate_every
        self.history: list[EpochResult] = []
        self.epoch = 0  # completed epochs
        self.step = 0  # completed steps of the current epoch
        self.images = 0  # images of the current epoch that were trained on
        self.seconds = 0.0  # training time of the current epoch
        self.step_incomplete = False  # a step was interrupted: the weights are not those of `step`
        self.saved_at = time.monotonic()  # of the last checkpoint
        self.observer: TrainingObserver | None = None
        self.ended_by_observer = False
        self.kept = True  # whether the best model is kept

    def fit(self, resume_from: dict[str, Any] | None = None, observer: TrainingObserver | None = None) -> EpochResult:
        """Train to the end and return the best epoch, whose model was saved. Raises AppError for a non-finite loss.

        `resume_from`: the `state()` of a checkpoint.
        """
        self.observer = observer
        if resume_from is None:
            self.save_checkpoint()
        else:
            self.load_state(resume_from)
            self.on_resume()
            if self.step == 0:  # the answer about the last epoch may have been lost
                self.ask_observer()
        self.saved_at = time.monotonic()
        try:
            while self.step or not self.done:  # an epoch that has begun is validated, also if its time was over
                loss = self.train_epoch()
                self.end_epoch(loss, self.validate() if self.is_to_be_validated() else None)
        except KeyboardInterrupt:
            if not self.step_incomplete:
                self.save_checkpoint()
            raise
        return self.best

    # --- position ---

    @property
    def best(self) -> EpochResult:
        """The first epoch with the highest validation mIoU so far. Raises ValueError if none was measured yet."""
        best = best_of(self.history)
        if best is None:
            raise ValueError("no epoch was measured on val yet")
        return best

    @property
    def in_last_epoch(self) -> bool:
        """Whether the training is over when the epoch that has no step left to do has ended."""
        return self.progress_fraction(0) >= 1 if self.timed else self.epoch + 1 >= self.epochs

    def is_to_be_validated(self) -> bool:
        """Return whether the epoch that ends now is measured on val."""
        return (self.epoch + 1) % self.validate_every == 0 or self.in_last_epoch

    def is_to_be_saved(self, validation: Validation) -> bool:
        """Return whether the model of the epoch that ends with this validation is to be kept: it is the best so far."""
        best = best_of(self.history)
        return best is None or validation.miou > best.val.miou

    @property
    def epochs_without_gain(self) -> int:
        """Epochs from the best one to the last one that was measured."""
        measured = [result.epoch for result in self.history if result.validation is not None]
        return measured[-1] - self.best.epoch if measured else 0

    @property
    def timed(self) -> bool:
        """Whether MAX_SECONDS, not a number of epochs, ends this training."""
        return self.settings.max_seconds is not None and not self.smoke

    @property
    def trained_seconds(self) -> float:
        """Training time so far in seconds; validation and tracking are excluded."""
        return sum(result.seconds for result in self.history) + (self.seconds if self.step else 0.0)

    def progress_fraction(self, batches: int) -> float:
        """Return the fraction of the training that is done, 0 to 1, after this number of batches since its start."""
        if self.settings.max_seconds is not None and self.timed:
            return min(1.0, self.trained_seconds / self.settings.max_seconds)
        return batches / (self.epochs * self.steps_per_epoch)

    @property
    def stalled(self) -> bool:
        """Whether PATIENCE epochs in a row brought no improvement."""
        return 0 < self.settings.patience <= self.epochs_without_gain

    @property
    def done(self) -> bool:
        """Whether the epochs or the seconds are over, PATIENCE is exhausted, or the observer ended the training."""
        return (
            self.ended_by_observer
            or self.stalled
            or (self.progress_fraction(0) >= 1 if self.timed else self.epoch >= self.epochs)
        )

    def epoch_label(self, epoch: int) -> str:
        """Return 'epoch 3/10', or 'epoch 3' if time ends the training."""
        if self.timed:
            return tr("epoch {number}", number=epoch + 1)
        return tr("epoch {number}/{count}", number=epoch + 1, count=self.epochs)

    # --- the loop ---

    def train_epoch(self) -> float:
        """Run the rest of the epoch and return its mean loss."""
        if self.step == 0:
            self.images, self.seconds = 0, 0.0
        elif self.timed and self.progress_fraction(0) >= 1:  # interrupted in the validation after it
            return self.mean_train_loss()
        self.start_epoch()
        start = time.perf_counter() - self.seconds
        label = tr("{epoch} train", epoch=self.epoch_label(self.epoch))
        for batch in progress(self.batches(), self.steps_per_epoch - self.step, label, tr("batches")):
            with defer_interrupt():  # a step is complete or not started
                self.step_incomplete = True
                self.images += self.train_step(self.epoch, self.step, batch)
                self.step, self.step_incomplete = self.step + 1, False
            self.seconds = self.synchronized_elapsed(time.perf_counter() - start)
            self.save_checkpoint_if_due()
            if self.timed and self.progress_fraction(0) >= 1:
                break
        loss = self.mean_train_loss()
        self.seconds = self.synchronized_elapsed(time.perf_counter() - start)
        return loss

    def end_epoch(self, loss: float, validation: Validation | None) -> None:
        """Add a finished epoch to the history, keep its model if it is the best, and save a checkpoint."""
        best = validation is not None and self.is_to_be_saved(validation)
        speed = self.images / max(self.seconds, 1e-9)
        result = EpochResult(self.epoch, loss, validation, self.seconds, speed, self.current_learning_rate(), best)
        with defer_interrupt():
            self.history.append(result)
            if best:
                self.save_best(result)
            self.epoch, self.step = self.epoch + 1, 0
            self.save_checkpoint()
        self.on_epoch_end(result)
        self.ask_observer()
        if self.stalled and validation is not None:
            notify(
                trn(
                    "no improvement for {count} epoch: training ends (PATIENCE={patience})",
                    "no improvement for {count} epochs: training ends (PATIENCE={patience})",
                    self.epochs_without_gain,
                    patience=self.settings.patience,
                )
            )

    def ask_observer(self) -> None:
        """Let the observer end the training after the last epoch."""
        if self.observer is not None and self.history:
            self.ended_by_observer = self.observer.ends_after(self.history)

    def save_checkpoint_if_due(self) -> None:
        """Save within an epoch every CHECKPOINT_MINUTES: an epoch of a large data set takes hours."""
        minutes = self.settings.checkpoint_minutes
        if 0 < minutes * 60 <= time.monotonic() - self.saved_at:
            with defer_interrupt():
                self.save_checkpoint()
            self.saved_at = time.monotonic()

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to resume from here, as plain values and tensors; subclasses add theirs."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "history": [dataclasses.asdict(result) for result in self.history],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore from `state()`; no other effect."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.images, self.seconds = state["images"], state["seconds"]
        self.history = [EpochResult.from_dict(result) for result in state["history"]]

    # --- defined by subclasses ---

    @abstractmethod
    def start_epoch(self) -> None:
        """Prepare for the batches of an epoch; `step` > 0: the rest of an interrupted one."""

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """Return the batches of this epoch from `step` on, in an order that depends on (seed, epoch)."""

    @abstractmethod
    def train_step(self, epoch: int, step: int, batch: Any) -> int:
        """Train on one batch; return its number of images."""

    @abstractmethod
    def synchronized_elapsed(self, seconds: float) -> float:
        """Return the seconds of this epoch so far, the same in all processes if time decides anything."""

    @abstractmethod
    def mean_train_loss(self) -> float:
        """Return the mean training loss of this epoch."""

    @abstractmethod
    def current_learning_rate(self) -> float:
        """Return the learning rate of the last step."""

    @abstractmethod
    def validate(self) -> Validation:
        """Measure the network on the validation split."""

    @abstractmethod
    def save_best(self, result: EpochResult) -> None:
        """Keep the network of this epoch, the best so far."""

    @abstractmethod
    def save_checkpoint(self) -> None:
        """Save `state()`, so that a killed run can be resumed."""

    @abstractmethod
    def on_epoch_end(self, result: EpochResult) -> None:
        """Report or record a finished epoch."""

    @abstractmethod
    def on_resume(self) -> None:
        """Check and report a restored state."""
