"""splits/folds-N.tsv: the fold of each image, so that images that are added later move none of the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from core.errors import UsageError
from core.files import read_regular, write_atomically
from core.i18n import tr

HEADER = "name\tfold"


def is_fold_file(name: str) -> bool:
    """Return whether a '/' path below a data directory is that of such a file."""
    return re.fullmatch(r"(.*/)?splits/folds-[1-9][0-9]{0,3}\.tsv", name) is not None


def fold_file(root: Path, count: int) -> Path:
    """Return the file of so many folds; `root` is the directory of splits/."""
    return root / "splits" / f"folds-{count}.tsv"


def read_folds(root: Path, count: int) -> dict[str, int] | None:
    """Return name -> fold (1 to `count`) as it is stored, None where nothing is. Raises UsageError for other content."""
    path = fold_file(root, count)
    folds: dict[str, int] = {}
    try:
        rows = read_regular(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(tr("{path}: expected UTF-8 text, found: {error}", path=path, error=error)) from None
    for line, row in enumerate(rows, 1):
        name, _, fold = row.rpartition("\t")
        if line == 1 and row == HEADER:
            continue
        if not name or name in folds or not re.fullmatch("[0-9]{1,4}", fold) or not 1 <= int(fold) <= count:
            raise UsageError(
                tr(
                    "{path}, line {number}: expected a name, once, a tab, and its fold from 1 to {count}, found {found} (delete the "
                    "file to divide the images again)",
                    path=path,
                    number=line,
                    count=count,
                    found=ascii(row)[:80],
                )
            )
        folds[name] = int(fold)
    return folds


def write_folds(root: Path, count: int, folds: Mapping[str, int]) -> None:
    """Store name -> fold, unless the file has this content already. Raises UsageError."""
    path = fold_file(root, count)
    content = "".join(f"{row}\n" for row in (HEADER, *(f"{name}\t{folds[name]}" for name in sorted(folds)))).encode()
    try:
        if path.exists() and path.read_bytes() == content:
            return
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(
            tr("{path}: cannot store the folds ({reason})", path=path, reason=error.strerror or error)
        ) from None
