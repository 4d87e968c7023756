"""Summarize checked data as text."""

from __future__ import annotations

from collections import Counter

from core.console import format_table
from core.i18n import tr
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.data import SegmentationData


def summary(data: SegmentationData) -> str:
    """Return layout, counts, sizes and the percentage of each class by split, as text of several lines."""
    splits = list(data.pixel_counts)
    counts = ", ".join(f"{split} {len(data.split(split))}" for split in splits)
    origin = CLASSES_FILE if data.class_file else tr("values of the masks")
    lines = [
        tr("layout: {layout}", layout=data.layout),
        tr("pairs: {counts} ({count} in all)", counts=counts, count=len(data.pairs)),
        tr("sizes (width x height): {data}", data=_format_sizes(data)),
        tr("classes: {num_classes} ({origin})", num_classes=data.classes.num_classes, origin=origin),
    ]
    if data.reading.value_ranges or data.reading.channels != 3:
        low, high = data.reading.value_range
        lines.insert(3, tr("bands: {bands} (values {low:g} to {high:g})", bands=data.bands, low=low, high=high))
    if data.unlisted:
        count = data.unlisted
        lines.append(tr("not used, because no split file lists them: {count} images", count=count))
    lines += ["", format_table(("id", tr("class"), *splits), _class_rows(data)), *_absent_classes(data)]
    return "\n".join(lines)


def _format_sizes(data: SegmentationData) -> str:
    sizes = Counter((pair.width, pair.height) for pair in data.pairs).most_common()
    shown = [f"{width}x{height}" + (f" ({count})" if len(sizes) > 1 else "") for (width, height), count in sizes]
    return abbreviate(shown, 4)


def _class_rows(data: SegmentationData) -> list[tuple[str, ...]]:
    """Return rows of (id, name, percentage in each split): of the labelled pixels, ignored ones of all pixels."""
    labelled = {split: sum(counts) for split, counts in data.pixel_counts.items()}
    rows: list[tuple[str, ...]] = []
    for index, (value, name) in enumerate(zip(data.classes.ids, data.classes.names, strict=True)):
        shares = (f"{counts[index] / labelled[split]:.2%}" for split, counts in data.pixel_counts.items())
        rows.append((str(value), name, *shares))
    if data.classes.ignore_ids:
        ids = abbreviate(data.classes.ignore_ids, 3)
        off = data.ignored_pixels
        ignored = (f"{off[split] / (off[split] + count):.2%}" for split, count in labelled.items())
        rows.append((ids, tr("(ignored, of all pixels)"), *ignored))
    return rows


def _absent_classes(data: SegmentationData) -> list[str]:
    """Return one line per split that lacks classes: such a class is excluded from that split's mIoU."""
    lines = []
    for split, counts in data.pixel_counts.items():
        names = [name for name, count in zip(data.classes.names, counts, strict=True) if not count]
        if names:
            lines.append(tr("classes absent from {split}: {names}", split=split, names=abbreviate(names)))
    return lines
