"""Find images of a judged split that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dataset.pages import find_page
from dataset.samples import committed_layout, split_names
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath

if TYPE_CHECKING:
    from utils.lineage import Lineage


def seen_in_training(lake: LakeFS, lineage: Lineage, data: LakePath, split: str, cache: Path) -> set[str]:
    """Return the names of a split's images that the model was trained on.

    An image of the validation split of one commit may be in the training split of another. Imported images have no
    SHA-256: they are compared by the server's checksum and, as that may differ for equal bytes, by name.
    """
    source = lineage.data_path
    if (source.repo, source.path) == (data.repo, data.path) and (
        lake.resolve(source.ref, source.repo) == lake.resolve(data.ref, data.repo)
    ):
        return set()
    trained = images_of(lake, source, "train", cache)
    known = {(digest, page) for file, page in trained.values() for digest in (file.sha256, file.checksum) if digest}
    seen = set()
    for name, (file, page) in images_of(lake, data, split, cache).items():
        namesake = trained.get(name)
        comparable = namesake is None or (namesake[0].sha256 and file.sha256)
        if not comparable or {(file.sha256, page), (file.checksum, page)} & known:
            seen.add(name)
    return seen


def images_of(lake: LakeFS, source: LakePath, split: str, cache: Path) -> dict[str, tuple[RemoteFile, int | None]]:
    """Return name -> (image, its page) of one split of a data commit.

    Names are those of `committed_items`; for a file whose pages are all in this split, it may be that of the file.
    """
    files = {file.path.removeprefix(source.path): file for file in lake.objects(source.ref, source.path, source.repo)}
    layout = committed_layout(source, files)
    images = layout.images(split)
    names = split_names(lake, source, layout, cache)[split]
    found = ((name, *find_page(name, images)) for name in names)
    return {name: (files[images[file][0]], page) for name, file, page in found if file in images}
