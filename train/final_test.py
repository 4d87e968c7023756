"""The saved model at the end of a training, when everything was decided on the validation split."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch

from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify
from segmentation.means import format_mean
from segmentation.model import Model
from segmentation.model_file import load_model
from train.base_train import Validation
from train.parallel import distributed


def load_best(file: Path, current: Model, device: torch.device) -> Model:
    """Load the saved model; under torchrun the other processes, which may have no such file, get its weights."""
    if distributed.is_main():
        model = load_model(file, file_sha256(file), device)
    else:
        model = dataclasses.replace(current, network=copy.deepcopy(current.network))
    if distributed.world_size() > 1:
        weights = {name: value.cpu() for name, value in model.network.state_dict().items()}
        model.network.load_state_dict(distributed.broadcast_from_main(lambda: weights))
    return model


def report_splits(best_epoch: int, val: Validation, test: Validation | None) -> None:
    """Report the metrics of the saved model on each split; `best_epoch` counts from 1."""
    notify(tr("saved model (epoch {epoch}):", epoch=best_epoch))
    for split, result in (("val", val), ("test", test)):
        if result is not None:
            mean = format_mean(result.miou, result.coverage)
            notify(
                tr("  {split}: accuracy {accuracy:.4f}, mIoU {miou}", split=split, accuracy=result.accuracy, miou=mean)
            )
