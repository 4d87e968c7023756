"""Decoded pictures on disk at working size: made once, verified when opened, read through a memory map by every process.

A split is one file, KEY.pictures: for each pair the image, the mask and, for validation, the mask at its own size, all
uint8, then the SHA-256 of everything before it. KEY is a hash of all that decides the content, the hashes of the
committed files among them: other data, another size, other classes or other code have another file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.console import human_size
from core.errors import UsageError
from core.files import atomic_replace
from core.i18n import tr
from core.locks import file_lock
from core.reporting import notify, progress
from dataset import classes, images
from dataset.classes import ClassMap, UInt8
from dataset.images import read_image, read_mask
from dataset.layout import Pair
from segmentation import preprocess
from segmentation.preprocess import resize_image, resize_mask

SUFFIX = ".pictures"
DIGEST = hashlib.sha256
DIGEST_BYTES = DIGEST().digest_size
SPARE_BYTES = 1 << 30  # of the disk, left to others
Arrays = tuple[UInt8, UInt8, UInt8]


@dataclass(frozen=True)
class Split:
    """What to decode: image (H,W,3) and mask (H,W) at `size`, and with `native` the mask (h,w) at its own size."""

    pairs: Sequence[Pair]
    classes: ClassMap
    size: tuple[int, int]  # height and width in pixels
    native: bool

    def offsets(self) -> list[int]:
        """First byte of each pair in the file, and after them the number of all bytes."""
        small = 4 * self.size[0] * self.size[1]
        sizes = [small + (pair.height * pair.width if self.native else 0) for pair in self.pairs]
        return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return self.offsets()[-1] + DIGEST_BYTES

    def key(self) -> str:
        """A hash of all that decides the bytes."""
        import PIL

        code = [Path(str(module.__file__)).read_bytes() for module in (classes, images, preprocess)]
        parts = {
            "code": [hashlib.sha256(text).hexdigest() for text in (*code, Path(__file__).read_bytes())],
            "decoder": PIL.__version__,
            "size": self.size,
            "native": self.native,
            "classes": self.classes.to_dict(),
            "files": [(pair.image_sha256, pair.mask_sha256) for pair in self.pairs],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def decode(self, index: int) -> Arrays:
        """The arrays of a pair, from its files; without `native` the third is the second.

        The bytes of both are compared with the hash that was committed, so that what is learnt is what the commit holds.
        Raises UsageError otherwise.
        """
        pair = self.pairs[index]
        mask = read_mask(_checked(pair.mask, pair.mask_sha256), self.classes)
        image = resize_image(read_image(_checked(pair.image, pair.image_sha256)), self.size)
        small = resize_mask(mask, self.size)
        return image, small, mask if self.native else small


class Decoded:
    """A split's file, opened; it takes no memory of its own."""

    def __init__(self, path: Path, split: Split) -> None:
        self.split, self.offsets = split, split.offsets()
        self.bytes: UInt8 = np.asarray(np.memmap(path, np.uint8, "r"))

    def __getitem__(self, index: int) -> Arrays:
        """The arrays of a pair, as `Split.decode` gives them, read-only."""
        (height, width), pair = self.split.size, self.split.pairs[index]
        record = self.bytes[self.offsets[index] : self.offsets[index + 1]]
        image, small, own = np.split(record, [3 * height * width, 4 * height * width])
        mask = small.reshape(height, width)
        native = own.reshape(pair.height, pair.width) if self.split.native else mask
        return image.reshape(height, width, 3), mask, native


def prepare(folder: Path, limit: float, splits: Sequence[Split]) -> list[Path] | None:
    """The verified files of these splits, made where they are not there; None, and it is said, where they have no room.

    `limit` is in bytes, for all files of the folder: those that were not used for the longest time go first. One process
    at a time is at work here, the others wait for it.
    """
    needed = sum(split.file_size for split in splits)
    if needed > limit:
        _say_no_room(needed, limit, "PICTURE_CACHE_GB")
        return None
    waiting = tr("another process is decoding pictures: waiting for it")
    with file_lock(folder / ".lock", waiting):
        files = [folder / (split.key() + SUFFIX) for split in splits]
        missing = [(split, file) for split, file in zip(splits, files, strict=True) if not _is_whole(file, split)]
        to_write = sum(split.file_size for split, _ in missing)
        make_room(folder, limit - to_write, keep=files)
        space = shutil.disk_usage(folder).free - SPARE_BYTES
        if to_write > max(0, space):
            _say_no_room(to_write, space, str(folder))
            return None
        for split, file in missing:
            _write(file, split)
    return files


def make_room(folder: Path, limit: float, keep: Sequence[Path]) -> None:
    """Remove what killed processes left half-written, then the files that were not used for the longest time."""
    for part in folder.glob(".*.part"):  # nobody writes now: the caller has the lock
        part.unlink()
    used = {file: file.stat() for file in folder.glob("*" + SUFFIX)}
    total = sum(status.st_size for status in used.values())
    for file in sorted(used.keys() - set(keep), key=lambda file: used[file].st_mtime):
        if total <= limit:
            return
        file.unlink()  # a training that has it open keeps its content
        total -= used[file].st_size


def _is_whole(file: Path, split: Split) -> bool:
    """Whether the file is there with every byte that was written; a damaged one is removed."""
    if not file.exists():
        return False
    size = split.file_size - DIGEST_BYTES
    if file.stat().st_size == split.file_size and _digest(file, size) == _tail(file, size):
        os.utime(file)  # it was used now
        return True
    notify(tr("{file}: damaged: made again", file=file))
    file.unlink()
    return False


def _digest(file: Path, size: int) -> bytes:
    """The hash of the first `size` bytes."""
    digest = DIGEST()
    with file.open("rb") as stream:
        while size:
            piece = stream.read(min(size, 1 << 20))
            digest.update(piece)
            size -= len(piece)
    return digest.digest()


def _tail(file: Path, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(size)
        return stream.read()


def _write(file: Path, split: Split) -> None:
    """Decode every pair behind a progress bar; a kill leaves no file."""
    digest, count = DIGEST(), len(split.pairs)
    with atomic_replace(file) as part, part.open("wb") as stream:
        for index in progress(range(count), count, tr("decoding pictures"), tr("images")):
            for array in split.decode(index)[: 3 if split.native else 2]:
                content = array.tobytes()
                digest.update(content)
                stream.write(content)
        stream.write(digest.digest())


def _say_no_room(needed: int, room: float, where: str) -> None:
    need, have = human_size(needed), human_size(max(0, room))
    notify(
        tr(
            "no room for {need} of decoded pictures: each epoch reads the files ({where}: {have})",
            need=need,
            where=where,
            have=have,
        )
    )


def _checked(path: Path, sha256: str) -> bytes:
    """The bytes of a file whose content must not have changed since the check."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(tr("{path}: changed since it was committed: run again", path=path))
    return content
