"""labelme: one JSON file of shapes beside each image.

labelme numbers no classes: they are numbered from 1 by name, or as `labels.txt` or `classes.json` in the export list
them; pixels without a shape are `background` 0. A JSON file without shapes says that the image is background; an image
without a JSON file is not annotated and left out.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from core.i18n import tr
from dataset.classes import CLASSES_FILE, InvalidFileError, abbreviate
from dataset.decoding.files import open_image
from dataset.decoding.options import ReadOptions
from dataset.faults import DataWarning, LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape, Size
from dataset.formats.polygon.images import ImageIndex, item_name, split_of_directories
from dataset.formats.polygon.json_values import peek_keys, show
from dataset.formats.polygon.numbering import named_categories
from dataset.formats.selection import SELECTION_FILE
from dataset.formats.source import Source
from dataset.shapes.polygon import Points, Region, as_points, crop, ellipse, rectangle

LABEL_LIST = "labels.txt"
_TYPES = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif"}


def detect(source: Source) -> bool:
    """Return whether the first JSON files are labelme's."""
    return any("shapes" in peek_keys(source.files[name]) for name in _json_files(source)[:5])


def _json_files(source: Source) -> list[str]:
    own = (CLASSES_FILE, SELECTION_FILE)  # of this project
    return sorted(name for name in source.files if name.lower().endswith(".json") and name not in own)


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its files."""
    reader = _Reader(source)
    for name in _json_files(source):
        reader.read_file(name)
    findings = reader.findings
    for image in reader.index.unused():
        findings.left_out.append(LeftOut(image, tr("not annotated (no JSON file)")))
    findings.note_background(reader.empty, tr("a JSON file without shapes is background"))
    if reader.flags:
        names = abbreviate(f"{flag} ({count})" for flag, count in sorted(reader.flags.items()))
        text = tr("flags are not part of a mask and were left out: {names}", names=names)
        findings.warnings.append(DataWarning("flags", text))
    findings.raise_faults()
    labels = (str(shape.key) for drawing in reader.drawings for shape in drawing.shapes)
    categories, file = named_categories(labels, source, LABEL_LIST)
    return assemble(reader.drawings, categories, findings, options, file)


class _Reader:
    """Collects the drawings of all JSON files."""

    def __init__(self, source: Source) -> None:
        self.source, self.findings, self.index = source, Findings(), ImageIndex(source)
        self.drawings: list[Drawing] = []
        self.empty: list[str] = []
        self.flags = Counter[str]()
        self._files: dict[str, str] = {}  # image -> its JSON file

    def read_file(self, name: str) -> None:
        """Read one JSON file, unless it is not labelme's."""
        content = self.source.read_json(name)
        if not isinstance(content, dict) or "shapes" not in content:
            self.findings.left_out.append(LeftOut(name, tr("not a file of labelme")))
            return
        shapes = content["shapes"]
        if not isinstance(shapes, list):
            self.findings.add(name, tr("a list '{key}'", key="shapes"), show(shapes))
            return
        self._count_flags(content.get("flags"))
        with self.findings.entry(name, tr("image")):
            drawing = self._find_image(name, content)
            found = tuple(
                shape for i, entry in enumerate(shapes) if (shape := self._read_shape(name, i, entry, drawing.size))
            )
            self.drawings.append(replace(drawing, shapes=found))
            if not shapes:
                self.empty.append(name)

    def _count_flags(self, flags: object) -> None:
        if isinstance(flags, dict):
            self.flags.update(str(flag) for flag, value in flags.items() if value)

    # --- the image ---

    def _find_image(self, name: str, content: Mapping[str, Any]) -> Drawing:
        """Return a drawing without shapes. Raises InvalidFileError if there is neither an image file nor its content."""
        split = split_of_directories(name)
        height, width = content.get("imageHeight"), content.get("imageWidth")
        file = content.get("imagePath")
        try:
            path = self._find_file(name, file)
        except InvalidFileError:
            if not content.get("imageData"):
                raise
            return self._embedded(name, content["imageData"], split, (height, width))
        if path in self._files:
            raise InvalidFileError(
                (tr("one JSON file for each image"), tr("{path}, also in {file}", path=path, file=self._files[path]))
            )
        self._files[path] = name
        size = self.index.check_size(path, height, width)
        return Drawing(item_name(path), split or split_of_directories(path), path, name, size, ())

    def _find_file(self, name: str, file: object) -> str:
        """Return the path of the image: as imagePath says, else the one beside the JSON file with the same stem."""
        folder, stem = posixpath.dirname(name), name.rpartition(".")[0]
        try:
            if not isinstance(file, str) or not file:
                raise InvalidFileError((tr("an imagePath"), show(file)))
            return self.index.find(file, [folder])
        except InvalidFileError:
            beside = self.index.with_stem(stem)
            if len(beside) != 1:
                raise
            return self.index.find(beside[0], [""])

    def _embedded(self, name: str, data: object, split: str | None, declared: tuple[Any, Any]) -> Drawing:
        content = _decode_base64(data, tr("imageData"))
        with open_image(content, ReadOptions()) as image:
            size, suffix = (image.height, image.width), _SUFFIXES.get(image.format or "", ".png")
        if declared not in ((None, None), size):
            expected = tr(
                "annotations for {width}x{height} (size of {file})", width=size[1], height=size[0], file="imageData"
            )
            raise InvalidFileError((expected, f"{declared[1]}x{declared[0]}"))
        return Drawing(item_name(name), split, name, name, size, (), lambda: content, suffix)

    # --- shapes ---

    def _read_shape(self, name: str, index: int, entry: Any, size: Size) -> Shape | None:
        """Return one shape; None if it has a fault."""
        label = entry.get("label") if isinstance(entry, dict) else None
        text = tr("shape {number}", number=index + 1) + (f" ({label})" if isinstance(label, str) else "")
        with self.findings.entry(name, text):
            if not isinstance(label, str) or not label.strip():
                raise InvalidFileError((tr('a shape with a "label"'), show(entry)))
            self._count_flags(entry.get("flags"))
            kind = entry.get("shape_type") or "polygon"
            if kind not in _TYPES:
                expected = tr("a shape with an area ({types})", types=", ".join(_TYPES))
                raise InvalidFileError((expected, show(kind)))
            if kind == "mask":
                return Shape(text, label.strip(), _mask_shape(entry))
            ring = _outline(kind, entry.get("points"))
            return Shape(text, label.strip(), self.findings.polygons([ring], size, name, text))
        return None


