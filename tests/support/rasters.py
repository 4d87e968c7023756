"""Image files of more than 8 bits or three bands, and data directories of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from tests.support.data_directories import put_mask

Pixels = npt.NDArray[Any]


def tiff(pixels: Pixels, **options: Any) -> bytes:
    """Return a TIFF of (H,W) or (H,W,C) samples as tifffile writes it."""
    buffer = io.BytesIO()
    bands = {"photometric": "minisblack", "planarconfig": "contig"} if pixels.ndim == 3 else {}
    tifffile.imwrite(buffer, pixels, **{**bands, **options})
    return buffer.getvalue()


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16 bits with 2 (grey, alpha), 3 or 4 channels, which Pillow cannot write."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def make_raster_data(
    root: Path, draw: Callable[[int], Pixels], suffix: str = "tif", split: bool = True, **options: Any
) -> Path:
    """Write ten pairs, with `split` by files: r0 to r7 train, r8 and r9 val; `draw(number)` gives the samples."""
    for number in range(10):
        pixels = draw(number)
        path = root / "images" / f"r{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(pixels, **options) if suffix == "tif" else deep_png(pixels))
        put_mask(root / "masks" / f"r{number}.png", size=(pixels.shape[0], pixels.shape[1]))
    for name, numbers in (("train", range(8)), ("val", range(8, 10))) if split else ():
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"{name}.txt").write_text("".join(f"r{number}\n" for number in numbers), encoding="utf-8")
    return root
