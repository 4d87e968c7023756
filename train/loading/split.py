"""Split: the pairs of a split, and how they are read and decoded to working size."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from dataset import classes, decoding
from dataset.classes import ClassMap, UInt8
from dataset.data import Pair
from dataset.decoding.image import read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import ReadOptions
from dataset.sources.files import LOCAL_FILES, FileSource
from segmentation import preprocess
from segmentation.preprocess import resize_image, resize_mask

DIGEST = hashlib.sha256
DIGEST_BYTES = DIGEST().digest_size
Arrays = tuple[UInt8, UInt8, UInt8]


@dataclass(frozen=True)
class Split:
    """What to decode: image (H,W,C) and mask (H,W) at `size`, and with `native` the mask (h,w) at native size."""

    pairs: Sequence[Pair]
    classes: ClassMap
    size: tuple[int, int]  # height and width in pixels
    native: bool
    reading: ReadOptions
    source: FileSource = LOCAL_FILES

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

    def read(self, index: int, next_use: int | None = None) -> tuple[bytes, bytes]:
        """Return the contents of a pair's image and mask; `next_use`: see `FileSource.read`.

        Both are compared with their committed hashes, so that training uses what the commit holds. Raises UsageError if
        they differ.
        """
        pair = self.pairs[index]
        files = (pair.image, pair.image_sha256), (pair.mask, pair.mask_sha256)
        if pair.page is not None:
            image, mask = (_read_stack(self.source, *file) for file in files)
        else:
            image, mask = (self.source.read(*file, next_use) for file in files)
        return image, mask

    def decode(self, index: int, contents: tuple[bytes, bytes] | None = None) -> Arrays:
        """Decode a pair from its files, or from their contents; without `native` the third array is the second."""
        pair = self.pairs[index]
        image_bytes, mask_bytes = self.read(index) if contents is None else contents
        mask = read_mask(mask_bytes, self.classes, self.reading, pair.page)
        image = read_image(image_bytes, self.reading, pair.page)
        image = resize_image(image, self.size)
        small = resize_mask(mask, self.size)
        return image, small, mask if self.native else small


@functools.lru_cache(2)  # image and mask
def _read_stack(source: FileSource, path: Path, sha256: str) -> bytes:
    """Return the content of a file of several pages, which follow each other: it is read once for all of them."""
    return source.read(path, sha256)
