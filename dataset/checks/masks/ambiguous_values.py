"""Find mask values that can mean different things: greys for the eye, blended outlines, files that disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import pairwise

from core.i18n import tr, trn
from dataset.checks.masks.blends import check_interpolation
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.faults import Fault
from dataset.pair_reading import PairContent

MAX_VALUES = 64  # distinct values that still look like classes
WIDE_GAP = 32  # between neighbouring values that were drawn to be seen
NEAR_WHITE = 224  # from here on a value beside 255 is a white that has changed
EVEN_GAP = 8  # the same for values at equal distances


def check_ambiguous_values(contents: Collection[PairContent]) -> list[Fault]:
    """Return faults of masks whose values cannot be taken as class ids without a classes.json."""
    checks = (check_interpolation, _check_near_white, _check_high_values, _check_spaced_greys)
    return next((faults for check in checks if (faults := check(contents))), [])


def check_lossy(content: PairContent) -> list[Fault]:
    """Return a fault for a mask with lossy compression, unless black and white have survived it."""
    mask = content.mask
    if mask is None or not mask.lossy or len(mask.values) == 1 or set(mask.values) <= {0, 255}:
        return []
    expected = tr("a mask without lossy compression")
    values = abbreviate(mask.values, 4)
    found = tr(
        "{count} values with JPEG artefacts ({values}): store masks as PNG", count=len(mask.values), values=values
    )
    return [Fault(content.candidate.mask, expected, found)]


def _check_near_white(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault for each mask with values just below 255, where masks have 255 too: traces of a lossy copy."""
    if not any(255 in (content.values or ()) for content in contents):
        return []
    faults = []
    for content in contents:
        near = [value for value in content.values or () if NEAR_WHITE <= value < 255]
        if near:
            expected = tr("class ids, or white as 255 alone")
            found = tr("{values}: saved as JPEG before, or interpolated? apply a threshold", values=abbreviate(near, 4))
            faults.append(Fault(content.candidate.mask, expected, found))
    return faults


def _check_high_values(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault if some masks have 255 where others have another value: it may be a class or ignored."""
    low, high, other = None, None, 0
    for content in contents:
        values = set(content.values or ()) if content.mask is not None and not content.mask.bilevel else set()
        if 255 in values and values - {0, 255}:
            return []  # both in one mask: 255 marks ignored pixels
        if values == {0, 255}:
            high, other = high or content, other + 1
        elif values - {0, 255}:
            low = low or content
    if high is None or low is None:
        return []
    expected = tr(
        "values as in {file} ({values}), or a {classes_file} that names 255",
        file=low.candidate.mask,
        values=abbreviate(low.values or (), 4),
        classes_file=CLASSES_FILE,
    )
    found = trn(
        "0 and 255, as in {count} mask: a class, or ignored?",
        "0 and 255, as in {count} masks: a class, or ignored?",
        other,
    )
    return [Fault(high.candidate.mask, expected, found)]


def _check_spaced_greys(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault for widely spaced greys up to 255, which look like classes: 255 would be ignored."""
    counts: Counter[int] = Counter()
    for content in contents:
        if content.mask is not None and not content.mask.bilevel:
            counts.update(content.mask.values)
    values = sorted(counts)
    gaps = [b - a for a, b in pairwise(values)]
    if 255 not in counts or len(values) < 3:
        return []
    if min(gaps) < WIDE_GAP and not (min(gaps) >= EVEN_GAP and max(gaps) - min(gaps) <= 1):
        return []
    entries = ", ".join(f'{{"id": {value}, "name": "..."}}' for value in values[:8])
    expected = tr("a {classes_file} that names the values: [{entries}]", classes_file=CLASSES_FILE, entries=entries)
    share = counts[255] / counts.total()
    found = tr(
        "values {values}: is 255 ({share:.1%} of the pixels) a class, or ignored?",
        values=abbreviate(values),
        share=share,
    )
    return [Fault("masks/", expected, found)]