def _outline(kind: str, values: object) -> Points:
    """Return the corners of a shape. Raises InvalidFileError."""
    if kind in ("polygon", "oriented_rectangle") or (
        kind == "rectangle" and isinstance(values, list) and len(values) == 4
    ):
        return as_points(values)
    (x0, y0), (x1, y1) = _two_points(values)
    if kind == "rectangle":
        return rectangle(x0, y0, x1, y1)
    radius = float(np.hypot(x1 - x0, y1 - y0))  # the second point lies on the circle
    return ellipse(x0, y0, radius, radius)


def _two_points(values: object) -> Points:
    if not isinstance(values, list) or len(values) != 2:
        raise InvalidFileError((tr("two points"), show(values)))
    return as_points([*values, values[0]])[:2]


def _mask_shape(entry: Mapping[str, Any]) -> Callable[[int, int], Region]:
    """Return what draws a shape of type mask: a PNG of the rectangle that two points span, borders included."""
    (x0, y0), (x1, y1) = _two_points(entry.get("points")).astype(np.int64).tolist()
    data = entry.get("mask")

    def draw(height: int, width: int) -> Region:
        with open_image(_decode_base64(data, tr("mask")), ReadOptions()) as image:
            pixels = np.asarray(image.convert("L")) > 0
        if pixels.shape != (y1 - y0 + 1, x1 - x0 + 1):
            expected = tr("a mask of {width}x{height}", width=x1 - x0 + 1, height=y1 - y0 + 1)
            raise InvalidFileError((expected, f"{pixels.shape[1]}x{pixels.shape[0]}"))
        return crop(pixels, y0, x0, height, width)

    return draw


def _decode_base64(data: object, name: str) -> bytes:
    try:
        if not isinstance(data, str):
            raise ValueError
        return base64.b64decode(data, validate=False)
    except (ValueError, binascii.Error):
        raise InvalidFileError((tr("{name} in base64", name=name), show(data))) from None
