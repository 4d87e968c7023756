"""Assign pairs to training, validation or test: once, from (seed, name), stored beside the data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.files import read_regular, write_atomically
from core.i18n import tr
from dataset.classes import InvalidFileError
from dataset.directory import SPLITS, composed
from dataset.faults import Fault
from dataset.splitting.stratify import Unit, choose_splits

SPLIT_MARK = "# made by train.py from seed "  # first line of split files that we may extend
PATTERN_MARK = "# SPLIT_GROUP="  # second line, where that setting made the groups
LEFT_OUT = "left_out"  # splits/left_out.txt: names without a split


@dataclass(frozen=True)
class SplitFiles:
    """Content of `splits/*.txt`: `lines` are (split, line number, name); `seed` is None for a user's own files.

    `left_out` are names that have no split, because they lie too near to images of another one. `pattern` is the
    expression of SPLIT_GROUP by which the split was made.
    """

    lines: tuple[tuple[str, int, str], ...]
    present: tuple[str, ...]
    seed: int | None
    left_out: tuple[str, ...] = ()
    pattern: str | None = None


def is_listable(name: str) -> bool:
    """Return whether a split file can hold a name: another one would be read as a comment, or as another name."""
    return name.splitlines() == [name.strip()] and "\\" not in name and not name.startswith("#")


def check_listable(names: Iterable[tuple[str, str]]) -> Iterator[Fault]:
    """Yield a fault for each (image file, name) that a split file cannot hold."""
    expected = tr("a name without line breaks, backslashes, outer blanks and a leading '#'")
    return (Fault(file, expected, repr(name)) for file, name in names if not is_listable(name))


def new_split(names: Collection[str], seed: int) -> dict[str, str]:
    """Return name -> split for new data without groups: 80/10/10 in the order of the hash of (seed, name).

    At least one name goes to val; with fewer than ten names there is no test split. Nothing else has an influence.
    """
    return choose_splits([Unit(name, 1) for name in names], seed)


def read_splits(root: Path) -> SplitFiles | None:
    """Return the content of `splits/*.txt`, or None if there are none; lines that start with '#' are comments.

    Generated files without train.txt, which is written last, were interrupted: None, so that they are made again.
    Raises InvalidFileError for a file that is not UTF-8 text.
    """
    lines: list[tuple[str, int, str]] = []
    present, seeds = [], set[int | None]()
    pattern: str | None = None
    for split in SPLITS:
        rows = _read_rows(root, split)
        if rows is None:
            continue
        present.append(split)
        seeds.add(_seed_of(rows))
        pattern = _pattern_of(rows) or pattern
        lines += [(split, number, name) for number, name in _names_of(rows)]
    seed = seeds.pop() if len(seeds) == 1 else None
    if not present or (seed is not None and "train" not in present):
        return None
    rows = _read_rows(root, LEFT_OUT) or []
    left_out = tuple(name for _, name in _names_of(rows)) if seed is not None and _seed_of(rows) == seed else ()
    return SplitFiles(tuple(lines), tuple(present), seed, left_out, pattern if seed is not None else None)


def _read_rows(root: Path, name: str) -> list[str] | None:
    """Return the lines of a file of splits/, None if there is no such file. Raises InvalidFileError."""
    path = root / "splits" / f"{name}.txt"
    try:
        return read_regular(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFileError((tr("{name}: UTF-8 text", name=path.name), str(error))) from None


def _pattern_of(rows: Sequence[str]) -> str | None:
    """Return the SPLIT_GROUP that was stored with a split. Raises InvalidFileError if it is not an expression."""
    if len(rows) < 2 or not rows[1].startswith(PATTERN_MARK) or _seed_of(rows) is None:
        return None
    pattern = rows[1].removeprefix(PATTERN_MARK)
    try:
        re.compile(pattern)
    except re.error as error:
        expected = tr("SPLIT_GROUP: a regular expression")
        raise InvalidFileError((expected, f"{pattern} ({error})")) from None
    return pattern


def _seed_of(rows: Sequence[str]) -> int | None:
    """Return the seed of a file that this project made, else None."""
    mark = rows[0].removeprefix(SPLIT_MARK) if rows else ""
    return int(mark) if rows and mark != rows[0] and mark.isdecimal() else None


def _names_of(rows: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield (line number, name) of the lines that are not comments."""
    for number, row in enumerate(rows, 1):
        name = composed(row.strip().replace("\\", "/"))
        if name and not name.startswith("#"):
            yield number, name


def write_splits(
    root: Path,
    assigned: Mapping[str, str],
    seed: int,
    left_out: Collection[str] = (),
    pattern: str | None = None,
) -> None:
    """Write name -> split to `splits/*.txt`, each file atomically, train.txt last. Raises UsageError.

    `left_out.txt` is written where names are left out, and emptied where none are any more.
    """
    folder = root / "splits"
    head = f"{SPLIT_MARK}{seed}\n" + (f"{PATTERN_MARK}{pattern}\n" if pattern is not None else "")
    try:
        folder.mkdir(exist_ok=True)
        if left_out or (folder / f"{LEFT_OUT}.txt").exists():
            _write_names(folder, LEFT_OUT, head, left_out)
        for split in reversed(SPLITS):
            _write_names(folder, split, head, [name for name in assigned if assigned[name] == split])
    except OSError as error:
        reason = error.strerror
        raise UsageError(tr("{folder}: cannot store the split ({reason})", folder=folder, reason=reason)) from None


def _write_names(folder: Path, stem: str, head: str, names: Iterable[str]) -> None:
    """Write one file, unless it has this content already."""
    path = folder / f"{stem}.txt"
    content = (head + "".join(f"{name}\n" for name in sorted(names))).encode()
    if path.exists() and path.read_bytes() == content:
        return
    write_atomically(path, content)
