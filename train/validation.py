"""Validation of a model on a split during training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.i18n import tr
from core.reporting import progress
from segmentation.losses import SegmentationLoss
from segmentation.metrics import ConfusionMatrix
from segmentation.model import Model
from segmentation.preprocess import EVAL_BATCH, class_indices, native_logits
from segmentation.reliability.calibration import LogitSamples
from train.base_train import SMOKE_BATCHES, Validation
from train.loading import loader
from train.parallel import distributed


@torch.inference_mode()
def evaluate(
    model: Model,
    images: loader.SegmentationDataset,
    device: torch.device,
    criterion: SegmentationLoss,
    smoke: bool,
    counts: npt.NDArray[np.int64] | None = None,
    samples: LogitSamples | None = None,
) -> tuple[Validation, ConfusionMatrix, Tensor]:
    """Measure a model on a split at native size, in the batches that inference uses; `samples` takes logits of all images.

    Returns the metrics, the counts behind them, and the mIoU of each image, (N,) float64; NaN: not measured. The counts
    of this process's images are added to `counts`, (N, num_classes, num_classes).
    """
    model.network.eval()
    confusion = ConfusionMatrix(model.classes.num_classes)
    loss_sum, weight_sum = torch.zeros(2, device=device, dtype=torch.float64).unbind()
    batches = [list(range(i, min(i + EVAL_BATCH, len(images)))) for i in range(0, len(images), EVAL_BATCH)]
    batches = batches[:SMOKE_BATCHES] if smoke else batches
    own = distributed.shard(batches)
    indices = iter([index for batch in own for index in batch])
    scores = torch.zeros(len(images), dtype=torch.float64)
    for inputs, _, masks in progress(loader.load(images, own, 0), len(own), tr("validation"), tr("batches")):
        sizes = [(int(mask.shape[0]), int(mask.shape[1])) for mask in masks]
        results = native_logits(model.network, inputs, sizes, model.normalisation, device)
        for logits, mask in zip(results, masks, strict=True):
            labels = mask.to(device)
            of_image = ConfusionMatrix(model.classes.num_classes)
            of_image.update(class_indices(logits), labels)
            index = next(indices)
            confusion.counts += of_image.counts
            if counts is not None:
                counts[index] += of_image.counts
            scores[index] = of_image.miou if of_image.counts.any() else torch.nan
            if samples is not None:
                samples.add(index, logits, labels)
            loss, weight = criterion(logits[None], labels[None])
            loss_sum, weight_sum = loss_sum + loss * weight, weight_sum + weight
    distributed.all_sum(torch.from_numpy(confusion.counts))  # in place
    join_samples(samples)
    distributed.all_sum(scores)[sum(map(len, batches)) :] = torch.nan
    loss_sum, weight_sum = distributed.all_sum(torch.stack([loss_sum, weight_sum])).unbind()
    iou = dict(zip(model.classes.names, confusion.iou(), strict=True))
    mean = float(loss_sum / weight_sum.clamp_min(1e-6))
    return Validation(mean, confusion.accuracy, confusion.miou, iou), confusion, scores


def join_samples(samples: LogitSamples | None) -> None:
    """Add the pixels that the other processes took, in place."""
    if samples is not None:
        distributed.all_sum(samples.logits)
        distributed.all_sum(samples.marks)
