"""Predict a raster that does not fit into memory: read, computed and written in windows, equal to one pass over all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import UsageError
from core.files import atomic_replace
from core.i18n import tr
from core.reporting import notify, progress
from dataset.classes import IGNORE_INDEX, InvalidFileError, UInt8
from dataset.decoding.files import pixel_limit
from dataset.decoding.image import to_channels
from dataset.decoding.samples import RawImage, find_valid
from dataset.overlay import overlay
from inference.geo.georeference import Georeference, describe_mask, mask_profile
from segmentation.predictor import Predictor
from segmentation.preprocess import class_indices, resize_logits, resize_mask, to_input

CACHE_MB = 64  # of GDAL's blocks; its default is a twentieth of the machine's memory
OVERLAY_SIDE = 2048  # pixels; the overlay of a larger raster is scaled down


def is_large(path: Path) -> bool:
    """Return whether a raster has too many pixels to be read at once. Raises UsageError for one that GDAL cannot read."""
    import rasterio

    try:
        with rasterio.open(path) as source:
            return bool(source.width * source.height > pixel_limit())
    except rasterio.errors.RasterioError as error:
        raise UsageError(f"{path}: {error}") from None


class RasterPixels:
    """The pixels of an open raster at the scale of the network, read where they are needed.

    Sliced like a tensor (1,C,H,W) float32, normalised: `pixels[None, :, top:bottom, left:right]`.
    """

    def __init__(self, source: Any, predictor: Predictor) -> None:
        self.source, self.model, self.device = source, predictor.model, predictor.device
        height, width = predictor.working_size(source.height, source.width)
        self.size = height, width
        # Even sides, as the predictor pads an image that it cuts.
        self.shape = torch.Size((self.model.reading.channels, height + height % 2, width + width % 2))
        self.valid: npt.NDArray[np.bool_] | None = None  # of the part that was read last; None: all of it
        self.corner = (0, 0)  # row and column where that part begins

    def __getitem__(self, key: tuple[None, slice, slice, slice]) -> Tensor:
        _, _, rows, columns = key
        bottom, right = min(rows.stop, self.shape[1]), min(columns.stop, self.shape[2])
        inner = slice(rows.start, min(bottom, self.size[0])), slice(columns.start, min(right, self.size[1]))
        pixels, self.valid = self.read(*inner)
        self.corner = rows.start, columns.start
        missing = (0, bottom - inner[0].stop), (0, right - inner[1].stop)
        if any(after for _, after in missing):
            pixels = np.pad(pixels, (*missing, (0, 0)), "edge")
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        return to_input(batch, self.model.normalisation, self.device)

    def read(self, rows: slice, columns: slice) -> tuple[UInt8, npt.NDArray[np.bool_] | None]:
        """Return a part as (h,w,C) uint8, and which of its pixels have data; None: all."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        vertical, horizontal = self.size[0] / self.source.height, self.size[1] / self.source.width
        height, width = rows.stop - rows.start, columns.stop - columns.start
        window = Window(columns.start / horizontal, rows.start / vertical, width / horizontal, height / vertical)
        resampling = Resampling.average if min(vertical, horizontal) < 1 else Resampling.bilinear
        shape = (self.source.count, height, width)
        samples = self.source.read(window=window, out_shape=shape, resampling=resampling).transpose(1, 2, 0)
        return self._to_channels(samples)

    def _to_channels(self, samples: npt.NDArray[Any]) -> tuple[UInt8, npt.NDArray[np.bool_] | None]:
        reading, bands = self.model.reading, samples.shape[2]
        valid = find_valid(samples, self.source.nodata)
        if bands == reading.channels + 1 and self.source.colorinterp[-1].name == "alpha":
            visible = samples[..., -1] > 0
            valid, samples, bands = visible if valid is None else valid & visible, samples[..., :-1], bands - 1
        image = RawImage(samples, bands, valid if samples.dtype != np.uint8 else None)
        return to_channels(image, reading), valid


