"""Compare the palettes of masks with each other, and find bits that are shown as the opposite of what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.i18n import tr, trn
from dataset.classes import ClassMap
from dataset.decoding.mask import bilevel_high
from dataset.decoding.mask_colors import Color, format_color
from dataset.decoding.mask_palette import BLACK, NEAR, WHITE
from dataset.faults import DataWarning, Fault
from dataset.pair_reading import PairContent


def check_palettes(contents: Iterable[PairContent], classes: ClassMap | None) -> Iterator[Fault | DataWarning]:
    """Yield a fault for each mask in which an index has another colour than in the masks before it.

    Only the masks that are read by index are compared; programs that make PNG files smaller reorder palettes.
    """
    first: dict[int, tuple[Color, str]] = {}
    unlike: list[str] = []
    black_and_white: list[PairContent] = []
    for content in contents:
        mask = content.mask
        if mask is None or not mask.palette:
            continue
        if mask.by_index:
            found = _compare(content, first)
            yield from found
            listed = classes is not None and classes.listed_colors and not _has_class_colors(mask.palette, classes)
            if listed and not found:
                unlike.append(content.candidate.mask)
        elif mask.bilevel:
            black_and_white.append(content)
    for content in black_and_white:
        yield from _compare_black_and_white(content, first, bilevel_high(classes.known if classes else ()))
    if unlike:
        text = trn(
            "{count} palette mask is read by index, because its colours are not those of classes.json ({file})",
            "{count} palette masks are read by index, because their colours are not those of classes.json "
            "(such as {file})",
            len(unlike),
            file=unlike[0],
        )
        yield DataWarning("palette-colors", text)


def warn_of_inverted_bits(contents: Iterable[PairContent]) -> Iterator[DataWarning]:
    """Yield a warning of masks with one bit a pixel that are read as shown, because their file says that 0 is white."""
    masks = [(content.candidate.mask, content.mask) for content in contents if content.mask is not None]
    found = [(file, mask) for file, mask in masks if mask.white_is_zero]
    if not found:
        return
    ones = sum(mask.values.get(1, 0) for _, mask in found)
    shown = ones / sum(sum(mask.values.values()) for _, mask in found)
    text = trn(
        "{count} TIFF mask of one bit stores 0 as white, and is read as shown: foreground in {shown:.1%} of the pixels; "
        "as stored it would be {stored:.1%} (then save it as PNG with 1 as white): {file}",
        "{count} TIFF masks of one bit store 0 as white, and are read as shown: foreground in {shown:.1%} of the "
        "pixels; as stored it would be {stored:.1%} (then save them as PNG with 1 as white): such as {file}",
        len(found),
        shown=shown,
        stored=1 - shown,
        file=found[0][0],
    )
    yield DataWarning("inverted-bits", text)


def _compare(content: PairContent, first: dict[int, tuple[Color, str]]) -> list[Fault]:
    """Return a fault if an index has another colour than in an earlier mask; else remember the colours."""
    assert content.mask is not None
    by_color = {color: index for index, (color, _) in first.items()}
    for index, color in content.mask.palette:
        earlier, file = first.setdefault(index, (color, content.candidate.mask))
        if max(abs(a - b) for a, b in zip(color, earlier, strict=True)) <= NEAR:
            continue
        expected = tr("index {index} in {color}, as in {file}", index=index, color=format_color(earlier), file=file)
        found = tr("index {index} in {color}", index=index, color=format_color(color))
        other = by_color.get(color)
        if other is not None:
            found += tr(": {index} by index, {other} by colour", index=index, other=other)
        found += tr(" (reordered palette? list the colours in classes.json, or save class ids as grey values)")
        return [Fault(content.candidate.mask, expected, found)]
    return []


def _compare_black_and_white(content: PairContent, first: dict[int, tuple[Color, str]], high: int) -> Iterator[Fault]:
    """Yield a fault if masks read by index show black or white for another value than this black-and-white mask."""
    meant = {BLACK: 0, WHITE: high}
    for index, (color, file) in first.items():
        value = meant.get(color, index)
        if value != index and not (color == WHITE and index == 1):  # 1 and 255 are both the usual white
            expected = tr("index {index} in {color}, as in {file}", index=index, color=format_color(color), file=file)
            found = tr("{color} for the value {value}", color=format_color(color), value=value)
            yield Fault(content.candidate.mask, expected, found)


def _has_class_colors(palette: Iterable[tuple[int, Color]], classes: ClassMap) -> bool:
    return any(color in classes.colors for _, color in palette)
