"""Predict a GeoTIFF of WIDTH x HEIGHT pixels, four bands of 16 bits, in windows; print seconds and the peak of memory.

python benchmarks/large_raster.py --width 40000 --height 40000 --classes 12 --folder /tmp/raster
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import rasterio
import torch

from dataset.classes import ClassMap
from dataset.decoding.options import ReadOptions
from inference.geo.windows import predict_raster
from segmentation.networks.registry import build_network
from segmentation.predictor import Method, Predictor
from segmentation.preprocess import Normalisation
from tests.support.models import CPU, make_model

BANDS, BLOCK = 4, 512


def write_raster(path: Path, width: int, height: int, layout: str) -> None:
    """Write noise into every 16th block; the others stay empty, as outside of a satellite's swath."""
    profile = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": BANDS,
        "dtype": "uint16",
        "crs": "EPSG:32652",
    }
    tiles = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    blocks = {**(tiles if layout == "tiles" else {"blockysize": 16}), "compress": "deflate", "SPARSE_OK": True}
    place = rasterio.Affine(10, 0, 300_000, 0, -10, 4_200_000)
    random = np.random.default_rng(0)
    with rasterio.open(path, "w", transform=place, BIGTIFF="YES", **profile, **blocks) as file:
        for index, (_, window) in enumerate(file.block_windows(1)):
            if index % 16 == 0:
                shape = (BANDS, window.height, window.width)
                file.write(random.integers(1, 10_000, shape, np.uint16), window=window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=40_000)
    parser.add_argument("--height", type=int, default=40_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/raster"))
    parser.add_argument("--model", default="compact_fpn")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--layout", choices=("tiles", "strips"), default="tiles")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{options.width}x{options.height}_{options.layout}.tif"
    if not path.exists():
        write_raster(path, options.width, options.height, options.layout)
    torch.manual_seed(0)
    ids = range(options.classes)
    model = dataclasses.replace(
        make_model(),
        architecture=options.model,
        network=build_network(options.model, options.classes, channels=BANDS)
        .to(memory_format=torch.channels_last)
        .eval(),
        classes=ClassMap(tuple(ids), tuple(f"class {i}" for i in ids), tuple((i, i, i) for i in ids)),
        normalisation=Normalisation((0.5,) * BANDS, (0.25,) * BANDS),
        reading=ReadOptions(channels=BANDS, value_ranges=((0.0, 10_000.0),) * BANDS),
    )
    start = time.perf_counter()
    target = options.folder / f"mask_{options.model}_{options.classes}_{options.layout}.tif"
    record, _ = predict_raster(Predictor(model, CPU, Method(tile=0)), path, target, {})
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{record['width']}x{record['height']}x{BANDS} in {options.layout}, {options.model}, {options.classes} classes: "
        f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time, peak resident memory "
        f"{used.ru_maxrss * 1024 / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
