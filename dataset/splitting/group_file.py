"""Read groups.csv: the user's own list of which images belong together."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from pathlib import Path

from core.i18n import tr
from dataset.classes import abbreviate
from dataset.directory import GROUPS_FILE, composed, is_image
from dataset.faults import Fault
from dataset.layout.vocabulary import read_directory_name


def read_group_file(
    path: Path, names: Collection[str], others: Collection[str] = ()
) -> tuple[dict[str, str], list[Fault]]:
    """Return name -> group, and a fault for each line that is wrong and for the names that are missing.

    Names of `others`, which are images without a split, may have a line. The columns are 'name' (or 'file') and 'group',
    separated by commas, semicolons or tabs.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = next((mark for mark in (",", ";", "\t") if mark in text.partition("\n")[0]), ",")
        header, *rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [Fault(GROUPS_FILE, tr("UTF-8 text"), str(error))]
    columns = [column.strip().lower() for column in header]
    key = next((column for column in ("name", "file") if column in columns), None)
    if key is None or "group" not in columns:
        found = abbreviate(columns) if columns else tr("empty")
        return {}, [Fault(GROUPS_FILE, tr("columns 'name' (or 'file') and 'group'"), found)]
    lines = [
        (number, _cell(row, columns.index(key)), _cell(row, columns.index("group")))
        for number, row in enumerate(rows, 2)
    ]
    groups, faults = _resolve_lines(lines, names, others)
    missing = sorted(set(names) - set(groups))
    if missing and not faults:
        found = tr("{count} missing: {names}", count=len(missing), names=abbreviate(missing, 4))
        faults.append(Fault(GROUPS_FILE, tr("a line for each image"), found))
    return groups, faults


def _cell(row: list[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _resolve_lines(
    lines: Iterable[tuple[int, str, str]], names: Collection[str], others: Collection[str]
) -> tuple[dict[str, str], list[Fault]]:
    """Return name -> group of the (line number, name or file, group), and a fault for each line that is wrong."""
    groups: dict[str, str] = {}
    faults = []
    for number, file, group in lines:
        if not file and not group:
            continue
        line = composed(file.replace("\\", "/"))
        name, where = resolve_name(line, names), tr("line {number}", number=number)
        if name not in names:
            if resolve_name(line, others) not in others:
                faults.append(Fault(GROUPS_FILE, tr("a name of images/"), f"'{line}' ({where})"))
        elif not group:
            faults.append(Fault(GROUPS_FILE, tr("a group for each name"), f"'{name}' ({where})"))
        elif groups.setdefault(name, group) != group:
            found = tr("'{name}' ({where}): also in {other}", name=name, where=where, other=groups[name])
            faults.append(Fault(GROUPS_FILE, tr("each name once"), found))
    return groups, faults


def resolve_name(line: str, names: Collection[str]) -> str:
    """Return a pair's name for a line of a list: suffixes, and directories of a layout in front, are common."""
    rest, slash = line, "/"
    while slash:
        for candidate in (rest, rest.rpartition(".")[0] if is_image(rest) else rest):
            if candidate in names:
                return candidate
        first, slash, rest = rest.partition("/")
        meaning = read_directory_name(first)
        if not meaning.role and not meaning.split:
            break
    return line
