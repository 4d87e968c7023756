"""ModelTrain: network, loss, optimiser, schedule and metrics; keeps the best model and the checkpoint in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from config import pictures_folder
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify, progress
from dataset.layout import DataSet
from segmentation.losses import SegmentationLoss, class_weights
from segmentation.metrics import ConfusionMatrix
from segmentation.model_file import Model, save_model
from segmentation.networks import build_network, published_normalisation
from segmentation.preprocess import EVAL_BATCH, choose_device, class_indices, native_logits, to_input
from train import auto_settings, distributed
from train.base_train import SMOKE_BATCHES, BaseTrain, Diverged, EpochResult, Validation
from train.checkpoint import save_checkpoint
from train.loading import loader
from train.loading.augmentation import STRENGTHS, augment
from train.optim.ema import AveragedWeights
from train.optim.schedule import learning_rate
from train.reports.history import HISTORY_FILE, write_history
from train.resume import CHECKPOINT_FILE

if TYPE_CHECKING:
    from segmentation.model_file import Model

    pass

WEIGHT_DECAY = 0.01
SAMPLES = 6  # validation images that the report shows, of each kind
CHECK_STEPS = 50  # between two looks at whether the loss is still a number
T = TypeVar("T")
Batch = tuple[Tensor, Tensor, list[Tensor]]


@dataclass
class ModelTrain(BaseTrain):
    """Trains a network by name on the training split and keeps the weights of the best validation mIoU."""

    data: DataSet = field(kw_only=True)
    lineage: dict[str, str] = field(default_factory=dict)  # goes into the model file

    def prepare(self) -> None:
        """Read the pictures, build network, loss and optimiser; what the settings leave open comes from data and machine."""
        torch.manual_seed(self.settings.seed)
        self.device = choose_device(self.settings.device)
        if self.device.type == "cuda" and distributed.world_size() > 1:
            self.device = torch.device("cuda", distributed.local_rank())
            torch.cuda.set_device(self.device)
        self.chosen: dict[str, str] = {"device": str(self.device)}
        self.prepare_data()
        self.prepare_network()
        self.steps_per_epoch = len(self._order(0))
        self.best_confusion: ConfusionMatrix | None = None
        self.best_scores: Tensor | None = None
        self.zero_sums()

    def prepare_data(self) -> None:
        """The pictures of both splits at working size, and what they say about normalisation and class weights."""
        s, data = self.settings, self.data
        self.size = self.choose(tr("input size"), "image_size", auto_settings.working_size(data, s.image_size))
        self.crop = s.crop_size or self.size
        self.train_pictures = loader.Pictures(data.split("train"), data.classes, self.size, native=False)
        self.val_pictures = loader.Pictures(data.split("val"), data.classes, self.size, native=True)
        limit = s.picture_cache_gb * 1e9
        loader.decode_once(pictures_folder(s), limit, self.train_pictures, self.val_pictures)
        published = published_normalisation(s.pretrained)
        self.normalisation = published or loader.measure_normalisation(self.train_pictures)
        weights, reason = class_weights(s.class_weights, data.pixel_counts["train"])
        self.criterion = SegmentationLoss(s.loss, weights).to(self.device)
        shown = " ".join(f"{weight:.2f}" for weight in weights)
        self.choose(tr("class weights"), "class_weights", (shown, reason))

    def prepare_network(self) -> None:
        """The network, its average, and the optimiser."""
        s = self.settings
        network = build_network(s.model, self.data.classes.num_classes, s.pretrained)
        # One batch for all processes, and for a resumed run too, whatever memory each finds.
        chosen_batch = distributed.share(
            lambda: auto_settings.batch_size(s.batch_size, network, self.crop, self.device)
        )
        self.batch_size = self.choose(tr("batch size"), "batch_size", chosen_batch)
        distributed.require_room(self.batch_size)
        self.choose_augmentation(network)
        chosen_rate = auto_settings.peak_rate(s.learning_rate, s.model, s.pretrained)
        self.peak_rate = self.choose(tr("peak learning rate"), "learning_rate", chosen_rate)
        chosen_precision = auto_settings.precision(s.precision, self.device)
        self.precision = self.choose(tr("precision"), "precision", chosen_precision)
        # channels_last: 6 to 12 % faster on CPUs, and what tensor cores want
        self.network: nn.Module = network.to(memory_format=torch.channels_last).to(self.device)
        self.parallel = self._in_parallel()
        self.average = AveragedWeights(self.network, s.ema) if s.ema else None
        fused = self.device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), self.peak_rate, weight_decay=WEIGHT_DECAY, fused=fused
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        parameters = sum(p.numel() for p in self.network.parameters())
        notify(
            tr(
                "model {model}: {parameters:,} parameters, {num_classes} classes, device {device}",
                model=s.model,
                parameters=parameters,
                num_classes=self.data.classes.num_classes,
                device=self.device,
            )
        )

    def choose_augmentation(self, network: nn.Module) -> None:
        """The more often each picture is seen, the stronger; how often is known or, where time ends it, estimated."""
        s, passes = self.settings, float(self.epochs)
        if s.augmentation == "auto" and self.timed and s.max_seconds is not None:
            own = -(-self.batch_size // distributed.world_size())
            step = distributed.share(lambda: auto_settings.step_seconds(network, own, self.crop, self.device))
            passes = s.max_seconds / step * self.batch_size / len(self.train_pictures)
        chosen = auto_settings.augmentation(s.augmentation, passes)
        self.augmentation = self.choose(tr("augmentation"), "augmentation", chosen)

    def choose(self, name: str, key: str, choice: tuple[T, str]) -> T:
        """Say and remember what was chosen and why; returns it."""
        value, reason = choice
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")
        print(f"{name}: {shown} ({reason})", flush=True)
        self.chosen[key] = shown
        return value

    @property
    def run_folder(self) -> Path:
        """Where the files of this training are kept."""
        return self.settings.model_path.parent

    @property
    def best_file(self) -> Path:
        """The best model so far; named by its epoch, so that it stays until a checkpoint knows the next one."""
        return self.run_folder / f"best-{self.best.epoch}.pth"

    @property
    def checkpoint_file(self) -> Path:
        """Where training stands."""
        return self.run_folder / CHECKPOINT_FILE

    def _in_parallel(self) -> nn.Module:
        """The network as it is called in training: with several processes, one that averages their gradients."""
        if self.settings.sync_batchnorm and self.device.type != "cuda":
            raise UsageError(tr("SYNC_BATCHNORM works on GPUs only"))
        if distributed.world_size() == 1:
            return self.network
        if self.settings.sync_batchnorm:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Before each step all take the main process's buffers: so its checkpoint is the whole state.
        return nn.parallel.DistributedDataParallel(self.network, device_ids=ids)

    def _order(self, epoch: int) -> list[list[int]]:
        """The batches of all processes together; each takes its part of every one, so that their number changes no step."""
        least = 2 * distributed.world_size()
        order = loader.epoch_batches(len(self.train_pictures), self.batch_size, self.settings.seed, epoch, least)
        return order[:SMOKE_BATCHES] if self.smoke else order

    def start_epoch(self) -> None:
        self.network.train()
        if self.step == 0:
            self.zero_sums()

    def zero_sums(self) -> None:
        """Sums stay on the device: asking for a number in each step would make a GPU wait for the CPU."""
        self.loss_sum, self.loss_weight = torch.zeros(2, device=self.device).unbind()
        self.first_bad = torch.tensor(math.inf, device=self.device)

    def batches(self) -> Iterator[Batch]:
        self.order = self._order(self.epoch)
        mine = [distributed.part(batch) for batch in self.order[self.step :]]
        return loader.load(self.train_pictures, mine, self.settings.num_workers, pinned=self.device.type == "cuda")

    def train_step(self, epoch: int, step: int, batch: Batch) -> int:
        s, done = self.settings, epoch * self.steps_per_epoch + step + 1
        own_step = step * distributed.world_size() + distributed.rank()  # no two processes draw the same
        torch.manual_seed(_step_seed(s.seed, epoch, own_step))  # dropout
        random = np.random.default_rng((s.seed, epoch, own_step, 1))
        # On a GPU, too, pictures are changed where they are trained on: as bytes they are the fastest to bring there.
        images, masks = (tensor.to(self.device, non_blocking=True) for tensor in batch[:2])
        images, masks = augment(images, masks, STRENGTHS[self.augmentation], self.crop, random)
        inputs = to_input(images, self.normalisation, self.device)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.parallel(inputs)
        part, mean, weight = _of_all(*self.criterion(_float(outputs), masks))
        self.scaler.scale(part / s.accumulate).backward()  # type: ignore[no-untyped-call]
        if (step + 1) % s.accumulate == 0 or step + 1 == self.steps_per_epoch:
            self.optimiser_step(done)
        self.note_loss(mean, weight, step)
        return len(self.order[step])

    def optimiser_step(self, done: int) -> None:
        """Use the gradients of the batches so far; `done` is the number of batches since the beginning."""
        rate = learning_rate(self.share(done), self.peak_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if self.settings.clip_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(-(-done // self.settings.accumulate))

    def note_loss(self, loss: Tensor, weight: Tensor, step: int) -> None:
        """Add to the epoch's mean, and remember the first step whose loss is no number.

        All of it stays on the device: asking for a number in each step would make a GPU wait for the CPU.
        """
        self.loss_sum, self.loss_weight = self.loss_sum + loss * weight, self.loss_weight + weight
        self.first_bad = torch.minimum(self.first_bad, torch.where(loss.isfinite(), math.inf, float(step)))
        if (step + 1) % CHECK_STEPS == 0:
            self.require_finite()

    def require_finite(self) -> None:
        """Raise Diverged that names the first step of this epoch whose loss was no number."""
        step = float(self.first_bad)
        if step < math.inf:
            epoch = len(self.history) + 1
            raise Diverged(
                tr(
                    "epoch {epoch}, batch {step:.0f}: the loss is not finite: lower LEARNING_RATE (now {peak_rate})",
                    epoch=epoch,
                    step=step + 1,
                    peak_rate=self.peak_rate,
                )
            )

    def agreed_seconds(self, seconds: float) -> float:
        # By clocks of their own, processes would have different learning rates and numbers of steps.
        return distributed.share(lambda: seconds) if self.timed else seconds

    def mean_train_loss(self) -> float:
        self.require_finite()
        return float(self.loss_sum / self.loss_weight.clamp_min(1e-6))

    def current_learning_rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    def validate(self) -> Validation:
        model = self.model({})
        for buffer in model.network.buffers() if distributed.world_size() > 1 else ():
            torch.distributed.broadcast(buffer, src=0)
        validation, self.confusion, self.scores = evaluate(
            model, self.val_pictures, self.device, self.criterion, self.smoke
        )
        return validation

    def worst_indices(self) -> list[tuple[int, float]]:
        """Validation pictures that the best model predicts worst, with the mIoU of each, worst first."""
        if self.best_scores is None:
            return []
        measured = int(self.best_scores.isfinite().sum())
        scores, indices = self.best_scores.nan_to_num(2.0).sort(stable=True)
        return list(zip(indices.tolist(), scores.tolist(), strict=True))[: min(SAMPLES, measured)]

    def worst(self) -> list[tuple[str, float]]:
        """Their names, with the mIoU of each."""
        return [(self.val_pictures.pairs[index].name, score) for index, score in self.worst_indices()]

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": [p.grad for p in self.network.parameters()],  # between two batches of one step (ACCUMULATE)
            "sums": [self.loss_sum, self.loss_weight, self.first_bad],
            "best_scores": self.best_scores,
            "best_confusion": None if self.best_confusion is None else torch.from_numpy(self.best_confusion.counts),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.network.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        for parameter, gradient in zip(self.network.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device)
        self.loss_sum, self.loss_weight, self.first_bad = (value.to(self.device) for value in state["sums"])
        self.best_scores = state["best_scores"]
        if state["best_confusion"] is not None:
            self.best_confusion = ConfusionMatrix(self.data.classes.num_classes)
            self.best_confusion.counts += state["best_confusion"].numpy()
        if not distributed.is_main():
            return
        write_history(self.run_folder / HISTORY_FILE, self.history)
        if self.history and not self.best_file.exists():
            raise AppError(
                tr(
                    "no {best_file}: the best model that the checkpoint names is needed to go on",
                    best_file=self.best_file,
                )
            )

    def save_checkpoint(self) -> None:
        """Replace the checkpoint; then the best models before the one that it names are of no use."""
        if not distributed.is_main():
            return
        save_checkpoint(self.checkpoint_file, {"run": self.run_record(), "state": self.state()})
        for file in self.run_folder.glob("best-*.pth"):
            if self.history and file != self.best_file:
                file.unlink()

    def settled(self) -> dict[str, Any]:
        """The settings that decide the result, with what was chosen from memory and speed of this machine."""
        return {**self.settings.of_the_result(), "batch_size": self.batch_size, "augmentation": self.augmentation}

    def run_record(self) -> dict[str, Any]:
        """What a checkpoint says of its run."""
        return {"settings": self.settled(), "classes": self.data.classes.to_dict()}

    def model(self, metrics: dict[str, float]) -> Model:
        """The network as it is now, or its average, with all that belongs to it."""
        return Model(
            network=self.average.network if self.average else self.network,
            architecture=self.settings.model,
            classes=self.data.classes,
            input_size=self.size,
            normalisation=self.normalisation,
            metrics=metrics,
            lineage=self.lineage,
            scale=auto_settings.working_scale(self.data, self.size),
        )

    def save_best(self, result: EpochResult) -> None:
        self.best_confusion, self.best_scores = self.confusion, self.scores
        if not distributed.is_main():
            return
        metrics = {"best_val_miou": result.validation.miou, "best_val_accuracy": result.validation.accuracy}
        save_model(self.best_file, self.model(metrics))

    def on_epoch_end(self, result: EpochResult) -> None:
        """Print the epoch: one line of figures, one of each class's IoU; '*' marks the best so far. All go into history.csv."""
        if not distributed.is_main():
            return
        write_history(self.run_folder / HISTORY_FILE, self.history)
        v, mark = result.validation, "*" if result.best else " "
        head = self.epoch_label(result.epoch)
        notify(
            tr(
                "{head}  train loss {train_loss:.4f}  val loss {loss:.4f}  val accuracy "
                "{accuracy:.4f}  val mIoU {miou:.4f}{mark}  {images_per_second:.1f} images/s  lr "
                "{learning_rate:.2e}",
                head=head,
                train_loss=result.train_loss,
                loss=v.loss,
                accuracy=v.accuracy,
                miou=v.miou,
                mark=mark,
                images_per_second=result.images_per_second,
                learning_rate=result.learning_rate,
            )
        )
        absent = tr("absent")
        print(
            "    IoU  " + "  ".join(f"{k} {absent if i is None else f'{i:.3f}'}" for k, i in v.iou.items()), flush=True
        )


