"""Draw class colours over an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageChops

from dataset.classes import IGNORE_INDEX, ClassMap, UInt8

OVERLAY_SHARE = 0.55  # of the class colour in an overlay
# matplotlib lists a font collection under its first name: "Noto Sans CJK" is listed as JP, and contains Korean too.
KOREAN_FONTS = ("Malgun Gothic", "AppleGothic", "NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "Noto Sans CJK JP")


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


def title_font(size: int) -> Any:
    """Return Pillow's font for titles of this size (pixels): a Korean one if installed, because names may be Korean."""
    from matplotlib import font_manager
    from PIL import ImageFont

    file = next((font.fname for font in font_manager.fontManager.ttflist if font.name in KOREAN_FONTS), None)
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
