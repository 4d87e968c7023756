"""Find mask values that can mean different things: greys for the eye, blended outlines, files that disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import pairwise

from core.i18n import tr, trn
from dataset.checks.masks.blends import check_interpolation
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.decoding.mask_facts import MaskFacts
from dataset.faults import Fault
from dataset.pair_reading import PairContent

MAX_VALUES = 64  # distinct values that still look like classes
WIDE_GAP = 32  # between neighbouring values that were drawn to be seen
NEAR_WHITE = 224  # from here on a value beside 255 is a white that has changed
EVEN_GAP = 8  # the same for values at equal distances
VISIBLE = 100  # the highest of the values that were drawn to be seen is at least this; ids that large are rare
FAR_ABOVE = 8  # times the number of other values: the highest of them is no id in a row
WHITE_SHARE, WHITE_AREAS = 0.05, 0.3  # of the pixels are 255, and of these inside areas: more than a border
LARGE_SHARE = 0.2  # of the pixels are 255: more than borders of any form


def check_ambiguous_values(contents: Collection[PairContent]) -> list[Fault]:
    """Return faults of masks whose values cannot be taken as class ids without a classes.json."""
    checks = (
        check_interpolation,
        _check_near_white,
        _check_two_numberings,
        _check_high_values,
        _check_greys_beside_white,
    )
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


def _check_two_numberings(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault if some masks have ids in a row, and others only greys that were drawn to be seen.

    Both may show the same classes. Masks with values of both kinds, or of neither, show that the ids have gaps.
    """
    rows: list[PairContent] = []
    greys: list[PairContent] = []
    for content in contents:
        values = set(content.values or ()) - {0}
        if content.mask is None or content.mask.bilevel or values <= {255}:
            continue  # 255 alone: see `_check_high_values`
        if _are_in_a_row(values - {255}):
            rows.append(content)
        elif _are_spaced(values):
            greys.append(content)
        else:
            return []
    low = {value for content in rows for value in content.values or ()} - {0, 255}
    high = {value for content in greys for value in content.values or ()} - {0}
    if not low or not high or not _are_in_a_row(low) or not _are_spaced(high) or max(high) < VISIBLE or low & high:
        return []
    expected = tr(
        "values as in {file} ({values}), or a {classes_file} that names the values of all masks",
        file=rows[0].candidate.mask,
        values=abbreviate(rows[0].values or (), 4),
        classes_file=CLASSES_FILE,
    )
    found = trn(
        "{values} in {count} mask: other classes, or the same ones in greys?",
        "{values} in {count} masks: other classes, or the same ones in greys?",
        len(greys),
        values=abbreviate(sorted({0, *high}), 4),
    )
    return [Fault(greys[0].candidate.mask, expected, found)]


def _are_in_a_row(values: Collection[int]) -> bool:
    """Return whether these values above 0 are small ids, of which at most every other one is missing."""
    return bool(values) and max(values) <= 2 * len(values)


def _are_spaced(values: Collection[int]) -> bool:
    """Return whether these values are far from each other, and from 0."""
    return all(b - a >= WIDE_GAP for a, b in pairwise(sorted({0, *values})))


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


def _check_greys_beside_white(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault for greys up to 255 that look like classes: 255 would be ignored."""
    masks = [content.mask for content in contents if content.mask is not None and not content.mask.bilevel]
    counts: Counter[int] = Counter()
    for mask in masks:
        counts.update(mask.values)
    values = sorted(counts)
    if 255 not in counts or len(values) < 3:
        return []
    gaps = [b - a for a, b in pairwise(values)]
    evenly = min(gaps) >= EVEN_GAP and max(gaps) - min(gaps) <= 1
    if min(gaps) < WIDE_GAP and not evenly and not (_have_large_gaps(values[:-1]) and _has_white_areas(masks, counts)):
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


def _have_large_gaps(values: list[int]) -> bool:
    """Return whether these sorted values are not ids in a row, and no part of such ids that a few images would show."""
    return values[-1] >= FAR_ABOVE * len(set(values) - {0})


def _has_white_areas(masks: Collection[MaskFacts], counts: Counter[int]) -> bool:
    """Return whether 255 has more pixels, or larger areas, than the ignored borders of objects have."""
    share = counts[255] / counts.total()
    described = [mask for mask in masks if len(mask.values) > 2]  # only these say what lies inside an area
    pixels = sum(mask.values.get(255, 0) for mask in described)
    inside = sum(mask.inside.get(255, 0) for mask in described)
    return share >= LARGE_SHARE or (share >= WHITE_SHARE and inside >= WHITE_AREAS * pixels > 0)
