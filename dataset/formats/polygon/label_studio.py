"""Label Studio: the JSON export, with brush strokes, bitmasks, polygons, rectangles and ellipses.

Coordinates are percentages of the image. Label Studio numbers no classes: they are numbered from 1 by name, or as a
classes.json in the export lists them; pixels without a region are `background` 0. The JSON export has no images: put
them into the directory; the names of uploaded files lose the 8 characters that Label Studio put in front.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from core.i18n import tr
from dataset.classes import InvalidFileError
from dataset.decoding.files import open_image
from dataset.decoding.options import DEFAULT_READING
from dataset.directory import is_image
from dataset.faults import DataFaults, Fault, LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape, Size
from dataset.formats.polygon.images import ImageIndex, item_name, split_of_directories
from dataset.formats.polygon.json_values import is_number, peek, show
from dataset.formats.polygon.numbering import named_categories
from dataset.formats.source import Source
from dataset.shapes.polygon import Points, Region, as_points, ellipse, rectangle, rotate
from dataset.shapes.rle import decode_brush

_SHAPES = ("brush", "magicwand", "bitmask", "polygon", "rectangle", "ellipse")
_NOT_ALONE = "labels"  # the kind of entry that gives its labels to the shape with the same id
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts in front of the name of an uploaded file
_WITHOUT_AREA = ("keypoint", "vector", "line", "video", "hypertext", "timeseries")
_DATA_URL = "data:image/png;base64,"
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_BYTES = 1 << 28  # of a PNG; more is not a bitmask of an image


def detect(source: Source) -> bool:
    """Return whether a JSON file is a list of tasks."""
    return bool(_task_files(source, most=5))


def _task_files(source: Source, most: int | None = None) -> list[str]:
    """Return the JSON files that are lists of tasks; with `most`, only so many files are looked into."""
    names = sorted(name for name in source.files if name.lower().endswith(".json"))
    return [name for name in names[:most] if _is_task_list(peek(source.files[name]))]


def _is_task_list(content: Any) -> bool:
    """Return whether a JSON file is Label Studio's: JSON, or JSON-MIN, which `read` refuses by name."""
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    return {"data", "annotations"} <= content[0].keys() or {"annotation_id", "annotator"} <= content[0].keys()


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its tasks."""
    files = _task_files(source)
    if not files:
        raise DataFaults([Fault("", tr("a JSON file with a list of tasks"), tr("none"))])
    reader = _Reader(source)
    reader.index.require_images()
    for name in files:
        for number, task in enumerate(source.read_json(name), 1):
            reader.read_task(name, number, task)
    findings = reader.findings
    for image in reader.index.unused():
        findings.left_out.append(LeftOut(image, tr("not annotated (no task)")))
    findings.note_background(reader.empty, tr("an annotation without regions is background"))
    findings.raise_faults()
    labels = (str(shape.key) for drawing in reader.drawings for shape in drawing.shapes)
    categories, file = named_categories(labels, source)
    return assemble(reader.drawings, categories, findings, options, file or files[0])


class _Reader:
    """Collects the drawings of all tasks."""

    def __init__(self, source: Source) -> None:
        self.source, self.findings, self.index = source, Findings(), ImageIndex(source)
        self.drawings: list[Drawing] = []
        self.empty: list[str] = []
        self._tasks: dict[str, str] = {}  # image -> file and task

    def read_task(self, name: str, number: int, task: Any) -> None:
        """Read one task: one image, with at most one annotation."""
        key = task.get("id", number) if isinstance(task, dict) else number
        text = tr("task {id}", id=show(key))
        with self.findings.entry(name, text):
            if not isinstance(task, dict) or not isinstance(task.get("annotations"), list):
                raise InvalidFileError((tr("a task of the export 'JSON' (not JSON-MIN)"), show(task)))
            made = [
                entry for entry in task["annotations"] if isinstance(entry, dict) and not entry.get("was_cancelled")
            ]
            truth = [entry for entry in made if entry.get("ground_truth")]
            made = truth if len(truth) == 1 else made  # the annotation that a reviewer chose
            image = find_task_image(self.index, task.get("data"))
            if not made:
                self.findings.left_out.append(LeftOut(image, tr("not annotated")))
                return
            if len(made) > 1:
                expected = tr("one annotation for each image (delete the others in Label Studio)")
                raise InvalidFileError((expected, str(len(made))))
            if image in self._tasks:
                expected = tr("one task for each image")
                raise InvalidFileError((expected, tr("{path}, also in {file}", path=image, file=self._tasks[image])))
            self._tasks[image] = f"{name}: {text}"
            size = self.index.size(image)
            shapes = self._read_regions(name, text, made[0].get("result"), image, size)
            self.drawings.append(Drawing(item_name(image), split_of_directories(image), image, name, size, shapes))
            if not shapes:
                self.empty.append(image)

    # --- regions ---

    def _read_regions(self, name: str, task: str, result: Any, image: str, size: Size) -> tuple[Shape, ...]:
        """Return the shapes of an annotation, in the order of its result."""
        if not isinstance(result, list):
            raise InvalidFileError((tr("a list '{key}'", key="result"), show(result)))
        labels: dict[str, list[Any]] = {}
        for entry in result:
            if isinstance(entry, dict) and entry.get("type") == "labels" and isinstance(entry.get("value"), dict):
                labels.setdefault(show(entry.get("id")), []).extend(_as_list(entry["value"].get("labels")))
        shapes = []
        _require_shapes(result)
        for number, entry in enumerate(result, 1):
            text = f"{task}, " + tr("region {number}", number=number)
            with self.findings.entry(name, text):
                shape = self._read_region(name, text, entry, labels, image, size)
                if shape is not None:
                    shapes.append(shape)
        return tuple(shapes)

    def _read_region(
        self, name: str, text: str, entry: Any, labels: Mapping[str, list[Any]], image: str, size: Size
    ) -> Shape | None:
        """Return the shape of one entry of a result; None for what is not a region, such as a choice or a text."""
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(kind, str):
            raise InvalidFileError((tr('a region with "type" and "value"'), show(entry)))
        shape = kind.removesuffix("labels")
        if shape not in _SHAPES:
            if shape.startswith(_WITHOUT_AREA) or (kind != _NOT_ALONE and _has_labels(kind, entry.get("value"))):
                raise _without_area(kind)
            return None
        value = entry.get("value")
        if not isinstance(value, dict):
            raise InvalidFileError((tr('a region with "type" and "value"'), show(entry)))
        own = _as_list(value.get(kind)) if kind.endswith("labels") else labels.get(show(entry.get("id")), [])
        if len(own) != 1 or not isinstance(own[0], str):
            raise InvalidFileError((tr("one label for each region"), show(own)))
        if entry.get("image_rotation"):
            raise InvalidFileError((tr("an image that is not rotated in Label Studio"), show(entry["image_rotation"])))
        if (declared := (entry.get("original_height"), entry.get("original_width"))) != size:
            self.index.check_size(image, *declared)
        if shape in _PIXELS:
            return Shape(text, own[0], _PIXELS[shape](value))
        ring = _outline(shape, value, size)
        return Shape(text, own[0], self.findings.polygons([ring], size, name, text))


def find_task_image(index: ImageIndex, data: object) -> str:
    """Return the path in the export of the image that a task's data names. Raises InvalidFileError."""
    values = [value for value in (data.values() if isinstance(data, dict) else ()) if isinstance(value, str)]
    named = [name for value in values if is_image(name := _file_name(value))]
    if len(named) != 1:
        raise InvalidFileError((tr("data with one image"), show(data)))
    try:
        return index.find(named[0])
    except InvalidFileError:
        folder, file = posixpath.split(named[0])
        if not _UPLOAD.match(file):
            raise
        return index.find(posixpath.join(folder, _UPLOAD.sub("", file)))


