"""The images that a model, and the models that it started from, were trained on, by the commits of their data.

The gate asks which images of a split may judge a model; a training with folds asks which images it may hold out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Protocol

from core.errors import AppError
from core.files import safe_join
from core.hashing import file_sha256
from dataset.pages import find_page
from dataset.samples import committed_layout, split_names
from utils.ensemble_file import ENSEMBLE_FILE, is_ensemble, read_ensemble
from utils.identifiers import Sha256
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage
from utils.published_weights import is_published
from versioning.provenance.ancestors import Ancestor, ancestors

TRAIN, FOLDS = ("train",), ("train", "val")  # splits that a single model is trained on, and those of all folds together
HeldOut = tuple[frozenset[str], ...]  # of each member, SHA-256 of image files that it was not trained on
Images = Mapping[str, tuple[RemoteFile, int | None]]  # name -> image, its page


class Image(Protocol):
    """An image of which is asked whether a model was trained on it."""

    @property
    def data(self) -> LakePath | None:
        """Its data commit, with the full commit ID; None if it is not committed yet."""

    @property
    def split(self) -> str:
        """Its split there."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which lists may have it: that of its page, and that of its file for all pages."""

    @property
    def page(self) -> int | None:
        """Its page; None for a file of one."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of its file."""

    @property
    def digests(self) -> tuple[str | None, ...]:
        """The SHA-256 of its file, None if only reading the file would tell it, and other digests."""


@dataclass(frozen=True)
class Generation:
    """The images that a model was trained on: those of some splits of a data commit, without what a member held out.

    `only`: the place of the member that a successor started from, where that was one file of an ensemble.
    """

    data: LakePath  # with the full commit ID
    images: Mapping[str, Images]  # by split
    held_out: HeldOut = ()
    only: int | None = None

    @cached_property
    def known(self) -> frozenset[tuple[str, int | None]]:
        """Digests of the images with their pages."""
        files = [found for of_split in self.images.values() for found in of_split.values()]
        return frozenset((digest, page) for file, page in files for digest in (file.sha256, file.checksum) if digest)

    def held_out_by(self, image: Image, member: int) -> bool:
        """Return whether a member is recorded to have held out an image."""
        place = member if self.only is None else self.only
        return place < len(self.held_out) and image.sha256 in self.held_out[place]

    def has(self, image: Image, member: int) -> bool:
        """Return whether a member of the model was trained on an image.

        Imported images have no SHA-256: they are compared by the server's checksum and, as that may differ for equal
        bytes, by name.
        """
        if image.data == self.data and image.split not in self.images:
            return False
        if self.held_out_by(image, member):
            return False
        pages = (None, image.page)  # a list may have the file for all of its pages
        if self.known.intersection(product(image.digests, pages)):
            return True
        named = [of_split[name] for of_split in self.images.values() for name in image.names if name in of_split]
        return any(not (file.sha256 and image.digests[0]) for file, _ in named)


@dataclass(frozen=True)
class TrainingImages:
    """What a model and those that it started from were trained on; `unknown` are references to some without a record."""

    generations: tuple[Generation, ...]  # its own data first
    unknown: tuple[str, ...] = ()
    errors: tuple[AppError, ...] = ()  # why records of some of the unknown could not be read

    def seen_by(self, image: Image, member: int = 0) -> bool:
        """Return whether a member of the model, or what it started from, was trained on an image.

        What an ensemble says that its members held out is not believed against the records of what they started from.
        """
        return any(generation.has(image, member) for generation in self.generations)


def training_images(lake: LakeFS, lineage: Lineage, held_out: HeldOut, cache: Path) -> TrainingImages:
    """Return the images of a model of lakeFS and of its ancestors. `held_out` of each member of an ensemble, else empty."""
    own = _generation(lake, lineage.data_path, FOLDS if held_out else TRAIN, cache)
    earlier = images_of_ancestors(lake, ancestors(lake, lineage.model_path), str(lineage.model_path), cache)
    return replace(earlier, generations=(replace(own, held_out=held_out), *earlier.generations))


