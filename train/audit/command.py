"""train.py --audit-labels: rank the masks that look wrong, and write a page to look at them; changes no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify
from dataset.data import SegmentationData
from segmentation.means import Coverage, format_mean
from segmentation.metrics import ConfusionMatrix
from train.audit.folds import FOLDS, assign_folds
from train.audit.predictions import OutOfFold, predict_out_of_fold
from train.audit.ranking import rank_masks
from train.audit.report import PAGE, TABLE, write_page, write_table


def audit_labels(settings: Settings, data: SegmentationData) -> Path:
    """Audit all masks of the data and return the directory of the results, `audit` beside MODEL_PATH. Raises UsageError.

    Finished folds are kept in the cache of LAKEFS_LOCAL_DIR.
    """
    if len(data.pairs) < 2 * FOLDS:
        raise UsageError(
            tr("--audit-labels needs at least {least} pairs, found {count}", least=2 * FOLDS, count=len(data.pairs))
        )
    groups = [pair.group for pair in data.pairs]
    fold_of = assign_folds([pair.name for pair in data.pairs], [group or "" for group in groups])
    predicted = predict_out_of_fold(settings, data, fold_of, settings.cache_dir / "audit")
    labels = np.stack([predicted.images.arrays(index)[1] for index in range(len(data.pairs))])
    _report_quality(data, labels, predicted)
    ranked = rank_masks(labels, predicted.probabilities, groups, data.classes)
    folder = settings.model_path.parent / "audit"
    write_table(folder / TABLE, data, ranked)
    shown = write_page(folder / PAGE, data, predicted, ranked)
    notify(
        tr(
            "{count} masks ranked, the first {shown} to look at: {page} (all of them: {table})",
            count=len(ranked),
            shown=shown,
            page=folder / PAGE,
            table=folder / TABLE,
        )
    )
    return folder


def _report_quality(
    data: SegmentationData, labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], predicted: OutOfFold
) -> None:
    """Report how well the models predict images that they have not seen: a list is only as good as they are."""
    import torch

    confusion = ConfusionMatrix(data.classes.num_classes)
    for index, mask in enumerate(labels):
        confusion.update(torch.from_numpy(predicted.probabilities[index].argmax(0)), torch.from_numpy(mask))
    mean = format_mean(confusion.miou, Coverage.of(confusion.iou()))
    notify(tr("out-of-fold predictions: mIoU {miou} (the better, the fewer right masks are suspected)", miou=mean))