def _without_area(kind: str) -> InvalidFileError:
    return InvalidFileError((tr("a shape with an area ({types})", types=", ".join(_SHAPES)), kind))


def _has_labels(kind: str, value: object) -> bool:
    """Return whether an entry that is not read labels something, in a value of its own or beside a separate tag."""
    return kind.endswith("labels") or (isinstance(value, dict) and bool(value.get("labels")))


def _require_shapes(result: list[Any]) -> None:
    """Raise InvalidFileError for labels whose shape is of a kind that is not read: its pixels would be background."""
    kinds: dict[str, list[str]] = {}
    for entry in result:
        if isinstance(entry, dict) and isinstance(entry.get("type"), str):
            kinds.setdefault(show(entry.get("id")), []).append(entry["type"])
    for entry in result:
        if not isinstance(entry, dict) or entry.get("type") != _NOT_ALONE:
            continue
        value = entry.get("value")
        if isinstance(value, dict) and "start" in value:  # of a passage of a text or a sound, not of an image
            continue
        others = [kind for kind in kinds[show(entry.get("id"))] if kind != _NOT_ALONE]
        if not any(kind.removesuffix("labels").startswith((*_SHAPES, *_WITHOUT_AREA)) for kind in others):
            raise _without_area(", ".join((_NOT_ALONE, *others)))


