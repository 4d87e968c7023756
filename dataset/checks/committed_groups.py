"""Find the groups of the images of a data commit again: from its names, its split files and groups.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.files import safe_join
from dataset.checks.groups import are_categories
from dataset.classes import IGNORE_INDEX, ClassMap, InvalidFileError, UInt8
from dataset.decoding.image import to_preview
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.samples import decode_raw
from dataset.directory import SPLITS
from dataset.layout.layout import FLAT, Layout
from dataset.samples import Item, committed_data, committed_layout, split_names
from dataset.splitting.films import label_blocks
from dataset.splitting.group_file import read_group_file
from dataset.splitting.groups import Groups, detect_groups, join_groups
from dataset.splitting.splits import LEFT_OUT, read_splits
from dataset.splitting.thumbnails import make_thumbnail
from utils.lakefs_utils import LakeFS, LakePath


def add_groups(
    lake: LakeFS,
    source: LakePath,
    committed: tuple[str, Sequence[Item]],
    cache: Path,
    classes: ClassMap,
    reading: ReadOptions,
    split_group: str | None = None,
) -> list[Item]:
    """Return the items of `committed`, a result of `committed_items`, with their groups, as the data check found them.

    Only names and small files of other splits are read: whether numbered names are a film is judged by the images of
    this split alone. `split_group` is SPLIT_GROUP; without it, that of the commit's split files is used.
    """
    split, items = committed
    files = [file.path.removeprefix(source.path) for file in committed_data(lake, source, cache)]
    layout = committed_layout(source, files)
    names = split_names(lake, source, layout, cache)
    root = _download_lists(lake, source, layout, cache)
    stored = read_splits(root / layout.splits_root) if layout.kind == FLAT else None
    names[LEFT_OUT] = list(stored.left_out) if stored is not None else []
    everything = {name for each in names.values() for name in each}
    group_file = root / layout.group_file
    listed = read_group_file(group_file, everything)[0] if layout.group_file in files else None
    thumbnails = {item.name: thumbnail for item in items if (thumbnail := _thumbnail(item, reading)) is not None}
    pattern = split_group or (stored.pattern if stored is not None else None)

    def find(directories: bool = True) -> Groups:
        return _find(names, split, thumbnails, pattern, listed, directories)

    groups = find()
    if groups.rule == "directories" and stored is not None and stored.seed is not None:
        present = {item.name: _classes_of(item, classes, reading) for item in items}
        groups = find(directories=False) if are_categories(groups, present) else groups
    if groups.rule == "none":
        return list(items)
    splits = {groups.key(part, name): part for part in SPLITS for name in names[part]}
    of = label_blocks(groups.of, groups.frames, splits) if groups.divisible else groups.of
    known = {item.name: of.get(groups.key(split, item.name)) for item in items}
    # Split files may name a file for all of its pages.
    return [replace(item, group=known[item.name] or of[groups.key(split, item.file_name)]) for item in items]


def _find(
    names: Mapping[str, Sequence[str]],
    split: str,
    thumbnails: Mapping[str, UInt8],
    pattern: str | None,
    listed: Mapping[str, str] | None,
    directories: bool,
) -> Groups:
    """Return the groups of all names; where a name occurs in several splits, splits are grouped one by one."""
    everything = [name for of_part in names.values() for name in of_part]
    if len(set(everything)) == len(everything):
        return detect_groups(everything, thumbnails, pattern, listed, directories)
    parts = [(part, names[part]) for part in SPLITS if names.get(part)]
    return join_groups(
        [
            (part, detect_groups(of_part, thumbnails if part == split else None, pattern, listed, directories))
            for part, of_part in parts
        ]
    )


def _download_lists(lake: LakeFS, source: LakePath, layout: Layout, cache: Path) -> Path:
    """Download split files and groups.csv; return the directory of the commit's data in the cache."""
    wanted = (f"{source.path}{layout.splits_root}splits/", f"{source.path}{layout.group_file}")
    return safe_join(lake.download(source, cache, lambda path: path.startswith(wanted)), source.path)


def _thumbnail(item: Item, reading: ReadOptions) -> UInt8 | None:
    try:
        return make_thumbnail(to_preview(decode_raw(item.image.read_bytes(), reading, page=item.page)))
    except InvalidFileError:  # the measurement reports it
        return None


def _classes_of(item: Item, classes: ClassMap, reading: ReadOptions) -> frozenset[int]:
    if item.mask is None:
        return frozenset()
    return frozenset(np.unique(read_mask(item.mask, classes, reading, item.page)).tolist()) - {IGNORE_INDEX}
