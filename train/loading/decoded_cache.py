"""Decoded images on disk at working size: written once, verified when opened, read by all processes through a memory map.

A split is one file, KEY.pictures: for each pair the image, the mask and, for validation, the mask at native size, all
uint8, then the SHA-256 of everything before it. KEY is a hash of everything that decides the content, including the
hashes of the committed files: other data, another size, other classes or other code use another file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.console import format_size
from core.files import atomic_replace
from core.i18n import tr
from core.locks import file_lock
from core.reporting import notify, progress
from dataset.classes import UInt8
from train.loading.prefetch import decode_ahead
from train.loading.split import DIGEST, DIGEST_BYTES, Arrays, Split
from versioning.streaming.disk import SUFFIX, WAITING, BoundedCache, bounded_cache, remove_least_recently_used
from versioning.streaming.files import StreamedFiles

SPARE_BYTES = 1 << 30  # free disk space that is left to other programs


class _NoRoom(Exception):
    """Streamed files of running trainings take the room of decoded images."""


class Decoded:
    """The memory-mapped file of a split; its content stays if another process removes the file."""

    def __init__(self, path: Path, split: Split) -> None:
        """Open the file. Raises FileNotFoundError."""
        self.path, self.split, self.offsets = path, split, split.offsets()
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


def open_decoded(folder: Path, limit: float, splits: Sequence[Split]) -> list[Decoded] | None:
    """Return the verified files of these splits, and write those that are missing; None if there is no room for them.

    `limit` is in bytes, for all files of the directory, streamed ones included: the least recently used are removed
    first. One process at a time works here, the others wait for it; once it has the files open, they may remove them.
    """
    needed = sum(split.file_size for split in splits)
    if needed > limit:
        _report_no_room(splits, needed, limit, "PICTURE_CACHE_GB")
        return None
    with file_lock(folder / ".lock", tr(WAITING)):
        files = [folder / (split.key() + SUFFIX) for split in splits]
        missing = [(split, file) for split, file in zip(splits, files, strict=True) if not _is_valid(file, split)]
        to_write = sum(split.file_size for split, _ in missing)
        remove_least_recently_used(folder, limit - to_write, keep=files)
        space = shutil.disk_usage(folder).free - SPARE_BYTES
        if to_write > max(0, space):
            _report_no_room(splits, to_write, space, str(folder))
            return None
        with _streamed_files(folder, limit, splits) as streamed:
            try:
                for split, file in missing:
                    _write(file, split, streamed)
            except _NoRoom:
                _report_no_room(splits, to_write, 0, "PICTURE_CACHE_GB")
                return None
        return [Decoded(file, split) for split, file in zip(splits, files, strict=True)]


@contextlib.contextmanager
def _streamed_files(folder: Path, limit: float, splits: Sequence[Split]) -> Iterator[BoundedCache | None]:
    """Yield the cache of streamed files, which shares the limit; None if this directory has none."""
    source = splits[0].source
    if isinstance(source, StreamedFiles):
        yield source.disk
        return
    with bounded_cache(folder, limit) as cache:
        yield cache


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


def _write(file: Path, split: Split, streamed: BoundedCache | None) -> None:
    """Decode every pair; a kill leaves no file. Raises _NoRoom if files that trainings stream take the room."""
    digest, count = DIGEST(), len(split.pairs)
    with atomic_replace(file) as part:
        _reserve(part, split.file_size, streamed)
        with part.open("r+b") as stream:
            decoded = decode_ahead(split, range(count))
            for arrays in progress(decoded, count, tr("decoding images"), tr("images")):
                for array in arrays[: 3 if split.native else 2]:
                    content = array.tobytes()
                    digest.update(content)
                    stream.write(content)
            stream.write(digest.digest())


def _reserve(part: Path, size: int, streamed: BoundedCache | None) -> None:
    """Create a file of this size, so that nothing else takes its room while it is written. Raises _NoRoom."""
    with streamed.reserving(size) if streamed is not None else contextlib.nullcontext(True) as free:
        if not free:
            raise _NoRoom
        with part.open("xb") as stream:
            stream.truncate(size)


def _report_no_room(splits: Sequence[Split], needed: int, room: float, where: str) -> None:
    if splits[0].source.streamed:
        return  # it has been said that the files are streamed, and decoded ahead
    need, have = format_size(needed), format_size(max(0, room))
    notify(
        tr(
            "no room for {need} of decoded images: each epoch reads the files ({where}: {have})",
            need=need,
            where=where,
            have=have,
        )
    )
