"""splits/folds-N.csv: the fold of each image, so that images that are added later move none of the others."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from core.errors import UsageError
from core.files import read_regular, write_atomically
from core.i18n import tr

COLUMNS = ("name", "fold")


def is_fold_file(name: str) -> bool:
    """Return whether a '/' path below a data directory is that of such a file."""
    return re.fullmatch(r"(.*/)?splits/folds-[1-9][0-9]{0,3}\.csv", name) is not None


def fold_file(root: Path, count: int) -> Path:
    """Return the file of so many folds; `root` is the directory of splits/."""
    return root / "splits" / f"folds-{count}.csv"


def read_folds(root: Path, count: int) -> dict[str, int] | None:
    """Return name -> fold (1 to `count`) as it is stored, None where nothing is. Raises UsageError for other content."""
    path = fold_file(root, count)
    folds: dict[str, int] = {}
    try:
        rows = list(csv.reader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline="")))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(tr("{path}: expected UTF-8 text, found: {error}", path=path, error=error)) from None
    for number, row in enumerate(rows, 1):
        if number == 1 and tuple(row) == COLUMNS:
            continue
        if len(row) != 2 or not re.fullmatch("[0-9]{1,4}", row[1]) or not 1 <= int(row[1]) <= count or row[0] in folds:
            raise UsageError(
                tr(
                    "{path}, line {number}: expected a name, once, and its fold from 1 to {count}, found {found} (delete the "
                    "file to divide the images again)",
                    path=path,
                    number=number,
                    count=count,
                    found=ascii(",".join(row))[:80],
                )
            )
        folds[row[0]] = int(row[1])
    return folds


def write_folds(root: Path, count: int, folds: Mapping[str, int]) -> None:
    """Store name -> fold, unless the file has this content already. Raises UsageError."""
    path, buffer = fold_file(root, count), io.StringIO(newline="")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(sorted(folds.items()))
    content = buffer.getvalue().encode()
    try:
        if path.exists() and path.read_bytes() == content:
            return
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(
            tr("{path}: cannot store the folds ({reason})", path=path, reason=error.strerror or error)
        ) from None
