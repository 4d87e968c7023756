"""Find mask values that come from blending two classes: masks that were resized with interpolation, or antialiased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from core.i18n import tr, trn
from dataset.classes import ClassMap, abbreviate
from dataset.decoding.mask_facts import MaskFacts
from dataset.faults import INTERPOLATED_MASKS, DataWarning, Fault
from dataset.pair_reading import PairContent

MIN_BLENDED = 2  # distinct values that occur only between a lower and a higher one
MANY_BLENDED, AREA_SHARE = 8, 0.3  # the same for ids in a row, and the fraction of pixels that lie in areas then
STEEP_BLENDED, STEEP_SHARE = 3, 0.5  # the same if most ids are blended, at this fraction of their pixels steeply
BLENDED_BETWEEN, BLENDED_INSIDE = 0.6, 0.05  # of their pixels: at least between others, at most inside an area


def is_interpolated(mask: MaskFacts) -> bool:
    """Return whether values of this mask look like mixtures of two classes along their outlines."""
    return bool(_find_blends(mask))


def check_interpolation(contents: Collection[PairContent]) -> list[Fault]:
    """Return a fault for each mask that was resized with interpolation, where no classes.json lists its values."""
    blended = _find_blends(_pool(contents))
    expected = tr("class values without mixtures: export again with nearest neighbour, or apply a threshold")
    faults = []
    for content in contents:
        mixed = sorted(set(blended) & set(content.values or ()))
        if mixed:
            found = trn(
                "{count} value only along outlines ({values}): resized with interpolation, or antialiased",
                "{count} values only along outlines ({values}): resized with interpolation, or antialiased",
                len(mixed),
                values=abbreviate(mixed, 4),
            )
            faults.append(Fault(content.candidate.mask, expected, found))
    return faults


def warn_of_blends(contents: Collection[PairContent], classes: ClassMap) -> Iterator[DataWarning]:
    """Yield a warning if classes of classes.json look like mixtures of others.

    It is not a fault: classes may be that thin, and the file that lists them is how people say that they are classes.
    """
    pooled = _pool(contents)
    used = sorted(set(classes.ids) & set(pooled.values))
    # Mixtures are whole numbers of any size: only a list without wide gaps has them all.
    if not used or max(classes.ids) - min(classes.ids) >= 2 * len(classes.ids):
        return
    blended = [value for value in _blended_values(pooled) if value in used]
    if not _has_areas(pooled, used) or not _are_steep(pooled, blended, used):
        return
    files = [content.candidate.mask for content in contents if set(blended) & set(content.values or ())]
    text = trn(
        "values {values} ({share:.2%} of the pixels) occur only along outlines, as after resizing with interpolation, "
        "in {count} mask ({file}): export it again with nearest neighbour, unless these classes are so thin",
        "values {values} ({share:.2%} of the pixels) occur only along outlines, as after resizing with interpolation, "
        "in {count} masks (such as {file}): export them again with nearest neighbour, unless these classes are so thin",
        len(files),
        values=abbreviate(blended),
        share=sum(pooled.values[value] for value in blended) / sum(pooled.values.values()),
        file=files[0],
    )
    yield DataWarning(INTERPOLATED_MASKS, text)


def _pool(contents: Collection[PairContent]) -> MaskFacts:
    """Return the counts of all masks together."""
    values, between, inside, steep = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
    for content in contents:
        if content.mask is not None:
            values.update(content.mask.values)
            between.update(content.mask.between)
            inside.update(content.mask.inside)
            steep.update(content.mask.steep)
    return MaskFacts(values, between, inside, steep)


def _find_blends(mask: MaskFacts) -> list[int]:
    """Return the values that come from blending, empty where they may be classes.

    A few ids in a row may be thin classes that lie between others, unless the values rise steeply there.
    """
    blended, values = _blended_values(mask), mask.values
    if len(blended) < MIN_BLENDED:
        return []
    if max(values) - min(values) >= 2 * len(values):
        return blended
    many = len(blended) >= MANY_BLENDED or _are_steep(mask, blended, values)
    return blended if many and _has_areas(mask, values) else []


def _blended_values(mask: MaskFacts) -> list[int]:
    """Return the values that lie nearly everywhere between a lower and a higher value, and form no area."""
    return [
        value
        for value, pixels in mask.values.items()
        if mask.between.get(value, 0) >= BLENDED_BETWEEN * pixels
        and mask.inside.get(value, 0) <= BLENDED_INSIDE * pixels
    ]


def _has_areas(mask: MaskFacts, used: Collection[int]) -> bool:
    """Return whether these values form areas: where none does, being thin says nothing."""
    return sum(mask.inside.get(value, 0) for value in used) > AREA_SHARE * sum(mask.values[value] for value in used)


def _are_steep(mask: MaskFacts, blended: Collection[int], used: Collection[int]) -> bool:
    """Return whether most of the used values are blended, and the values rise steeply there, unlike in layers."""
    if len(blended) < STEEP_BLENDED or 2 * len(blended) < len(used):
        return False
    return sum(mask.steep.get(v, 0) for v in blended) >= STEEP_SHARE * sum(mask.between[v] for v in blended)
