"""Classes of mask values, with their names and colours."""

from __future__ import annotations

import colorsys
import functools
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from core.i18n import tr

IGNORE_INDEX = 255  # class index of a pixel that is excluded from every loss and metric
CLASSES_FILE = "classes.json"
MAX_NAME = 200  # characters of a class name
CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # of Unicode: control, half a character, line and paragraph separator
UInt8 = npt.NDArray[np.uint8]


class InvalidFileError(Exception):
    """A file with invalid content; `problems` are (expected, found) texts."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(tr("expected {e}, found {f}", e=e, f=f) for e, f in problems))
        self.problems = problems


@dataclass(frozen=True)
class ClassMap:
    """Mapping of mask value to class index, the position in `ids`. Only classes that are not ignored have an index."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()  # beside `ignore_ids`; needed to read colour masks
    # Whether the user gave colours: palettes are then read by colour. Colours that were chosen here mean nothing.
    listed_colors: bool = field(default=False, compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> tuple[int, ...]:
        """All valid mask values, sorted."""
        return tuple(sorted((*self.ids, *self.ignore_ids)))

    @functools.cached_property
    def _tables(self) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """Lookup tables value -> index and value -> known, (256,) each."""
        index = np.full(256, IGNORE_INDEX, np.uint8)
        index[list(self.ids)] = np.arange(len(self.ids), dtype=np.uint8)
        known = np.zeros(256, np.bool_)
        known[list(self.known)] = True
        return index, known

    def encode(self, values: UInt8) -> UInt8:
        """Return class indices (H,W) uint8 of mask values (H,W) uint8, `IGNORE_INDEX` where ignored.

        Raises ValueError that lists the unknown values.
        """
        index, known = self._tables
        if not known[values].all():
            unknown = [int(value) for value in np.unique(values) if not known[value]]
            raise ValueError(tr("unknown values {unknown}", unknown=abbreviate(unknown)))
        return index[values]

    def decode(self, indices: UInt8) -> UInt8:
        """Return mask values (H,W) uint8 of class indices (H,W) uint8; `IGNORE_INDEX` -> the first ignored id, or 255.

        Raises ValueError for an index that no class has.
        """
        if ((indices >= self.num_classes) & (indices != IGNORE_INDEX)).any():
            last = self.num_classes - 1
            raise ValueError(tr("class indices go from 0 to {last}", last=last))
        values = np.full(256, self.ignore_ids[0] if self.ignore_ids else 255, np.uint8)
        values[: self.num_classes] = self.ids
        return values[indices]

    def palette(self) -> bytes:
        """Return 768 bytes, RGB by mask value, for a palette PNG; values without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        for value, color in zip(self.ids + self.ignore_ids, self.colors + self.ignore_colors, strict=True):
            table[value] = color
        return table.tobytes()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, ints and strings, to be stored in a model file."""
        listed = {"listed_colors": True} if self.listed_colors else {}
        return {
            "ids": list(self.ids),
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "ignore_ids": list(self.ignore_ids),
            "ignore_colors": [list(color) for color in self.ignore_colors],
            **listed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassMap:
        """Return the class map of `to_dict`, which may come from a stranger's file. Raises ValueError for anything else."""
        lists = ("ids", "names", "colors", "ignore_ids", "ignore_colors")
        if not isinstance(values, Mapping) or not all(isinstance(values.get(key), list | tuple) for key in lists):
            raise ValueError(tr("classes: expected the lists {names}", names=", ".join(lists)))
        if any(len(values[key]) > 256 for key in lists):
            raise ValueError(tr("classes: expected at most 256 values in each list"))
        made = cls(
            ids=tuple(_as_byte(value) for value in values["ids"]),
            names=tuple(_as_name(name) for name in values["names"]),
            colors=tuple(_as_color(color) for color in values["colors"]),
            ignore_ids=tuple(_as_byte(value) for value in values["ignore_ids"]),
            ignore_colors=tuple(_as_color(color) for color in values["ignore_colors"]),
            listed_colors=values.get("listed_colors", False) is True,  # missing in older files
        )
        if not len(made.ids) == len(made.names) == len(made.colors) or len(made.ignore_ids) != len(made.ignore_colors):
            raise ValueError(tr("the lists of the classes differ in length"))
        if not 1 <= made.num_classes <= 255 or len(set(made.known)) != len(made.known):
            raise ValueError(tr("classes: expected 1 to 255 with IDs that differ"))
        return made


def build_classes(entries: Iterable[tuple[int, str, tuple[int, int, int] | None, bool]]) -> ClassMap:
    """Return a class map from (id, name, colour or None, ignored?), ordered by id; missing colours are chosen."""
    ordered = sorted(entries, key=lambda entry: entry[0])
    taken = {color for _, _, color, _ in ordered if color is not None}
    colors: list[tuple[int, int, int]] = []
    for value, _, given, _ in ordered:
        color = given or _free_color(value, taken)
        taken.add(color)
        colors.append(color)
    learnt = [(value, name, color) for (value, name, _, off), color in zip(ordered, colors, strict=True) if not off]
    ignored = [(value, color) for (value, _, _, off), color in zip(ordered, colors, strict=True) if off]
    return ClassMap(
        ids=tuple(value for value, _, _ in learnt),
        names=tuple(name for _, name, _ in learnt),
        colors=tuple(color for _, _, color in learnt),
        ignore_ids=tuple(value for value, _ in ignored),
        ignore_colors=tuple(color for _, color in ignored),
        listed_colors=any(color is not None for _, _, color, _ in ordered),
    )


def _free_color(value: int, taken: Collection[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return black for 0, else a hue by the golden ratio: neighbouring ids differ strongly, and none is grey.

    No greys, so that a colour mask whose channels are all equal is never mistaken for these colours.
    """
    if value == 0 and (0, 0, 0) not in taken:
        return 0, 0, 0
    step = value
    while True:
        red, green, blue = colorsys.hsv_to_rgb(step * 0.618034 % 1, (0.9, 0.6)[step % 2], (1.0, 0.75, 0.5)[step % 3])
        color = round(red * 255), round(green * 255), round(blue * 255)
        if color not in taken:
            return color
        step += 256


def is_class_name(name: object) -> bool:
    """Return whether it is a text of 1 to `MAX_NAME` characters without control characters, which terminals obey."""
    return (
        isinstance(name, str)
        and bool(name.strip())
        and len(name) <= MAX_NAME
        and not any(unicodedata.category(character) in CONTROL_CATEGORIES for character in name)
    )


def _as_name(name: object) -> str:
    if not is_class_name(name):
        raise ValueError(tr("a class name: expected 1 to {limit} characters, none of control", limit=MAX_NAME))
    return str(name)


def _as_byte(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise ValueError(tr("a class ID or colour: expected a whole number from 0 to 255"))
    return value


def _as_color(color: object) -> tuple[int, int, int]:
    if not isinstance(color, list | tuple) or len(color) != 3:
        raise ValueError(tr("a colour: expected 3 numbers from 0 to 255"))
    red, green, blue = (_as_byte(channel) for channel in color)
    return red, green, blue


def classes_from_values(values: Collection[int]) -> ClassMap:
    """Return the classes of masks that come without a `classes.json`, from all values that occur in them.

    {0, 255} and {0, 1} are background and foreground; 255 beside other values is ignored; the others are class_<id>.
    Raises InvalidFileError when fewer than two classes or more than 255 are left.
    """
    learnt = sorted(values) if set(values) <= {0, 255} else sorted(set(values) - {255})
    if not 2 <= len(learnt) <= 255:
        expected = tr("2 to 255 class values in all masks together")
        found = tr("{count}: {learnt}", count=len(learnt), learnt=abbreviate(learnt))
        raise InvalidFileError(
            (tr("{expected} (or {classes_file})", expected=expected, classes_file=CLASSES_FILE), found)
        )
    binary = learnt in ([0, 1], [0, 255])
    names = ("background", "foreground") if binary else tuple(f"class_{value}" for value in learnt)
    entries = [(value, name, None, False) for value, name in zip(learnt, names, strict=True)]
    ignored = [(value, "ignored", None, True) for value in set(values) - set(learnt)]
    return build_classes(entries + ignored)


def abbreviate(values: Iterable[object], limit: int = 8) -> str:
    """Return the first `limit` values, and how many more there are."""
    listed = [str(value) for value in values]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (tr(" and {more} more", more=more) if more > 0 else "")
