"""Classes of mask values, with names and colours, from classes.json or from the masks themselves."""

from __future__ import annotations

import colorsys
import difflib
import functools
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import one_line
from core.i18n import tr

IGNORE_INDEX = 255  # class index of a pixel that is excluded from every loss and metric
CLASSES_FILE = "classes.json"
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
        """Return the class map of `to_dict`. Raises KeyError for a missing entry, ValueError for lists of unequal length."""
        made = cls(
            ids=tuple(int(value) for value in values["ids"]),
            names=tuple(str(name) for name in values["names"]),
            colors=tuple(_as_color(color) for color in values["colors"]),
            ignore_ids=tuple(int(value) for value in values["ignore_ids"]),
            ignore_colors=tuple(_as_color(color) for color in values["ignore_colors"]),
            listed_colors=bool(values.get("listed_colors", False)),  # missing in older files
        )
        if not len(made.ids) == len(made.names) == len(made.colors) or len(made.ignore_ids) != len(made.ignore_colors):
            raise ValueError(tr("the lists of the classes differ in length"))
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


def read_classes(path: Path) -> ClassMap:
    """Return the class map of a `classes.json`: a list of {id, name[, color][, ignore]}, or that under "classes".

    Raises InvalidFileError with all problems of the file.
    """
    problems: list[tuple[str, str]] = []
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidFileError((tr("readable JSON (UTF-8)"), one_line(error))) from None
    if isinstance(content, dict):
        _check_keys(content, ("classes",), "", problems)
        content = content.get("classes")
    if not isinstance(content, list):
        raise InvalidFileError(*problems, (tr("a list of classes [...]"), _format_value(content)))
    entries = [entry for number, item in enumerate(content, 1) if (entry := _class_entry(item, number, problems))]
    for position, label in ((0, "id"), (1, "name")):
        seen: set[object] = set()
        for entry in entries:
            if entry[position] in seen:
                problems.append((tr("{label}s that differ", label=label), f"{label} {entry[position]!r} x2"))
            seen.add(entry[position])
    learnt = sum(not off for _, _, _, off in entries)
    if not problems and not 1 <= learnt <= 255:
        expected = tr("1 to 255 classes to learn (not ignored)")
        problems.append((expected, str(learnt)))
    if problems:
        raise InvalidFileError(*problems)
    return build_classes(entries)


def _class_entry(
    item: Any, number: int, problems: list[tuple[str, str]]
) -> tuple[int, str, tuple[int, int, int] | None, bool] | None:
    """Return one entry of `classes.json`; None if it is invalid, with its problems appended to `problems`."""
    before, where = len(problems), tr("class {number}: ", number=number)
    if not isinstance(item, dict):
        problems.append((f'{where}{{"id": 0, "name": "..."}}', _format_value(item)))
        return None
    _check_keys(item, ("id", "name", "color", "ignore"), where, problems)
    value, name, color, off = item.get("id"), item.get("name"), item.get("color"), item.get("ignore", False)
    if not _is_byte(value):
        problems.append((where + tr("id is a whole number from 0 to 255"), _format_value(value)))
    if not isinstance(name, str) or not name.strip():
        problems.append((where + tr("a name that is not empty"), _format_value(name)))
    if color is not None and not (isinstance(color, list) and len(color) == 3 and all(map(_is_byte, color))):
        expected = tr("color is [red, green, blue], 0 to 255 each")
        problems.append((where + expected, _format_value(color)))
    if not isinstance(off, bool):
        problems.append((where + tr("ignore is true or false"), _format_value(off)))
    if len(problems) > before:
        return None
    assert isinstance(value, int) and isinstance(name, str)  # for the type checker: tested above
    return value, name.strip(), _as_color(color) if color is not None else None, bool(off)


def _check_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str, problems: list[tuple[str, str]]) -> None:
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            expected = tr("one of {known}", known=", ".join(known))
            meant = tr("unknown key '{key}' (did you mean '{near}'?)", key=key, near=near)
            problems.append((where + expected, meant))


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _as_color(color: Iterable[int]) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in color)
    return red, green, blue


def _format_value(value: object) -> str:
    """Return a JSON value as it was written, at most 60 characters, or "missing"."""
    if value is None:
        return tr("missing")
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


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
