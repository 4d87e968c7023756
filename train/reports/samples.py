"""Validation images in the report: image, label, prediction and difference, with the IoU of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.i18n import tr
from core.pages.cards import Card, Gallery
from dataset.classes import ClassMap
from dataset.overlay import as_rgb, class_legend, difference, iou_legend, overlay, panel, wrong_legend
from segmentation.means import Coverage, format_mean
from segmentation.metrics import ConfusionMatrix
from segmentation.preprocess import class_indices, native_logits

if TYPE_CHECKING:
    from segmentation.model import Model
    from train.loading.loader import SegmentationDataset


def sample_gallery(model: Model, images: SegmentationDataset, indices: Sequence[int]) -> Gallery:
    """Return the cards of these images, the lowest mIoU first; IoU is measured at native size, as in validation."""
    title = tr(
        "Validation images, the lowest mIoU first ({shown} of {count})", shown=len(indices), count=len(images.pairs)
    )
    return gallery_of(sample_cards(model, images, indices), title, images.split.classes)


def sample_cards(model: Model, images: SegmentationDataset, indices: Sequence[int]) -> list[Card]:
    """Return the cards of these images, in their order."""
    return [_card(model, images, index) for index in indices]


def gallery_of(cards: Sequence[Card], title: str, classes: ClassMap) -> Gallery:
    """Return a gallery of cards, the lowest mIoU first."""
    return Gallery(
        "samples",
        title,
        sorted(cards, key=lambda card: card.value),
        classes.names,
        [*class_legend(classes), wrong_legend()],
        ("image", "prediction"),
        [("first", tr("lowest mIoU first")), ("name", tr("name"))],
    )


@torch.inference_mode()
def _card(model: Model, images: SegmentationDataset, index: int) -> Card:
    classes, device = images.split.classes, next(model.network.parameters()).device
    image, label, native = images.arrays(index)
    batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    confusion = ConfusionMatrix(classes.num_classes)
    (logits,) = native_logits(model.network, batch, [native.shape], model.normalisation, device)
    confusion.update(class_indices(logits).cpu(), torch.from_numpy(native.copy()))
    (logits,) = native_logits(model.network, batch, [label.shape], model.normalisation, device)
    predicted = class_indices(logits).to(torch.uint8).cpu().numpy()
    shown = as_rgb(image)
    iou = _iou_of_present(confusion, classes)
    return Card(
        images.pairs[index].name,
        [
            panel("image", tr("image"), shown),
            panel("label", tr("label"), overlay(shown, label, classes)),
            panel("prediction", tr("prediction"), overlay(shown, predicted, classes)),
            panel("difference", tr("difference"), difference(shown, label, predicted)),
        ],
        value=confusion.miou,
        class_values={str(number): value for number, value in iou.items()},
        score=f"mIoU {format_mean(confusion.miou, Coverage.of(confusion.iou()))}",
        legend=iou_legend(classes, iou),
        legend_lead="IoU",
    )


def _iou_of_present(confusion: ConfusionMatrix, classes: ClassMap) -> dict[int, float | None]:
    """Return index -> IoU of the classes in the label or the prediction; 0 for one that is only predicted."""
    hit, seen = np.diagonal(confusion.counts), confusion.counts.sum(0) + confusion.counts.sum(1)
    return {
        number: float(hit[number] / (seen[number] - hit[number]))
        for number in range(classes.num_classes)
        if seen[number]
    }
