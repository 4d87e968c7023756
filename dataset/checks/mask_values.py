"""Check the values of masks against the classes, or infer the classes from them."""

from __future__ import annotations

from collections.abc import Iterable

from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, abbreviate, classes_from_values
from dataset.decoding.mask import bilevel_high
from dataset.directory import LOSSY_SUFFIXES
from dataset.faults import Fault, faults_from_error
from dataset.pair_reading import PairContent

MAX_VALUES = 64  # distinct values in one mask that still look like classes


def infer_classes(contents: Iterable[PairContent]) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes that the values of all masks show, None where they cannot be told, and the faults."""
    faults = []
    seen, bits = set[int](), set[int]()
    for content in contents:
        if content.values is None:
            continue
        mask, lossy = content.candidate.mask, content.candidate.mask.lower().endswith(LOSSY_SUFFIXES)
        if len(content.values) > MAX_VALUES or (lossy and not set(content.values) <= {0, 255}):
            count = len(content.values)
            hint = tr("JPEG artefacts, or a photo? store masks as PNG")
            expected = tr("at most {max_values} class values", max_values=MAX_VALUES)
            faults.append(Fault(mask, expected, tr("{count} values ({hint})", count=count, hint=hint)))
        (bits if content.bilevel else seen).update(content.values)
    if faults or not seen | bits:
        return None, faults
    try:
        return classes_from_values(seen | {bit * bilevel_high(seen) for bit in bits}), []
    except InvalidFileError as error:
        return None, faults_from_error("masks/", error)


def count_values(content: PairContent, classes: ClassMap) -> dict[int, int]:
    """Return mask value -> pixels; the bits of a one-bit mask become the values that they stand for."""
    if content.values is None or not content.bilevel:
        return content.values or {}
    high = bilevel_high(classes.known)
    return {value * high: pixels for value, pixels in content.values.items()}


def check_values(content: PairContent, classes: ClassMap) -> list[Fault]:
    """Return a fault for unknown values, or for a mask without a labelled pixel."""
    values, mask = count_values(content, classes), content.candidate.mask
    unknown = [value for value in values if value not in classes.known]
    if unknown:
        found = tr("unknown values {unknown}", unknown=abbreviate(unknown))
        if mask.lower().endswith(LOSSY_SUFFIXES):
            found += tr(" (JPEG artefacts? store masks as PNG)")
        return [Fault(mask, tr("class values {known}", known=abbreviate(classes.known, 16)), found)]
    if values and set(values) <= set(classes.ignore_ids):
        return [Fault(mask, tr("pixels that are not ignored"), tr("every pixel is ignored"))]
    return []
