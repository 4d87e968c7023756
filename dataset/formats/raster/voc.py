"""Read Pascal VOC without a labelmap.txt: names from class_names.txt (labelme2voc); of VOC's own images, its 21 classes."""

from __future__ import annotations

import re

from core.i18n import tr, trn
from dataset.classes import abbreviate
from dataset.directory import images_below
from dataset.faults import DataFaults, DataWarning, Fault
from dataset.formats.export import IGNORED_NAMES, Export, ExportClass, ImportOptions
from dataset.formats.raster.colors import MAX_CLASSES, Rgb
from dataset.formats.raster.voc_layout import mask_directory, read_items
from dataset.formats.source import Source

NAME_FILE = "class_names.txt"
IMAGE_OF_VOC = re.compile(r"20\d{2}_\d{6}")  # from 2007 on; of 2007 itself, names are plain numbers
VOC_2012 = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def voc_color(index: int) -> Rgb:
    """Return an entry of VOC's palette: the bits of the index, spread over the high bits of red, green and blue."""
    red = green = blue = 0
    for shift in range(8):
        bits = index >> 3 * shift
        red |= (bits & 1) << 7 - shift
        green |= (bits >> 1 & 1) << 7 - shift
        blue |= (bits >> 2 & 1) << 7 - shift
    return red, green, blue


BORDER_COLOR = voc_color(255)
BORDER = ExportClass(255, "border", BORDER_COLOR, ignore=True, optional=True)  # between objects, in no metric of VOC


def detect(source: Source) -> bool:
    """Return whether there are class masks in the directory of VOC."""
    return mask_directory(source) is not None


def read(source: Source, _options: ImportOptions) -> Export:
    """Return the export, with the palette of VOC. Raises DataFaults for masks that have other colours or values."""
    warnings = []
    if NAME_FILE in source.files:
        names = _read_names(source)
    else:
        names = list(VOC_2012)
        _require_images_of_voc(source)
        text = tr("the export does not name its classes: its images are those of VOC 2012, so its 21 classes are taken")
        warnings.append(DataWarning("assumed-class-names", text))
    classes = [ExportClass(index, name, voc_color(index)) for index, name in enumerate(names)]
    ids = {voc_color(known.id): known.id for known in (*classes, BORDER)}
    items, left_out = read_items(source, ids)
    return Export((*classes, BORDER), items, left_out, tuple(warnings))


def _require_images_of_voc(source: Source) -> None:
    """Raise DataFaults for images that are not called as those of VOC are: their classes are not those of VOC either."""
    masks = images_below(source.files, mask_directory(source) or "")
    other = sorted(name for name in masks if not IMAGE_OF_VOC.fullmatch(name))
    if other:
        expected = tr(
            "the names of the classes in {file}, one a line, in the order of their values from 0 (the classes of VOC 2012 "
            "are only taken for its own images, such as 2007_000032)",
            file=NAME_FILE,
        )
        raise DataFaults(
            [
                Fault(
                    NAME_FILE,
                    expected,
                    tr("no such file, nor a labelmap.txt; images: {names}", names=abbreviate(other, 3)),
                )
            ]
        )


def _read_names(source: Source) -> list[str]:
    """Return the names of class_names.txt; labelme's first line `__ignore__` stands for the border. Raises DataFaults."""
    names = [line.strip() for line in source.read_text(NAME_FILE).splitlines() if line.strip()]
    names = names[1:] if names and names[0].lower() in IGNORED_NAMES else names
    if not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        expected = tr("1 to {count} classes, each name once", count=MAX_CLASSES)
        raise DataFaults([Fault(NAME_FILE, expected, trn("{count} name", "{count} names", len(names)))])
    return names
