"""Find images of a judged split that a model, or one that it started from, was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath

from core.errors import AppError
from core.files import safe_join
from core.hashing import file_sha256
from dataset.pages import find_page
from dataset.samples import Item, committed_layout, split_names
from segmentation.networks.packages import is_published
from utils.ensemble_file import ENSEMBLE_FILE, is_ensemble, read_ensemble
from utils.identifiers import InvalidValue
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage
from versioning.provenance.ancestors import Ancestor, ancestors

TRAIN, FOLDS = ("train",), ("train", "val")  # splits that a single model is trained on, and those of all folds together
HeldOut = tuple[frozenset[str], ...]  # of each member, SHA-256 of image files that it was not trained on


@dataclass(frozen=True)
class JudgedImage:
    """An image of a split of a data commit, with its file in lakeFS."""

    data: LakePath  # with the full commit ID
    split: str
    item: Item
    file: RemoteFile

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file, which lakeFS does not have of imported ones."""
        return self.file.sha256 or file_sha256(self.item.image)


@dataclass(frozen=True)
class Generation:
    """The images that a model was trained on: those of some splits of a data commit, without what a member held out."""

    data: LakePath  # with the full commit ID
    images: Mapping[str, Mapping[str, tuple[RemoteFile, int | None]]]  # split -> name -> image, its page
    held_out: HeldOut = ()

    @cached_property
    def known(self) -> frozenset[tuple[str, int | None]]:
        """Digests of the images with their pages."""
        files = [found for of_split in self.images.values() for found in of_split.values()]
        return frozenset((digest, page) for file, page in files for digest in (file.sha256, file.checksum) if digest)

    def held_out_by(self, image: JudgedImage, member: int) -> bool:
        """Return whether a member is recorded to have held out an image; a model may stand for all members that started from it."""
        place = 0 if len(self.held_out) == 1 else member
        return place < len(self.held_out) and image.sha256 in self.held_out[place]

    def has(self, image: JudgedImage, member: int) -> bool:
        """Return whether a member of the model was trained on an image.

        Imported images have no SHA-256: they are compared by the server's checksum and, as that may differ for equal
        bytes, by name.
        """
        if image.data == self.data and image.split not in self.images:
            return False
        if self.held_out_by(image, member):
            return False
        pages = (None, image.item.page)  # a list may have the file for all of its pages
        if self.known.intersection(product((image.file.sha256, image.file.checksum), pages)):
            return True
        named = [of_split[name] for of_split in self.images.values() for name in _names(image.item) if name in of_split]
        return any(not (file.sha256 and image.file.sha256) for file, _ in named)


@dataclass(frozen=True)
class TrainingImages:
    """What a model and those that it started from were trained on; `unknown` are references to some without a record."""

    generations: tuple[Generation, ...]  # its own data first
    unknown: tuple[str, ...] = ()

    def seen_by(self, image: JudgedImage, member: int = 0) -> bool:
        """Return whether a member of the model, or what it started from, was trained on an image.

        What an ensemble says that its members held out is not believed against the records of what they started from.
        """
        return any(generation.has(image, member) for generation in self.generations)


def training_images(lake: LakeFS, lineage: Lineage, held_out: HeldOut, cache: Path) -> TrainingImages:
    """Return the images of a model of lakeFS and of its ancestors. `held_out` of each member of an ensemble, else empty."""
    own = _generation(lake, lineage.data_path, held_out, FOLDS if held_out else TRAIN, cache)
    generations, unknown = [own], []
    try:
        for ancestor in ancestors(lake, lineage.model_path):
            if is_published(ancestor.reference):  # their images are not those of a project
                continue
            found = _generation_of(lake, ancestor, cache)
            if found is None:
                unknown.append(ancestor.reference)
            else:
                generations.append(found)
            if ancestor.start:
                unknown.append(ancestor.start)
    except (AppError, InvalidValue):  # the commit of an ancestor cannot be read: it was deleted, or is in another store
        unknown.append(str(lineage.model_path))
    return TrainingImages(tuple(generations), tuple(unknown))


def _generation_of(lake: LakeFS, ancestor: Ancestor, cache: Path) -> Generation | None:
    """Return what an ancestor was trained on; None if that is not known."""
    if ancestor.data_path is None:
        return None
    try:
        place = ancestor.path
        held_out = () if place is None else _held_out(lake, place, cache)
        single = not held_out and PurePosixPath(ancestor.reference).name != ENSEMBLE_FILE
        return _generation(lake, ancestor.data_path, held_out, TRAIN if single else FOLDS, cache)
    except (AppError, InvalidValue):
        return None


def _held_out(lake: LakeFS, model: LakePath, cache: Path) -> HeldOut:
    """Return what the members of an ensemble held out, for the file of a member what that one did; empty for others."""
    folder, _, name = model.path.rpartition("/")
    wanted = f"{folder}/{ENSEMBLE_FILE}"
    tree = lake.download(LakePath(model.repo, model.ref, f"{folder}/"), cache, wanted.__eq__)
    file = safe_join(tree, wanted)
    if not file.is_file():
        return ()
    members = read_ensemble(file).members
    return tuple(frozenset(one.held_out) for one in members if is_ensemble(name) or one.file == name)


def _generation(lake: LakeFS, source: LakePath, held_out: HeldOut, splits: Sequence[str], cache: Path) -> Generation:
    images = {split: images_of(lake, source, split, cache) for split in splits}
    return Generation(_resolved(lake, source), images, held_out)


def judged_images(lake: LakeFS, data: LakePath, split: str, items: Sequence[Item], cache: Path) -> list[JudgedImage]:
    """Return the items of a split of a data commit with their files in lakeFS."""
    files, source = images_of(lake, data, split, cache), _resolved(lake, data)
    found = []
    for item in items:
        name = next(name for name in _names(item) if name in files)
        found.append(JudgedImage(source, split, item, files[name][0]))
    return found


def _names(item: Item) -> tuple[str, ...]:
    """Return the names by which lists may have an image: that of its page, and that of its file for all pages."""
    return (item.name,) if item.page is None else (item.name, item.file_name)


def _resolved(lake: LakeFS, source: LakePath) -> LakePath:
    return replace(source, ref=lake.resolve(source.ref, source.repo))


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
