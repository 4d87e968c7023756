"""Read masks as class values: from grey values, palettes, bits, or the colours of classes.json."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.i18n import tr, trn
from dataset.classes import ClassMap, InvalidFileError, UInt8
from dataset.decoding.bit_depth import has_cut_samples, holds_boolean_array, is_inverted, is_lossy, unstretch
from dataset.decoding.files import error_with_name, is_animation, open_image, pixel_limit, read_bytes
from dataset.decoding.mask_colors import Color, class_colors, values_of_colors
from dataset.decoding.mask_palette import read_palette
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import to_upright
from dataset.decoding.tiff import is_tiff, read_samples

_MAX_BANDS = 4  # red, green, blue, alpha


@dataclass(frozen=True)
class MaskPixels:
    """A decoded mask: `values` (H,W) uint8 as stored or as its colours mean; see `bilevel_high` for bits."""

    values: UInt8
    bilevel: bool = False  # the values are bits, 0 and 1
    palette: tuple[
        tuple[int, Color], ...
    ] = ()  # the used indices of a palette that tells them apart, with their colours
    by_index: bool = True  # of a palette: whether the index is the value
    lossy: bool = False  # compressed in a way that changes values
    white_is_zero: bool = False  # of bits: they are read as shown, the opposite of what is stored


def decode_mask(data: bytes, classes: ClassMap | None, options: ReadOptions, page: int | None = None) -> MaskPixels:
    """Return a mask's bytes as raw values; `page` is that of a TIFF file of several. Raises InvalidFileError.

    Colours are read through those of `classes`.
    """
    samples = read_samples(data, page or 0, pixel_limit()) if is_tiff(data) else 0
    if not isinstance(samples, int):  # Pillow has no mode for them, or would lose some of their bits
        pixels = samples.pixels if options.raw_orientation else to_upright(samples.pixels, samples.orientation)
        return MaskPixels(_values_of_bands(pixels, classes))
    with open_image(data, options, frame=samples) as image:
        if has_cut_samples(data, image):
            raise _not_eight_bit(tr("several channels of {bits} bits", bits=16))
        if is_animation(image):
            raise InvalidFileError((tr("a mask of one frame"), tr("an animation")))
        lossy = is_lossy(data, image)
        pixels = np.array(image)
        if image.mode in ("P", "PA"):
            indices = pixels if image.mode == "P" else np.ascontiguousarray(pixels[..., 0])
            colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            found = read_palette(indices, colors, classes, sorted_by_file=image.format == "GIF")
            return MaskPixels(found.values, found.bilevel, found.entries, found.by_index)
        if image.mode == "1":
            return _read_bits(image, pixels.astype(np.uint8), classes)
        values = _values(data, image, pixels, classes)
    by_color = _values_of_greys(values, classes, prefer_values=True)
    return MaskPixels(values if by_color is None else by_color, lossy=lossy)


def _read_bits(image: Image.Image, bits: UInt8, classes: ClassMap | None) -> MaskPixels:
    """Return a mask of one bit a pixel, (H,W) with 1 where white is shown, by the colours of classes.json if it has any.

    Raises InvalidFileError where programs that show the file and the one that wrote it say the opposite.
    """
    by_color = _values_of_greys(bits * np.uint8(255), classes, prefer_values=False)
    if by_color is not None:
        return MaskPixels(by_color)
    if holds_boolean_array(image):
        shown = float(bits.mean())
        found = tr(
            "a boolean array that tifffile stored with 0 as white: 1 in {stored:.1%} of the pixels as stored, in "
            "{shown:.1%} as shown (as stored: write it with photometric='minisblack'; as shown: save it as PNG)",
            stored=1 - shown,
            shown=shown,
        )
        raise InvalidFileError((tr("bits that mean the same as stored and as shown"), found))
    return MaskPixels(bits, bilevel=True, white_is_zero=is_inverted(image))


def _values(data: bytes, image: Image.Image, pixels: npt.NDArray[Any], classes: ClassMap | None) -> UInt8:
    """Return the values of a mask without a palette, (H,W) uint8."""
    if image.mode == "L":
        if is_inverted(image) and not np.isin(pixels, (0, 255)).all():
            found = tr("values {min} to {max}, stored inverted", min=255 - pixels.max(), max=255 - pixels.min())
            raise _not_eight_bit(found, tr("the TIFF says that 0 is white: save the mask as PNG"))
        stored = unstretch(data, image, pixels)
        if stored is None or _only_stretched_known(stored, pixels, classes):
            return pixels
        return stored
    if image.mode == "LA":
        grey, alpha = pixels[..., 0], pixels[..., 1]
        return values_of_colors(np.stack([grey, grey, grey, alpha], 2), classes)
    if image.mode.startswith("I"):
        return _small_integers(pixels)
    if image.mode in ("RGB", "RGBA"):
        return values_of_colors(pixels, classes)
    if image.mode == "F":
        raise _float_error(pixels)
    raise _not_eight_bit(tr("mode '{mode}'", mode=image.mode))


def _values_of_bands(pixels: npt.NDArray[Any], classes: ClassMap | None) -> UInt8:
    """Return the values (H,W) uint8 of the samples (H,W,C) of a TIFF file."""
    if pixels.dtype.kind not in "iu":
        raise _float_error(pixels)
    if pixels.shape[2] == 1:
        return _small_integers(pixels[..., 0])
    if pixels.dtype != np.uint8:
        raise _not_eight_bit(tr("several channels of {bits} bits", bits=8 * pixels.dtype.itemsize))
    if pixels.shape[2] == 2:
        return values_of_colors(pixels[..., [0, 0, 0, 1]], classes)
    if pixels.shape[2] > _MAX_BANDS:
        raise _not_eight_bit(trn("{count} band", "{count} bands", pixels.shape[2]))
    return values_of_colors(pixels, classes)


def _float_error(pixels: npt.NDArray[Any]) -> InvalidFileError:
    if pixels.dtype.kind == "c":
        return _not_eight_bit(tr("complex numbers ({type})", type=pixels.dtype), tr("save class ids as integers"))
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (float("nan"),) * 2
    found = tr("float pixels from {low:g} to {high:g}", low=low, high=high)
    return _not_eight_bit(found, tr("convert probabilities by a threshold, and class ids to integers"))


def _only_stretched_known(stored: UInt8, stretched: UInt8, classes: ClassMap | None) -> bool:
    """Return whether the classes are those of stretched samples, as older versions of this project read them."""
    if classes is None:
        return False
    known = set(classes.known)
    return not set(np.unique(stored).tolist()) <= known and set(np.unique(stretched).tolist()) <= known


def _values_of_greys(grey: UInt8, classes: ClassMap | None, prefer_values: bool) -> UInt8 | None:
    """Return the values of grey pixels (H,W) by the colours of classes.json; None if the grey itself is the value.

    `prefer_values`: by colour only if a grey is not a class id.
    """
    if classes is None or not classes.listed_colors:
        return None
    used = np.flatnonzero(np.bincount(grey.ravel(), minlength=256)).tolist()
    table = class_colors(classes)
    if (prefer_values and set(used) <= set(classes.known)) or any((v, v, v) not in table for v in used):
        return None
    lookup = np.zeros(256, np.uint8)
    lookup[used] = [table[v, v, v] for v in used]
    return lookup[grey]


def _small_integers(pixels: npt.NDArray[Any]) -> UInt8:
    """Return integers of more than 8 bits as uint8. Raises InvalidFileError for values outside 0 to 255."""
    low, high = int(pixels.min()), int(pixels.max())
    if low >= 0 and high <= 255:
        return pixels.astype(np.uint8)
    found = tr("values {min} to {max}", min=low, max=high)
    if low >= 0 and not (pixels % 257).any():
        raise _not_eight_bit(found, tr("they were stretched to 16 bits: divide them by 257"))
    raise _not_eight_bit(found, tr("number the classes from 0 to 255; instance numbers are not classes"))


def bilevel_high(known: Collection[int]) -> int:
    """Return the mask value that a set bit of a one-bit mask stands for: 1 if the data uses 1, else 255."""
    return 1 if 1 in known else 255


def _not_eight_bit(found: str, cure: str = "") -> InvalidFileError:
    return InvalidFileError((tr("an 8-bit mask (pixel = class id)"), f"{found} ({cure})" if cure else found))


def encode_mask_pixels(mask: MaskPixels, classes: ClassMap) -> UInt8:
    """Return class indices (H,W) uint8 of a decoded mask. Raises ValueError that lists the unknown values."""
    high = bilevel_high(classes.known)
    return classes.encode(mask.values * np.uint8(high) if mask.bilevel else mask.values)


def read_mask(source: Path | bytes, classes: ClassMap, options: ReadOptions, page: int | None = None) -> UInt8:
    """Return a mask as (H,W) uint8 class indices, `IGNORE_INDEX` where ignored. Raises UsageError naming the file."""
    try:
        return encode_mask_pixels(decode_mask(read_bytes(source), classes, options, page), classes)
    except (InvalidFileError, OSError, ValueError) as error:
        raise error_with_name(source, error) from None
