"""Check the values of masks against the classes, or infer the classes from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from core.i18n import tr, trn
from dataset.checks.masks.ambiguous_values import MAX_VALUES, check_ambiguous_values, check_lossy
from dataset.checks.masks.blends import is_interpolated
from dataset.class_file import Form, entry_to_add
from dataset.classes import ClassMap, InvalidFileError, abbreviate, classes_from_values
from dataset.decoding.mask import bilevel_high
from dataset.decoding.mask_colors import format_color
from dataset.faults import Fault, faults_from_error
from dataset.pair_reading import PairContent


def infer_classes(contents: Collection[PairContent]) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes that the values of all masks show, None where they cannot be told, and the faults."""
    faults: list[Fault] = []
    seen, bits = set[int](), set[int]()
    for content in contents:
        if content.mask is None:
            continue
        count = len(content.mask.values)
        found = check_lossy(content)
        if not found and count > MAX_VALUES:
            hint = tr("a photo, JPEG artefacts, or interpolation? store masks as PNG, resized by nearest neighbour")
            expected = tr("at most {max_values} class values", max_values=MAX_VALUES)
            found = [
                Fault(
                    content.candidate.mask,
                    expected,
                    trn("{count} value ({hint})", "{count} values ({hint})", count, hint=hint),
                )
            ]
        faults += found
        (bits if content.mask.bilevel else seen).update(content.mask.values)
    faults = faults or check_ambiguous_values(contents)
    if faults or not seen | bits:
        return None, faults
    try:
        return classes_from_values(seen | {bit * bilevel_high(seen) for bit in bits}), []
    except InvalidFileError as error:
        return None, faults_from_error("masks/", error)


def count_values(content: PairContent, classes: ClassMap) -> dict[int, int]:
    """Return mask value -> pixels; the bits of a one-bit mask become the values that they stand for."""
    if content.mask is None or not content.mask.bilevel:
        return content.values or {}
    high = bilevel_high(classes.known)
    return {value * high: pixels for value, pixels in content.mask.values.items()}


def check_values(
    contents: Collection[PairContent], classes: ClassMap, class_file: str, form: Form = "entries"
) -> Iterator[Fault]:
    """Yield faults for unknown values, and for masks without a labelled pixel.

    `class_file` is where an entry can lack; `form` is how it would be written there.
    """
    forgotten = _find_forgotten_entry(contents, classes)
    for content in contents:
        values, mask = count_values(content, classes), content.candidate.mask
        if values and set(values) <= set(classes.ignore_ids):
            yield Fault(mask, tr("pixels that are not ignored"), tr("every pixel is ignored"))
        lossy = check_lossy(content)
        yield from lossy
        unknown = [value for value in values if value not in classes.known and value != forgotten]
        if unknown and not lossy:
            expected = tr("class values {known}", known=abbreviate(classes.known, 16))
            yield Fault(mask, expected, _describe_unknown(content, unknown))
    if forgotten is not None:
        entry = entry_to_add(forgotten, form)
        yield _forgotten_entry_fault(contents, classes, forgotten, class_file, entry)


def _describe_unknown(content: PairContent, unknown: Collection[int]) -> str:
    """Return a text for unknown values of a mask, with the colours of a palette and the likely cause."""
    assert content.mask is not None
    colors = {index: f" ({format_color(color)})" for index, color in content.mask.palette if content.mask.by_index}
    found = tr("unknown values {unknown}", unknown=abbreviate(f"{value}{colors.get(value, '')}" for value in unknown))
    if is_interpolated(content.mask):
        found += tr(" (resized with interpolation, or antialiased? use nearest neighbour, or a threshold)")
    return found


def _find_forgotten_entry(contents: Collection[PairContent], classes: ClassMap) -> int | None:
    """Return the only unknown value if several masks have it: an entry of classes.json is missing then."""
    unknown: Counter[int] = Counter()
    for content in contents:
        unknown.update(value for value in count_values(content, classes) if value not in classes.known)
    if len(unknown) != 1:
        return None
    ((value, masks),) = unknown.items()
    return value if masks > 1 else None


def _forgotten_entry_fault(
    contents: Collection[PairContent], classes: ClassMap, value: int, file: str, entry: str
) -> Fault:
    counted = [count_values(content, classes) for content in contents]
    total = sum((Counter(values) for values in counted), Counter[int]())
    unused = [pair for pair in zip(classes.ids, classes.names, strict=True) if not total[pair[0]]]
    expected = tr("an entry for each mask value: add {entry}", entry=entry)
    if value and unused:
        (number, name), *_ = unused
        expected = tr(
            "an entry for each mask value: '{name}' with id {value} instead of {number}, or also {entry}",
            name=name,
            value=value,
            number=number,
            entry=entry,
        )
    masks = sum(value in values for values in counted)
    share = total[value] / total.total()
    found = trn(
        "unknown values {unknown}: in {count} mask, {share:.1%} of all pixels",
        "unknown values {unknown}: in {count} masks, {share:.1%} of all pixels",
        masks,
        unknown=value,
        share=share,
    )
    return Fault(file, expected, found)
