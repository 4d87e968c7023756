"""The table of the slices on which two models were compared: of the console and of compare.html."""

from __future__ import annotations

from collections.abc import Iterable

from core.console import format_table
from core.figures import format_confidence, format_figure, format_gain
from core.i18n import tr
from versioning.provenance.verdict import MIN_SLICE_GROUPS, SliceGain


def slice_head(before: str, after: str, confidence: float) -> list[str]:
    """Return the headers; `before` and `after` name the models, and `confidence` is that of all intervals together."""
    interval = tr("interval ({confidence} for all together)", confidence=format_confidence(confidence))
    return [tr("slice"), tr("image count"), tr("group count"), before, after, tr("gain"), interval]


def slice_rows(slices: Iterable[SliceGain]) -> list[list[str]]:
    """Return a row for each slice."""
    return [
        [
            one.label,
            str(one.images),
            str(one.groups),
            format_figure(one.champion),
            format_figure(one.champion + one.gain),
            format_gain(one.gain),
            _interval(one),
        ]
        for one in slices
    ]


def _interval(one: SliceGain) -> str:
    if one.interval is not None:
        low, high = map(format_gain, one.interval)
        return f"[{low}, {high}]" + (tr(" worse") if one.degraded else "")
    return tr("too few groups") if one.groups < MIN_SLICE_GROUPS else tr("all images")


def slice_table(slices: Iterable[SliceGain], before: str, after: str, confidence: float) -> str:
    """Return the table for the console."""
    return format_table(slice_head(before, after, confidence), slice_rows(slices))
