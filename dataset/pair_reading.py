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
from dataset.decoding.image import to_preview
from dataset.decoding.mask import decode_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.samples import RawImage, decode_raw
from dataset.decoding.value_range import BandValues, measure_values
from dataset.faults import Fault, faults_from_error
from dataset.pairing import Candidate
from dataset.splitting.thumbnails import make_thumbnail

_WINDOW = 256  # pairs in flight, so that memory does not grow with their number


@dataclass(frozen=True)
class ImageFacts:
    """What the samples of an image are."""

    bands: int  # of the file
    channels: int  # that the network would see: 3 for one band
    depth: str  # '8 bits', 'integers' or 'floats'
    opaque_alpha: bool  # the last band may be left out
    complete: bool  # every pixel has data
    truncated: bool  # the end of the file is missing
    values: BandValues | None  # None for 8 bits, whose range is known


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
    image: ImageFacts | None = None
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
    image_size = mask_size = values = facts = thumbnail = None
    bilevel, checksums = False, {candidate.image: "", candidate.mask: ""}
    for path in (candidate.image, candidate.mask):
        try:
            data = files[path].read_bytes()
            checksums[path] = hashlib.sha256(data).hexdigest()
            if path == candidate.image:
                image = decode_raw(data, options)
                facts = _image_facts(image)
                image_size = image.pixels.shape[0], image.pixels.shape[1]
                thumbnail = make_thumbnail(to_preview(image, facts.values))
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
        candidate, image_sha256, mask_sha256, image_size, mask_size, values, bilevel, facts, tuple(faults), thumbnail
    )


def _image_facts(image: RawImage) -> ImageFacts:
    channels, kind = image.pixels.shape[2], image.pixels.dtype.kind
    deep = image.pixels.dtype != np.uint8
    return ImageFacts(
        bands=image.bands,
        channels=3 if channels == 1 else channels,
        depth="8 bits" if not deep else "floats" if kind == "f" else "integers",
        opaque_alpha=image.opaque_alpha,
        complete=image.valid is None,
        truncated=image.truncated,
        values=measure_values(image.pixels, image.valid) if deep else None,
    )
