"""List the images and masks of a data commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import AppError, UsageError
from core.files import safe_join
from core.i18n import tr
from dataset.layout import SPLITS, pictures_below
from utils.lakefs_utils import LakeFS, LakePath


@dataclass(frozen=True)
class Item:
    """A picture to predict: `name` is its output's path without suffix, `mask` its label where there is one.

    `fault` says why a picture is not to be read at all.
    """

    name: str
    image: Path
    mask: Path | None = None
    fault: str | None = None


def committed_items(lake: LakeFS, source: LakePath, split: str | None, cache: Path) -> tuple[str, list[Item]]:
    """The pictures and masks of one split of a data commit, and its name; unset: test where there is one, else val.

    Only that split is downloaded. Raises AppError for a commit or split that is not there.
    """
    files = [file.path.removeprefix(source.path) for file in lake.committed_objects(source, cache)]
    names = split_names(lake, source, files, cache)
    wanted = split or next((s for s in ("test", "val") if names.get(s)), None)
    if not wanted or not names.get(wanted):
        there = ", ".join(s for s in SPLITS if names.get(s)) or tr("none")
        split = split or "test/val"
        raise UsageError(
            tr("{source}: no split '{split}' (there is: {there})", source=source, split=split, there=there)
        )
    prefix = "" if any(path.startswith("images/") for path in files) else f"{wanted}/"
    images, masks = (pictures_below(files, f"{prefix}{part}/") for part in ("images", "masks"))
    lost = [name for name in names[wanted] if name not in images or name not in masks]
    if lost:
        raise AppError(
            tr(
                "{source}: '{lost}' of the split '{wanted}' has no picture or no mask ({count} such names)",
                source=source,
                lost=lost[0],
                wanted=wanted,
                count=len(lost),
            )
        )
    chosen = {name: (images[name][0], masks[name][0]) for name in sorted(names[wanted])}
    keep = {source.path + path for pair in chosen.values() for path in pair}
    tree = lake.download(source, cache, keep.__contains__)
    root = safe_join(tree, source.path)
    return wanted, [Item(name, safe_join(root, image), safe_join(root, mask)) for name, (image, mask) in chosen.items()]


def split_names(lake: LakeFS, source: LakePath, files: Sequence[str], cache: Path) -> dict[str, list[str]]:
    """split -> names of its pairs, for both layouts."""
    if not any(path.startswith("images/") for path in files):
        return {split: list(pictures_below(files, f"{split}/images/")) for split in SPLITS}
    from dataset.splits import read_splits

    tree = lake.download(source, cache, lambda path: path.startswith(f"{source.path}splits/"))
    splits = read_splits(safe_join(tree, source.path))
    return {split: [name for s, _, name in splits.lines if s == split] if splits else [] for split in SPLITS}