def _brush(value: Mapping[str, Any]) -> Callable[[int, int], Region]:
    runs = value.get("rle")
    return lambda height, width: Region(0, 0, decode_brush(runs, height, width))


def _bitmask(value: Mapping[str, Any]) -> Callable[[int, int], Region]:
    """Return what draws a bitmask: a PNG of the image's size, as a data URL, whose pixels are opaque on the object."""
    url = value.get("imageDataURL")

    def draw(height: int, width: int) -> Region:
        with open_image(_decode_data_url(url), DEFAULT_READING) as image:
            if not image.has_transparency_data:  # all of it is opaque: what was meant cannot be told
                raise InvalidFileError((tr("a PNG with transparency"), tr("mode '{mode}'", mode=image.mode)))
            if image.size != (width, height):
                expected = tr("{width}x{height} (size of the image)", width=width, height=height)
                raise InvalidFileError((expected, f"{image.width}x{image.height}"))
            return Region(0, 0, np.asarray(image.convert("RGBA"))[..., 3] > 0)

    return draw


_PIXELS = {"brush": _brush, "magicwand": _brush, "bitmask": _bitmask}  # shape -> what draws it


def _decode_data_url(url: object) -> bytes:
    """Return the PNG file in a data URL; other addresses are never opened. Raises InvalidFileError."""
    try:
        if not isinstance(url, str) or not url.startswith(_DATA_URL) or len(url) > _MAX_BYTES * 4 // 3:
            raise ValueError
        content = base64.b64decode(url.removeprefix(_DATA_URL), validate=True)
        if not content.startswith(_PNG):
            raise ValueError
    except (ValueError, binascii.Error):
        expected = tr("imageDataURL: a PNG as data:image/png;base64,...")
        raise InvalidFileError((expected, show(url))) from None
    return content


def _outline(shape: str, value: Mapping[str, Any], size: Size) -> Points:
    """Return the corners of a region in pixels. Raises InvalidFileError."""
    scale = (size[1] / 100, size[0] / 100)
    if shape == "polygon":
        return as_points(value.get("points")) * scale
    keys = ("x", "y", "width", "height") if shape == "rectangle" else ("x", "y", "radiusX", "radiusY")
    found = [value.get(key) for key in keys] + [value.get("rotation") or 0]
    numbers = [float(number) for number in found if is_number(number)]
    if len(numbers) != len(found):
        raise InvalidFileError((tr("numbers {keys}", keys=", ".join(keys)), show(value)))
    x, y, first, second = (number * factor for number, factor in zip(numbers, scale * 2, strict=False))
    ring = rectangle(x, y, x + first, y + second) if shape == "rectangle" else ellipse(x, y, first, second)
    # Both turn around the point that Label Studio stores: the corner of a rectangle, the centre of an ellipse.
    return as_points(rotate(ring, numbers[4], x, y))


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _file_name(value: str) -> str:
    """Return the path that an address names: uploads, `/data/local-files/?d=...`, a URL of a store."""
    parts = urlsplit(value)
    local = parse_qs(parts.query).get("d")
    return unquote(local[0] if local else parts.path)