def images_of_ancestors(
    lake: LakeFS, chain: Iterable[Ancestor], successor: str, cache: Path, val: bool = False
) -> TrainingImages:
    """Return the images of the models that a training started from, the nearest first; `successor` names its model.

    With `val`, the images that a single model was chosen on count too, and imported images are downloaded and hashed.
    """
    generations, unknown, errors = list[Generation](), list[str](), list[AppError]()
    only: int | None = None
    try:
        for ancestor in chain:
            if is_published(ancestor.reference):  # their images are not those of a project
                continue
            try:
                found = _generation_of(lake, ancestor, cache, val)
            except AppError as error:
                found = None
                errors.append(error)
            if found is None:
                unknown.append(ancestor.reference)
            else:
                only = only if found.only is None else found.only  # a member's own start is that of the same place
                generations.append(replace(found, only=only))
            if ancestor.start:
                unknown.append(ancestor.start)
    except AppError as error:  # the commit of an ancestor cannot be read: it was deleted, or is in another store
        unknown.append(successor)
        errors.append(error)
    return TrainingImages(tuple(generations), tuple(unknown), tuple(errors))


def _generation_of(lake: LakeFS, ancestor: Ancestor, cache: Path, val: bool) -> Generation | None:
    """Return what an ancestor was trained on; None if no record names it. Raises AppError if it cannot be read."""
    if ancestor.data_path is None:
        return None
    held_out, only = _held_out(lake, ancestor.path, cache) if ancestor.path else ((), None)
    single = not held_out and PurePosixPath(ancestor.reference).name != ENSEMBLE_FILE
    found = _generation(lake, ancestor.data_path, TRAIN if single and not val else FOLDS, cache)
    if val:
        found = replace(found, images=_hashed(lake, ancestor.data_path, found.images, cache))
    return replace(found, held_out=held_out, only=only)


def _held_out(lake: LakeFS, model: LakePath, cache: Path) -> tuple[HeldOut, int | None]:
    """Return what the members of an ensemble held out, and for the file of a member its place; empty for other files."""
    folder, _, name = model.path.rpartition("/")
    wanted = f"{folder}/{ENSEMBLE_FILE}"
    tree = lake.download(LakePath(model.repo, model.ref, f"{folder}/"), cache, wanted.__eq__)
    file = safe_join(tree, wanted)
    if not file.is_file():
        return (), None
    members = read_ensemble(file).members
    place = next((place for place, member in enumerate(members) if member.file == name), None)
    known = is_ensemble(name) or place is not None
    return tuple(frozenset(one.held_out) for one in members if known), place


def _generation(lake: LakeFS, source: LakePath, splits: Sequence[str], cache: Path) -> Generation:
    return Generation(
        replace(source, ref=lake.resolve(source.ref, source.repo)),
        {split: images_of(lake, source, split, cache, trained=True) for split in splits},
    )


def _hashed(lake: LakeFS, source: LakePath, images: Mapping[str, Images], cache: Path) -> dict[str, Images]:
    """Return images with the SHA-256 of the files that another client uploaded without one: they are downloaded."""
    missing = {file.path for of_split in images.values() for file, _ in of_split.values() if not file.sha256}
    if not missing:
        return dict(images)
    tree = lake.download(source, cache, missing.__contains__)

    def hashed(file: RemoteFile) -> RemoteFile:
        return replace(file, sha256=file.sha256 or Sha256(file_sha256(safe_join(tree, file.path))))

    return {split: {n: (hashed(file), page) for n, (file, page) in part.items()} for split, part in images.items()}


def images_of(
    lake: LakeFS, source: LakePath, split: str, cache: Path, trained: bool = False
) -> dict[str, tuple[RemoteFile, int | None]]:
    """Return name -> (image, its page) of one split of a data commit.

    Names are those of `committed_items`; for a file whose pages are all in this split, it may be that of the file. Where a
    commit has no splits, `trained` returns all images: a training has divided them, and did not record how.
    """
    files = {file.path.removeprefix(source.path): file for file in lake.objects(source.ref, source.path, source.repo)}
    layout = committed_layout(source, files)
    images, names = layout.images(split), split_names(lake, source, layout, cache)
    chosen = list(images) if trained and not any(names.values()) else names[split]
    found = ((name, *find_page(name, images)) for name in chosen)
    return {name: (files[images[file][0]], page) for name, file, page in found if file in images}
