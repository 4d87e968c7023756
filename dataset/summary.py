"""Summarize checked data as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.console import format_size, format_table
from core.figures import format_share
from core.i18n import tr
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.data import SegmentationData
from dataset.faults import LeftOut
from dataset.sources.files import FileSource
from dataset.splitting.groups import Groups

_NAMES = 4  # of the files that are left out for one reason, unless all are listed


def summary(data: SegmentationData, list_all: bool = False) -> str:
    """Return layout, counts, sizes, the percentage of each class by split, warnings, and what is left out, as text.

    With `list_all`, every file that is left out is listed with its size; otherwise a few of them for each reason.
    """
    splits = list(data.pixel_counts)
    counts = ", ".join(f"{split} {len(data.split(split))}" for split in splits)
    origin = CLASSES_FILE if data.class_file else tr("values of the masks")
    lines = [
        tr("layout: {layout}", layout=data.layout),
        tr("pairs: {counts} ({count} in all)", counts=counts, count=len(data.pairs)),
        tr("sizes (width x height): {data}", data=_format_sizes(data)),
        tr("classes: {num_classes} ({origin})", num_classes=data.classes.num_classes, origin=origin),
    ]
    if data.groups is not None:
        lines.append(_format_groups(data.groups))
    if data.reading.value_ranges or data.reading.channels != 3:
        low, high = data.reading.value_range
        lines.insert(3, tr("bands: {bands} (values {low:g} to {high:g})", bands=data.bands, low=low, high=high))
    lines += ["", format_table(("id", tr("class"), *splits), _class_rows(data))]
    lines += [tr("warning: {text}", text=warning.text) for warning in data.warnings]
    lines += _describe_promotion(data)
    if data.left_out:
        lines += [
            "",
            *([list_left_out(data.root, data.source, data.left_out)] if list_all else _abbreviate_left_out(data)),
        ]
    return "\n".join(lines)


def _describe_promotion(data: SegmentationData) -> list[str]:
    """Return what the registration of a model will say because of val, so that nobody is surprised by it."""
    lines = []
    if any(warning.counts_against("val") for warning in data.warnings):
        lines.append(
            tr("because of the warnings about val, register_model.py makes a champion only with --accept-warnings")
        )
    return lines


def _format_groups(groups: Groups) -> str:
    """Return which images stay together in a split, and why, in one line."""
    if groups.rule == "none":
        return tr("groups: none ({reason})", reason=groups.reason)
    return tr("groups: {count} ({reason})", count=groups.count, reason=groups.reason)


def _abbreviate_left_out(data: SegmentationData) -> list[str]:
    """Return a line for each reason why files are left out, and how to see all of them if some are not named."""
    by_reason: dict[str, list[str]] = {}
    for item in data.left_out:
        by_reason.setdefault(item.reason, []).append(item.file)
    lines = [
        tr(
            "files left out: {count} ({reason}): {names}",
            count=len(names),
            reason=reason,
            names=abbreviate(names, _NAMES),
        )
        for reason, names in by_reason.items()
    ]
    if any(len(names) > _NAMES for names in by_reason.values()):
        lines.append(
            tr("all files left out: python train.py --check-only, with the --data-dir or --data-ref of this command")
        )
    return lines


def list_left_out(root: Path, source: FileSource, left_out: Sequence[LeftOut]) -> str:
    """Return the table of all files that are versioned but not part of the data set, with their sizes."""
    sizes = [source.size(root / item.file) for item in left_out]
    rows = [(item.file, format_size(size), item.reason) for item, size in zip(left_out, sizes, strict=True)]
    count, size = len(sizes), format_size(sum(sizes))
    head = tr("files versioned but not part of the data set: {count}, {size} in total", count=count, size=size)
    table = format_table((tr("file"), tr("size"), tr("reason")), rows)
    return f"{head}\n\n{table}"


def _format_sizes(data: SegmentationData) -> str:
    sizes = Counter((pair.width, pair.height) for pair in data.pairs).most_common()
    shown = [f"{width}x{height}" + (f" ({count})" if len(sizes) > 1 else "") for (width, height), count in sizes]
    return abbreviate(shown, 4)


def _class_rows(data: SegmentationData) -> list[tuple[str, ...]]:
    """Return rows of (id, name, percentage in each split): of the labelled pixels, ignored ones of all pixels."""
    labelled = {split: sum(counts) for split, counts in data.pixel_counts.items()}
    rows: list[tuple[str, ...]] = []
    for index, (value, name) in enumerate(zip(data.classes.ids, data.classes.names, strict=True)):
        shares = (format_share(counts[index] / labelled[split]) for split, counts in data.pixel_counts.items())
        rows.append((str(value), name, *shares))
    if data.classes.ignore_ids:
        ids = abbreviate(data.classes.ignore_ids, 3)
        off = data.ignored_pixels
        ignored = (format_share(off[split] / (off[split] + count)) for split, count in labelled.items())
        rows.append((ids, tr("(ignored, of all pixels)"), *ignored))
    return rows
