"""ModelTrain: network, loss, optimiser, schedule and metrics; writes models/model.pth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import loader
from train.base_train import SMOKE_BATCHES, BaseTrain, EpochResult, Validation
from train.checkpoint import Model, save_model
from train.classes import IGNORE_INDEX
from train.dataset import DataSet
from train.metrics import ConfusionMatrix
from train.networks import build_network
from train.preprocess import EVAL_BATCH, Normalisation, choose_device, native_logits, to_input
from train.schedule import learning_rate
from utils.console import progress, say, t

WEIGHT_DECAY = 0.01
Batch = tuple[Tensor, Tensor, list[Tensor]]


@dataclass
class ModelTrain(BaseTrain):
    """Trains a network by name on the training split and keeps the weights of the best validation mIoU."""

    data: DataSet = field(kw_only=True)
    lineage: dict[str, str] = field(default_factory=dict)  # goes into the model file

    def prepare(self) -> None:
        """Choose device and working size from machine and data, read the pictures, build network and optimiser."""
        torch.manual_seed(self.settings.seed)
        self.device = choose_device(self.settings.device)
        self.size, reason = loader.working_size(self.data, self.settings.image_size)
        say(
            f"장치 {self.device}, 입력 크기 {self.size[0]}x{self.size[1]} ({reason})",
            f"device {self.device}, input size {self.size[0]}x{self.size[1]} ({reason})",
        )
        self.train_pictures = loader.Pictures(self.data.split("train"), self.data.classes, self.size, native=False)
        self.val_pictures = loader.Pictures(self.data.split("val"), self.data.classes, self.size, native=True)
        self.train_pictures.fill(t("학습 사진 읽기", "reading training pictures"))
        self.val_pictures.fill(t("검증 사진 읽기", "reading validation pictures"))
        self.normalisation: Normalisation = loader.measure_normalisation(self.train_pictures)
        self.weights = loader.class_weights(self.data.pixel_counts["train"]).to(self.device)
        network = build_network(self.settings.model, self.data.classes.num_classes)
        self.network: nn.Module = network.to(memory_format=torch.channels_last).to(
            self.device
        )  # 6 to 12 % faster on CPUs
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), self.settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.steps_per_epoch = len(self._order(0))
        parameters = sum(p.numel() for p in self.network.parameters())
        say(
            f"모델 {self.settings.model}: 파라미터 {parameters:,}개, 클래스 {self.data.classes.num_classes}개",
            f"model {self.settings.model}: {parameters:,} parameters, {self.data.classes.num_classes} classes",
        )

    @property
    def best_file(self) -> Path:
        """Where the best model so far is kept."""
        return self.settings.model_path

    def _order(self, epoch: int) -> list[list[int]]:
        order = loader.epoch_batches(len(self.train_pictures), self.settings.batch_size, self.settings.seed, epoch)
        return order[:SMOKE_BATCHES] if self.smoke else order

    def start_epoch(self, epoch: int) -> None:
        self.network.train()
        # Sums stay on the device: asking for a number in each step would make a GPU wait for the CPU.
        self.loss_sum, self.loss_weight = torch.zeros(2, device=self.device).unbind()

    def batches(self, epoch: int) -> Iterator[Batch]:
        return loader.load(self.train_pictures, self._order(epoch), self.settings.num_workers)

    def train_step(self, epoch: int, step: int, batch: Batch) -> int:
        images, masks = loader.augment(batch[0], batch[1], self.settings.seed, epoch, step)
        total = self.epochs * self.steps_per_epoch
        rate = learning_rate(epoch * self.steps_per_epoch + step, total, self.settings.learning_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        logits = self.network(to_input(images, self.normalisation, self.device))
        loss, weight = weighted_cross_entropy(logits, masks.to(self.device).long(), self.weights)
        self.optimiser.zero_grad(set_to_none=True)
        (loss / weight.clamp_min(1e-6)).backward()  # type: ignore[no-untyped-call]  # a batch without one labelled pixel has loss 0, not 0/0
        self.optimiser.step()
        self.loss_sum, self.loss_weight = self.loss_sum + loss.detach(), self.loss_weight + weight
        return len(images)

    def mean_train_loss(self) -> float:
        return float(self.loss_sum / self.loss_weight.clamp_min(1e-6))

    def current_learning_rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    def validate(self) -> Validation:
        validation, self.confusion = evaluate(self.model({}), self.val_pictures, self.device, self.weights, self.smoke)
        return validation

    def model(self, metrics: dict[str, float]) -> Model:
        """The network as it is now, with all that belongs to it."""
        return Model(
            network=self.network,
            architecture=self.settings.model,
            classes=self.data.classes,
            input_size=self.size,
            normalisation=self.normalisation,
            metrics=metrics,
            lineage=self.lineage,
        )

    def save_best(self, result: EpochResult) -> None:
        self.best_confusion = self.confusion
        metrics = {"best_val_miou": result.validation.miou, "best_val_accuracy": result.validation.accuracy}
        save_model(self.best_file, self.model(metrics))

    def on_epoch_end(self, result: EpochResult) -> None:
        """Print the epoch: one line of figures, one of each class's IoU; '*' marks the best so far."""
        v, mark = result.validation, "*" if result.best else " "
        head = t(f"에폭 {result.epoch + 1}/{self.epochs}", f"epoch {result.epoch + 1}/{self.epochs}")
        say(
            f"{head}  학습 손실 {result.train_loss:.4f}  검증 손실 {v.loss:.4f}  검증 정확도 {v.accuracy:.4f}  "
            f"검증 mIoU {v.miou:.4f}{mark}  {result.images_per_second:.1f} 장/s  lr {result.learning_rate:.2e}",
            f"{head}  train loss {result.train_loss:.4f}  val loss {v.loss:.4f}  val accuracy {v.accuracy:.4f}  "
            f"val mIoU {v.miou:.4f}{mark}  {result.images_per_second:.1f} images/s  lr {result.learning_rate:.2e}",
        )
        absent = t("없음", "absent")
        print(
            "    IoU  " + "  ".join(f"{k} {absent if i is None else f'{i:.3f}'}" for k, i in v.iou.items()), flush=True
        )


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Summed class-weighted cross-entropy and the summed weights that it is to be divided by; ignored pixels count in neither.

    logits (N,C,H,W) float32, labels (N,H,W) int64 with IGNORE_INDEX, weights (C,) float32.
    """
    loss = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum")
    known = labels[labels != IGNORE_INDEX]
    return loss, weights[known].sum()


@torch.inference_mode()
def evaluate(
    model: Model, pictures: loader.Pictures, device: torch.device, weights: Tensor, smoke: bool
) -> tuple[Validation, ConfusionMatrix]:
    """Measure a model on a split at native size, in the batches that inference has."""
    model.network.eval()
    confusion = ConfusionMatrix(model.classes.num_classes)
    loss_sum, weight_sum = torch.zeros(2, device=device, dtype=torch.float64).unbind()
    batches = [list(range(i, min(i + EVAL_BATCH, len(pictures)))) for i in range(0, len(pictures), EVAL_BATCH)]
    batches = batches[:SMOKE_BATCHES] if smoke else batches
    for images, _, masks in progress(
        loader.load(pictures, batches, 0), len(batches), t("검증", "validation"), "batches"
    ):
        sizes = [(int(mask.shape[0]), int(mask.shape[1])) for mask in masks]
        for logits, mask in zip(
            native_logits(model.network, images, sizes, model.normalisation, device), masks, strict=True
        ):
            labels = mask.to(device)
            confusion.update(logits.argmax(0), labels)
            loss, weight = weighted_cross_entropy(logits[None], labels[None].long(), weights)
            loss_sum, weight_sum = loss_sum + loss, weight_sum + weight
    iou = dict(zip(model.classes.names, confusion.iou(), strict=True))
    return Validation(float(loss_sum / weight_sum.clamp_min(1e-6)), confusion.accuracy, confusion.miou, iou), confusion