def _step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of torch's own generators in one step: what they draw must not depend on what was drawn before a kill."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])


def _of_all(loss: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This process's part of the loss, to be differentiated; the mean loss over all processes, and their summed weight.

    DistributedDataParallel takes the mean of all gradients: with each part weighed by its share of the weight, that mean
    is the gradient of one large batch (exactly so for the cross-entropies; dice is a mean of the processes' own).
    """
    if distributed.world_size() == 1:
        return loss, loss.detach(), weight
    summed, total = distributed.all_sum(torch.stack([loss.detach() * weight, weight])).unbind()
    total = total.clamp_min(1e-6)
    return loss * weight * distributed.world_size() / total, summed / total, total


def _float(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    """Logits in float32, for the loss."""
    return outputs.float() if isinstance(outputs, Tensor) else (outputs[0].float(), outputs[1].float())


@torch.inference_mode()
def evaluate(
    model: Model, pictures: loader.Pictures, device: torch.device, criterion: SegmentationLoss, smoke: bool
) -> tuple[Validation, ConfusionMatrix, Tensor]:
    """Measure a model on a split at native size, in the batches that inference has.

    Returns the figures, the counts behind them, and the mIoU of each picture by itself, (N,) float64; NaN: not measured.
    """
    model.network.eval()
    confusion = ConfusionMatrix(model.classes.num_classes)
    loss_sum, weight_sum = torch.zeros(2, device=device, dtype=torch.float64).unbind()
    batches = [list(range(i, min(i + EVAL_BATCH, len(pictures)))) for i in range(0, len(pictures), EVAL_BATCH)]
    batches = batches[:SMOKE_BATCHES] if smoke else batches
    mine = distributed.part(batches)
    indices, scores = (
        iter([index for batch in mine for index in batch]),
        torch.zeros(len(pictures), dtype=torch.float64),
    )
    for images, _, masks in progress(loader.load(pictures, mine, 0), len(mine), tr("validation"), tr("batches")):
        sizes = [(int(mask.shape[0]), int(mask.shape[1])) for mask in masks]
        for logits, mask in zip(
            native_logits(model.network, images, sizes, model.normalisation, device), masks, strict=True
        ):
            labels = mask.to(device)
            own = ConfusionMatrix(model.classes.num_classes)
            own.update(class_indices(logits), labels)
            confusion.counts += own.counts
            scores[next(indices)] = own.miou if own.counts.any() else torch.nan
            loss, weight = criterion(logits[None], labels[None])
            loss_sum, weight_sum = loss_sum + loss * weight, weight_sum + weight
    distributed.all_sum(torch.from_numpy(confusion.counts))  # in place
    distributed.all_sum(scores)[sum(map(len, batches)) :] = torch.nan
    loss_sum, weight_sum = distributed.all_sum(torch.stack([loss_sum, weight_sum])).unbind()
    iou = dict(zip(model.classes.names, confusion.iou(), strict=True))
    mean = float(loss_sum / weight_sum.clamp_min(1e-6))
    return Validation(mean, confusion.accuracy, confusion.miou, iou), confusion, scores
