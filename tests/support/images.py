"""Images and videos for tests of prediction."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.classes import UInt8
from dataset.samples import Item
from inference import inputs


def draw(folder: Path, count: int) -> list[Item]:
    """Write noise images of several sizes and return their items."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(0, 256, (40 + i % 3 * 16, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return inputs.collect_items([folder])


def noise(height: int, width: int) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header declares a size that its content does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_video(path: Path, count: int, height: int = 48, width: int = 65) -> list[np.ndarray]:
    """Write lossless noise, 10 frames/s, and return its frames (H,W,3) uint8."""
    import av

    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))
    return frames
