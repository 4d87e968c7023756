"""Read palette masks: by colour where the colours mean classes, else by index."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, UInt8
from dataset.decoding.mask_colors import Color, class_colors, format_color, have_equal_colors

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
NEAR = 12  # largest difference of a channel between two colours that look the same


@dataclass(frozen=True)
class PaletteMask:
    """Values of a palette mask.

    `entries` are the used indices with their colours, None where the palette is shorter or says nothing; `by_index`
    is whether the index is the value.
    """

    values: UInt8  # (H,W)
    bilevel: bool  # the values are bits: 1 is white
    entries: tuple[tuple[int, Color], ...]
    by_index: bool


def read_palette(
    indices: UInt8, colors: npt.NDArray[np.uint8], classes: ClassMap | None, sorted_by_file: bool
) -> PaletteMask:
    """Return the values of palette indices (H,W) uint8 with colours (N,3) uint8.

    By colour if classes.json has colours and all used entries are class colours, or if the palette is black and white.
    Else by index. `sorted_by_file`: the format's encoders order palettes as they like (GIF), so that the index means
    nothing. Raises InvalidFileError if index and colour name different classes and neither can be preferred.
    """
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256)).tolist()
    entries: dict[int, Color] = {
        i: (int(r), int(g), int(b)) for i in used if i < len(colors) for r, g, b in [colors[i]]
    }
    listed = tuple(entries.items())
    if len(entries) < len(used) or _has_one_color(colors):
        return PaletteMask(indices, False, (), True)
    if classes is not None and classes.listed_colors:
        by_color = None if have_equal_colors(classes) else _values_by_class_color(entries, _repeated(colors), classes)
        if by_color is not None:
            return PaletteMask(_lookup(by_color)[indices], False, listed, all(i == v for i, v in by_color.items()))
    elif _is_grey_ramp(entries):
        return PaletteMask(indices, False, (), True)
    elif _is_black_and_white(colors) and (sorted_by_file or not _is_black_first(entries)):
        bits = {index: int(color == WHITE) for index, color in entries.items()}
        return PaletteMask(_lookup(bits)[indices], True, listed, False)
    elif sorted_by_file and all(len(set(color)) == 1 for color in entries.values()):
        grey = {index: color[0] for index, color in entries.items()}
        return PaletteMask(_lookup(grey)[indices], False, listed, False)
    return PaletteMask(indices, False, listed if len(set(entries.values())) == len(entries) else (), True)


def _lookup(values: Mapping[int, int]) -> UInt8:
    """Return a table (256,) index -> value."""
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table


def _is_grey_ramp(entries: Mapping[int, Color]) -> bool:
    """Return whether each index shows its own grey, as in palettes that nobody chose."""
    return all(color == (index, index, index) for index, color in entries.items())


def _is_black_and_white(colors: npt.NDArray[np.uint8]) -> bool:
    found = {tuple(color) for color in np.unique(colors, axis=0).tolist()}
    return WHITE in found and found <= {BLACK, WHITE}


def _is_black_first(entries: Mapping[int, Color]) -> bool:
    """Return whether index 0 is black and all others are white: index and colour say the same."""
    return all((index == 0) == (color == BLACK) for index, color in entries.items())


def _has_one_color(colors: npt.NDArray[np.uint8]) -> bool:
    """Return whether a palette of several entries shows them all in one colour, so that colours mean nothing."""
    return len(colors) > 1 and bool((colors == colors[0]).all())


def _repeated(colors: npt.NDArray[np.uint8]) -> set[int]:
    """Return the indices whose colour an earlier one has: mostly black, which fills palettes up."""
    first = np.unique(colors, axis=0, return_index=True)[1]
    return set(range(len(colors))) - set(first.tolist())


def _values_by_class_color(
    entries: Mapping[int, Color], repeated: Collection[int], classes: ClassMap
) -> dict[int, int] | None:
    """Return index -> value by the class colours; None if the index is the value. Raises InvalidFileError for a conflict.

    An index with a repeated colour got no colour of its own: one of ignored pixels is taken as it is.
    """
    table = class_colors(classes)
    bare = [index for index in repeated if index in classes.ignore_ids]
    found = {index: index if index in bare else table.get(color) for index, color in entries.items()}
    by_color = {index: value for index, value in found.items() if value is not None}
    index_known = set(entries) <= set(classes.known)
    if len(by_color) == len(entries):
        if index_known and (_is_grey_ramp(entries) or all(index == value for index, value in by_color.items())):
            return None
        if not (index_known and any(index in repeated and index != value for index, value in by_color.items())):
            return by_color
    near = {index: _nearest_class(color, table) for index, color in entries.items()}
    meant = by_color if None in near.values() else near  # colours that all look like class colours were meant as such
    for index, value in meant.items():
        if value is not None and value != index:
            raise _conflict(index, entries[index], value, classes)
    return None


def _nearest_class(color: Color, table: Mapping[Color, int]) -> int | None:
    """Return the value of a class colour that looks the same; None if there is none."""
    nearest = min(table, key=lambda other: max(abs(a - b) for a, b in zip(color, other, strict=True)))
    distance = max(abs(a - b) for a, b in zip(color, nearest, strict=True))
    return table[nearest] if distance <= NEAR else None


def _conflict(index: int, color: Color, value: int, classes: ClassMap) -> InvalidFileError:
    """Return the error of a palette entry that is one class by index and another by colour."""
    names = dict(zip(classes.ids, classes.names, strict=True))
    by_index = names.get(index, tr("ignored") if index in classes.ignore_ids else tr("no class"))
    by_color = names.get(value, tr("ignored"))
    expected = tr("a palette with the colours of classes.json, or class ids as grey values")
    found = tr(
        "index {index}, {color}: '{by_index}' by index, '{by_color}' by colour",
        index=index,
        color=format_color(color),
        by_index=by_index,
        by_color=by_color,
    )
    return InvalidFileError((expected, found))
