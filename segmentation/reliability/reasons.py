"""Why an image is taken for unlike those of the training, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.i18n import mark, tr
from segmentation.reliability.drift import Drift
from segmentation.reliability.statistics import REASONS

TEXTS = {
    "brightness": mark("brightness"),
    "contrast": mark("contrast"),
    "dark": mark("dark pixels"),
    "saturated": mark("saturated pixels"),
    "colour": mark("difference of the bands"),
    "detail": mark("detail or noise"),
    "size": mark("image size"),
    "aspect": mark("aspect ratio"),
    "layout": mark("arrangement of light and dark"),
    "combination": mark("combination of colours and brightness"),
    "features": mark("content (features of the network)"),
}


def describe_reasons(reasons: Iterable[str]) -> str:
    """Return reasons, as they are recorded, in the current language."""
    return ", ".join(tr(TEXTS[reason]) if reason in TEXTS else reason for reason in reasons)


def count_reasons(found: Sequence[Iterable[str]]) -> dict[str, int]:
    """Return how many images have each reason, the most frequent one first."""
    counts = {reason: sum(reason in reasons for reasons in found) for reason in REASONS}
    return {reason: count for reason, count in sorted(counts.items(), key=lambda item: -item[1]) if count}


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return 'brightness 2, image size 1'."""
    return ", ".join(f"{describe_reasons([reason])} {count}" for reason, count in counts.items())


def drift_record(drift: Drift) -> dict[str, object]:
    """Return what a record says of an image; a score above 1 is flagged."""
    return {"flagged": drift.flagged, "score": round(drift.score, 4), "reasons": list(drift.reasons)}
