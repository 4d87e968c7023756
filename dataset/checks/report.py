"""Report a data check as plain values, for `train.py --check-only --json`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from dataset.checks.inspection import Inspection
from dataset.directory import SPLITS


def report(inspection: Inspection) -> dict[str, Any]:
    """Return what is known of the data; with faults, of the files that could be read.

    Keys: layout (one line), splits (split -> pairs), size (distinct [width, height], most frequent first), bands,
    range ([lowest, highest] value), classes (id, name, color and share of the labelled pixels of each split), groups,
    left_out, faults and warnings.
    """
    contents = inspection.contents
    counts = Counter(content.candidate.split for content in contents)
    sizes = Counter(content.image_size for content in contents if content.image_size is not None)
    groups = inspection.groups
    return {
        "layout": inspection.layout.describe() if inspection.layout is not None else "",
        "splits": {split: counts[split] for split in SPLITS if counts[split]},
        "size": [[width, height] for (height, width), _ in sizes.most_common()],
        "bands": inspection.bands,
        "range": list(inspection.reading.value_range),
        "classes": _classes(inspection),
        "groups": {
            "rule": groups.rule if groups is not None else "none",
            "count": groups.count if groups is not None else len(contents),
        },
        "left_out": [asdict(item) for item in sorted(inspection.left_out)],
        "faults": [asdict(fault) for fault in sorted(set(inspection.faults))],
        "warnings": [{"kind": warning.kind, "text": warning.text} for warning in inspection.warnings],
    }


def _classes(inspection: Inspection) -> list[dict[str, Any]]:
    """Return the classes that are not ignored, with their share of the labelled pixels of each split."""
    classes = inspection.classes
    if classes is None:
        return []
    counts = inspection.class_counts()
    labelled = {split: sum(counted[value] for value in classes.ids) for split, counted in counts.items()}
    return [
        {
            "id": value,
            "name": name,
            "color": list(color),
            "share": {split: counts[split][value] / total if total else 0.0 for split, total in labelled.items()},
        }
        for value, name, color in zip(classes.ids, classes.names, classes.colors, strict=True)
    ]
