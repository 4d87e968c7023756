"""Recognize georeferenced TIFF files, and write predictions with their coordinate system and transform."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UsageError
from core.i18n import trn
from core.safety.terminal import escape_line
from dataset.classes import ClassMap, abbreviate
from dataset.decoding.tiff import directory_number, has_tag

# Tags of GeoTIFF: pixel scale, tie points with a matrix, and the directory of the coordinate system.
GEO_TAGS = (33550, 34264, 34735)
MASK_SUFFIX = ".tif"
ROWS_PER_STRIP = 32  # tiles of a prediction begin at multiples of this, so that each strip is compressed once


@dataclass(frozen=True)
class Georeference:
    """Where an image lies: its coordinate system and its transform from pixels, as rasterio has them."""

    crs: Any
    transform: Any


def is_georeferenced(path: Path, page: int | None = None) -> bool:
    """Return whether a TIFF file, or this page of it, has the tags of GeoTIFF; False for one that cannot be read."""
    try:
        return has_tag(path, GEO_TAGS, page)
    except OSError:
        return False


def require_rasterio(images: Sequence[str]) -> None:
    """Raise UsageError if the package is missing that keeps the coordinates of these images."""
    if images and importlib.util.find_spec("rasterio") is None:
        raise UsageError(
            trn(
                "{count} image is georeferenced ({names}); to keep its coordinates: pip install rasterio",
                "{count} images are georeferenced ({names}); to keep their coordinates: pip install rasterio",
                len(images),
                names=abbreviate(images, 3),
            )
        )


def read_georeference(path: Path, page: int | None = None) -> Georeference:
    """Return where an image, or a page of it, lies. Raises UsageError for a file that GDAL cannot read."""
    import rasterio

    try:
        name = str(path) if page is None else f"GTIFF_DIR:{directory_number(path, page) + 1}:{path}"
        with rasterio.open(name) as source:
            return Georeference(source.crs, source.transform)
    except (rasterio.errors.RasterioError, OSError, IndexError) as error:
        raise UsageError(escape_line(f"{path}: {error}")) from None


def mask_profile(size: tuple[int, int], place: Georeference) -> dict[str, Any]:
    """Return how rasterio writes a mask of this size (height, width)."""
    return {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 1,
        "dtype": "uint8",
        "crs": place.crs,
        "transform": place.transform,
        "compress": "deflate",
        "blockysize": ROWS_PER_STRIP,
        "BIGTIFF": "IF_SAFER",
    }


def describe_mask(target: Any, classes: ClassMap | None, origin: Mapping[str, str]) -> None:
    """Store colours and origin in an open file, before its pixels; without classes, no colours."""
    target.update_tags(**origin)
    if classes is None:
        return
    palette = np.frombuffer(classes.palette(), np.uint8).reshape(256, 3).tolist()
    target.write_colormap(1, {value: (*color, 255) for value, color in enumerate(palette)})


def encode_geotiff(
    values: npt.NDArray[Any], classes: ClassMap | None, origin: Mapping[str, str], place: Georeference
) -> bytes:
    """Encode class indices (H,W) uint8 as GeoTIFF: mask values, class colours, coordinates and the origin as tags.

    Without classes, the values (H,W) of an unsigned type are stored as they are.
    """
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        profile = mask_profile((values.shape[0], values.shape[1]), place) | {"dtype": values.dtype.name}
        with memory.open(**profile) as target:
            describe_mask(target, classes, origin)
            target.write(values if classes is None else classes.decode(values), 1)
        return bytes(memory.getbuffer())
