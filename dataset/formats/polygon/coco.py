"""COCO: polygons and run lengths in JSON files, one for each split.

Mask values are the category ids. An image without annotations is background, as COCO means it. A crowd region
(`iscrowd`) is painted as its class like any other object: for semantic segmentation all of its pixels are of that
class, and CVAT and pycocotools users write every brush stroke as a crowd.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.i18n import tr
from dataset.classes import InvalidFileError
from dataset.faults import DataFaults, Fault, LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape, Size
from dataset.formats.polygon.images import ImageIndex, item_name, split_of, split_of_directories
from dataset.formats.polygon.json_values import as_color, as_whole, peek_keys, show
from dataset.formats.polygon.numbering import Category
from dataset.formats.source import Source
from dataset.shapes.polygon import Region, as_points, unite
from dataset.shapes.rle import decode_coco

_KEYS = {"images", "annotations", "categories"}
ROBOFLOW_FILE = "_annotations.coco.json"


def detect(source: Source) -> bool:
    """Return whether the export has annotation files of COCO."""
    return bool(_annotation_files(source, most=5))


def _annotation_files(source: Source, most: int | None = None) -> list[str]:
    """Return the annotation files; with `most`, only so many files of unknown name are looked into.

    Where there are `instances_*.json`, only these: the others (captions, keypoints) describe the same images.
    """
    names = [name for name in source.files if name.lower().endswith(".json")]
    instances = [name for name in names if posixpath.basename(name).startswith("instances_")]
    if instances:
        return sorted(instances)
    roboflow = [name for name in names if posixpath.basename(name) == ROBOFLOW_FILE]
    if roboflow:
        return sorted(roboflow)
    return [name for name in sorted(names)[:most] if peek_keys(source.files[name]) >= _KEYS]


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of the annotation files."""
    files = _annotation_files(source)
    if not files:
        raise DataFaults([Fault("", tr("a JSON file with {keys}", keys=", ".join(sorted(_KEYS))), tr("none"))])
    reader = _Reader(source, Findings())
    reader.index.require_images()
    for name in files:
        reader.read_file(name)
    for image in reader.index.unused():
        reader.findings.left_out.append(LeftOut(image, tr("not listed in {files}", files=files[0])))
    reader.findings.note_background(reader.empty, tr("background"))
    return assemble(reader.drawings, reader.categories(files[0]), reader.findings, options, files[0])


@dataclass
class _Image:
    """An entry of `images`, whose image file was found."""

    path: str
    size: Size
    shapes: list[Shape] = field(default_factory=list)


