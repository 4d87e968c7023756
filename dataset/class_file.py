"""Read classes.json: the classes of a data directory, in any of the forms that people know from elsewhere.

[{"id": 0, "name": "sky", "color": [70, 130, 180] or "#4682b4", "ignore": false}, ...]   the form that is written
["sky", "road"]                                                                          ids are the positions, from 0
{"0": "sky", "1": "road"} or {"sky": 0, "road": 1}                                       id -> name, name -> id
{"0": {"name": "sky", "color": ...}} or {"sky": {"id": 0, "color": ...}}
{"categories": [{"id": 1, "name": "road", "supercategory": ""}]}                         COCO

Each of them may also be the value of a key "classes" or "names". What can be read in two ways is refused.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import one_line
from core.i18n import tr
from dataset.classes import MAX_NAME, ClassMap, InvalidFileError, build_classes, is_class_name

Problems = list[tuple[str, str]]  # (expected, found)
Entry = tuple[int, str, tuple[int, int, int] | None, bool]  # id, name, colour, ignored

Form = Literal["entries", "id -> name", "name -> id"]

ENTRY_KEYS = ("id", "name", "color", "ignore")
CATEGORY_KEYS = (*ENTRY_KEYS, "supercategory", "isthing", "keypoints", "skeleton")
WRAPPERS = {  # key of the classes -> keys that may be beside it
    "classes": (),
    "categories": ("info", "licenses", "images", "annotations", "type"),
    "names": ("nc", "path", "train", "val", "test"),
}
IGNORED_NAMES = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "border", "don't care", "dontcare")
BACKGROUND = {"id": 0, "name": "background"}
_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


@dataclass(frozen=True)
class ClassFile:
    """The classes of a `classes.json`.

    COCO's categories are `partial`: they list what was annotated. Value 0 is their background, unless they list it,
    and a value that they do not list is not labelled.
    """

    classes: ClassMap
    partial: bool = False
    form: Form = "entries"


def entry_to_add(value: int, form: Form) -> str:
    """Return the JSON text that adds a mask value to a `classes.json` of this form."""
    name = {0: "background", 255: "ignored"}.get(value, "...")
    if form == "id -> name":
        return f'"{value}": "{name}"'
    if form == "name -> id":
        return f'"{name}": {value}'
    entry = {"id": value, "name": name} | ({"ignore": True} if value == 255 else {})
    return json.dumps(entry)


def read_classes(path: Path) -> ClassMap:
    """Return the classes of a `classes.json`. Raises InvalidFileError with all problems of the file."""
    return read_class_file(path).classes


def read_class_file(path: Path) -> ClassFile:
    """Return the content of a `classes.json`. Raises InvalidFileError with all problems of the file."""
    problems: Problems = []
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(pairs, problems))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFileError((tr("readable JSON (UTF-8)"), one_line(error))) from None
    content, key = _unwrap(content, problems)
    items = _items_of(content, problems)
    partial = key == "categories" or any(isinstance(item, dict) and "supercategory" in item for item in items)
    known = CATEGORY_KEYS if partial else ENTRY_KEYS
    entries = [entry for number, item in enumerate(items, 1) if (entry := _read_entry(item, number, known, problems))]
    _check_unique(entries, problems)
    if partial and not problems and entries and all(value != 0 for value, *_ in entries):
        name = str(BACKGROUND["name"])
        taken = any(other == name for _, other, *_ in entries)
        entries.append((0, "unlabelled" if taken else name, None, False))
    learned = sum(not ignored for *_, ignored in entries)
    if not problems and not 1 <= learned <= 255:
        problems.append((tr("1 to 255 classes to learn (not ignored)"), str(learned)))
    if problems:
        raise InvalidFileError(*problems)
    return ClassFile(build_classes(entries), partial, _form_of(content))


def _unique_keys(pairs: list[tuple[str, Any]], problems: Problems) -> dict[str, Any]:
    """Return a JSON object; a key that occurs twice, of which only the last would count, is a problem."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            problems.append((tr("each key once"), f"'{key}' x2"))
        found[key] = value
    return found


def _unwrap(content: Any, problems: Problems) -> tuple[Any, str]:
    """Return the value of "classes", "categories" or "names" and that key; of other content, itself and ''."""
    if not isinstance(content, dict):
        return content, ""
    keys = [key for key in WRAPPERS if isinstance(content.get(key), list | dict)]
    if len(keys) > 1:
        problems.append((tr("one list of classes"), ", ".join(f'"{key}"' for key in keys)))
    if not keys:
        return content, ""
    _check_keys(content, (keys[0], *WRAPPERS[keys[0]]), "", problems)
    return content[keys[0]], keys[0]


# --- forms -------------------------------------------------------------------------------------------------


def _items_of(content: Any, problems: Problems) -> list[Any]:
    """Return the classes as a list of {"id": ..., "name": ...}; items that cannot be told are returned as they are."""
    if isinstance(content, list):
        names = [item for item in content if isinstance(item, str)]
        if not names or len(names) < len(content):
            return content
        if all(_is_number(name) or _HEX.fullmatch(name) for name in names):
            return _refuse(tr("a list of numbers or colours, without names"), content, problems)
        return [_short_entry(number, name) for number, name in enumerate(names)]
    if isinstance(content, dict) and content:
        return _items_of_mapping(content, problems)
    return _refuse("", content, problems)


