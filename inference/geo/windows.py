"""Predict a raster that does not fit into memory: read, computed and written in windows, equal to one pass over all of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import UsageError
from core.files import atomic_replace
from core.i18n import tr
from core.machine.heap import keep_freed_memory, release_freed_memory
from core.reporting import notify, progress
from core.safety.terminal import escape_line
from dataset.classes import IGNORE_INDEX, InvalidFileError, UInt8
from dataset.decoding.files import pixel_limit
from dataset.overlay import as_rgb, overlay
from inference.geo.georeference import ROWS_PER_STRIP, Georeference, describe_mask, mask_profile
from inference.geo.pixels import RasterPixels, cache_bytes
from segmentation.predictor import Predictor
from segmentation.preprocess import class_indices
from segmentation.reliability.uncertainty import image_confidence
from segmentation.tiles.tiling import Window

OVERLAY_SIDE = 2048  # pixels; the overlay of a larger raster is scaled down
WRITTEN_ROWS = 8 * ROWS_PER_STRIP  # at a time
DECIDED_PIXELS = 1 << 18  # whose classes are chosen at a time


def require_windows(predictor: Predictor, extras: Collection[str]) -> None:
    """Raise UsageError for options that need all of an image at once."""
    unfit = sorted({"probabilities", "uncertainty", "coco", "polygons"} & set(extras))
    options = [f"--extra {name}" for name in unfit] + (["--tta"] if predictor.method.flip else [])
    if options:
        raise UsageError(tr("{option} cannot be used with images that are predicted in windows", option=options[0]))


def is_large(path: Path) -> bool:
    """Return whether a raster has too many pixels to be read at once. Raises UsageError for one that GDAL cannot read."""
    import rasterio

    try:
        with rasterio.open(path) as source:
            return bool(source.width * source.height > pixel_limit())
    except rasterio.errors.RasterioError as error:
        raise UsageError(escape_line(f"{path}: {error}")) from None


def predict_raster(
    predictor: Predictor, path: Path, target: Path, origin: Mapping[str, str]
) -> tuple[dict[str, Any], UInt8]:
    """Predict a raster of any size into a GeoTIFF; return height, width, class shares and CRS, and an overlay (h,w,3).

    It is predicted at the scale of the training. Raises UsageError for bands that the model does not expect.
    """
    import rasterio

    with rasterio.open(path) as source:
        notify(
            tr(
                "{path}: {width}x{height} pixels, predicted in windows",
                path=path,
                width=source.width,
                height=source.height,
            )
        )
        if source.colorinterp[0].name == "palette":
            raise UsageError(
                tr("{path}: expected bands, found a palette: convert it (gdal_translate -expand rgb)", path=path)
            )
        pixels = RasterPixels(source, predictor)
        cache = cache_bytes(source, predictor.window_size(pixels))
        keep_freed_memory()
        try:
            with rasterio.Env(GDAL_CACHEMAX=cache), atomic_replace(target, durable=False) as part:
                job = _RasterPrediction(predictor, pixels)
                job.write(part, origin)
        except InvalidFileError as error:
            raise UsageError(escape_line(f"{path}: {error}")) from None
        return job.record(), job.overview.draw()


class _RasterPrediction:
    """One raster that is being predicted: its rows of windows, the pixels of each class, and what its overlay shows."""

    def __init__(self, predictor: Predictor, pixels: RasterPixels) -> None:
        self.predictor, self.pixels, self.classes = predictor, pixels, predictor.model.classes
        self.height, self.width = pixels.source.height, pixels.source.width
        self.counts = np.zeros(256, np.int64)  # pixels of each class index
        self.confidences: list[tuple[float, int]] = []  # of each window, with its pixels
        self.overview = _Overview(self)

    def write(self, target: Path, origin: Mapping[str, str]) -> None:
        """Write the mask, with the coordinates of the raster."""
        import rasterio

        source = self.pixels.source
        profile = mask_profile((self.height, self.width), Georeference(source.crs, source.transform))
        with rasterio.open(target, "w", **profile) as out:
            describe_mask(out, self.classes, origin)
            for top, band in self._predict_bands():
                self.overview.add_indices(band, slice(top, top + len(band)))
                for start in range(0, len(band), WRITTEN_ROWS):
                    values = self.classes.decode(band[start : start + WRITTEN_ROWS])
                    out.write(values, 1, window=((top + start, top + start + len(values)), (0, self.width)))
                release_freed_memory()

    def record(self) -> dict[str, Any]:
        """Return what the listing has about the raster."""
        known = max(1, int(self.counts[: self.classes.num_classes].sum()))
        named = zip(self.classes.names, self.counts, strict=False)
        shares = {name: round(float(count / known), 9) for name, count in named}
        found = {"height": self.height, "width": self.width, "class_shares": shares}
        if self.confidences:
            values, pixels = zip(*self.confidences, strict=True)
            found["confidence"] = round(float(np.average(values, weights=pixels)), 9)
        return {**found, "crs": str(self.pixels.source.crs)}

    def _predict_bands(self) -> Iterator[tuple[int, UInt8]]:
        """Yield (first row, class indices (h,W) uint8) from top to bottom, at the raster's own size; no data: ignored."""
        band, first = np.empty((0, self.width), np.uint8), 0
        windows, count = self.predictor.predict_windows(self.pixels), self.predictor.count_windows(self.pixels)
        for window in progress(windows, count, tr("predict"), tr("windows")):
            rows = to_native(window.rows, self.pixels.size[0], self.height)
            columns = to_native(window.columns, self.pixels.size[1], self.width)
            if rows.start != first or not len(band):
                if len(band):
                    yield first, band
                band, first = np.empty((rows.stop - rows.start, self.width), np.uint8), rows.start
            self._decide(window, rows, columns, band[:, columns])
            window.logits = None
            self.overview.add_pixels(window)
        yield first, band

    def _decide(self, window: Window, rows: slice, columns: slice, target: UInt8) -> None:
        """Write the class indices of a window into `target`, which lies at these rows and columns of the raster."""
        if window.logits is None:
            target[:] = IGNORE_INDEX
            self.counts[IGNORE_INDEX] += target.size
            return
        valid = self.pixels.valid
        self._add_confidence(window)
        beside = _nearest(columns, self.pixels.size[1], self.width) - window.left
        step = max(1, DECIDED_PIXELS // max(1, target.shape[1]))
        for start in range(rows.start, rows.stop, step):
            part = slice(start, min(start + step, rows.stop))
            inner = target[part.start - rows.start : part.stop - rows.start]
            logits = interpolate(window.logits, 1, window.top, part, (self.pixels.size[0], self.height))
            logits = interpolate(logits, 2, window.left, columns, (self.pixels.size[1], self.width))
            inner[:] = class_indices(logits).to(torch.uint8).cpu().numpy()
            if valid is not None:
                shown = _nearest(part, self.pixels.size[0], self.height) - window.top
                inner[~valid[np.ix_(shown, beside)]] = IGNORE_INDEX
            self.counts += np.bincount(inner.ravel(), minlength=256)

    def _add_confidence(self, window: Window) -> None:
        """Measure the confidence of the part of a window that counts, where it has data."""
        assert window.logits is not None
        rows = slice(window.rows.start - window.top, window.rows.stop - window.top)
        columns = slice(window.columns.start - window.left, window.columns.stop - window.left)
        logits, valid = window.logits[:, rows, columns], self.pixels.valid
        known = None if valid is None else torch.from_numpy(valid[rows, columns]).to(logits.device)
        confidence = image_confidence(logits, self.predictor.model.temperature, known)
        if not math.isnan(confidence):  # else no pixel of the grid has data
            pixels = logits.shape[1] * logits.shape[2] if known is None else int(known.sum())
            self.confidences.append((confidence, pixels))


class _Overview:
    """The raster and its mask, scaled down by the nearest pixels, of which the overlay is drawn."""

    def __init__(self, job: _RasterPrediction) -> None:
        self._job = job
        scale = min(1.0, OVERLAY_SIDE / max(job.height, job.width))
        height, width = max(1, round(job.height * scale)), max(1, round(job.width * scale))
        self._image = np.zeros((height, width, job.pixels.shape[0]), np.uint8)
        self._indices = np.full((height, width), IGNORE_INDEX, np.uint8)

    def add_pixels(self, window: Window) -> None:
        """Take the pixels of a window that was read last."""
        height, width = self._job.pixels.size
        rows, columns = (
            to_native(window.rows, height, len(self._image)),
            to_native(window.columns, width, self._image.shape[1]),
        )
        inner = _nearest(rows, height, len(self._image)) - window.top
        beside = _nearest(columns, width, self._image.shape[1]) - window.left
        self._image[rows, columns] = self._job.pixels.part[np.ix_(inner, beside)]

    def add_indices(self, band: UInt8, rows: slice) -> None:
        """Take the class indices (h,W) of these rows of the raster."""
        shown = to_native(rows, self._job.height, len(self._indices))
        inner = _nearest(shown, self._job.height, len(self._indices)) - rows.start
        columns = _nearest(slice(0, self._indices.shape[1]), self._job.width, self._indices.shape[1])
        self._indices[shown] = band[np.ix_(inner, columns)]

    def draw(self) -> UInt8:
        """Return the overlay (h,w,3) uint8."""
        return overlay(as_rgb(self._image), self._indices, self._job.classes)


# --- two scales ---------------------------------------------------------------------------------------------------


def to_native(part: slice, length: int, native: int) -> slice:
    """Return which of `native` pixels have their centre in this part of `length` pixels that show the same."""
    begin, end = (-(-(2 * edge * native - length) // (2 * length)) for edge in (part.start, min(part.stop, length)))
    return slice(max(0, begin), native if part.stop >= length else end)


def _nearest(part: slice, length: int, native: int) -> npt.NDArray[np.int64]:
    """Return which of `length` pixels shows the centre of each of this part of `native` pixels."""
    return (2 * np.arange(part.start, part.stop) + 1) * length // (2 * native)


def interpolate(values: Tensor, axis: int, first: int, part: slice, lengths: tuple[int, int]) -> Tensor:
    """Return values at a part of the pixels of the larger or smaller scale, as a bilinear resize of the full image does.

    `values` begin at pixel `first` of `lengths[0]` along the axis; `part` is of `lengths[1]` pixels.
    """
    length, native = lengths
    if length == native:
        return values.narrow(axis, part.start - first, part.stop - part.start)
    centres = (torch.arange(part.start, part.stop, device=values.device, dtype=torch.float64) + 0.5) * (length / native)
    positions = (centres - 0.5).clamp_(0, length - 1)
    before = positions.floor().long()
    after = (before + 1).clamp_(max=length - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weights = (positions - before).to(values.dtype).view(shape)
    lower, upper = (values.index_select(axis, index - first) for index in (before, after))
    return torch.lerp(lower, upper, weights)
