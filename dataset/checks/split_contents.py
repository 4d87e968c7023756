"""Check whether the splits have what metrics need: enough images, and pixels of every class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from core.i18n import tr
from dataset.classes import ClassMap, abbreviate
from dataset.faults import ABSENT_CLASS, SMALL_SPLIT, SMALL_SPLIT_IMAGES, DataWarning
from dataset.layout.layout import Layout
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


def check_split_directories(layout: Layout) -> Iterator[DataWarning]:
    """Yield a warning for directories of splits that do not decide, because there are split files."""
    if layout.unused_split_directories:
        file, images = f"{layout.splits_root}splits/", layout.directories()[0]
        text = tr(
            "{images} has directories of splits, but {file} decides: delete {file} to use the directories",
            images=images,
            file=file,
        )
        yield DataWarning("unused-split-directories", text)


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
