"""Mask files of every kind, as the programs of other people write them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support.data_directories import put_image

Values = npt.NDArray[np.uint8]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(height: int = 24, width: int = 32, seed: int = 0) -> Values:
    """Return class ids (H,W): background 0, one area of 1 and one of 2, at places that depend on the seed."""
    random = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.uint8)
    for value, left in ((1, 2), (2, width // 2)):
        top, offset = int(random.integers(2, height - 12)), int(random.integers(0, 4))
        ids[top : top + 8, left + offset : left + offset + 8] = value
    return ids


def palette_png(ids: Values, colors: dict[int, tuple[int, int, int]], order: list[int]) -> bytes:
    """Return a palette PNG of class ids whose entry i is the colour of the class `order[i]`."""
    lookup = np.zeros(256, np.uint8)
    lookup[order] = np.arange(len(order))
    image = Image.fromarray(lookup[ids])
    image.putpalette([channel for value in order for channel in colors[value]])
    return saved(image)


def grey_png(samples: Values, bits: int, significant: int | None = None) -> bytes:
    """Return a grey PNG with samples of `bits` bits, and a chunk sBIT if `significant`; Pillow writes no such file."""
    height, width = samples.shape
    shifts = np.arange(8 - bits, -1, -bits)
    padded = np.pad(samples, ((0, 0), (0, -width % len(shifts)))).reshape(height, -1, len(shifts))
    rows = (padded.astype(np.uint16) << shifts).sum(2).astype(np.uint8)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    extra = [] if significant is None else [(b"sBIT", bytes([significant]))]
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def put_masks(root: Path, masks: dict[str, bytes], size: tuple[int, int] = (24, 32)) -> Path:
    """Write these mask files by file name, each with an image of this size (height, width)."""
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for name, data in masks.items():
        (root / "masks" / name).write_bytes(data)
        put_image(root / "images" / f"{Path(name).stem}.png", size=size)
    return root
