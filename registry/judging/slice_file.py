"""Read a CSV file of REGISTER_SLICES: which images belong to which slice."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from core.errors import UsageError, one_line
from core.i18n import tr
from dataset.directory import composed
from dataset.splitting.group_file import resolve_name

MAX_BYTES = 64 << 20
IMAGE_COLUMNS = ("image", "name", "file")


def read_slice_file(path: Path, names: Collection[str], others: Collection[str] = ()) -> dict[str, set[str]]:
    """Return slice -> names of its images, in the order of the file; an image may be in several slices.

    The columns are 'image' (or 'name', 'file') and 'slice', separated by commas, semicolons or tabs. Images of `others`,
    which are not judged, may have lines. Raises UsageError naming the first line that is wrong.
    """
    header, *rows = _read_rows(path) or [[]]
    columns = [column.strip().lower() for column in header]
    image = next((column for column in IMAGE_COLUMNS if column in columns), None)
    if image is None or "slice" not in columns:
        raise _fault(path, 1, tr("columns 'image' and 'slice'"), ", ".join(columns) or tr("nothing"))
    slices: dict[str, set[str]] = {}
    for number, row in enumerate(rows, 2):
        file, name = (row[i].strip() if i < len(row) else "" for i in map(columns.index, (image, "slice")))
        if not file and not name:
            continue
        if not name:
            raise _fault(path, number, tr("a slice for each image"), tr("nothing"))
        line = composed(file.replace("\\", "/"))
        found = resolve_name(line, names)
        if found in names:
            slices.setdefault(name, set()).add(found)
        elif resolve_name(line, others) not in others:
            raise _fault(path, number, tr("an image of the data commit"), f"'{one_line(file, 80)}'")
    if not slices:
        raise _fault(path, len(rows) + 1, tr("an image of the split that decides"), tr("none"))
    return slices


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
