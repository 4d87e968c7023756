"""Read image and mask files of a data directory once: checksums, sizes and mask values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from core.i18n import tr
from core.machine.limits import usable_cores
from dataset.classes import ClassMap, InvalidFileError, UInt8
from dataset.decoding.image import to_preview
from dataset.decoding.mask import decode_mask
from dataset.decoding.mask_facts import MaskFacts, describe_mask
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import OrientationFacts, compare_orientations
from dataset.decoding.samples import RawImage, decode_raw
from dataset.decoding.value_range import BandValues, measure_values
from dataset.faults import Fault, faults_from_error
from dataset.pairing import Candidate
from dataset.splitting.thumbnails import make_thumbnail

T = TypeVar("T")
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
    mask: MaskFacts | None = None
    image: ImageFacts | None = None
    faults: tuple[Fault, ...] = ()
    thumbnail: UInt8 | None = field(default=None, compare=False)  # (32,32) grey
    orientation: OrientationFacts | None = None  # None also for an image without an orientation tag

    @property
    def values(self) -> dict[int, int] | None:
        """Raw mask value -> pixels."""
        return self.mask.values if self.mask is not None else None


def read_pairs(
    read: Callable[[str], bytes],
    candidates: list[Candidate],
    classes: ClassMap | None,
    options: ReadOptions,
    threads: int = 0,
) -> Iterator[PairContent]:
    """Yield the content of every pair, in order; `read` returns the bytes of a file, `threads` 0: as the cores suggest.

    Decoding and hashing release the GIL, so threads help.
    """
    with ThreadPoolExecutor(threads or min(8, usable_cores() + 1)) as pool:
        for start in range(0, len(candidates), _WINDOW):
            window = candidates[start : start + _WINDOW]
            yield from pool.map(lambda candidate: _read_pair(read, candidate, classes, options), window)


def _read_pair(
    read: Callable[[str], bytes], candidate: Candidate, classes: ClassMap | None, options: ReadOptions
) -> PairContent:
    """Read each file once: its bytes give the checksum and the pixels."""
    faults: list[Fault] = []
    page = candidate.page
    image_data, image = _read(read, candidate.image, lambda data: decode_raw(data, options, page=page), faults)
    mask_data, mask = _read(read, candidate.mask, lambda data: decode_mask(data, classes, options, page), faults)
    content = PairContent(candidate, _sha256(image_data), _sha256(mask_data), faults=tuple(faults))
    preview = None
    if image is not None:
        facts = _image_facts(image)
        preview = to_preview(image, facts.values)
        size = preview.shape[0], preview.shape[1]
        content = replace(content, image=facts, image_size=size, thumbnail=make_thumbnail(preview))
    if mask is not None:
        size = mask.values.shape[0], mask.values.shape[1]
        content = replace(
            content, mask=describe_mask(mask, classes.ignore_ids if classes is not None else ()), mask_size=size
        )
    if preview is None or mask is None:
        return content
    orientation = compare_orientations(image_data, preview, mask.values, options, page)
    if content.image_size == content.mask_size or (orientation is not None and orientation.swapped):
        return replace(content, orientation=orientation)
    (height, width), (mask_height, mask_width) = preview.shape[:2], mask.values.shape
    expected = tr("{width}x{height} (size of the image)", width=width, height=height)
    return replace(content, faults=(*faults, Fault(candidate.mask, expected, f"{mask_width}x{mask_height}")))


def _read(
    read: Callable[[str], bytes], name: str, decode: Callable[[bytes], T], faults: list[Fault]
) -> tuple[bytes, T | None]:
    """Return the bytes of a file and what they decode to; None with faults appended where they do not."""
    data = b""
    try:
        data = read(name)
        return data, decode(data)
    except InvalidFileError as error:
        faults += faults_from_error(name, error)
    except OSError as error:
        faults.append(Fault(name, tr("a readable file"), error.strerror or str(error)))
    return data, None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if data else ""


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
