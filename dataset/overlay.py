"""Draw class colours over an image, and what pages show of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from core.figures import format_figure
from core.i18n import tr
from core.pages.cards import Panel
from dataset.classes import IGNORE_INDEX, ClassMap, UInt8

OVERLAY_SHARE = 0.55  # of the class colour in an overlay
# matplotlib lists a font collection under its first name: "Noto Sans CJK" is listed as JP, and contains Korean too.
KOREAN_FONTS = ("Malgun Gothic", "AppleGothic", "NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "Noto Sans CJK JP")

JPEG_QUALITY = 85  # of images in pages
JPEG_SIDE = 65_500  # pixels; libjpeg writes no larger images
SMALL_SIDE = 256  # pixels; smaller images are enlarged without interpolation
WRONG = (230, 0, 150)  # RGB of pixels whose prediction differs from the label


def overlay(image: UInt8, indices: UInt8, classes: ClassMap) -> UInt8:
    """Return the image (H,W,C) uint8 as RGB, blended with the colours of its classes (H,W) uint8; ignored pixels are unchanged."""
    # Pillow's lookup tables of 256 entries take a fifth of numpy's time; this runs for every prediction.
    dimmed = [int(value * (1 - OVERLAY_SHARE)) for value in range(256)]
    colors = np.zeros((256, 3), np.uint8)
    colors[: classes.num_classes] = (np.array(classes.colors) * OVERLAY_SHARE).astype(np.uint8)
    layer = Image.fromarray(indices)
    layer.putpalette(colors.tobytes())
    base = Image.fromarray(as_rgb(image))
    blended = ImageChops.add(base.point(dimmed * 3), layer.convert("RGB"))
    ignored = indices == IGNORE_INDEX
    if ignored.any():
        blended.paste(base, mask=Image.fromarray(ignored))
    return np.asarray(blended)


def as_rgb(image: UInt8) -> UInt8:
    """Return an image (H,W,C) uint8 to look at, (H,W,3): its first three bands, or the first of two in grey."""
    return np.ascontiguousarray(image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, axis=2))


def grey(image: UInt8) -> UInt8:
    """Return an image (H,W,C) uint8 in pale grey, (H,W,3) uint8, to draw differences on."""
    pale: UInt8 = (as_rgb(image).mean(2, keepdims=True) * 0.5 + 100).astype(np.uint8).repeat(3, axis=2)
    return pale


def difference(image: UInt8, label: UInt8, prediction: UInt8) -> UInt8:
    """Return the image in grey, (H,W,3) uint8, with WRONG where label and prediction (H,W) uint8 differ."""
    drawn = grey(image)
    drawn[(label != prediction) & (label != IGNORE_INDEX)] = WRONG
    return drawn


def reduced(pixels: UInt8, scale: float) -> UInt8:
    """Return pixels (H,W,3) uint8 at a scale below 1, each as the mean of those that it stands for; at another, unchanged."""
    if scale >= 1:
        return pixels
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def within_jpeg(pixels: UInt8) -> UInt8:
    """Return pixels (H,W,3) uint8, reduced if a side is longer than that of any JPEG."""
    return reduced(pixels, JPEG_SIDE / max(pixels.shape[:2]))


def panel(kind: str, caption: str, pixels: UInt8, image_format: str = "JPEG") -> Panel:
    """Return pixels (H,W,3) uint8 as a panel of a page, embedded as JPEG or PNG."""
    buffer = io.BytesIO()
    pixels = within_jpeg(pixels) if image_format == "JPEG" else pixels
    height, width = pixels.shape[:2]
    small = max(width, height) < SMALL_SIDE
    # Enlarged, the colours of a small image would show the blocks of the compression.
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if small else {"quality": JPEG_QUALITY}
    Image.fromarray(pixels).save(buffer, image_format, **(options if image_format == "JPEG" else {}))
    url = f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Panel(kind, caption, url, width, height, image_format == "PNG" or small)


def class_legend(classes: ClassMap, indices: Iterable[int] | None = None) -> list[tuple[str, str]]:
    """Return (colour as "#rrggbb", name) of these classes; None: of all."""
    chosen = range(classes.num_classes) if indices is None else indices
    return [(css_color(classes.colors[index]), classes.names[index]) for index in chosen]


def iou_legend(classes: ClassMap, iou: Mapping[int, float | None]) -> list[tuple[str, str]]:
    """Return (colour, name with the IoU) of the classes of an image by their index; None: no IoU."""
    return [
        (css_color(classes.colors[index]), classes.names[index] + ("" if value is None else f" {format_figure(value)}"))
        for index, value in iou.items()
    ]


def wrong_legend() -> tuple[str, str]:
    """Return colour and text of what `difference` draws."""
    return css_color(WRONG), tr("difference: prediction and label differ")


def css_color(color: tuple[int, int, int]) -> str:
    """Return an RGB colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*color)
