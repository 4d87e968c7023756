"""Out-of-fold probabilities: each image is predicted by a model that was trained on the other folds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from config import Settings
from core.console import format_size
from core.errors import UsageError
from core.files import atomic_replace
from core.i18n import tr, trn
from core.reporting import notify, progress
from core.safety.private_files import make_directory
from dataset.data import Pair, SegmentationData
from segmentation.losses import TAKEN_BACK
from segmentation.preprocess import EVAL_BATCH, native_logits
from train.audit.folds import FOLDS
from train.base_train import EpochResult
from train.folds.division import count_pixels, split_data
from train.loading import loader
from train.model_train import ModelTrain
from train.reports.epoch_lines import report_epoch
from train.setup import TrainingSetup, prepare_training

MEMBERS = 2  # models per fold: their mean has fewer confident errors than one model that trains twice as long

Probabilities = npt.NDArray[np.float16]


class FoldTrain(ModelTrain):
    """Trains the model of one fold to its end: nothing is chosen on the images that it will judge, and nothing kept."""

    @property
    def best(self) -> EpochResult:
        return self.history[-1]

    def is_to_be_validated(self) -> bool:
        return False

    def save_checkpoint(self) -> None:
        pass

    def measure_best(self) -> None:
        pass

    def on_epoch_end(self, result: EpochResult) -> None:
        report_epoch(self.epoch_label(result.epoch), result)


@dataclass(frozen=True)
class OutOfFold:
    """The audited pairs with their images and masks at working size, and what the models of the other folds predict.

    `images` reads item i as (image (H,W,3) uint8, mask (H,W) uint8 class indices, 255: ignored). `probabilities` is
    (N, num_classes, H, W) float16, a memory map.
    """

    images: loader.SegmentationDataset
    probabilities: Probabilities


def predict_out_of_fold(settings: Settings, data: SegmentationData, fold_of: Sequence[int], cache: Path) -> OutOfFold:
    """Train MEMBERS models for each fold and predict the images of that fold by their mean. Raises AppError.

    The predictions of a model are stored in `cache` when it is finished, under a hash of all that decides them: an
    interrupted audit goes on with the next model, and a second audit of unchanged data only reads.
    """
    make_directory(cache)
    parts: list[tuple[list[int], list[Path]]] = []
    for fold in range(FOLDS):
        held_out = [index for index, number in enumerate(fold_of) if number == fold]
        files = []
        for member in range(MEMBERS):
            notify(
                trn(
                    "fold {number} of {folds}, model {member} of {members}: {count} image",
                    "fold {number} of {folds}, model {member} of {members}: {count} images",
                    len(held_out),
                    number=fold + 1,
                    folds=FOLDS,
                    member=member + 1,
                    members=MEMBERS,
                )
            )
            seeded = dataclasses.replace(settings, seed=settings.seed + member)
            files.append(_member(seeded, data, fold_of, fold, cache))
        parts.append((held_out, files))
    size = np.load(parts[0][1][0], mmap_mode="r").shape[-2:]
    return OutOfFold(_images(settings, data, size), _joined(parts, len(data.pairs), cache))


def _member(settings: Settings, data: SegmentationData, fold_of: Sequence[int], fold: int, cache: Path) -> Path:
    """Return the file of the predictions of one model for the images of a fold, after training it where it is missing."""
    file = cache / f"fold-{_key(settings, data, fold_of, fold)}.npy"
    if file.exists():
        notify(tr("predicted by an earlier audit: {file}", file=file))
    else:
        _train_fold(settings, data, fold_of, fold, file)
    return file


def _train_fold(settings: Settings, data: SegmentationData, fold_of: Sequence[int], fold: int, file: Path) -> None:
    trained, held_out = (
        [index for index, number in enumerate(fold_of) if (number == fold) == own] for own in (False, True)
    )
    counts = count_pixels(data, data.pairs)
    setup = prepare_training(settings, split_data(data, data.pairs, trained, held_out, *counts))
    needed = len(setup.val_images) * data.classes.num_classes * setup.size[0] * setup.size[1] * 2
    needed *= MEMBERS + 1  # the joined file needs as much as the predictions of one model
    if (free := shutil.disk_usage(file.parent).free) < needed:
        raise UsageError(
            tr(
                "{folder}: {need} needed for the predictions, {free} free: choose a smaller --image-size",
                folder=file.parent,
                need=format_size(needed),
                free=format_size(free),
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        training = FoldTrain(setup, Path(folder))
        training.fit()
    with atomic_replace(file) as part, part.open("wb") as stream:
        np.save(stream, _predict(training, setup))


@torch.inference_mode()
def _predict(training: FoldTrain, setup: TrainingSetup) -> Probabilities:
    """Return the probabilities (n, num_classes, H, W) float16 of the held-out images at working size.

    They are the mean of those of the image and of its mirror image.
    """
    model, images = training.model({}), setup.val_images
    model.network.eval()
    batches = [list(range(i, min(i + EVAL_BATCH, len(images)))) for i in range(0, len(images), EVAL_BATCH)]
    predicted = np.empty((len(images), setup.data.classes.num_classes, *setup.size), np.float16)
    for batch, (inputs, _, _) in zip(
        progress(batches, len(batches), tr("predict"), tr("batches")), loader.load(images, batches, 0), strict=True
    ):
        both = (
            native_logits(model.network, view, [setup.size] * len(batch), setup.normalisation, setup.device)
            for view in (inputs, inputs.flip(-1))
        )
        for index, image, mirrored in zip(batch, *both, strict=True):
            pair = (logits.softmax(0) for logits in (image, mirrored.flip(-1)))
            predicted[index] = (sum(pair) / 2).half().cpu().numpy()
    return predicted


def _joined(parts: Sequence[tuple[list[int], list[Path]]], count: int, cache: Path) -> Probabilities:
    """Return the means over the models of each fold as one array in the order of the pairs.

    It is memory-mapped over an unnamed file in `cache`.
    """
    shape = (count, *np.load(parts[0][1][0], mmap_mode="r").shape[1:])
    with tempfile.TemporaryFile(dir=cache) as stream:
        joined: Any = np.memmap(stream, np.float16, "w+", shape=shape)
    for indices, files in parts:
        members = [np.load(file, mmap_mode="r") for file in files]
        for index, *items in zip(indices, *members, strict=True):
            joined[index] = np.mean(items, axis=0, dtype=np.float32)
    return np.asarray(joined)


def _images(settings: Settings, data: SegmentationData, size: tuple[int, int]) -> loader.SegmentationDataset:
    images = loader.SegmentationDataset(data.pairs, data.classes, size, False, data.reading, data.source)
    room = settings.picture_cache_gb * 1e9 - loader.downloaded_bytes(data, settings.cache_dir)
    loader.attach_decoded_cache(settings.decoded_dir, room, images)
    return images


def _key(settings: Settings, data: SegmentationData, fold_of: Sequence[int], fold: int) -> str:
    """Return a hash of everything that decides the predictions of a fold, besides the code."""

    def digest(pair: Pair) -> tuple[str, str]:
        return pair.image_sha256, pair.mask_sha256

    held_out = [digest(pair) for pair, number in zip(data.pairs, fold_of, strict=True) if number == fold]
    trained = [digest(pair) for pair, number in zip(data.pairs, fold_of, strict=True) if number != fold]
    parts = [TAKEN_BACK, settings.reproducible_settings(), data.classes.to_dict(), held_out, trained]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]
