"""Mask values for the classes of formats that number classes in their own way, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from core.i18n import tr
from dataset.class_file import read_classes
from dataset.classes import CLASSES_FILE, InvalidFileError, abbreviate
from dataset.faults import DataFaults, DataWarning, Fault, faults_from_error
from dataset.formats.export import IGNORED_NAMES, ExportClass
from dataset.formats.polygon.drawing import Drawing
from dataset.formats.source import Source

BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg")
IGNORED_ID = 255
MAX_ID = 254


@dataclass(frozen=True)
class Category:
    """A class as a file has it: the key that its shapes use, its number if the format has one, and its name."""

    key: object
    number: int | None
    name: str
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Numbering:
    """Classes with their mask values: `ids` by key, `background` of the pixels without a shape."""

    classes: tuple[ExportClass, ...]
    ids: dict[object, int]
    background: int
    warnings: tuple[DataWarning, ...] = ()


def number_classes(categories: Sequence[Category], drawings: Iterable[Drawing], file: str) -> Numbering:
    """Return the mask values of the categories.

    - A category that is named background is the background; those named void, __ignore__, ... are ignored.
    - Otherwise a class `background` 0 is added, if any pixel is in no shape.
    - Numbers from the file are kept; if the added background needs their 0, all of them become one larger, except for
      those of a classes.json, where pixels without a shape are ignored instead.
    - Without numbers, or with one above 254, the classes are numbered from 1 in their order, ignored ones are 255.

    Raises DataFaults for names that occur twice and for more classes than a mask can hold.
    """
    _check_names(categories, file)
    ignored = {known.key for known in categories if known.name.lower() in IGNORED_NAMES}
    named = next((known for known in categories if known.name.lower() in BACKGROUND_NAMES), None)
    used = {known.number for known in categories}
    numbered = all(number is not None and 0 <= number <= MAX_ID for number in used - {IGNORED_ID})
    added = named is None and not (numbered and 0 in used and _cover_everything(drawings, categories))
    # The user's own ids are never moved: without a place for the background, pixels without a shape are ignored.
    fixed = added and 0 in used and file == CLASSES_FILE
    ids = _kept_ids(categories, ignored, move=added and 0 in used and not fixed) if numbered else None
    warnings: list[DataWarning] = []
    if ids is None:
        ids = _new_ids(categories, ignored, named)
        if None not in used:
            text = tr("mask values end at 255: the classes were numbered anew, from 1")
            warnings.append(DataWarning("renumbered-classes", text))
    if max((ids[known.key] for known in categories if known.key not in ignored), default=0) > MAX_ID:
        raise DataFaults([Fault(file, tr("at most {count} classes", count=MAX_ID), str(len(categories)))])
    # Several ignored names may share 255: in a mask they mean the same.
    classes = {ids[c.key]: ExportClass(ids[c.key], c.name, c.color, c.key in ignored) for c in reversed(categories)}
    if fixed:
        classes.setdefault(IGNORED_ID, ExportClass(IGNORED_ID, IGNORED_NAMES[0], ignore=True, optional=True))
        text = tr("{file} has no class named background: pixels without a shape are ignored", file=file)
        warnings.append(DataWarning("ignored-gaps", text))
    elif added:
        classes[0] = ExportClass(0, BACKGROUND_NAMES[0], optional=True)
    background = ids[named.key] if named else IGNORED_ID * fixed
    return Numbering(tuple(classes[value] for value in sorted(classes)), ids, background, tuple(warnings))


def _kept_ids(categories: Sequence[Category], ignored: Collection[object], move: bool) -> dict[object, int] | None:
    """Return the numbers of the file as mask values, all one larger to `move` them; None if a class does not fit then.

    Only an ignored class can have 255.
    """
    ids: dict[object, int] = {}
    for known in categories:
        number = IGNORED_ID if known.number is None else known.number
        ids[known.key] = number + (move and number < IGNORED_ID)
    fits = all(ids[known.key] <= MAX_ID for known in categories if known.key not in ignored)
    return ids if fits else None


def _new_ids(categories: Sequence[Category], ignored: Collection[object], named: Category | None) -> dict[object, int]:
    """Return mask values from 1 on in the order of the categories: 0 is the background, 255 what is ignored."""
    learned = [known for known in categories if known.key not in ignored and known is not named]
    ids: dict[object, int] = {known.key: value for value, known in enumerate(learned, 1)}
    ids |= dict.fromkeys(ignored, IGNORED_ID)
    return ids | ({named.key: 0} if named else {})


def _check_names(categories: Sequence[Category], file: str) -> None:
    seen: dict[str, Category] = {}
    faults = []
    for known in categories:
        other = seen.setdefault(known.name, known)
        if other is not known:
            found = tr(
                "'{name}' twice ({first} and {second})", name=known.name, first=other.number, second=known.number
            )
            faults.append(Fault(file, tr("a different name for each class"), found))
    backgrounds = [known.name for known in categories if known.name.lower() in BACKGROUND_NAMES]
    if len(backgrounds) > 1:
        faults.append(Fault(file, tr("one background class"), abbreviate(backgrounds)))
    if faults:
        raise DataFaults(faults)


def _cover_everything(drawings: Iterable[Drawing], categories: Sequence[Category]) -> bool:
    """Return whether every pixel of every image is inside a shape; the first image that is not decides quickly."""
    ids = dict.fromkeys((known.key for known in categories), 0)
    try:
        return all(drawing.paint(ids, 0, strict=False).complete for drawing in drawings)
    except InvalidFileError:
        return False  # becomes a fault when the mask is written


def named_categories(
    labels: Iterable[str], source: Source, label_list: str | None = None
) -> tuple[list[Category], str]:
    """Return categories for formats whose shapes have names only, and the file that lists them ("" without one).

    They are sorted by name, unless the export lists the classes: in a classes.json, which also gives ids and colours,
    or in the format's own `label_list`, a file of names. Raises DataFaults for a label that is not listed.
    """
    used = sorted(set(labels))
    if CLASSES_FILE in source.files:
        listed, file = _read_class_file(source), CLASSES_FILE
    elif label_list is not None and label_list in source.files:
        lines = (line.strip() for line in source.read_text(label_list).splitlines())
        listed, file = [Category(line, None, line) for line in lines if line], label_list
    else:
        return [Category(label, None, label) for label in used], ""
    names = {category.name for category in listed}
    missing = [label for label in used if label not in names and label.lower() not in IGNORED_NAMES]
    if missing:
        found = tr("not listed: {labels}", labels=abbreviate(missing))
        raise DataFaults([Fault(file, tr("every label of the annotations"), found)])
    number = IGNORED_ID if file == CLASSES_FILE else None
    return listed + [Category(label, number, label) for label in used if label not in names], file


def _read_class_file(source: Source) -> list[Category]:
    try:
        known = read_classes(source.files[CLASSES_FILE])
    except InvalidFileError as error:
        raise DataFaults(faults_from_error(CLASSES_FILE, error)) from None
    rows = zip(known.ids, known.names, known.colors, strict=True)
    return [Category(name, value, name, color) for value, name, color in rows]