class _Reader:
    """Collects categories and drawings over all annotation files of an export."""

    def __init__(self, source: Source, findings: Findings) -> None:
        self.source, self.findings, self.index = source, findings, ImageIndex(source)
        self.drawings: list[Drawing] = []
        self.empty: list[str] = []  # images without annotations
        self._categories: dict[int, tuple[str, Category, str]] = {}  # id -> file, category, supercategory
        self._used: set[int] = set()  # categories that have annotations
        self._files: dict[str, str] = {}  # image -> the annotation file that lists it

    def read_file(self, name: str) -> None:
        """Read one annotation file."""
        content = self.source.read_json(name)
        lists: dict[str, list[Any]] = {}
        for key in sorted(_KEYS):
            value = content.get(key) if isinstance(content, dict) else None
            if isinstance(value, list):
                lists[key] = value
            else:
                self.findings.add(name, tr("a list '{key}'", key=key), show(value))
        if len(lists) < len(_KEYS):
            return
        self._read_categories(name, lists["categories"])
        images = self._read_images(name, lists["images"])
        for number, entry in enumerate(lists["annotations"], 1):
            self._read_annotation(name, images, number, entry)
        split = split_of(posixpath.basename(name)) or split_of_directories(name)
        for image in images.values():
            if image is None:
                continue
            own = split or split_of_directories(image.path)
            shapes = tuple(image.shapes)
            self.drawings.append(Drawing(item_name(image.path), own, image.path, name, image.size, shapes))
            if not shapes:
                self.empty.append(image.path)

    # --- categories ---

    def _read_categories(self, name: str, entries: list[Any]) -> None:
        seen: set[int] = set()
        for number, entry in enumerate(entries, 1):
            value = as_whole(entry.get("id")) if isinstance(entry, dict) else None
            text = entry.get("name") if isinstance(entry, dict) else None
            if value is None or not isinstance(text, str) or not text.strip():
                found = tr("category {number}: {entry}", number=number, entry=show(entry))
                self.findings.add(name, tr('a category with a whole "id" and a "name"'), found)
                continue
            if value in seen:
                self.findings.add(name, tr("each category id once"), tr("id {id} twice", id=value))
            seen.add(value)
            category = Category(value, value, text.strip(), as_color(entry.get("color")))
            file, first, _ = self._categories.setdefault(value, (name, category, str(entry.get("supercategory"))))
            if first.name != category.name:
                expected = tr("category {id} as in {file}: '{name}'", id=value, file=file, name=first.name)
                self.findings.add(name, expected, f"'{category.name}'")
            self._check_same_id(name, category)

    def _check_same_id(self, name: str, category: Category) -> None:
        for value, (file, other, _) in self._categories.items():
            if other.name == category.name and value != category.number and file != name:
                expected = tr("'{name}' with the id of {file}: {id}", name=other.name, file=file, id=value)
                self.findings.add(name, expected, str(category.number))

    def categories(self, file: str) -> list[Category]:
        """Return the categories by id, without the group that Roboflow lists as category 0 of all others."""
        known = dict(sorted(self._categories.items()))
        groups = {group for value, (_, _, group) in known.items() if value != 0}
        if 0 in known and 0 not in self._used and known[0][1].name in groups:
            reason = tr("category 0 '{name}' is the group of the others, without annotations", name=known[0][1].name)
            self.findings.left_out.append(LeftOut(file, reason))
            del known[0]
        return [category for _, category, _ in known.values()]

    # --- images ---

    def _read_images(self, name: str, entries: list[Any]) -> dict[Any, _Image | None]:
        """Return image id -> its file and size; None where there is a fault."""
        images: dict[Any, _Image | None] = {}
        for number, entry in enumerate(entries, 1):
            key = entry.get("id") if isinstance(entry, dict) else None
            file = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(key, (int, str)) or not isinstance(file, str) or not file:
                found = tr("image {number}: {entry}", number=number, entry=show(entry))
                self.findings.add(name, tr('an image with "id" and "file_name"'), found)
            elif key in images:
                self.findings.add(name, tr("each image id once"), tr("id {id} twice", id=key))
            else:
                images[key] = self._find_image(name, entry, file)
        return images

    def _find_image(self, name: str, entry: Mapping[str, Any], file: str) -> _Image | None:
        folder = posixpath.dirname(name)
        near = [folder, posixpath.join(posixpath.dirname(folder), "images")]
        with self.findings.entry(name, tr("image {id}", id=show(entry["id"]))):
            path = self.index.find(file, near, split_of(posixpath.basename(name)))
            if path in self._files:
                expected = tr("each image once, in one annotation file")
                raise InvalidFileError((expected, tr("{path}, also in {file}", path=path, file=self._files[path])))
            self._files[path] = name
            return _Image(path, self.index.check_size(path, entry.get("height"), entry.get("width")))
        return None

    # --- annotations ---

    def _read_annotation(self, name: str, images: Mapping[Any, _Image | None], number: int, entry: Any) -> None:
        """Add the shape of one entry of `annotations` to its image."""
        if not isinstance(entry, dict):
            found = tr("annotation {id}: {entry}", id=number, entry=show(entry))
            self.findings.add(name, tr("an annotation (an object with image_id, category_id and segmentation)"), found)
            return
        text = tr("annotation {id}", id=show(entry.get("id", number)))
        with self.findings.entry(name, text):
            key, category = entry.get("image_id"), as_whole(entry.get("category_id"))
            if not isinstance(key, (int, str)) or key not in images:
                raise InvalidFileError((tr("an image_id of the file"), show(key)))
            if category not in self._categories:
                raise InvalidFileError((tr("a category_id of the file"), show(entry.get("category_id"))))
            image = images[key]
            if image is None:
                return  # is a fault already
            self._used.add(category)
            draw = self._read_segmentation(name, text, entry.get("segmentation"), image.size)
            image.shapes.append(Shape(text, category, draw))

    def _read_segmentation(self, name: str, text: str, value: Any, size: Size) -> Callable[[int, int], Region]:
        """Return what draws a segmentation: run lengths, or polygons whose union is the object."""
        if isinstance(value, dict):
            if value.get("size") != list(size):
                expected = tr("run lengths of size {size}", size=list(size))
                raise InvalidFileError((expected, show(value.get("size"))))
            counts = value.get("counts")
            return lambda height, width: Region(0, 0, decode_coco(counts, height, width))
        if not isinstance(value, list) or not value:
            raise InvalidFileError((tr("a segmentation (polygons or run lengths), not only a box"), show(value)))
        parts = [self.findings.polygons([as_points(ring)], size, name, text) for ring in value]
        return parts[0] if len(parts) == 1 else lambda height, width: unite([part(height, width) for part in parts])
