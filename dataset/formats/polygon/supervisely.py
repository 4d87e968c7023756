"""Supervisely: a project with meta.json, and for each image a JSON file of polygons and bitmaps.

Supervisely's class ids are numbers of its database: the classes are numbered from 1 in the order of meta.json, with the
colours from there; pixels without an object are `background` 0.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from core.i18n import tr
from dataset.classes import InvalidFileError, abbreviate
from dataset.decoding.files import open_image
from dataset.decoding.options import DEFAULT_READING
from dataset.faults import LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape, Size
from dataset.formats.polygon.images import ImageIndex, item_name, split_of_directories
from dataset.formats.polygon.json_values import as_color, as_whole, show
from dataset.formats.polygon.numbering import Category
from dataset.formats.source import Source
from dataset.shapes.polygon import Bool, Region, as_points, crop, rectangle

META = "meta.json"
_GEOMETRIES = ("polygon", "bitmap", "rectangle")
_MAX_BYTES = 1 << 28  # of an unpacked bitmap; more is not a PNG of an image


def detect(source: Source) -> bool:
    """Return whether there are meta.json and ann/*.json."""
    return bool(_annotation_files(source)) and _meta_file(source) is not None


def _meta_file(source: Source) -> str | None:
    return next((name for name in source.files if posixpath.basename(name) == META and "/ann/" not in f"/{name}"), None)


def _annotation_files(source: Source) -> list[str]:
    return sorted(name for name in source.files if "/ann/" in f"/{name}" and name.endswith(".json"))


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its files."""
    findings, meta = Findings(), _meta_file(source) or META
    categories = _read_classes(source, meta, findings)
    reader = _Reader(source, findings, {str(category.key) for category in categories})
    reader.index.require_images()
    for name in _annotation_files(source):
        reader.read_file(name)
    for image in reader.index.unused():
        findings.left_out.append(LeftOut(image, tr("not annotated (no JSON file)")))
    findings.note_background(reader.empty, tr("background"))
    return assemble(reader.drawings, categories, findings, options, meta)


def _read_classes(source: Source, file: str, findings: Findings) -> list[Category]:
    content = source.read_json(file) if file in source.files else None
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        findings.add(file, tr("a list '{key}'", key="classes"), show(entries))
        return []
    categories = []
    for number, entry in enumerate(entries, 1):
        title = entry.get("title") if isinstance(entry, dict) else None
        if not isinstance(title, str) or not title.strip():
            findings.add(
                file, tr('a class with a "title"'), tr("class {number}: {entry}", number=number, entry=show(entry))
            )
            continue
        categories.append(Category(title, None, title.strip(), as_color(entry.get("color"))))
    return categories


class _Reader:
    """Collects the drawings of all annotation files."""

    def __init__(self, source: Source, findings: Findings, titles: set[str]) -> None:
        self.source, self.findings, self.titles, self.index = source, findings, titles, ImageIndex(source)
        self.drawings: list[Drawing] = []
        self.empty: list[str] = []
        self._files: dict[str, str] = {}  # image -> its annotation file

    def read_file(self, name: str) -> None:
        """Read one annotation file."""
        content = self.source.read_json(name)
        objects = content.get("objects") if isinstance(content, dict) else None
        size = content.get("size") if isinstance(content, dict) else None
        if not isinstance(objects, list) or not isinstance(size, dict):
            self.findings.add(name, tr('"size" and a list "objects"'), show(content))
            return
        with self.findings.entry(name, tr("image")):
            image = self._find_image(name)
            if image in self._files:
                expected = tr("one JSON file for each image")
                raise InvalidFileError((expected, tr("{path}, also in {file}", path=image, file=self._files[image])))
            self._files[image] = name
            found = self.index.check_size(image, size.get("height"), size.get("width"))
            shapes = tuple(
                shape for i, entry in enumerate(objects, 1) if (shape := self._read_object(name, i, entry, found))
            )
            parts = [part for part in item_name(image).split("/") if part != "img"]
            self.drawings.append(Drawing("/".join(parts), split_of_directories(name), image, name, found, shapes))
            if not objects:
                self.empty.append(image)

    def _find_image(self, name: str) -> str:
        """Return the image of an annotation file: img/a.jpg for ann/a.jpg.json, or for ann/a.json."""
        folder, file = posixpath.split(name)
        near = posixpath.join(posixpath.dirname(folder), "img")
        stem = file.removesuffix(".json")
        exact = posixpath.join(near, stem)
        found = [exact] if exact in self.source.files else self.index.with_stem(exact)
        if len(found) != 1:
            raise InvalidFileError((tr("the image {name} in the export", name=exact), abbreviate(found) or tr("none")))
        return self.index.find(found[0], [""])

    def _read_object(self, name: str, number: int, entry: Any, size: Size) -> Shape | None:
        """Return one object; None if it has a fault."""
        title = entry.get("classTitle") if isinstance(entry, dict) else None
        text = tr("object {number}", number=number) + (f" ({title})" if isinstance(title, str) else "")
        with self.findings.entry(name, text):
            if not isinstance(title, str) or title not in self.titles:
                expected = tr("a class of {file}", file=META)
                raise InvalidFileError((expected, show(title)))
            kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
            if kind not in _GEOMETRIES:
                expected = tr("a shape with an area ({types})", types=", ".join(_GEOMETRIES))
                raise InvalidFileError((expected, show(kind)))
            if kind == "bitmap":
                return Shape(text, title, _bitmap(entry.get("bitmap")))
            return Shape(text, title, self._outline(name, text, kind, entry.get("points"), size))
        return None

    def _outline(self, name: str, text: str, kind: str, points: Any, size: Size) -> Callable[[int, int], Region]:
        exterior = points.get("exterior") if isinstance(points, dict) else None
        if kind == "rectangle":
            if not isinstance(exterior, list) or len(exterior) != 2:
                raise InvalidFileError((tr("two points"), show(exterior)))
            (x0, y0), (x1, y1) = as_points([*exterior, exterior[0]])[:2]
            return self.findings.polygons([rectangle(x0, y0, x1, y1)], size, name, text)
        holes = points.get("interior") if isinstance(points, dict) else None
        if holes is not None and not isinstance(holes, list):
            raise InvalidFileError((tr("a list '{key}'", key="interior"), show(holes)))
        return self.findings.polygons([as_points(exterior), *map(as_points, holes or [])], size, name, text)


def _bitmap(value: Any) -> Callable[[int, int], Region]:
    """Return what draws a bitmap: a PNG in zlib in base64, whose top left pixel is at `origin`."""
    origin = value.get("origin") if isinstance(value, Mapping) else None
    if not isinstance(origin, list) or len(origin) != 2 or None in (corner := [as_whole(number) for number in origin]):
        raise InvalidFileError((tr('a bitmap with "data" and "origin"'), show(value)))
    left, top = (number or 0 for number in corner)
    data = value.get("data")

    def draw(height: int, width: int) -> Region:
        pixels = _unpack(data)
        if top < 0 or left < 0 or top + pixels.shape[0] > height or left + pixels.shape[1] > width:
            expected = tr("a bitmap inside the image of {width}x{height}", width=width, height=height)
            found = tr(
                "{width}x{height} at {origin}", width=pixels.shape[1], height=pixels.shape[0], origin=[left, top]
            )
            raise InvalidFileError((expected, found))
        return crop(pixels, top, left, height, width)

    return draw


def _unpack(data: object) -> Bool:
    """Return where a bitmap is opaque, or not 0. Raises InvalidFileError."""
    expected = tr("a PNG, packed by zlib and base64")
    try:
        if not isinstance(data, str):
            raise ValueError
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(data), _MAX_BYTES)
        if not unpacker.eof:
            raise ValueError
    except (ValueError, binascii.Error, zlib.error):
        raise InvalidFileError((expected, show(data))) from None
    with open_image(content, DEFAULT_READING) as image:
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
        pixels = np.asarray(image)
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0
