"""Propose folds for small data sets, whose val is too small to judge a model by."""

from __future__ import annotations

from core.i18n import tr
from dataset.data import SegmentationData

FEW_IMAGES = 100  # in train and val
FOLDS, LEAST_FOLDS = 5, 3


def propose_folds(data: SegmentationData) -> str | None:
    """Return a line that proposes --folds, for fewer than FEW_IMAGES images; None for more, or for too few groups."""
    pairs = (*data.split("train"), *data.split("val"))
    groups = len({pair.group or f"{pair.split}/{pair.name}" for pair in pairs})
    folds = min(FOLDS, groups)
    if len(pairs) >= FEW_IMAGES or folds < LEAST_FOLDS:
        return None
    return tr(
        "images in train and val: {count}: python train.py --folds {folds} judges a model by all of them, not by the "
        "{val} of val",
        count=len(pairs),
        folds=folds,
        val=len(data.split("val")),
    )
