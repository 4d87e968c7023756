"""Write the images and masks of an export: names, faults, and palette PNG."""

from __future__ import annotations

import functools
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from core.i18n import tr, trn
from core.machine.limits import usable_cores
from core.reporting import progress
from dataset.classes import ClassMap, InvalidFileError, UInt8, abbreviate
from dataset.decoding.header import Size, image_sizes
from dataset.directory import composed
from dataset.faults import DataFaults, DataWarning, Fault, faults_from_error
from dataset.formats.export import Export, ExportItem
from dataset.formats.source import Source
from dataset.splitting.splits import check_listable

_WINDOW = 64  # items in flight, so that memory does not grow with their number


@dataclass(frozen=True)
class Outcome:
    """One item after reading: its faults, or why it was left out, or the checksum of its image."""

    item: ExportItem
    faults: tuple[Fault, ...] = ()
    left_out: str | None = None
    image_sha256: str = ""
    values: frozenset[int] = frozenset()  # of the mask
    raw_orientation: bool = False  # the mask has the size of the stored pixels, which are shown rotated


def name_uniquely(export: Export) -> Export:
    """Put the split in front of every name if two items of different splits have the same name.

    Raises DataFaults for items that have the same name otherwise: names that differ in case only are the same on
    Windows and macOS.
    """
    items = [replace(item, name=composed(item.name)) for item in export.items]
    if _repeated(items):
        items = [replace(item, name=f"{item.split}/{item.name}" if item.split else item.name) for item in items]
    repeated = _repeated(items)
    if repeated:
        expected = tr("one image of each name")
        raise DataFaults(
            Fault(item.mask_file, expected, tr("'{name}' more than once", name=item.name)) for item in repeated
        )
    faults = [*check_listable((item.image, item.name) for item in items)]
    if faults and any(item.split for item in items):
        raise DataFaults(faults)
    return replace(export, items=tuple(items))


def _repeated(items: Sequence[ExportItem]) -> list[ExportItem]:
    counts = Counter(item.name.casefold() for item in items)
    return [item for item in items if counts[item.name.casefold()] > 1]


def write_items(staging: Path, source: Source, items: Sequence[ExportItem], classes: ClassMap) -> Iterator[Outcome]:
    """Write images and masks; yield the outcomes in order. Decoding releases the GIL, so threads help."""
    write = functools.partial(_write_item, staging, source, classes=classes, palette=classes.palette())
    with ThreadPoolExecutor(min(8, usable_cores() + 1)) as pool:

        def windows() -> Iterator[Outcome]:
            for start in range(0, len(items), _WINDOW):
                yield from pool.map(write, items[start : start + _WINDOW])

        yield from progress(windows(), len(items), tr("importing"), tr("pairs"))


def _write_item(staging: Path, source: Source, item: ExportItem, classes: ClassMap, palette: bytes) -> Outcome:
    """Write one image and its mask, unless there is a fault or every pixel is ignored."""
    file = item.mask_file
    try:
        values = item.mask()
        file = item.image
        data = item.merged() if item.merged else source.files[item.image].read_bytes()
        upright, stored = image_sizes(data)
    except InvalidFileError as error:
        return Outcome(item, tuple(faults_from_error(file, error)))
    except OSError as error:
        return Outcome(item, (Fault(file, tr("a readable file"), error.strerror or str(error)),))
    used = frozenset(np.unique(values).tolist())
    faults = _check_mask(item, values, used, (upright, stored), classes)
    if faults:
        return Outcome(item, tuple(faults))
    if used <= {*classes.ignore_ids}:
        return Outcome(item, left_out=tr("every pixel is ignored"))
    image_path, mask_path = staging / "images" / f"{item.name}{item.suffix}", staging / "masks" / f"{item.name}.png"
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    image_path.write_bytes(data)
    mask_path.write_bytes(palette_png(values, palette))
    raw_orientation = values.shape != upright
    return Outcome(item, image_sha256=hashlib.sha256(data).hexdigest(), values=used, raw_orientation=raw_orientation)


def _check_mask(
    item: ExportItem, values: UInt8, used: frozenset[int], sizes: tuple[Size, Size], classes: ClassMap
) -> list[Fault]:
    """Return faults of a mask that fits the image neither as it is shown nor as it is stored, or has unknown values."""
    if values.shape not in sizes:
        expected = tr("{width}x{height} (size of the image)", width=sizes[0][1], height=sizes[0][0])
        return [Fault(item.mask_file, expected, f"{values.shape[1]}x{values.shape[0]}")]
    unknown = sorted(used - {*classes.known})
    if unknown:
        found = tr("unknown values {unknown}", unknown=abbreviate(unknown))
        return [Fault(item.mask_file, tr("class values {known}", known=abbreviate(classes.known, 16)), found)]
    return []


def palette_png(values: UInt8, palette: bytes) -> bytes:
    """Return a PNG of mask values (H,W) uint8, whose palette shows the class colours in a viewer."""
    image, buffer = Image.fromarray(values), io.BytesIO()
    image.putpalette(palette)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def warn_of_rotation(outcomes: Sequence[Outcome]) -> list[DataWarning]:
    """Return a warning for masks that were drawn on images without their EXIF orientation."""
    names = [outcome.item.name for outcome in outcomes if outcome.raw_orientation]
    if not names:
        return []
    text = trn(
        "{count} mask has the size of the image without its EXIF orientation, train with --raw-orientation: {names}",
        "{count} masks have the size of the image without its EXIF orientation, train with --raw-orientation: {names}",
        len(names),
        names=abbreviate(names, 3),
    )
    return [DataWarning("raw-orientation", text)]
