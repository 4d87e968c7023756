"""List the images and masks of a data commit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import AppError, UsageError
from core.files import safe_join
from core.hashing import file_sha256
from core.i18n import tr, trn
from dataset.directory import SPLITS, is_data_name
from dataset.layout.ignore import IGNORE_FILE, parse_ignore_rules
from dataset.layout.layout import SPLIT, Layout
from dataset.layout.resolve import resolve_layout
from dataset.pages import count_pages_of, find_page, page_name
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_client.download import commit_directory, object_file
from utils.lakefs_utils import LakeFS, LakePath

MAX_RULES_BYTES = 1 << 20  # of a .lakefsignore that is read from a server


@dataclass(frozen=True)
class Item:
    """An image to predict: `name` is the path of its output without suffix, `mask` its label if there is one.

    `page` is that of both files, where they have several. `fault` is the reason why the image must not be read, if
    there is one. `group` is what its split was made by (the film of a frame, the patient of a slice); None: the image
    is a group of its own.
    """

    name: str
    image: Path
    mask: Path | None = None
    fault: str | None = None
    group: str | None = None
    page: int | None = None

    @property
    def file_name(self) -> str:
        """The name of the file, without that of the page."""
        return self.name if self.page is None else self.name.rpartition("_")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which lists may have it: that of its page, and that of its file for all pages."""
        return (self.name,) if self.page is None else (self.name, self.file_name)


def committed_items(lake: LakeFS, source: LakePath, split: str | None, cache: Path) -> tuple[str, list[Item]]:
    """Return the name of one split of a data commit, and its items; without `split`: test if it exists, else val.

    Only that split is downloaded. Raises AppError for a missing commit or split.
    """
    files = [file.path.removeprefix(source.path) for file in committed_data(lake, source, cache)]
    layout = committed_layout(source, files)
    names = split_names(lake, source, layout, cache)
    wanted = split or next((s for s in ("test", "val") if names.get(s)), None)
    if not wanted or not names.get(wanted):
        available = ", ".join(s for s in SPLITS if names.get(s)) or tr("none")
        split = split or "test/val"
        raise UsageError(
            tr("{source}: no split '{split}' (available: {available})", source=source, split=split, available=available)
        )
    images, masks = layout.images(wanted), layout.masks(wanted)
    found = {name: find_page(name, images) for name in sorted(names[wanted])}
    unpaired = [name for name, (file, _) in found.items() if file not in images or file not in masks]
    if unpaired:
        raise AppError(
            trn(
                "{source}: '{unpaired}' of the split '{wanted}' has no image or no mask ({count} name in total)",
                "{source}: '{unpaired}' of the split '{wanted}' has no image or no mask ({count} names in total)",
                len(unpaired),
                source=source,
                unpaired=unpaired[0],
                wanted=wanted,
            )
        )
    chosen = {name: (images[file][0], masks[file][0]) for name, (file, _) in found.items()}
    keep = {source.path + path for pair in chosen.values() for path in pair}
    tree = lake.download(source, cache, keep.__contains__)
    root = safe_join(tree, source.path)
    items = [
        Item(name, safe_join(root, image), safe_join(root, mask), page=found[name][1])
        for name, (image, mask) in chosen.items()
    ]
    pages = [page for item in items for page in expand_item(item)]
    return wanted, [replace(item, group=item.file_name) if item.page is not None else item for item in pages]


def expand_item(item: Item) -> list[Item]:
    """Return an item for each page of a file of several pages, else this item."""
    pages = 1 if item.page is not None or item.fault else count_pages_of(item.image)
    if pages == 1:
        return [item]
    return [replace(item, name=page_name(item.name, page), page=page) for page in range(pages)]


def committed_data(lake: LakeFS, source: LakePath, cache: Path) -> list[RemoteFile]:
    """Return the objects of a data commit that are data by its own `.lakefsignore`, as `data_files` lists a directory."""
    return select_data(lake, source, cache, lake.committed_objects(source, cache))


def select_data(lake: LakeFS, source: LakePath, cache: Path, listed: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return those of the objects of a commit that are data."""
    found = [file for file in listed if is_data_name(file.path.removeprefix(source.path))]
    file = next((file for file in found if file.path == source.path + IGNORE_FILE), None)
    if file is None:
        return found
    cached = object_file(commit_directory(source, cache), file.path)
    known = cached.is_file() and file.sha256 == file_sha256(cached)
    if file.size_bytes > MAX_RULES_BYTES:
        raise AppError(
            tr(
                "{source}: {size} bytes, expected at most {limit}",
                source=file.path,
                size=file.size_bytes,
                limit=MAX_RULES_BYTES,
            )
        )
    content = cached.read_bytes() if known else b"".join(lake.read(source, file))
    rules = parse_ignore_rules(content, LakePath(source.repo, source.ref, file.path))
    return [file for file in found if not rules.ignores(file.path.removeprefix(source.path))]


def committed_layout(source: LakePath, files: Iterable[str]) -> Layout:
    """Return the layout of a data commit from the paths of its files below `source`. Raises DataFaults."""
    return resolve_layout([name for name in files if is_data_name(name)], source.path.rstrip("/"), committed=True)


def split_names(lake: LakeFS, source: LakePath, layout: Layout, cache: Path) -> dict[str, list[str]]:
    """Return split -> names of its pairs."""
    if layout.kind == SPLIT:
        return {split: list(layout.images(split)) for split in SPLITS}
    from dataset.splitting.splits import read_splits

    folder = f"{source.path}{layout.splits_root}"
    tree = lake.download(source, cache, lambda path: path.startswith(f"{folder}splits/"))
    splits = read_splits(safe_join(tree, folder))
    return {split: [name for s, _, name in splits.lines if s == split] if splits else [] for split in SPLITS}
