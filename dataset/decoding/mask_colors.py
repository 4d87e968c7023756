"""Read colour masks by the colours of classes.json, and say what a colour mask contains if it cannot be read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.i18n import tr, trn
from dataset.classes import ClassMap, InvalidFileError, UInt8, abbreviate

Color = tuple[int, int, int]
VOC_BORDER = (224, 224, 192)  # what the palette of Pascal VOC shows for 255
_CHANNELS = "RGB"
_BLENDED_COLORS, _BLENDED_SHARE = 3, 0.3  # also some in a small fraction of the pixels
_MANY_COLORS = 32  # as many unknown colours come from interpolation or lossy compression
_AREA_COLORS, _PHOTO_SHARE = 8, 0.5  # of the pixels have none of the most frequent colours: more than outlines do


def class_colors(classes: ClassMap) -> dict[Color, int]:
    """Return colour -> mask value; an ignored 255 has the colour of Pascal VOC's borders too, unless a class has it."""
    pairs = zip(classes.colors + classes.ignore_colors, classes.ids + classes.ignore_ids, strict=True)
    table: dict[Color, int] = {}
    for color, value in pairs:
        table.setdefault(color, value)
    if 255 in classes.ignore_ids:
        table.setdefault(VOC_BORDER, 255)
    return table


def have_equal_colors(classes: ClassMap) -> bool:
    """Return whether two classes have the same colour, so that colours do not tell them apart."""
    colors = classes.colors + classes.ignore_colors
    return len(set(colors)) < len(colors)


def format_color(color: Color) -> str:
    """Return a colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def values_of_colors(pixels: UInt8, classes: ClassMap | None) -> UInt8:
    """Return the mask values (H,W) uint8 of (H,W,3 or 4) uint8: by class colours, else the grey of equal channels.

    Raises InvalidFileError that describes what else the mask contains.
    """
    if pixels.shape[2] == 4:
        _check_alpha(pixels, classes)
    packed = _pack(pixels)
    unknown, share = np.unique(packed), 1.0
    if classes is not None:
        by_code = {_pack_color(color): value for color, value in class_colors(classes).items()}
        codes = np.array(sorted(by_code))
        index = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        missed = codes[index] != packed
        if not missed.any():
            if have_equal_colors(classes):
                expected = tr("a different colour for each class in classes.json")
                raise InvalidFileError((expected, tr("a colour mask, and classes with the same colour")))
            return np.array([by_code[int(code)] for code in codes], np.uint8)[index]
        unknown, share = np.unique(packed[missed]), float(missed.mean())
    red, green, blue = (pixels[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    raise _unreadable_colors(pixels, unknown, share, classes)


def _pack(pixels: UInt8) -> npt.NDArray[np.int64]:
    """Return one number (H,W) for the colour of each pixel."""
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _pack_color(color: Color) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _unreadable_colors(
    pixels: UInt8, unknown: npt.NDArray[np.int64], share: float, classes: ClassMap | None
) -> InvalidFileError:
    """Return the error of a mask with these unknown colours (N,), packed, in this fraction of its pixels."""
    expected = tr("an 8-bit mask, or colours of classes.json")
    if classes is None:
        expected = tr("an 8-bit mask (pixel = class id), or classes.json with colours")
    used = [channel for channel in range(3) if pixels[..., channel].any()]
    if len(used) == 1:
        name, values = _CHANNELS[used[0]], np.unique(pixels[..., used[0]]).tolist()
        found = tr("{values} in channel {name}, 0 in the others", values=abbreviate(values), name=name)
        cure = tr("class ids? save that channel: Image.open(file).getchannel('{name}').save(file)", name=name)
    elif len(unknown) > _MANY_COLORS or (len(unknown) >= _BLENDED_COLORS and share < _BLENDED_SHARE):
        found = trn(
            "{count} unknown colour in {share:.1%} of the pixels",
            "{count} unknown colours in {share:.1%} of the pixels",
            len(unknown),
            share=share,
        )
        cure = tr("resized with interpolation, or saved as JPEG? use nearest neighbour and PNG")
    else:
        named = abbreviate((f"#{code:06x}" for code in unknown.tolist()), 4)
        found = tr("unknown colours {unknown}", unknown=named)
        color = [int(unknown[-1]) >> shift & 255 for shift in (16, 8, 0)]
        entry = f'{{"id": 1, "name": "...", "color": {color}}}'
        cure = tr("list each in classes.json: {entry}", entry=entry)
    return InvalidFileError((expected, f"{found} ({cure})"))


def _check_alpha(pixels: UInt8, classes: ClassMap | None) -> None:
    """Raise InvalidFileError if the alpha channel (H,W,4) shows what the colours do not: often, it is the mask itself.

    That is, if pixels of one colour are visible in one place and invisible in another, or if a photo was cut out.
    """
    alpha = pixels[..., 3]
    if alpha.min() == alpha.max():
        return
    packed = _pack(pixels)
    colors = np.unique(packed)
    mixed = np.intersect1d(packed[alpha == 0], packed[alpha == 255])
    cure = tr("save that channel: Image.open(file).getchannel('A').save(file)")
    values = abbreviate(np.unique(alpha), 4)
    if _shows_photo(packed[alpha > 0], classes):
        found = trn(
            "{count} colour as in a photo, and the mask in the alpha channel: {values}",
            "{count} colours as in a photo, and the mask in the alpha channel: {values}",
            len(colors),
            values=values,
        )
    elif len(colors) > 1 and not mixed.size:
        return
    elif len(colors) == 1:
        found = tr("one colour, and the mask in the alpha channel: {values}", values=values)
    else:
        color = f"#{int(mixed[0]):06x}"
        found = tr("{color} both visible and transparent", color=color)
        cure = tr("remove the alpha channel, or give transparent pixels a colour of their own")
    raise InvalidFileError((tr("classes in grey values or colours"), f"{found} ({cure})"))


def _shows_photo(packed: npt.NDArray[np.int64], classes: ClassMap | None) -> bool:
    """Return whether most of these pixels (N,) have rare colours that are neither colours nor greys of classes."""
    unknown = packed
    if classes is not None:
        known = [*class_colors(classes), *((value, value, value) for value in classes.known)]
        unknown = packed[~np.isin(packed, [_pack_color(color) for color in known])]
    pixels = np.sort(np.unique(unknown, return_counts=True)[1])[::-1]
    return len(pixels) > _MANY_COLORS and int(pixels[_AREA_COLORS:].sum()) > _PHOTO_SHARE * packed.size
