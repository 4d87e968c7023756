"""List the images and masks of a data commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import AppError, UsageError
from core.files import safe_join
from core.i18n import tr
from dataset.directory import SPLITS
from dataset.layout import images_below
from utils.lakefs_utils import LakeFS, LakePath


@dataclass(frozen=True)
class Item:
    """An image to predict: `name` is the path of its output without suffix, `mask` its label if there is one.

    `fault` is the reason why the image must not be read, if there is one.
    """

    name: str
    image: Path
    mask: Path | None = None
    fault: str | None = None


def committed_items(lake: LakeFS, source: LakePath, split: str | None, cache: Path) -> tuple[str, list[Item]]:
    """Return the name of one split of a data commit, and its items; without `split`: test if it exists, else val.

    Only that split is downloaded. Raises AppError for a missing commit or split.
    """
    files = [file.path.removeprefix(source.path) for file in lake.committed_objects(source, cache)]
    names = split_names(lake, source, files, cache)
    wanted = split or next((s for s in ("test", "val") if names.get(s)), None)
    if not wanted or not names.get(wanted):
        available = ", ".join(s for s in SPLITS if names.get(s)) or tr("none")
        split = split or "test/val"
        raise UsageError(
            tr("{source}: no split '{split}' (available: {available})", source=source, split=split, available=available)
        )
    prefix = "" if any(path.startswith("images/") for path in files) else f"{wanted}/"
    images, masks = (images_below(files, f"{prefix}{part}/") for part in ("images", "masks"))
    unpaired = [name for name in names[wanted] if name not in images or name not in masks]
    if unpaired:
        raise AppError(
            tr(
                "{source}: '{unpaired}' of the split '{wanted}' has no image or no mask ({count} names in total)",
                source=source,
                unpaired=unpaired[0],
                wanted=wanted,
                count=len(unpaired),
            )
        )
    chosen = {name: (images[name][0], masks[name][0]) for name in sorted(names[wanted])}
    keep = {source.path + path for pair in chosen.values() for path in pair}
    tree = lake.download(source, cache, keep.__contains__)
    root = safe_join(tree, source.path)
    return wanted, [Item(name, safe_join(root, image), safe_join(root, mask)) for name, (image, mask) in chosen.items()]


def split_names(lake: LakeFS, source: LakePath, files: Sequence[str], cache: Path) -> dict[str, list[str]]:
    """Return split -> names of its pairs, for both layouts."""
    if not any(path.startswith("images/") for path in files):
        return {split: list(images_below(files, f"{split}/images/")) for split in SPLITS}
    from dataset.splitting.splits import read_splits

    tree = lake.download(source, cache, lambda path: path.startswith(f"{source.path}splits/"))
    splits = read_splits(safe_join(tree, source.path))
    return {split: [name for s, _, name in splits.lines if s == split] if splits else [] for split in SPLITS}
