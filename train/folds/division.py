"""Division: the images of train and val in folds, and the data that the model of a fold is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from config import Settings
from core.i18n import tr
from core.reporting import progress
from dataset.classes import IGNORE_INDEX
from dataset.data import Pair, SegmentationData
from dataset.decoding.mask import read_mask
from dataset.faults import ABSENT_CLASS, FEW_GROUPS, SMALL_SPLIT, DataWarning
from dataset.splitting.fold_file import read_folds, write_folds
from dataset.splitting.folds import assign_folds, near_fold
from dataset.splitting.groups import Groups

ABOUT_VAL = frozenset({SMALL_SPLIT, ABSENT_CLASS, FEW_GROUPS})  # warnings about val as the judge: here train judges too
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """The pairs of train and val, by split and name, and the fold of each of them, from 1 to `count`.

    `pixels` are the labelled pixels of each pair, (pairs, num_classes), `ignored` the others, (pairs,). `dropped` has the
    pairs that the model of a fold must not be trained on though they are in another fold: frames beside its own.
    """

    data: SegmentationData
    pairs: tuple[Pair, ...]
    fold_of: tuple[int, ...]
    count: int
    pixels: Counts
    ignored: Counts
    dropped: Mapping[int, frozenset[int]]  # fold -> indices of pairs

    @property
    def folds(self) -> range:
        """The numbers of the folds."""
        return range(1, self.count + 1)

    def held_out(self, fold: int) -> list[int]:
        """Return the indices of the pairs of a fold."""
        return [index for index, number in enumerate(self.fold_of) if number == fold]

    def trained(self, fold: int) -> list[int]:
        """Return the indices of the pairs that the model of a fold is trained on."""
        dropped = self.dropped.get(fold, frozenset())
        return [index for index, number in enumerate(self.fold_of) if number != fold and index not in dropped]

    def data_of(self, fold: int) -> SegmentationData:
        """Return the data of a fold: its own pairs are 'val', those that its model is trained on 'train'."""
        return split_data(self.data, self.pairs, self.trained(fold), self.held_out(fold), self.pixels, self.ignored)

    def all_pixels(self) -> tuple[int, ...]:
        """Return the labelled pixels of each class in train and val."""
        return tuple(self.pixels.sum(0).tolist())


def split_data(
    data: SegmentationData,
    pairs: Sequence[Pair],
    train: Sequence[int],
    val: Sequence[int],
    pixels: Counts,
    ignored: Counts,
) -> SegmentationData:
    """Return data whose splits 'train' and 'val' are the pairs of these indices, and nothing else.

    `pixels` and `ignored` are counts of each pair. Warnings about the earlier val as the judge of a model are left out.
    """
    parts = {"train": list(train), "val": list(val)}
    return dataclasses.replace(
        data,
        pairs=tuple(dataclasses.replace(pairs[i], split=split) for split, part in parts.items() for i in part),
        pixel_counts={split: tuple(pixels[part].sum(0).tolist()) for split, part in parts.items()},
        ignored_pixels={split: int(ignored[part].sum()) for split, part in parts.items()},
        warnings=relevant_warnings(data),
    )


def relevant_warnings(data: SegmentationData) -> tuple[DataWarning, ...]:
    """Return the warnings of data without those about val as the judge of a model."""
    return tuple(w for w in data.warnings if not (w.split == "val" and w.kind in ABOUT_VAL))


def count_pixels(data: SegmentationData, pairs: Sequence[Pair]) -> tuple[Counts, Counts]:
    """Read the masks; return the pixels of each class, (pairs, num_classes), and the ignored ones, (pairs,)."""
    counts = np.zeros((len(pairs), IGNORE_INDEX + 1), np.int64)
    for index, pair in enumerate(progress(pairs, len(pairs), tr("counting pixels"), tr("masks"))):
        mask = data.source.read(pair.mask, pair.mask_sha256)
        labels = read_mask(mask, data.classes, data.reading, pair.page)
        counts[index] = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
    return counts[:, : data.classes.num_classes], counts[:, IGNORE_INDEX]


def divide(
    settings: Settings, data: SegmentationData, store: bool, earlier: Mapping[str, int] | None = None
) -> Division:
    """Divide train and val into FOLDS folds by the groups of the data; `store` the result beside the splits.

    Images keep the fold of `earlier` (SHA-256 of the image -> fold), else the stored one. Raises UsageError for fewer
    groups than folds.
    """
    assert settings.folds is not None
    count, pairs = settings.folds, (*data.split("train"), *data.split("val"))
    keys = [_key(data, pair) for pair in pairs]
    groups = _groups_of(data, keys)
    pixels, ignored = count_pixels(data, pairs)
    classes = {key: frozenset(np.flatnonzero(row).tolist()) for key, row in zip(keys, pixels, strict=True)}
    root = data.splits_root or data.root
    stored = read_folds(root, count)
    if earlier is not None:
        of_earlier = {key: earlier.get(pair.image_sha256) for key, pair in zip(keys, pairs, strict=True)}
        stored = {key: fold for key, fold in of_earlier.items() if fold is not None}
    folds = assign_folds(groups, classes, count, settings.seed, stored)
    if store:
        write_folds(root, count, folds)
    dropped = {}
    for fold in range(1, count + 1):
        near = near_fold(groups, folds, fold)
        dropped[fold] = frozenset(index for index, key in enumerate(keys) if key in near)
    return Division(data, pairs, tuple(folds[key] for key in keys), count, pixels, ignored, dropped)


def _key(data: SegmentationData, pair: Pair) -> str:
    return pair.name if data.groups is None else data.groups.key(pair.split, pair.name)


def _groups_of(data: SegmentationData, keys: Sequence[str]) -> Groups:
    """Return the groups of these pairs."""
    groups = data.groups or Groups("none", tr("each image on its own"), {})
    frames = {key: groups.frames[key] for key in keys if key in groups.frames}
    return dataclasses.replace(groups, of={key: groups.of.get(key, key) for key in keys}, frames=frames)
