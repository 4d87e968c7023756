"""Detect the layout of a data directory from its relative paths."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dataset.directory import PARTS, SPLITS, composed, is_image


def detect_layouts(files: Collection[str]) -> tuple[str, ...]:
    """Return the layouts that these relative paths show: 'flat', 'split', both or none."""
    flat = any(name.startswith(("images/", "masks/")) for name in files)
    split = any(name.startswith(tuple(f"{s}/{part}/" for s in SPLITS for part in PARTS)) for name in files)
    return tuple(name for name, present in (("flat", flat), ("split", split)) if present)


def images_below(files: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Return pair name -> relative paths of the images below `prefix` ('images/'); more than one path is a fault.

    Names are in Unicode's composed form: macOS writes Korean file names in the other one.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        if path.startswith(prefix) and is_image(path):
            found.setdefault(composed(path[len(prefix) : path.rindex(".")]), []).append(path)
    return found
