"""Assign pairs to training, validation or test: once, from (seed, name), stored beside the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import InvalidFileError
from dataset.directory import SPLITS, composed

SPLIT_MARK = "# made by train.py from seed "  # first line of split files that we may extend


@dataclass(frozen=True)
class SplitFiles:
    """Content of `splits/*.txt`: `lines` are (split, line number, name); `seed` is None for a user's own files."""

    lines: tuple[tuple[str, int, str], ...]
    present: tuple[str, ...]
    seed: int | None


def new_split(names: Collection[str], seed: int) -> dict[str, str]:
    """Return name -> split for new data: 80/10/10 in the order of the hash of (seed, name).

    At least one name goes to val; with fewer than ten names there is no test split. Nothing else has an influence.
    """
    ordered = sorted(names, key=lambda name: (_hash_fraction(seed, name), name))
    tenth = len(ordered) // 10
    val = max(1, tenth)
    parts = ["val"] * val + ["test"] * tenth + ["train"] * (len(ordered) - val - tenth)
    return dict(zip(ordered, parts, strict=False))


def extend_split(stored: Mapping[str, str], names: Collection[str], seed: int) -> dict[str, str]:
    """Return name -> split: `stored` names keep their split, new names are assigned by their hash, 80/10/10."""
    thresholds = ((0.1, "val"), (0.2, "test"), (1.1, "train"))
    return {
        name: stored.get(name) or next(split for limit, split in thresholds if _hash_fraction(seed, name) < limit)
        for name in names
    }


def _hash_fraction(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends only on (seed, name)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "big") / 2**48


def read_splits(root: Path) -> SplitFiles | None:
    """Return the content of `splits/*.txt`, or None if there are none; lines that start with '#' are comments.

    Generated files without train.txt, which is written last, were interrupted: None, so that they are made again.
    Raises InvalidFileError for a file that is not UTF-8 text.
    """
    lines: list[tuple[str, int, str]] = []
    present, seeds = [], set[int | None]()
    for split in SPLITS:
        path = root / "splits" / f"{split}.txt"
        try:
            rows = path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFileError((tr("{name}: UTF-8 text", name=path.name), str(error))) from None
        present.append(split)
        mark = rows[0].removeprefix(SPLIT_MARK) if rows else ""
        seeds.add(int(mark) if rows and mark != rows[0] and mark.isdecimal() else None)
        names = ((number, composed(row.strip().replace("\\", "/"))) for number, row in enumerate(rows, 1))
        lines += [(split, number, name) for number, name in names if name and not name.startswith("#")]
    seed = seeds.pop() if len(seeds) == 1 else None
    if not present or (seed is not None and "train" not in present):
        return None
    return SplitFiles(tuple(lines), tuple(present), seed)


def write_splits(root: Path, assigned: Mapping[str, str], seed: int) -> None:
    """Write name -> split to `splits/*.txt`, each file atomically, train.txt last. Raises UsageError."""
    folder = root / "splits"
    try:
        folder.mkdir(exist_ok=True)
        for split in reversed(SPLITS):
            text = "".join(f"{name}\n" for name in sorted(assigned) if assigned[name] == split)
            path, temporary = folder / f"{split}.txt", folder / f".{split}.txt.{os.getpid()}"
            content = f"{SPLIT_MARK}{seed}\n{text}".encode()
            if path.exists() and path.read_bytes() == content:
                continue
            temporary.write_bytes(content)
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror
        raise UsageError(tr("{folder}: cannot store the split ({reason})", folder=folder, reason=reason)) from None
