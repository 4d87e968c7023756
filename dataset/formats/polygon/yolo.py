"""YOLO segmentation: a line of class and polygon for each object, in a text file for each image.

Coordinates are fractions of the image. YOLO numbers its classes from 0 and has no background: `background` 0 is added,
and the classes follow from 1. An image without a text file, or with an empty one, is background, as YOLO means it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.errors import one_line
from core.i18n import tr
from dataset.classes import InvalidFileError, abbreviate
from dataset.directory import is_image
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape, Size
from dataset.formats.polygon.images import ImageIndex, item_name, split_of_directories
from dataset.formats.polygon.json_values import as_whole, show
from dataset.formats.polygon.numbering import Category
from dataset.formats.source import Source
from dataset.shapes.polygon import as_points

CLASS_LIST = "classes.txt"  # instead of a YAML file: a name per line (Label Studio, LabelImg)
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_MOST_FRACTION = 2.0  # larger coordinates are pixels


def detect(source: Source) -> bool:
    """Return whether there are labels/*.txt, and a YAML file or classes.txt with names."""
    labels = any(name.endswith(".txt") and "labels" in name.split("/")[:-1] for name in source.files)
    return labels and bool(yaml_files(source) or _class_lists(source))


def yaml_files(source: Source) -> list[str]:
    """Return the YAML files of an export that have class names."""
    names = [name for name in source.files if name.lower().endswith((".yaml", ".yml"))]
    return [name for name in sorted(names) if re.search(r"^names\s*:", source.read_text(name), re.MULTILINE)]


def _class_lists(source: Source) -> list[str]:
    return sorted(name for name in source.files if posixpath.basename(name) == CLASS_LIST)


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its files."""
    ImageIndex(source).require_images()
    findings = Findings()
    file, names, splits = _read_description(source, findings)
    findings.raise_faults()
    reader = _Reader(source, findings, names)
    for image in reader.index.unused():
        if not splits or image in splits:
            reader.read_image(image, splits.get(image) or split_of_directories(image))
        else:
            findings.left_out.append(LeftOut(image, tr("in no split of {file}", file=file)))
    for label in reader.labels_without_image():
        findings.add(label, tr("an image of this name in images/"), tr("none"))
    findings.note_background(reader.empty, tr("no polygons means background"))
    categories = [Category(number, number, name) for number, name in sorted(names.items())]
    return assemble(reader.drawings, categories, findings, options, file)


# --- the description of the data set --------------------------------------------------------------------------


def _read_description(source: Source, findings: Findings) -> tuple[str, dict[int, str], dict[str, str]]:
    """Return the file with the class names, class number -> name, and image -> split."""
    files = yaml_files(source)
    if not files:
        lists = _class_lists(source)
        if not lists:
            raise DataFaults([Fault("data.yaml", tr("a YAML file with names, or classes.txt"), tr("none"))])
        lines = source.read_text(lists[0]).splitlines()
        return lists[0], {number: line.strip() for number, line in enumerate(lines) if line.strip()}, {}
    contents = {file: _read_yaml(source, file) for file in files}
    found = {
        file: (_class_names(file, content, findings), _splits(source, file, content, findings))
        for file, content in contents.items()
    }
    names, splits = found[files[0]]
    for file in files[1:]:
        for part, (expected, value) in {"names": (names, found[file][0]), "splits": (splits, found[file][1])}.items():
            if value != expected:
                findings.add(
                    file,
                    tr("the same {part} as in {file}", part=part, file=files[0]),
                    tr("other ones (keep one of the files)"),
                )
    return files[0], names, splits


def _read_yaml(source: Source, file: str) -> Mapping[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses references: some lines of them stand for a list of any length, which messages would write out."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(tr("a reference (*)"))
            return super().compose_node(parent, index)

    try:
        content = yaml.load(source.read_text(file), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataFaults([Fault(file, tr("readable YAML"), one_line(error, 200))]) from None
    if not isinstance(content, dict):
        raise DataFaults([Fault(file, tr("names, and train and val"), show(content))])
    return content


def _class_names(file: str, content: Mapping[str, Any], findings: Findings) -> dict[int, str]:
    """Return class number -> name."""
    values = content.get("names")
    entries = dict(enumerate(values)) if isinstance(values, list) else values
    if not isinstance(entries, dict) or not all(as_whole(key) is not None for key in entries):
        findings.add(file, tr("names: a list, or number: name"), show(values))
        return {}
    names = {int(key): str(name).strip() for key, name in entries.items()}
    if any(number < 0 or not name for number, name in names.items()):
        findings.add(file, tr("a name for each class, and numbers from 0"), show(values))
    if (count := content.get("nc")) is not None and count != len(names):
        findings.add(file, tr("nc: {count} (the number of names)", count=len(names)), show(count))
    return names


def _splits(source: Source, file: str, content: Mapping[str, Any], findings: Findings) -> dict[str, str]:
    """Return image -> split by train, val and test: each one a directory, a list of images, or several of them."""
    splits: dict[str, str] = {}
    for key, split in SPLIT_KEYS.items():
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if value is None or value == "":
                continue
            images: list[str] = []
            with findings.entry(file, key):
                images = _images_of(source, posixpath.dirname(file), str(value))
            if not images and split == "test":  # tools write the line for data without a test split too
                text = tr(
                    "{file}: test is {value}, which has no images: there is no test split", file=file, value=value
                )
                findings.warnings.append(DataWarning("missing-split", text))
            elif not images:
                findings.add(file, tr("{key}: a directory or list of images in the export", key=key), show(value))
            for image in images:
                other = splits.setdefault(image, split)
                if other != split:
                    expected = tr("each image in one split (delete the line of val to let train.py divide them)")
                    findings.add(
                        file, expected, tr("{image} in {first} and {second}", image=image, first=other, second=split)
                    )
    return splits


def _images_of(source: Source, folder: str, value: str) -> list[str]:
    """Return the images of one entry. Only its end is compared with the export: tools write paths of their machine."""
    parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if value.lower().endswith(".txt"):
        name = _longest_end(parts, folder, source.files)
        index = ImageIndex(source)
        lines = source.read_text(name).splitlines() if name else []
        return [index.find(line.strip()) for line in lines if line.strip()]
    images = [name for name in source.files if is_image(name)]
    directories = {"/".join(name.split("/")[:depth]) for name in images for depth in range(1, name.count("/") + 1)}
    directory = _longest_end(parts, folder, directories)
    return [name for name in images if directory and name.startswith(f"{directory}/")]


def _longest_end(parts: list[str], folder: str, known: Any) -> str | None:
    """Return the longest end of a path that is known, below the directory of the YAML file or below the export."""
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((path for end in ends for path in (posixpath.join(folder, end), end) if path in known), None)


# --- labels ---------------------------------------------------------------------------------------------------


class _Reader:
    """Reads the labels of each image."""

    def __init__(self, source: Source, findings: Findings, names: Mapping[int, str]) -> None:
        self.source, self.findings, self.names, self.index = source, findings, names, ImageIndex(source)
        self.drawings: list[Drawing] = []
        self.empty: list[str] = []
        self._read: set[str] = set()

    def read_image(self, image: str, split: str | None) -> None:
        """Add the drawing of an image."""
        label = label_of(image)
        file = label if label in self.source.files else image
        with self.findings.entry(file, tr("image")):
            size = self.index.size(image)
            lines = self.source.read_text(label).splitlines() if label in self.source.files else []
            self._read.add(label)
            shapes = tuple(shape for i, line in enumerate(lines, 1) if (shape := self._read_line(label, i, line, size)))
            self.drawings.append(Drawing(item_name(image), split, image, file, size, shapes))
            if not any(line.strip() for line in lines):
                self.empty.append(image)

    def _read_line(self, file: str, number: int, line: str, size: Size) -> Shape | None:
        """Return the object of a line; None for an empty line, or one with a fault."""
        text = tr("line {number}", number=number)
        words = line.split()
        with self.findings.entry(file, text):
            if not words:
                return None
            try:
                values = [float(word) for word in words]
            except ValueError:
                raise InvalidFileError((tr("a class and corners as numbers"), show(line.strip()))) from None
            key = as_whole(values[0])
            if key not in self.names:
                known = abbreviate(f"{number} {name}" for number, name in self.names.items())
                raise InvalidFileError((tr("a class of the YAML file: {known}", known=known), words[0]))
            if len(values) == 5:
                raise InvalidFileError((tr("a polygon of at least 3 corners"), tr("a box (detection labels)")))
            ring = as_points(values[1:])
            if np.abs(ring).max() > _MOST_FRACTION:
                raise InvalidFileError((tr("corners as fractions of the image, 0 to 1"), f"{np.abs(ring).max():g}"))
            ring = ring * (size[1], size[0])
            return Shape(text, key, self.findings.polygons([ring], size, file, text))
        return None

    def labels_without_image(self) -> list[str]:
        """Return the label files that belong to no image."""
        labels = (name for name in self.source.files if name.endswith(".txt") and "labels" in name.split("/")[:-1])
        images = {label_of(image) for image in self.source.files if is_image(image)}
        return sorted(name for name in labels if name not in images and posixpath.basename(name) != CLASS_LIST)


def label_of(image: str) -> str:
    """Return the label file of an image: the last directory images/ becomes labels/, as YOLO does it."""
    folder, name = posixpath.split(image)
    parts = folder.split("/")
    for index in reversed(range(len(parts))):
        if parts[index].lower() == "images":
            parts[index] = "labels"
            break
    return posixpath.join(*parts, name.rpartition(".")[0] + ".txt") if folder else name.rpartition(".")[0] + ".txt"
