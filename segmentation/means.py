"""The text of a mean over classes; it says how many classes it is of, wherever it is shown."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from core.figures import format_figure
from core.i18n import tr


class Coverage(NamedTuple):
    """How many classes of the data occur in a split; the others are left out of its mean. As text: '9/11'."""

    present: int
    total: int

    def __str__(self) -> str:
        return f"{self.present}/{self.total}"

    @staticmethod
    def of(iou: Collection[float | None]) -> Coverage:
        """Return the coverage of the IoU of all classes; None where a class is absent."""
        return Coverage(sum(value is not None for value in iou), len(iou))

    @staticmethod
    def parse(text: str | None) -> Coverage | None:
        """Return the coverage of a stored '9/11'; None where an older version stored nothing."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text or "")
        return Coverage(int(match[1]), int(match[2])) if match else None


def format_mean(mean: float, coverage: Coverage | None) -> str:
    """Return a mean over classes as '0.5412', or '0.5412 (9 of 11 classes)' if classes are absent; None: not known."""
    text = format_figure(mean)
    if coverage is None or coverage.present == coverage.total:
        return text
    return tr("{mean} ({present} of {total} classes)", mean=text, present=coverage.present, total=coverage.total)


def english_mean(mean: float, coverage: Coverage) -> str:
    """Return a mean as `format_mean` does, but in English: for stored texts, and plots whose fonts lack other letters."""
    suffix = "" if coverage.present == coverage.total else f" ({coverage.present} of {coverage.total} classes)"
    return format_figure(mean) + suffix


def classes_tag(split: str) -> str:
    """Return the key under which runs, versions and commits store the coverage of a split: 'val_classes'."""
    return f"{split}_classes"


def split_of_metric(metric: str) -> str:
    """Return the split of a metric of runs: 'test' of test_miou, 'oof' (out of fold) of oof_miou, else 'val'."""
    return next((split for split in ("test", "oof") if metric.startswith(split)), "val")


def format_metric(metric: str, value: float, stored: Mapping[str, str]) -> str:
    """Return a metric of runs, such as best_val_miou, with its coverage from the `stored` tags if it is a mean."""
    return format_mean(value, _coverage_of(metric, stored))


def format_cell(metric: str, value: float, stored: Mapping[str, str]) -> str:
    """Return a metric of runs for a table, where its coverage is '0.5412 (9/11)'."""
    coverage = _coverage_of(metric, stored)
    text = format_mean(value, None)
    return text if coverage is None or coverage.present == coverage.total else f"{text} ({coverage})"


def _coverage_of(metric: str, stored: Mapping[str, str]) -> Coverage | None:
    return Coverage.parse(stored.get(classes_tag(split_of_metric(metric)))) if "miou" in metric else None
