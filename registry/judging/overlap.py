"""The images of a judged split with their files in lakeFS, to be compared with those that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from core.hashing import file_sha256
from dataset.samples import Item
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.provenance.training_images import images_of


@dataclass(frozen=True)
class JudgedImage:
    """An image of a split of a data commit, with its file in lakeFS."""

    data: LakePath  # with the full commit ID
    split: str
    item: Item
    file: RemoteFile

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which lists may have it."""
        return self.item.names

    @property
    def page(self) -> int | None:
        """Its page."""
        return self.item.page

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file, which lakeFS does not have of imported ones."""
        return self.file.sha256 or file_sha256(self.item.image)

    @property
    def digests(self) -> tuple[str | None, ...]:
        """The SHA-256 and the checksum that lakeFS has of the file."""
        return self.file.sha256, self.file.checksum


def judged_images(lake: LakeFS, data: LakePath, split: str, items: Sequence[Item], cache: Path) -> list[JudgedImage]:
    """Return the items of a split of a data commit with their files in lakeFS."""
    files, source = images_of(lake, data, split, cache), replace(data, ref=lake.resolve(data.ref, data.repo))
    found = []
    for item in items:
        name = next(name for name in item.names if name in files)
        found.append(JudgedImage(source, split, item, files[name][0]))
    return found
