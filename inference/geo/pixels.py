"""Read a raster that does not fit into memory at the scale of the network, in parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dataset.classes import UInt8
from dataset.decoding.image import to_channels
from dataset.decoding.samples import RawImage, find_valid, require_real
from segmentation.predictor import AUTO_TILE, Predictor
from segmentation.preprocess import to_input

Valid = npt.NDArray[np.bool_]  # (h,w): which pixels have data
PART_PIXELS = 1 << 22  # of the raster, that are read and scaled at a time
SMALLEST_CACHE, LARGEST_CACHE = 64 << 20, 256 << 20  # bytes of GDAL's blocks; its default is a part of all memory
REACH = 2  # pixels of the larger scale, by which a resized pixel depends on others beyond its own area


def cache_bytes(source: Any, tile: int) -> int:
    """Return how many bytes of decoded blocks GDAL should keep, so that neighbouring tiles decode a block once."""
    rows, columns = source.block_shapes[0]
    blocks = (tile // rows + 2) * (tile // columns + 2)
    size = rows * columns * sum(np.dtype(dtype).itemsize for dtype in source.dtypes)
    return int(min(max(blocks * size, SMALLEST_CACHE), LARGEST_CACHE))


class RasterPixels:
    """The pixels of an open raster at the scale of the network, read where they are needed.

    Sliced like a tensor (1,C,H,W) float32, normalised: `pixels[None, :, top:bottom, left:right]`. `part` (h,w,C) uint8
    is what was read last, without normalisation; `valid` (h,w) tells which of it has data, None: all.

    A raster stored in strips, or in blocks wider than a tile, is decoded once: full rows are kept while tiles of them
    are read. Any other is read tile by tile.
    """

    def __init__(self, source: Any, predictor: Predictor) -> None:
        self.source, self.model, self.device = source, predictor.model, predictor.device
        height, width = predictor.working_size(source.height, source.width)
        self.size = height, width
        # Even sides, as the predictor pads an image that it cuts.
        self.shape = torch.Size((self.model.reading.channels, height + height % 2, width + width % 2))
        self.part: UInt8 = np.empty((0, 0, self.model.reading.channels), np.uint8)
        self.valid: Valid | None = None
        self._rows = _KeptRows(self) if max(columns for _, columns in source.block_shapes) > AUTO_TILE else None

    @property
    def row_bytes(self) -> int:
        """Bytes that are kept for each row of a tile: full rows of a raster in strips, and where they have data."""
        return self.size[1] * (self.model.reading.channels + 1) if self._rows else 0

    def __getitem__(self, key: tuple[None, slice, slice, slice]) -> Tensor:
        _, _, rows, columns = key
        bottom, right = min(rows.stop, self.shape[1]), min(columns.stop, self.shape[2])
        inner = slice(rows.start, min(bottom, self.size[0])), slice(columns.start, min(right, self.size[1]))
        self.part, self.valid = self._rows.cut(*inner) if self._rows else self.read(*inner)
        pixels, missing = self.part, ((0, bottom - inner[0].stop), (0, right - inner[1].stop))
        if any(after for _, after in missing):
            pixels = np.pad(pixels, (*missing, (0, 0)), "edge")
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        return to_input(batch, self.model.normalisation, self.device)

    def has_data(self, rows: slice, columns: slice) -> bool:
        """Return whether a part of what was read last has pixels with data."""
        return self.valid is None or bool(self.valid[rows, columns].any())

    def read(self, rows: slice, columns: slice) -> tuple[UInt8, Valid | None]:
        """Return a part as (h,w,C) uint8, and which of its pixels have data; None: all."""
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, self.shape[0]), np.uint8)
        valid = np.ones(pixels.shape[:2], np.bool_)
        native = self.source.width * self.source.height / (self.size[0] * self.size[1])
        step = max(1, int(PART_PIXELS / (pixels.shape[1] * max(1.0, native))))
        for start in range(rows.start, rows.stop, step):
            inner = slice(start - rows.start, min(start + step, rows.stop) - rows.start)
            pixels[inner], found = self._read_part(slice(start, min(start + step, rows.stop)), columns)
            if found is not None:
                valid[inner] = found
        return pixels, None if valid.all() else valid

    def _read_part(self, rows: slice, columns: slice) -> tuple[UInt8, Valid | None]:
        """Read a part at once, resized as an image that fits into memory is, from the pixels that it depends on."""
        vertical, top, bottom = _native_range(rows, self.size[0], self.source.height)
        horizontal, left, right = _native_range(columns, self.size[1], self.source.width)
        samples = self.source.read(window=((top, bottom), (left, right)))
        pixels, valid = self._to_channels(samples.transpose(1, 2, 0))
        if self.size == (self.source.height, self.source.width):
            return pixels, valid
        size = columns.stop - columns.start, rows.stop - rows.start
        box = (
            columns.start * horizontal - left,
            rows.start * vertical - top,
            columns.stop * horizontal - left,
            rows.stop * vertical - top,
        )
        bands = [Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(pixels.shape[2])]
        resized = [np.asarray(band.resize(size, Image.Resampling.BILINEAR, box)) for band in bands]
        if valid is not None:
            nearest = Image.fromarray(valid.view(np.uint8)).resize(size, Image.Resampling.NEAREST, box)
            valid = np.asarray(nearest) > 0
        return np.stack(resized, axis=2), valid

    def _to_channels(self, samples: npt.NDArray[Any]) -> tuple[UInt8, Valid | None]:
        require_real(samples)
        reading, bands = self.model.reading, samples.shape[2]
        valid = find_valid(samples, self.source.nodata)
        if bands == reading.channels + 1 and self.source.colorinterp[-1].name == "alpha":
            visible = samples[..., -1] > 0
            valid, samples, bands = visible if valid is None else valid & visible, samples[..., :-1], bands - 1
        image = RawImage(samples, bands, valid if samples.dtype != np.uint8 else None)
        return to_channels(image, reading), valid


class _KeptRows:
    """Full rows of a raster, as bytes, from the first row of the tiles that are read now to the last that was read."""

    def __init__(self, pixels: RasterPixels) -> None:
        self._pixels = pixels
        self._kept: UInt8 | None = None  # (rows,W,C)
        self._valid: Valid | None = None  # (rows,W)
        self._first = self._last = 0  # rows of the raster that are kept

    def cut(self, rows: slice, columns: slice) -> tuple[UInt8, Valid | None]:
        """Return a part as `RasterPixels.read` does; `rows` never moves up, except to begin again."""
        self._advance(rows)
        assert self._kept is not None and self._valid is not None
        inner = slice(0, rows.stop - rows.start)
        valid = self._valid[inner, columns]
        return self._kept[inner, columns], None if valid.all() else valid

    def _advance(self, rows: slice) -> None:
        count, width = rows.stop - rows.start, self._pixels.size[1]
        if self._kept is None or len(self._kept) < count or not self._first <= rows.start <= self._last:
            self._kept = np.empty((count, width, self._pixels.shape[0]), np.uint8)
            self._valid = np.empty((count, width), np.bool_)
            self._first = self._last = rows.start
        assert self._valid is not None
        passed, left = rows.start - self._first, self._last - rows.start
        if passed:
            self._kept[:left], self._valid[:left] = (
                self._kept[passed : passed + left],
                self._valid[passed : passed + left],
            )
            self._first = rows.start
        if self._last < rows.stop:
            new = slice(self._last, rows.stop)
            step = max(1, PART_PIXELS // width)
            for start in range(new.start, new.stop, step):
                part = slice(start, min(start + step, new.stop))
                target = slice(part.start - self._first, part.stop - self._first)
                self._kept[target], valid = self._pixels.read(part, slice(0, width))
                self._valid[target] = True if valid is None else valid
            self._last = rows.stop


def _native_range(part: slice, length: int, native: int) -> tuple[float, int, int]:
    """Return the scale from pixels of the network to those of the raster, and the first and last of them that count."""
    scale = native / length
    if scale == 1:
        return 1.0, part.start, part.stop
    reach = REACH * max(1.0, scale)
    return scale, max(0, math.floor(part.start * scale - reach)), min(native, math.ceil(part.stop * scale + reach))
