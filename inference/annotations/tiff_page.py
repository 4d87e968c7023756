"""Copy a page of a TIFF file of several into a file of its own, with its tags and its compressed pixels as they are."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from core.i18n import tr
from dataset.classes import InvalidFileError
from dataset.decoding.tiff import full_pages, open_tiff

OLD_JPEG = 6  # a compression whose pixels refer to other places of the file
STRIPS, TILES = (273, 279), (324, 325)  # tags of the offsets and the byte counts
# Tags that describe all pages (ImageDescription, PageNumber, those of ImageJ, LSM and MicroManager), or that refer to
# other places of the file (SubIFDs, EXIF, GPS).
LEFT_OUT = {*STRIPS, *TILES, 270, 297, 50838, 50839, 34412, 51123, 330, 34665, 34853, 40965}
LONG, LONG8 = 4, 16  # types of values
Entry = tuple[int, int, bytes]  # type, count, values in the byte order of the file


def extract_page(data: bytes, page: int) -> bytes:
    """Return the bytes of a TIFF file with a page (0, 1, ...) of this one only. Raises InvalidFileError."""
    try:
        with open_tiff(data) as file:
            found = full_pages(file)[page][1].aspage()
            entries = {
                tag.code: (int(tag.dtype), tag.count, data[tag.valueoffset : tag.valueoffset + tag.valuebytecount])
                for tag in found.tags
                if tag.code not in LEFT_OUT
            }
            places = zip(found.dataoffsets, found.databytecounts, strict=True)
            segments = [data[offset : offset + count] for offset, count in places]
            old, tiled, order, big = int(found.compression) == OLD_JPEG, found.is_tiled, file.byteorder, file.is_bigtiff
    except Exception as error:  # a parser of untrusted data: besides its own errors, those of struct
        raise InvalidFileError((tr("a complete TIFF image"), " ".join(str(error).split())[:200])) from None
    if old:
        reason = tr("page {number} in the old JPEG compression (save it with another one)", number=page + 1)
        raise InvalidFileError((tr("a page that can be copied"), reason))
    return _write_file(order, big, entries, segments, tiled)


def _write_file(order: str, big: bool, entries: Mapping[int, Entry], segments: Sequence[bytes], tiled: bool) -> bytes:
    """Return a TIFF file of one page; `order` is that of struct, `big` whether it is BigTIFF."""
    number, width = ("Q", 8) if big else ("I", 4)  # of an offset
    content = bytearray(2 * width)

    def add(values: bytes) -> int:
        content.extend(bytes(-len(content) % 8))
        content.extend(values)
        return len(content) - len(values)

    offsets = [add(segment) if segment else 0 for segment in segments]
    sizes = [len(segment) for segment in segments]
    of_segments = {
        tag: (LONG8 if big else LONG, len(values), struct.pack(f"{order}{len(values)}{number}", *values))
        for tag, values in zip(TILES if tiled else STRIPS, (offsets, sizes), strict=True)
    }
    rows = []
    for tag, (kind, count, values) in sorted({**entries, **of_segments}.items()):
        field = values if len(values) <= width else struct.pack(order + number, add(values))
        rows.append(struct.pack(f"{order}HH{number}", tag, kind, count) + field.ljust(width, b"\0"))
    start = add(struct.pack(order + ("Q" if big else "H"), len(rows)) + b"".join(rows) + bytes(width))
    version = struct.pack(f"{order}HHHQ", 43, 8, 0, start) if big else struct.pack(f"{order}HI", 42, start)
    content[: 2 * width] = (b"II" if order == "<" else b"MM") + version
    return bytes(content)
