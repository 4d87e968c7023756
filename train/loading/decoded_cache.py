"""Decoded images on disk at working size: written once, verified when opened, read by all processes through a memory map.

A split is one file, KEY.pictures: for each pair the image, the mask and, for validation, the mask at native size, all
uint8, then the SHA-256 of everything before it. KEY is a hash of everything that decides the content, including the
hashes of the committed files: other data, another size, other classes or other code use another file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from core.console import format_size
from core.errors import UsageError
from core.files import atomic_replace
from core.i18n import tr
from core.locks import file_lock
from core.reporting import notify, progress
from dataset import classes, decoding
from dataset.classes import ClassMap, UInt8
from dataset.data import Pair
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from segmentation import preprocess
from segmentation.preprocess import resize_image, resize_mask

SUFFIX = ".pictures"
DIGEST = hashlib.sha256
DIGEST_BYTES = DIGEST().digest_size
SPARE_BYTES = 1 << 30  # free disk space that is left to other programs
Arrays = tuple[UInt8, UInt8, UInt8]


@dataclass(frozen=True)
class Split:
    """What to decode: image (H,W,C) and mask (H,W) at `size`, and with `native` the mask (h,w) at native size."""

    pairs: Sequence[Pair]
    classes: ClassMap
    size: tuple[int, int]  # height and width in pixels
    native: bool
    reading: ReadOptions

    def offsets(self) -> list[int]:
        """Return the offset of each pair in the file, and last the number of bytes of all pairs."""
        small = (self.reading.channels + 1) * self.size[0] * self.size[1]
        sizes = [small + (pair.height * pair.width if self.native else 0) for pair in self.pairs]
        return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]

    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
        return self.offsets()[-1] + DIGEST_BYTES

    def key(self) -> str:
        """Return a hash of everything that decides the content."""
        import PIL

        decoders = sorted(Path(str(decoding.__file__)).parent.glob("*.py"))
        modules = [Path(str(module.__file__)) for module in (classes, preprocess)]
        code = [path.read_bytes() for path in (*modules, *decoders)]
        parts = {
            "code": [hashlib.sha256(text).hexdigest() for text in (*code, Path(__file__).read_bytes())],
            "decoder": (PIL.__version__, metadata.version("tifffile")),
            "size": self.size,
            "native": self.native,
            "reading": self.reading.to_dict(),
            "classes": self.classes.to_dict(),
            "files": [(pair.image_sha256, pair.mask_sha256, pair.page or 0) for pair in self.pairs],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def decode(self, index: int) -> Arrays:
        """Decode a pair from its files; without `native` the third array is the second.

        Both files are compared with their committed hashes, so that training uses what the commit holds. Raises
        UsageError if they differ.
        """
        pair = self.pairs[index]
        read = _read_verified if pair.page is None else _read_verified_stack
        mask = read_mask(read(pair.mask, pair.mask_sha256), self.classes, self.reading, pair.page)
        image = read_image(read(pair.image, pair.image_sha256), self.reading, pair.page)
        image = resize_image(image, self.size)
        small = resize_mask(mask, self.size)
        return image, small, mask if self.native else small


class Decoded:
    """The memory-mapped file of a split."""

    def __init__(self, path: Path, split: Split) -> None:
        self.split, self.offsets = split, split.offsets()
        self.bytes: UInt8 = np.asarray(np.memmap(path, np.uint8, "r"))

    def __getitem__(self, index: int) -> Arrays:
        """Return the arrays of a pair as `Split.decode` does, read-only."""
        (height, width), pair = self.split.size, self.split.pairs[index]
        record = self.bytes[self.offsets[index] : self.offsets[index + 1]]
        channels = self.split.reading.channels
        image, small, native_bytes = np.split(record, [channels * height * width, (channels + 1) * height * width])
        mask = small.reshape(height, width)
        native = native_bytes.reshape(pair.height, pair.width) if self.split.native else mask
        return image.reshape(height, width, channels), mask, native


def prepare_files(folder: Path, limit: float, splits: Sequence[Split]) -> list[Path] | None:
    """Return the verified files of these splits, and write those that are missing; None if there is no room for them.

    `limit` is in bytes, for all files of the directory: the least recently used are removed first. One process at a
    time works here, the others wait for it.
    """
    needed = sum(split.file_size for split in splits)
    if needed > limit:
        _report_no_room(needed, limit, "PICTURE_CACHE_GB")
        return None
    waiting = tr("waiting for another process that decodes images")
    with file_lock(folder / ".lock", waiting):
        files = [folder / (split.key() + SUFFIX) for split in splits]
        missing = [(split, file) for split, file in zip(splits, files, strict=True) if not _is_valid(file, split)]
        to_write = sum(split.file_size for split, _ in missing)
        remove_least_recently_used(folder, limit - to_write, keep=files)
        space = shutil.disk_usage(folder).free - SPARE_BYTES
        if to_write > max(0, space):
            _report_no_room(to_write, space, str(folder))
            return None
        for split, file in missing:
            _write(file, split)
    return files


def remove_least_recently_used(folder: Path, limit: float, keep: Sequence[Path]) -> None:
    """Remove incomplete files of killed processes, then the least recently used files until the rest fits `limit` bytes."""
    for part in folder.glob(".*.part"):  # no process is writing: the caller has the lock
        part.unlink()
    used = {file: file.stat() for file in folder.glob("*" + SUFFIX)}
    total = sum(status.st_size for status in used.values())
    for file in sorted(used.keys() - set(keep), key=lambda file: used[file].st_mtime):
        if total <= limit:
            return
        file.unlink()  # a training that has it open keeps its content
        total -= used[file].st_size


def _is_valid(file: Path, split: Split) -> bool:
    """Return whether the file exists with the content that was written; remove a damaged one."""
    if not file.exists():
        return False
    size = split.file_size - DIGEST_BYTES
    if file.stat().st_size == split.file_size and _digest(file, size) == _tail(file, size):
        os.utime(file)  # mark as recently used
        return True
    notify(tr("{file}: damaged: decoding again", file=file))
    file.unlink()
    return False


def _digest(file: Path, size: int) -> bytes:
    """Return the hash of the first `size` bytes."""
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
    """Decode every pair; a kill leaves no file."""
    digest, count = DIGEST(), len(split.pairs)
    with atomic_replace(file) as part, part.open("wb") as stream:
        for index in progress(range(count), count, tr("decoding images"), tr("images")):
            for array in split.decode(index)[: 3 if split.native else 2]:
                content = array.tobytes()
                digest.update(content)
                stream.write(content)
        stream.write(digest.digest())


def _report_no_room(needed: int, room: float, where: str) -> None:
    need, have = format_size(needed), format_size(max(0, room))
    notify(
        tr(
            "no room for {need} of decoded images: each epoch reads the files ({where}: {have})",
            need=need,
            where=where,
            have=have,
        )
    )


def _read_verified(path: Path, sha256: str) -> bytes:
    """Return the content of a file. Raises UsageError if it has changed since the data check."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(tr("{path}: changed since it was committed: run again", path=path))
    return content


# The pages of a file follow each other: it is read and verified once for all of them.
_read_verified_stack = functools.lru_cache(2)(_read_verified)  # image and mask
