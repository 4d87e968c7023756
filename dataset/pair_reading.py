"""Read image and mask files of a data directory once: checksums, sizes and mask values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, UInt8
from dataset.decoding.image import decode_image
from dataset.decoding.mask import decode_mask
from dataset.decoding.options import ReadOptions
from dataset.faults import Fault, faults_from_error
from dataset.pairing import Candidate
from dataset.splitting.thumbnails import make_thumbnail

_WINDOW = 256  # pairs in flight, so that memory does not grow with their number


@dataclass(frozen=True)
class PairContent:
    """What one read of a pair's two files gave; None for what could not be read."""

    candidate: Candidate
    image_sha256: str = ""
    mask_sha256: str = ""
    image_size: tuple[int, int] | None = None  # height, width
    mask_size: tuple[int, int] | None = None
    values: dict[int, int] | None = None  # raw mask value -> pixels
    bilevel: bool = False
    faults: tuple[Fault, ...] = ()
    thumbnail: UInt8 | None = field(default=None, compare=False)  # (32,32) grey


def read_pairs(
    files: Mapping[str, Path], candidates: list[Candidate], classes: ClassMap | None, options: ReadOptions
) -> Iterator[PairContent]:
    """Yield the content of every pair, in order. Decoding and hashing release the GIL, so threads help."""
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        for start in range(0, len(candidates), _WINDOW):
            window = candidates[start : start + _WINDOW]
            yield from pool.map(lambda candidate: _read_pair(files, candidate, classes, options), window)


def _read_pair(
    files: Mapping[str, Path], candidate: Candidate, classes: ClassMap | None, options: ReadOptions
) -> PairContent:
    """Read each file once: its bytes give the checksum and the pixels."""
    faults: list[Fault] = []
    image_size = mask_size = values = thumbnail = None
    bilevel, checksums = False, {candidate.image: "", candidate.mask: ""}
    for path in (candidate.image, candidate.mask):
        try:
            data = files[path].read_bytes()
            checksums[path] = hashlib.sha256(data).hexdigest()
            if path == candidate.image:
                image = decode_image(data, options)
                image_size, thumbnail = (image.shape[0], image.shape[1]), make_thumbnail(image)
            else:
                raw, bilevel = decode_mask(data, classes, options)
                height, width = raw.shape
                mask_size = height, width
                counts = np.bincount(raw.ravel(), minlength=256)
                values = {int(value): int(counts[value]) for value in counts.nonzero()[0]}
        except InvalidFileError as error:
            faults += faults_from_error(path, error)
        except OSError as error:
            faults.append(Fault(path, tr("a readable file"), error.strerror or str(error)))
    if image_size and mask_size and image_size != mask_size:
        (height, width), (mask_height, mask_width) = image_size, mask_size
        expected = tr("{width}x{height} (size of the image)", width=width, height=height)
        faults.append(Fault(candidate.mask, expected, f"{mask_width}x{mask_height}"))
    image_sha256, mask_sha256 = checksums[candidate.image], checksums[candidate.mask]
    return PairContent(
        candidate, image_sha256, mask_sha256, image_size, mask_size, values, bilevel, tuple(faults), thumbnail
    )