def predict_raster(
    predictor: Predictor, path: Path, target: Path, origin: Mapping[str, str]
) -> tuple[dict[str, Any], UInt8]:
    """Predict a raster of any size into a GeoTIFF; return height, width, class shares and CRS, and an overlay (h,w,3).

    It is predicted at the scale of the training. Raises UsageError for bands that the model does not expect.
    """
    import rasterio

    classes = predictor.model.classes
    counts = np.zeros(256, np.int64)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), rasterio.open(path) as source:
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
        profile = mask_profile((source.height, source.width), Georeference(source.crs, source.transform))
        try:
            with atomic_replace(target, durable=False) as part:
                with rasterio.open(part, "w", **profile) as out:
                    describe_mask(out, classes, origin)
                    for top, band in _predict_bands(predictor, pixels, counts):
                        out.write(band, 1, window=rasterio.windows.Window(0, top, band.shape[1], band.shape[0]))
                drawn = _draw_overlay(part, pixels, predictor)
        except InvalidFileError as error:
            raise UsageError(f"{path}: {error}") from None
        known = max(1, int(counts[: classes.num_classes].sum()))
        shares = {name: round(float(count / known), 9) for name, count in zip(classes.names, counts, strict=False)}
        record = {"height": source.height, "width": source.width, "class_shares": shares, "crs": str(source.crs)}
        return record, drawn


def _predict_bands(
    predictor: Predictor, pixels: RasterPixels, counts: npt.NDArray[np.int64]
) -> Iterator[tuple[int, UInt8]]:
    """Yield (first row, mask values (h,W) uint8) from top to bottom, at the raster's own size; no data: ignored.

    `counts` (256,) is increased by the pixels of each class index.
    """
    height, width = pixels.source.height, pixels.source.width
    vertical, horizontal = pixels.size[0] / height, pixels.size[1] / width
    band, first = np.empty((0, width), np.uint8), -1
    windows = predictor.predict_windows(pixels)
    for rows, columns, logits in progress(windows, predictor.count_windows(pixels), tr("predict"), tr("windows")):
        top, bottom = round(rows.start / vertical), min(height, round(rows.stop / vertical))
        left, right = round(columns.start / horizontal), min(width, round(columns.stop / horizontal))
        if top != first:
            if len(band):
                yield first, band
            band, first = np.empty((bottom - top, width), np.uint8), top
        unpadded = logits[:, : pixels.size[0] - rows.start, : pixels.size[1] - columns.start]
        indices = class_indices(resize_logits(unpadded, (bottom - top, right - left))).to(torch.uint8).cpu().numpy()
        if pixels.valid is not None:
            inside = pixels.valid[rows.start - pixels.corner[0] :, columns.start - pixels.corner[1] :]
            shown = resize_mask(inside[: unpadded.shape[1], : unpadded.shape[2]].view(np.uint8), indices.shape)
            indices[shown == 0] = IGNORE_INDEX
        counts += np.bincount(indices.ravel(), minlength=256)
        band[:, left:right] = predictor.model.classes.decode(indices)
    yield first, band


def _draw_overlay(mask: Path, pixels: RasterPixels, predictor: Predictor) -> UInt8:
    """Return the raster with its mask over it, (h,w,3) uint8, scaled down to OVERLAY_SIDE."""
    import rasterio

    source, classes = pixels.source, predictor.model.classes
    scale = min(1.0, OVERLAY_SIDE / max(source.height, source.width))
    size = max(1, round(source.height * scale)), max(1, round(source.width * scale))
    image, _ = pixels._to_channels(source.read(out_shape=(source.count, *size)).transpose(1, 2, 0))
    with rasterio.open(mask) as written:
        values = written.read(1, out_shape=size)
    index = np.full(256, IGNORE_INDEX, np.uint8)
    index[list(classes.ids)] = np.arange(classes.num_classes, dtype=np.uint8)
    return overlay(image, index[values], classes)
