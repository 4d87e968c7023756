"""The test split: measured once, with the saved model, after everything was decided on the validation split."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify
from segmentation.losses import SegmentationLoss
from segmentation.means import format_mean
from segmentation.model import Model
from segmentation.model_file import load_model
from train.base_train import Validation
from train.loading.loader import SegmentationDataset
from train.parallel import distributed
from train.validation import evaluate


def measure_test(
    best_file: Path, current: Model, images: SegmentationDataset, criterion: SegmentationLoss, smoke: bool
) -> Validation:
    """Return the metrics of the saved model on the test split, as inference computes them. All processes take part.

    `current` is the model of this process, on the device that measures.
    """
    device = next(current.network.parameters()).device
    return evaluate(_best_model(best_file, current, device), images, device, criterion, smoke)[0]


def _best_model(file: Path, current: Model, device: torch.device) -> Model:
    """Load the saved model; under torchrun the other processes, which may have no such file, get its weights."""
    if distributed.is_main():
        model = load_model(file, file_sha256(file), device)
    else:
        model = dataclasses.replace(current, network=copy.deepcopy(current.network))
    if distributed.world_size() > 1:
        weights = {name: value.cpu() for name, value in model.network.state_dict().items()}
        model.network.load_state_dict(distributed.broadcast_from_main(lambda: weights))
    return model


def report_splits(best_epoch: int, measured: Mapping[str, Validation]) -> None:
    """Report the metrics of the saved model on each split; `best_epoch` counts from 1."""
    notify(tr("saved model (epoch {epoch}):", epoch=best_epoch))
    for split, result in measured.items():
        mean = format_mean(result.miou, result.coverage)
        notify(tr("  {split}: accuracy {accuracy:.4f}, mIoU {miou}", split=split, accuracy=result.accuracy, miou=mean))
