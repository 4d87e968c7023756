"""Read a CSV file of REGISTER_SLICES: which images belong to which slice."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from core.errors import UsageError, one_line
from core.i18n import tr
from dataset.directory import composed
from dataset.layout.vocabulary import read_directory_name
from dataset.splitting.group_file import resolve_name

MAX_BYTES = 64 << 20
IMAGE_COLUMNS = ("image", "name", "file")


Place = tuple[str, str]  # split and name of an image
Names = Mapping[str, Collection[str]]  # split -> names of its images


def read_slice_file(path: Path, judged: Names, others: Names | None = None) -> dict[str, set[Place]]:
    """Return slice -> its images, in the order of the file; an image may be in several slices.

    The columns are 'image' (or 'name', 'file') and 'slice', separated by commas, semicolons or tabs. Images of `others`,
    splits that are not judged, may have lines; names that splits share need that of the split, as in 'val/0001.png'.
    Raises UsageError naming the first line that is wrong.
    """
    header, *rows = _read_rows(path) or [[]]
    columns = [column.strip().lower() for column in header]
    image = next((column for column in IMAGE_COLUMNS if column in columns), None)
    if image is None or "slice" not in columns:
        raise _fault(path, 1, tr("columns 'image' and 'slice'"), ", ".join(columns) or tr("nothing"))
    slices: dict[str, set[Place]] = {}
    for number, row in enumerate(rows, 2):
        file, name = (row[i].strip() if i < len(row) else "" for i in map(columns.index, (image, "slice")))
        if not file and not name:
            continue
        if not name:
            raise _fault(path, number, tr("a slice for each image"), tr("nothing"))
        found = _find(composed(file.replace("\\", "/")), {**(others or {}), **judged})
        shown = f"'{one_line(file, 80)}'"
        if not found:
            raise _fault(path, number, tr("an image of the data commit"), shown)
        if len(found) > 1:
            splits = ", ".join(split for split, _ in found)
            raise _fault(
                path, number, tr("the split in front of a name that is in several ({splits})", splits=splits), shown
            )
        if found[0][0] in judged:
            slices.setdefault(name, set()).add(found[0])
    if not slices:
        raise _fault(path, len(rows) + 1, tr("an image of the split that decides"), tr("none"))
    return slices


def _find(line: str, splits: Names) -> list[Place]:
    """Return the images that a line may mean: those of the split that its directories name, if they name one."""
    named = _named_split(line, splits)
    candidates = {named: splits.get(named, ())} if named else splits
    found = [(split, resolve_name(line, names)) for split, names in candidates.items()]
    return [(split, name) for split, name in found if name in candidates[split]]


def _named_split(line: str, splits: Names) -> str:
    """Return the split that the directories in front of a name say; empty if they say none, or belong to a name."""
    rest, slash = line, "/"
    while slash:
        if any(name in names for names in splits.values() for name in (rest, rest.rpartition(".")[0])):
            return ""
        first, slash, rest = rest.partition("/")
        meaning = read_directory_name(first)
        if meaning.split or not meaning.role:
            return meaning.split or ""
    return ""


def _read_rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(tr("{path}: larger than {limit:,} bytes", path=path, limit=MAX_BYTES))
        text = path.read_text(encoding="utf-8-sig")
        delimiter = next((mark for mark in (",", ";", "\t") if mark in text.partition("\n")[0]), ",")
        return list(csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise UsageError(tr("{path}: cannot read the slices ({reason})", path=path, reason=reason)) from error


def _fault(path: Path, line: int, expected: str, found: str) -> UsageError:
    return UsageError(
        tr(
            "{path}, line {line}: expected {expected}, found {found}",
            path=path,
            line=line,
            expected=expected,
            found=found,
        )
    )
