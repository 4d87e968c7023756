"""Georeferenced images: predictions keep coordinates; images of any size are predicted in windows, as in one pass."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UsageError
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.samples import Item
from inference import batch_job, inputs
from inference.batch_job import Outcome
from inference.earlier import ownership
from inference.geo.pixels import RasterPixels
from segmentation.model import Model
from segmentation.networks.compact import CompactUNet
from segmentation.networks.registry import build_network
from segmentation.predictor import AUTO_TILE, SMALLEST_TILE, Method, Predictor
from segmentation.preprocess import Normalisation
from tests.support.images import noise
from tests.support.models import CLASSES, CPU, lineage, make_model
from tests.support.rasters import Pixels

rasterio = pytest.importorskip("rasterio")
CRS, TRANSFORM = "EPSG:32652", (10.0, 0.0, 300_000.0, 0.0, -10.0, 4_200_000.0)


def put_raster(path: Path, pixels: Pixels, **options: Any) -> Path:
    """Write samples (H,W,C) as GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = pixels.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    place = {"crs": CRS, "transform": rasterio.Affine(*TRANSFORM)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


def band_model(architecture: str = "compact_unet", scale: float = 1.0) -> Model:
    """Return a model of four bands of reflectance."""
    model = make_model()
    return dataclasses.replace(
        model,
        network=build_network(architecture, 2, channels=4).eval(),
        architecture=architecture,
        classes=CLASSES,
        normalisation=Normalisation((0.5,) * 4, (0.25,) * 4),
        reading=ReadOptions(channels=4, value_ranges=((0.0, 10_000.0),) * 4),
        scale=(scale, scale),
    )


def reflectance(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 10_000, (height, width, 4), np.uint16)


def predict(predictor: Predictor, path: Path, output: Path, **options: Any) -> tuple[Outcome, list[Item]]:
    items = inputs.collect_items([path])
    return batch_job.predict(predictor, items, output, lineage(), None, **options), items


def make_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every raster be one that does not fit into memory."""
    monkeypatch.setattr("inference.geo.windows.pixel_limit", lambda: 1)


def test_prediction_of_an_ordinary_raster_keeps_its_coordinates(tmp_path: Path) -> None:
    path = put_raster(tmp_path / "in/site.tif", noise(48, 65))
    outcome, _ = predict(Predictor(make_model(), CPU), path, tmp_path / "out")
    assert outcome.written == 1
    with rasterio.open(tmp_path / "out/site.tif") as mask:
        assert mask.crs == rasterio.CRS.from_string(CRS) and tuple(mask.transform)[:6] == TRANSFORM
        assert mask.shape == (48, 65) and mask.dtypes == ("uint8",)
        assert set(np.unique(mask.read(1))) <= set(CLASSES.ids)
        assert mask.colormap(1)[7][:3] == CLASSES.colors[1] and mask.tags()["model_sha256"] == "a" * 64
    assert ownership.is_prediction(tmp_path / "out/site.tif")
    listing = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))
    assert listing["images"][0]["mask"] == "site.tif"
    again, _ = predict(Predictor(make_model(), CPU), path, tmp_path / "out", resume=True)
    assert again.reused == 1
    assert predict(Predictor(make_model(), CPU), path, tmp_path / "out")[0].written == 1


@pytest.mark.parametrize("architecture", ["compact_unet", "compact_fpn"])
def test_windows_equal_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """Of odd sides, larger than a tile; the pyramid's network sees the mean of the full image in each window."""
    path = put_raster(tmp_path / "in/site.tif", reflectance(801, 999), tiled=True, blockxsize=256, blockysize=256)
    model = band_model(architecture)
    predict(Predictor(model, CPU, Method(tile=1024)), path, tmp_path / "whole")
    make_large(monkeypatch)
    outcome, _ = predict(Predictor(model, CPU, Method(tile=640)), path, tmp_path / "windows")
    assert outcome.written == 1
    with rasterio.open(tmp_path / "whole/site.tif") as one, rasterio.open(tmp_path / "windows/site.tif") as other:
        whole, windows = one.read(1), other.read(1)
        assert other.crs == one.crs and other.transform == one.transform
    assert (whole != windows).mean() < 1e-4  # float rounding at ties
    assert len(np.unique(whole)) == 2
    listing = json.loads((tmp_path / "windows/predictions.json").read_text(encoding="utf-8"))
    (record,) = listing["images"]
    assert (record["height"], record["width"], record["crs"]) == (801, 999, CRS)
    assert sum(record["class_shares"].values()) == pytest.approx(1)
    assert (tmp_path / "windows/site_overlay.jpg").stat().st_size


@pytest.mark.parametrize("scale", [0.5, 0.37, 1.3])
def test_windows_at_another_scale_equal_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Resized and interpolated as the uncut image, without seams where two windows meet."""
    sides = (round(400 / scale), round(500 / scale))
    areas = np.kron(reflectance(32, 40), np.ones((40, 40, 1), np.uint16))[: sides[0], : sides[1]]
    path = put_raster(tmp_path / "in/site.tif", areas, tiled=True, blockxsize=256, blockysize=256)
    model = band_model(scale=scale)
    network = cast(CompactUNet, model.network)
    with torch.no_grad():  # both classes occur
        seen = torch.from_numpy(areas.astype(np.float32)).permute(2, 0, 1)[None] / 2500 - 2
        first, second = network(seen)[0]
        network.head.bias[0] -= (first - second).median()  # type: ignore[index]
    predict(Predictor(model, CPU, Method(tile=1024)), path, tmp_path / "whole")
    make_large(monkeypatch)
    predict(Predictor(model, CPU, Method(tile=416)), path, tmp_path / "windows")
    with rasterio.open(tmp_path / "whole/site.tif") as one, rasterio.open(tmp_path / "windows/site.tif") as other:
        whole, windows = one.read(1), other.read(1)
    assert windows.shape == sides and len(np.unique(whole)) == 2
    assert (whole != windows).mean() < 1e-3


def test_a_raster_in_strips_is_decoded_once_and_predicted_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_large(monkeypatch)
    monkeypatch.setattr("inference.geo.pixels.AUTO_TILE", 320)  # strips are wider than a tile
    monkeypatch.setattr("inference.geo.pixels.PART_PIXELS", 1 << 14)
    pixels = reflectance(420, 340)
    pixels[:90, :200] = 0
    tiles = put_raster(tmp_path / "in/tiles.tif", pixels, nodata=0, tiled=True, blockxsize=64, blockysize=64)
    strips = put_raster(tmp_path / "in/strips.tif", pixels, nodata=0, blockysize=8)
    read: list[int] = []
    real = RasterPixels._read_part

    def count(self: RasterPixels, rows: slice, columns: slice) -> Any:
        read.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return real(self, rows, columns)

    monkeypatch.setattr(RasterPixels, "_read_part", count)
    predict(Predictor(band_model(), CPU, Method(tile=320)), strips, tmp_path / "out")
    assert sum(read) == 420 * 340
    predict(Predictor(band_model(), CPU, Method(tile=320)), tiles, tmp_path / "again")
    with rasterio.open(tmp_path / "out/strips.tif") as one, rasterio.open(tmp_path / "again/tiles.tif") as other:
        assert (one.read(1) == other.read(1)).all()
    assert (tmp_path / "out/strips_overlay.jpg").stat().st_size


def test_the_overlay_reads_nothing_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_large(monkeypatch)
    monkeypatch.setattr("inference.geo.windows.OVERLAY_SIDE", 100)
    pixels = np.full((300, 200, 4), 10_000, np.uint16)
    pixels[:, 100:] = 1
    path = put_raster(tmp_path / "in/site.tif", pixels)
    predict(Predictor(band_model(), CPU, Method(tile=128)), path, tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out/site_overlay.jpg")).astype(int).sum(2)
    assert drawn.shape == (100, 67)
    assert drawn[:, :30].mean() > drawn[:, 37:].mean() + 200


def test_memory_for_tiles_does_not_grow_with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More classes, or full rows that are kept, give smaller tiles."""

    def side(classes: int, row_bytes: int = 0) -> int:
        network = build_network("compact_unet", classes, channels=4).eval()
        model = dataclasses.replace(band_model(), network=network)
        source = type("Source", (), {"row_bytes": row_bytes})()
        return Predictor(model, CPU, Method(tile=0)).window_size(source)

    assert SMALLEST_TILE < side(200) < side(32) < side(2) <= AUTO_TILE
    assert side(2, row_bytes=40_000 * 5) < side(2)
    assert Predictor(band_model(), CPU, Method(tile=640)).window_size(type("Source", (), {"row_bytes": 0})()) == 640


def test_pixels_without_data_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_large(monkeypatch)
    pixels = reflectance(300, 300) + np.uint16(1)
    pixels[:, :100] = 0
    path = put_raster(tmp_path / "in/site.tif", pixels, nodata=0)
    predict(Predictor(band_model(), CPU, Method(tile=128)), path, tmp_path / "out")
    with rasterio.open(tmp_path / "out/site.tif") as mask:
        values = mask.read(1)
    assert (values[:, :100] == CLASSES.ignore_ids[0]).all() and (values[:, 100:] != CLASSES.ignore_ids[0]).all()
    assert (read_mask(tmp_path / "out/site.tif", CLASSES, DEFAULT_READING)[:, :100] == 255).all()


def test_confidence_of_a_raster_is_that_of_its_pixels_with_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three quarters have none: the confidence there does not count, whatever is written there."""
    make_large(monkeypatch)
    pixels, found = reflectance(300, 400) + np.uint16(1), []
    for name, part in (("all", pixels.copy()), ("left", pixels[:, :100])):
        if name == "all":
            part[:, 100:] = 0
        path = put_raster(tmp_path / f"in/{name}.tif", part, nodata=0)
        predict(Predictor(band_model(), CPU, Method(tile=128)), path, tmp_path / name)
        listing = json.loads((tmp_path / name / "predictions.json").read_text(encoding="utf-8"))
        found.append(listing["images"][0]["confidence"])
    assert found[0] == pytest.approx(found[1], abs=0.002)


def test_what_windows_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_large(monkeypatch)
    path = put_raster(tmp_path / "in/site.tif", reflectance(60, 60))
    for method, extras in ((Method(), ["coco"]), (Method(flip=True), [])):
        with pytest.raises(UsageError, match="cannot be used with images that are predicted in windows"):
            predict(Predictor(band_model(), CPU, method), path, tmp_path / "out", extras=extras)
    outcome, _ = predict(Predictor(make_model(), CPU), path, tmp_path / "out")
    assert (
        outcome.written == 0 and "expected an image of 3 bands" in outcome.failed[0] and "site.tif" in outcome.failed[0]
    )


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.filterwarnings("error::numpy.exceptions.ComplexWarning")
def test_complex_raster_is_reported_and_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        make_large(monkeypatch)
    path = put_raster(tmp_path / "in/radar.tif", np.full((60, 60, 4), 1 + 1j, np.complex64))
    outcome, _ = predict(Predictor(band_model(), CPU, Method(tile=128)), path, tmp_path / "out")
    assert outcome.written == 0
    assert "radar.tif: expected samples that are integers or floats, found complex numbers" in outcome.failed[0]


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put_raster(tmp_path / "in/site.tif", noise(48, 64))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"1 image is georeferenced \(.*site\.tif\).*pip install rasterio"):
        predict(Predictor(make_model(), CPU), path, tmp_path / "out")


def test_each_page_keeps_its_own_coordinates(tmp_path: Path) -> None:
    """GDAL reads the first page of a file unless it is asked for another one; overviews lie between the pages."""
    path = tmp_path / "in/series.tif"
    path.parent.mkdir()
    places = [rasterio.Affine(10.0, 0.0, 300_000.0 + 640 * page, 0.0, -10.0, 4_200_000.0) for page in range(3)]
    shape = {"height": 48, "width": 64, "count": 3, "dtype": "uint8", "driver": "GTiff", "crs": CRS}
    for page, place in enumerate(places):
        options = {"APPEND_SUBDATASET": "YES"} if page else {}
        with rasterio.open(path, "w", transform=place, **shape, **options) as file:
            file.write(noise(48, 64).transpose(2, 0, 1))
        if not page:
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2])
    outcome, items = predict(Predictor(make_model(), CPU), path, tmp_path / "out")
    assert outcome.written == 3 and [item.name for item in items] == [f"series_{page:04}" for page in (1, 2, 3)]
    for page, place in enumerate(places, 1):
        with rasterio.open(tmp_path / f"out/series_{page:04}.tif") as mask:
            assert mask.crs.to_string() == CRS and mask.transform == place
