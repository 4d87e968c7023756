"""ModelTrain: network, loss, optimizer, schedule and metrics; keeps the best model and the checkpoint in the run's folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import AppError
from core.i18n import tr
from segmentation.metrics import ConfusionMatrix
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.preprocess import to_input
from segmentation.reliability.calibration import LogitSamples
from segmentation.tiles.out_of_memory import memory_error
from train import auto_settings
from train.base_train import BaseTrain, Diverged, EpochResult, TrainingObserver, Validation, best_of
from train.checkpoint import save_checkpoint
from train.final_test import load_best, report_splits
from train.loading import loader
from train.loading.augmentation import STRENGTHS, augment
from train.optim.ema import AveragedWeights
from train.optim.groups import SHARE, load_optimizer
from train.optim.optimizer import build_optimizer
from train.optim.schedule import batches_of_step, learning_rate
from train.optim.step import as_float, seed_dropout, step_seed
from train.parallel import distributed
from train.reliability.calibration import Calibration, calibrate, report_calibration
from train.reports.epoch_lines import report_epoch
from train.reports.history import HISTORY_FILE, write_history
from train.resume import CHECKPOINT_FILE, require_scaler
from train.setup import TrainingSetup
from train.tracking.result import VAL, split_metrics
from train.validation import evaluate

FINITE_CHECK_STEPS = 50  # steps between two checks that the loss is finite


class ModelTrain(BaseTrain):
    """Trains the network of a setup and keeps the weights of the best validation mIoU."""

    judge = VAL  # what the saved metrics are of

    def __init__(self, setup: TrainingSetup, run_folder: Path, lineage: dict[str, str] | None = None) -> None:
        """Build optimizer and averages; `lineage` is stored in the model file, files are written to `run_folder`."""
        super().__init__(setup.settings, setup.epochs, len(setup.epoch_batches(0)), setup.smoke, setup.validate_every)
        self.setup, self.run_folder, self.lineage = setup, run_folder, lineage or {}
        self.device = setup.device
        # channels_last: 6 to 12 % faster on CPUs, and what tensor cores need
        self.network: nn.Module = setup.network.to(memory_format=torch.channels_last).to(self.device)
        self.parallel = self._wrap_parallel()
        self.average = AveragedWeights(self.network, self.settings.ema) if self.settings.ema else None
        self.optimizer = build_optimizer(self.network, setup.peak_rate, setup.encoder_share, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=setup.precision == torch.float16)
        self.order: list[list[int]] = []  # the batches of the current epoch
        self.reset_running_loss()
        self.confusion: ConfusionMatrix | None = None  # of the last validation
        self.scores: Tensor | None = None  # mIoU of each validation image, (N,) float64
        self.best_confusion: ConfusionMatrix | None = None
        self.best_scores: Tensor | None = None
        self.test: Validation | None = None  # of the best model, at the end
        self.calibration: Calibration | None = None  # likewise

    def fit(self, resume_from: dict[str, Any] | None = None, observer: TrainingObserver | None = None) -> EpochResult:
        """Train to the end, measure the best model on the test split once, and return the best epoch.

        Raises AppError when the memory of the device runs out.
        """
        try:
            best = super().fit(resume_from, observer)
        except Exception as error:
            raise memory_error(error, self._smaller()) from error
        self.kept = observer is None or observer.keeps(best)
        if self.kept:
            self.measure_best()
        return best

    def measure_best(self) -> None:
        """Calibrate the best model on val, and measure it on the test split; each once, also if a kill comes between."""
        setup = self.setup
        if self.calibration is None:  # else restored from a checkpoint
            best = load_best(self.best_file, self.model({}), self.device)
            self.calibration = calibrate(self.best_file, best, setup.train_images, setup.val_images, self.smoke)
            self.save_checkpoint()
        if setup.test_images is not None and self.test is None:
            best = load_best(self.best_file, self.model({}), self.device)
            samples = LogitSamples(len(setup.test_images), setup.data.classes.num_classes)
            self.test = evaluate(best, setup.test_images, self.device, setup.criterion, self.smoke, samples=samples)[0]
            self.calibration = self.calibration.with_test(samples)
            self.save_checkpoint()
        if distributed.is_main():
            report_splits(self.best.number, self.best.val, self.test)
            report_calibration(self.calibration)

    def _smaller(self) -> str:
        """Return the options that need less memory for a step."""
        if self.setup.batch_size > 1:
            return f"--batch-size {self.setup.batch_size // 2}"
        height, width = (side // 2 for side in self.setup.crop)
        return f"--crop-size {height} {width}"

    # --- files ---

    @property
    def best_file(self) -> Path:
        """The best model so far; named by its epoch, so that it stays until a checkpoint knows the next one."""
        return self.run_folder / f"best-epoch-{self.best.number}.pth"

    @property
    def checkpoint_file(self) -> Path:
        """The checkpoint of this training."""
        return self.run_folder / CHECKPOINT_FILE

    # --- training ---

    def _wrap_parallel(self) -> nn.Module:
        """Return the network as it is called in training: with several processes, one that averages their gradients."""
        if distributed.world_size() == 1:
            return self.network
        if self.settings.sync_batchnorm:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Before each step all processes take the main one's buffers, so its checkpoint is the complete state.
        return nn.parallel.DistributedDataParallel(self.network, device_ids=ids)

    def start_epoch(self) -> None:
        self.network.train()
        self.setup.plan_reads(self.epoch)
        if self.step == 0:
            self.reset_running_loss()

    def reset_running_loss(self) -> None:
        """Start the sums of an epoch."""
        # They stay on the device: reading a number in each step would make a GPU wait for the CPU.
        self.loss_sum, self.loss_weight = torch.zeros(2, device=self.device).unbind()
        self.first_nonfinite_step = torch.tensor(math.inf, device=self.device)

    def batches(self) -> Iterator[loader.Batch]:
        self.order = self.setup.epoch_batches(self.epoch)
        own = [distributed.shard(batch) for batch in self.order[self.step :]]
        pinned = self.device.type == "cuda"
        return loader.load(self.setup.train_images, own, self.settings.num_workers, pinned=pinned)

    def train_step(self, epoch: int, step: int, batch: loader.Batch) -> int:
        setup, done = self.setup, epoch * self.steps_per_epoch + step + 1
        own_step = step * distributed.world_size() + distributed.rank()  # no two processes draw the same numbers
        seed_dropout(step_seed(self.settings.seed, epoch, own_step), self.device)
        random = np.random.default_rng((self.settings.seed, epoch, own_step, 1))
        # Images are augmented on the training device: as bytes they are the fastest to copy there.
        images, masks = (tensor.to(self.device, non_blocking=True) for tensor in batch[:2])
        images, masks = augment(images, masks, STRENGTHS[setup.augmentation], setup.crop, random, setup.crops_on_labels)
        inputs = to_input(images, setup.normalisation, self.device)
        with torch.autocast(self.device.type, setup.precision, enabled=setup.precision != torch.float32):
            outputs = self.parallel(inputs)
        part, mean, weight = distributed.all_reduce_loss(*setup.criterion(as_float(outputs), masks))
        batches = batches_of_step(step, self.steps_per_epoch, self.settings.accumulate)
        self.scaler.scale(part / batches).backward()  # type: ignore[no-untyped-call]
        if (step + 1) % self.settings.accumulate == 0 or step + 1 == self.steps_per_epoch:
            self.optimizer_step(done)
        self.accumulate_loss(mean, weight, step)
        return len(self.order[step])

    def optimizer_step(self, done: int) -> None:
        """Apply the gradients of the batches so far; `done` is the number of batches since the start."""
        rate = learning_rate(self.progress_fraction(done), self.setup.peak_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[SHARE]
        if self.settings.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(-(-done // self.settings.accumulate))

    def accumulate_loss(self, loss: Tensor, weight: Tensor, step: int) -> None:
        """Add to the epoch's mean, and remember the first step whose loss is not finite; all on the device."""
        self.loss_sum, self.loss_weight = self.loss_sum + loss * weight, self.loss_weight + weight
        this_step = torch.where(loss.isfinite(), math.inf, float(step))
        self.first_nonfinite_step = torch.minimum(self.first_nonfinite_step, this_step)
        if (step + 1) % FINITE_CHECK_STEPS == 0:
            self.require_finite_loss()

    def require_finite_loss(self) -> None:
        """Raise Diverged that names the first step of this epoch whose loss was not finite."""
        step = float(self.first_nonfinite_step)
        if step < math.inf:
            raise Diverged(
                tr(
                    "epoch {epoch}, batch {batch:.0f}: the loss is not finite: lower LEARNING_RATE (now {peak_rate})",
                    epoch=len(self.history) + 1,
                    batch=step + 1,
                    peak_rate=self.setup.peak_rate,
                )
            )

    def synchronized_elapsed(self, seconds: float) -> float:
        # With clocks of their own, processes would have different learning rates and numbers of steps.
        return distributed.broadcast_from_main(lambda: seconds) if self.timed else seconds

    def mean_train_loss(self) -> float:
        self.require_finite_loss()
        return float(self.loss_sum / self.loss_weight.clamp_min(1e-6))

    def current_learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    # --- validation and the best model ---

    def validate(self) -> Validation:
        model = self.model({})
        for buffer in model.network.buffers() if distributed.world_size() > 1 else ():
            torch.distributed.broadcast(buffer, src=0)
        validation, self.confusion, self.scores = evaluate(
            model, self.setup.val_images, self.device, self.setup.criterion, self.smoke
        )
        return validation

    def model(self, metrics: dict[str, float]) -> Model:
        """Return the current network, or its average, with everything that belongs to it."""
        setup = self.setup
        return Model(
            network=self.average.network if self.average else self.network,
            architecture=self.settings.model,
            classes=setup.data.classes,
            input_size=setup.size,
            normalisation=setup.normalisation,
            metrics=metrics,
            lineage=self.lineage,
            scale=auto_settings.working_scale(setup.data, setup.size),
            reading=setup.data.reading,
            warnings=setup.data.warnings,
        )

    def save_best(self, result: EpochResult) -> None:
        self.best_confusion, self.best_scores = self.confusion, self.scores
        if not distributed.is_main():
            return
        save_model(self.best_file, self.model(split_metrics(result.val, None, self.judge)))

    def on_epoch_end(self, result: EpochResult) -> None:
        """Report the epoch: a line of metrics and one of each class's IoU, if it was measured; '*' marks the best so far."""
        if not distributed.is_main():
            return
        write_history(self.run_folder / HISTORY_FILE, self.history)
        report_epoch(self.epoch_label(result.epoch), result)

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "optimiser": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": [p.grad for p in self.network.parameters()],  # between two batches of one step (ACCUMULATE)
            "sums": [self.loss_sum, self.loss_weight, self.first_nonfinite_step],
            "best_scores": self.best_scores,
            "test": None if self.test is None else dataclasses.asdict(self.test),
            "calibration": None if self.calibration is None else self.calibration.state(),
            "best_confusion": None if self.best_confusion is None else torch.from_numpy(self.best_confusion.counts),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.network.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimiser"])
        require_scaler(state["scaler"], self.scaler.is_enabled(), self.setup.resolved["precision"])
        self.scaler.load_state_dict(state["scaler"])
        for parameter, gradient in zip(self.network.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device)
        self.loss_sum, self.loss_weight, self.first_nonfinite_step = (v.to(self.device) for v in state["sums"])
        self.best_scores = state["best_scores"]
        # Missing in older checkpoints:
        self.test = Validation(**state["test"]) if state.get("test") else None
        self.calibration = Calibration.from_state(state["calibration"]) if state.get("calibration") else None
        if state["best_confusion"] is not None:
            self.best_confusion = ConfusionMatrix(self.setup.data.classes.num_classes)
            self.best_confusion.counts += state["best_confusion"].numpy()

    def on_resume(self) -> None:
        """Write the history again; raise AppError if the best model that the checkpoint names is missing.

        A best model of an earlier version gets today's name.
        """
        if not distributed.is_main():
            return
        write_history(self.run_folder / HISTORY_FILE, self.history)
        if not any(result.best for result in self.history):
            return
        earlier = self.run_folder / f"best-{self.best.epoch}.pth"  # the name in versions that counted epochs from 0
        if earlier.exists() and not self.best_file.exists():
            earlier.rename(self.best_file)
        if not self.best_file.exists():
            raise AppError(
                tr(
                    "{file} is missing: the best model that the checkpoint names is needed to resume",
                    file=self.best_file,
                )
            )

    def run_record(self) -> dict[str, Any]:
        """Return what a checkpoint says of its run."""
        # Another device would decide on another precision, in the middle of a training.
        settings = {**self.setup.resolved_settings(), "precision": self.setup.resolved["precision"]}
        return {"settings": settings, "classes": self.setup.data.classes.to_dict(), "device": self.device.type}

    def save_checkpoint(self) -> None:
        """Replace the checkpoint; remove the best models that it no longer names."""
        if not distributed.is_main():
            return
        save_checkpoint(self.checkpoint_file, {"run": self.run_record(), "state": self.state()})
        kept = self.best_file if best_of(self.history) else None
        for file in self.run_folder.glob("best-*.pth") if kept else ():
            if file != kept:
                file.unlink()
