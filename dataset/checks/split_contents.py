"""Check whether the splits have what metrics need: enough images, and pixels of every class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from core.i18n import tr
from dataset.checks.inspection import Inspection
from dataset.checks.masks.values import count_values
from dataset.classes import ClassMap, abbreviate
from dataset.faults import (
    ABSENT_CLASS,
    FEW_GROUPS,
    GROUPS_TO_DECIDE,
    SMALL_SPLIT,
    SMALL_SPLIT_IMAGES,
    DataWarning,
)
from dataset.layout.layout import FLAT, Layout
from dataset.layout.survey import find_split_like
from dataset.pair_reading import PairContent


def check_split_sizes(contents: Iterable[PairContent]) -> Iterator[DataWarning]:
    """Yield a warning for a validation or test split of few images."""
    counts = Counter(content.candidate.split for content in contents)
    for split in ("val", "test"):
        count = counts[split]
        if 1 <= count <= SMALL_SPLIT_IMAGES:
            text = tr(
                "images in {split}: {count}, so its metrics say little about other images "
                "(label more images, or assign more than {least} of them to {split})",
                split=split,
                count=count,
                least=SMALL_SPLIT_IMAGES,
            )
            yield DataWarning(SMALL_SPLIT, text, split)


def check_decidable(inspection: Inspection) -> Iterator[DataWarning]:
    """Yield a warning if val has so few groups, or images without groups, that a gain on it may be chance."""
    classes, groups = inspection.classes, inspection.groups
    val = [content for content in inspection.contents if content.candidate.split == "val"]
    if classes is None:
        return
    known = set(classes.ids)
    labelled = [content.candidate for content in val if known & count_values(content, classes).keys()]
    count = len({(groups and groups.group_of(item.split, item.name)) or item.name for item in labelled})
    if 0 < count < GROUPS_TO_DECIDE:
        yield DataWarning(FEW_GROUPS, describe_few_groups(len(val), count), "val")


def describe_few_groups(images: int, groups: int) -> str:
    """Return what too few groups in val mean for the promotion of a model, and what to do."""
    return tr(
        "images in val: {images}, groups among them: {count}; register_model.py needs {least} to tell a better model "
        "from chance: it will keep the first champion and print the command that promotes another one all the same "
        "(to let it decide, assign more images to val)",
        images=images,
        count=groups,
        least=GROUPS_TO_DECIDE,
    )


def check_split_directories(layout: Layout, own: bool) -> Iterator[DataWarning]:
    """Yield a warning for directories of splits that do not decide: there are split files, or names are unclear.

    `own` is whether this project makes the split: of unclear names, the user's own split files leave nothing open.
    """
    if layout.unused_split_directories:
        file, images = f"{layout.splits_root}splits/", layout.directories()[0]
        text = tr(
            "{images} has directories of splits, but {file} decides: delete {file} to use the directories",
            images=images,
            file=file,
        )
        yield DataWarning("unused-split-directories", text)
    elif own and layout.kind == FLAT and (found := find_split_like([*layout.images(""), *layout.masks("")])):
        images, masks = layout.directories()
        text = tr(
            "{images} has directories that may be splits ({names}), but they are read as parts of names and all images "
            "are split anew, so that held-out images may be trained on (if they are splits, call them train, val and "
            "test in {images} and in {masks}, and delete {file} if it exists)",
            images=images,
            names=abbreviate(found, 4),
            masks=masks,
            file=f"{layout.splits_root}splits/",
        )
        yield DataWarning("split-like-directories", text)


def check_absent_classes(counts: Mapping[str, Mapping[int, int]], classes: ClassMap) -> Iterator[DataWarning]:
    """Yield a warning for each split that lacks classes, from split -> mask value -> pixels.

    Such a class is excluded from that split's mIoU. A class that no split has is another warning.
    """
    labelled = {value for counted in counts.values() for value, pixels in counted.items() if pixels}
    for split, counted in counts.items():
        pairs = zip(classes.ids, classes.names, strict=True)
        absent = [name for value, name in pairs if value in labelled and not counted.get(value)]
        if absent:
            text = tr("classes absent from {split}: {names}", split=split, names=abbreviate(absent))
            yield DataWarning(ABSENT_CLASS, text, split)
