"""Find images of a judged split that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dataset.layout import images_below
from dataset.samples import split_names
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath

if TYPE_CHECKING:
    from utils.lineage import Lineage


def seen_in_training(lake: LakeFS, lineage: Lineage, data: LakePath, split: str, cache: Path) -> set[str]:
    """Names of the pictures of a split that a model was trained on: what is validation in one commit may be training in
    another. Imported pictures have no SHA-256: these go by the server's checksum, and where that may differ for equal
    bytes, by their names.
    """
    source = lineage.data_path
    if (source.repo, source.path) == (data.repo, data.path) and (
        lake.resolve(source.ref, source.repo) == lake.resolve(data.ref, data.repo)
    ):
        return set()
    trained = pictures_of(lake, source, "train", cache)
    known = {mark for file in trained.values() for mark in (file.sha256, file.checksum)} - {None, ""}
    seen = set()
    for name, file in pictures_of(lake, data, split, cache).items():
        there = trained.get(name)
        unsure = there is not None and not (there.sha256 and file.sha256)
        if unsure or file.sha256 in known or file.checksum in known:
            seen.add(name)
    return seen


def pictures_of(lake: LakeFS, source: LakePath, split: str, cache: Path) -> dict[str, RemoteFile]:
    """Name -> picture of one split of a data commit, in both layouts; names as `committed_items` has them."""
    files = {file.path.removeprefix(source.path): file for file in lake.objects(source.ref, source.path, source.repo)}
    flat = any(path.startswith("images/") for path in files)
    images = images_below(files, "images/" if flat else f"{split}/images/")
    names = split_names(lake, source, list(files), cache)[split]
    return {name: files[images[name][0]] for name in names if name in images}