def _items_of_mapping(content: Mapping[str, Any], problems: Problems) -> list[Any]:
    """Return the classes of id -> name, name -> id, id -> entry or name -> entry."""
    keys, values = list(content), list(content.values())
    key_ids, value_ids = all(map(_is_number, keys)), all(map(_is_number, values))
    if key_ids and value_ids:
        return _refuse(tr("numbers on both sides: id -> name and name -> id look the same"), content, problems)
    if all(isinstance(value, dict) for value in values):
        side = "id" if key_ids else "name"
        doubled = [key for key, value in content.items() if side in value and str(value[side]) != key]
        if doubled:
            return _refuse(tr("'{key}' with another {side} inside", key=doubled[0], side=side), content, problems)
        return [{**value, side: int(key) if key_ids else key} for key, value in content.items()]
    if value_ids:
        return [_short_entry(int(value), key) for key, value in content.items()]
    if all(map(_is_color, values)):
        return _refuse(tr("colours without ids or without names"), content, problems)
    if key_ids and all(isinstance(value, str) for value in values):
        return [_short_entry(int(key), value) for key, value in content.items()]
    return _refuse("", content, problems)


def _form_of(content: Any) -> Form:
    """Return the form in which an entry can be added; a list of names has none, so that it is that of entries."""
    if not isinstance(content, dict) or any(isinstance(value, dict) for value in content.values()):
        return "entries"
    return "id -> name" if all(map(_is_number, content)) else "name -> id"


def _short_entry(value: int, name: str) -> dict[str, Any]:
    """Return the entry of a form that has no place for `ignore`: 255 with a name such as "void" is ignored."""
    return {"id": value, "name": name, "ignore": value == 255 and name.strip().casefold() in IGNORED_NAMES}


def _refuse(understood: str, content: Any, problems: Problems) -> list[Any]:
    """Record that the content is not a list of classes, with what was understood of it."""
    expected = tr('classes as [{"id": 0, "name": "..."}, ...], ["name", ...], id -> name or name -> id')
    found = format_value(content)
    problems.append((expected, f"{understood}: {found}" if understood else found))
    return []


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"\d{1,9}", value, re.ASCII))
    return isinstance(value, int) and not isinstance(value, bool)


def _is_color(value: object) -> bool:
    return _as_color(value) is not None


def _as_color(value: object) -> tuple[int, int, int] | None:
    """Return the colour of [red, green, blue] or "#rrggbb", None for anything else."""
    if isinstance(value, str) and (match := _HEX.fullmatch(value)):
        return int(match[1], 16), int(match[2], 16), int(match[3], 16)
    if isinstance(value, list) and len(value) == 3 and all(map(_is_byte, value)):
        return value[0], value[1], value[2]
    return None


# --- entries -----------------------------------------------------------------------------------------------


def _read_entry(item: Any, number: int, known: tuple[str, ...], problems: Problems) -> Entry | None:
    """Return one class; None if it is invalid, with its problems appended to `problems`."""
    before, where = len(problems), tr("class {number}: ", number=number)
    if not isinstance(item, dict):
        problems.append((f'{where}{{"id": 0, "name": "..."}}', format_value(item)))
        return None
    _check_keys(item, known, where, problems)
    rules: tuple[tuple[str, Any, str, Callable[[Any], bool]], ...] = (
        ("id", None, tr("id is a whole number from 0 to 255"), _is_byte),
        ("name", None, tr("a name of 1 to {limit} characters, none of control", limit=MAX_NAME), is_class_name),
        ("color", [0, 0, 0], tr('color is [red, green, blue], 0 to 255 each, or "#rrggbb"'), _is_color),
        ("ignore", False, tr("ignore is true or false"), lambda ignored: isinstance(ignored, bool)),
    )
    for key, default, rule, is_valid in rules:
        value = item.get(key, default)
        if not is_valid(default if value is None and key == "color" else value):
            problems.append((where + rule, format_value(value)))
    if len(problems) > before:
        return None
    return int(item["id"]), str(item["name"]).strip(), _as_color(item.get("color")), bool(item.get("ignore", False))


def _check_unique(entries: list[Entry], problems: Problems) -> None:
    for position, label in ((0, "id"), (1, "name")):
        seen: set[object] = set()
        for entry in entries:
            if entry[position] in seen:
                problems.append((tr("{label}s that differ", label=label), f"{label} {entry[position]!r} x2"))
            seen.add(entry[position])


def _check_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str, problems: Problems) -> None:
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            expected = tr("one of {known}", known=", ".join(known))
            meant = tr("unknown key '{key}' (did you mean '{near}'?)", key=key, near=near)
            problems.append((where + expected, meant))


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def format_value(value: object) -> str:
    """Return a JSON value as it was written, at most 60 characters, or "missing"."""
    if value is None:
        return tr("missing")
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
