"""Read masks of exports: class ids by colour, by palette or by grey value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.i18n import tr
from dataset.classes import InvalidFileError, UInt8, abbreviate
from dataset.decoding.bit_depth import has_cut_samples, is_lossy, unstretch
from dataset.decoding.files import open_image
from dataset.decoding.options import DEFAULT_READING
from dataset.faults import Fault
from dataset.formats.export import IGNORED_NAMES, ExportClass

Rgb = tuple[int, int, int]
MAX_CLASSES = 255  # mask values without 255, which is for ignored pixels


def classes_by_order(rows: Sequence[tuple[str, Rgb]]) -> tuple[ExportClass, ...]:
    """Return classes whose ids are their positions in a list of names and colours; names such as "void" are ignored."""
    return tuple(
        ExportClass(number, name, color, name.lower() in IGNORED_NAMES) for number, (name, color) in enumerate(rows)
    )


def check_color_list(file: str, rows: Sequence[tuple[str, Rgb]]) -> list[Fault]:
    """Return faults of a list of names and colours: too many, or a name or colour that occurs twice."""
    faults = []
    if not 1 <= len(rows) <= MAX_CLASSES:
        faults.append(Fault(file, tr("1 to {count} classes", count=MAX_CLASSES), str(len(rows))))
    names, colors = dict[str, int](), dict[Rgb, str]()
    for number, (name, color) in enumerate(rows):
        if name in names:
            faults.append(Fault(file, tr("each name once"), f"'{name}' x2"))
        if color in colors:
            found = tr("{color}: '{first}' and '{second}'", color=color, first=colors[color], second=name)
            faults.append(Fault(file, tr("a different colour for each class"), found))
        names.setdefault(name, number)
        colors.setdefault(color, name)
    return faults


def read_coded_mask(path: Path, ids: Mapping[Rgb, int]) -> UInt8:
    """Return the ids (H,W) uint8 of a mask whose colours, or grey values, are those of a list.

    The colour of a palette image counts, not the index: optimizers reorder palettes. Grey images without these colours
    hold the ids themselves. Raises InvalidFileError for unknown and transparent colours, and for a grey image that both
    ways of reading fit with different results.
    """
    data = path.read_bytes()
    with open_image(data, DEFAULT_READING) as image:
        _check_exact(data, image)
        if image.mode.startswith("I"):  # 16 bits: never a colour
            return _values(data, image)
        _check_opaque(image)
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
        raw = _values(data, image) if image.mode in ("1", "L", "LA", "P") else None
        if image.mode == "P" and not (pixels == np.asarray(raw)[..., None]).all():
            raw = None  # a palette of colours
    by_color, unknown = _ids_of_colors(pixels, ids)
    by_value = raw if raw is not None and np.isin(raw, list(ids.values())).all() else None
    if by_color is not None and by_value is not None and not np.array_equal(by_color, by_value):
        found = tr("grey values that are class ids and colours at once, with different meanings")
        raise InvalidFileError((tr("a mask in colours"), found))
    result = by_color if by_color is not None else by_value
    if result is None:
        found = tr("unknown colours {unknown}", unknown=abbreviate(unknown, 4))
        raise InvalidFileError((tr("colours of the class list"), found))
    return result


def _ids_of_colors(pixels: npt.NDArray[np.int32], ids: Mapping[Rgb, int]) -> tuple[UInt8 | None, list[Rgb]]:
    """Return the ids (H,W) uint8 of pixels (H,W,3), None if a colour is unknown, and the unknown colours."""
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    codes, inverse = np.unique(packed, return_inverse=True)
    found = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    unknown = [color for color in found if color not in ids]
    if unknown:
        return None, unknown
    return np.array([ids[color] for color in found], np.uint8)[inverse].reshape(packed.shape), []


def _check_opaque(image: Image.Image) -> None:
    """Raise InvalidFileError if pixels are transparent: their colour is arbitrary."""
    if image.has_transparency_data:
        low = image.convert("RGBA").getchannel("A").getextrema()[0]
        if low != 255:
            raise InvalidFileError((tr("opaque colours"), tr("transparent pixels")))


def _check_exact(data: bytes, image: Image.Image) -> None:
    """Raise InvalidFileError if pixels may differ from what was saved: lossy compression, or 16 bits a channel."""
    if is_lossy(data, image):
        raise InvalidFileError((tr("a mask that is stored without loss, such as PNG"), str(image.format)))
    if has_cut_samples(data, image):
        raise InvalidFileError((tr("8 bits a channel"), tr("several channels of 16 bits")))


def read_ids(path: Path, known: Collection[int]) -> UInt8:
    """Return the ids (H,W) uint8 that a mask holds as grey values or palette indices; `known` are the possible ones.

    The palette of an optimized grey image holds its grey values. Raises InvalidFileError for other images, and for a
    palette whose white may be the id 255 as well as the colour that shows another class.
    """
    data = path.read_bytes()
    with open_image(data, DEFAULT_READING) as image:
        _check_exact(data, image)
        if image.mode not in ("1", "L", "LA", "P", "PA") and not image.mode.startswith("I"):
            found = tr("mode '{mode}'", mode=image.mode)
            raise InvalidFileError((tr("an 8-bit mask (pixel = class id)"), found))
        values = _values(data, image)
        shown = np.asarray(image.convert("RGB")) if image.mode == "P" else None
    if shown is None or (shown != shown[..., :1]).any() or not np.isin(shown, list(known)).all():
        return values
    greys = np.ascontiguousarray(shown[..., 0])
    if 255 in greys and np.isin(values, list(known)).all() and not np.array_equal(greys, values):
        found = tr("palette indices and grey values that are both class ids, with different meanings")
        raise InvalidFileError((tr("a grey mask without a palette"), found))
    return greys


def _values(data: bytes, image: Image.Image) -> UInt8:
    """Return grey values, as they are stored, or indices (H,W) uint8. Raises InvalidFileError if more than 255."""
    pixels = np.array(image)
    if image.mode == "L" and (stored := unstretch(data, image, pixels)) is not None:
        return stored
    if pixels.ndim == 3:  # with alpha
        pixels = pixels[..., 0]
    if pixels.min() < 0 or pixels.max() > 255:
        found = tr("values {min} to {max}", min=pixels.min(), max=pixels.max())
        raise InvalidFileError((tr("an 8-bit mask (pixel = class id)"), found))
    return pixels.astype(np.uint8)
