"""Label Studio's PNG export: one image for each brush label, without the images that were labelled.

Files are called task-TASK-annotation-ID-by-USER-TAG-LABEL-NUMBER.png; painted pixels are not 0. Which image a task had
is in a JSON-MIN export beside them, else the images must be called TASK.* or task-TASK.*. Labels are numbered like those
of the JSON export, and painted in alphabetical order: the files do not say which one was painted first.
"""

from __future__ import annotations

import functools
import posixpath
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.i18n import tr
from dataset.classes import InvalidFileError, abbreviate
from dataset.decoding.files import open_image
from dataset.decoding.options import DEFAULT_READING
from dataset.directory import is_image
from dataset.faults import LeftOut
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon.assemble import assemble
from dataset.formats.polygon.drawing import Drawing, Findings, Shape
from dataset.formats.polygon.images import ImageIndex, item_name, split_of_directories
from dataset.formats.polygon.json_values import peek
from dataset.formats.polygon.label_studio import find_task_image
from dataset.formats.polygon.numbering import named_categories
from dataset.formats.source import Source
from dataset.shapes.polygon import Region

# Label Studio removes "-" from the user's name; its templates have none in the name of the tag.
_NAME = re.compile(r"task-([0-9]+)-annotation-([0-9]+)-by-[^-]*-[^-]+-(.+)-[0-9]+\.png")


@dataclass(frozen=True)
class _Stroke:
    """One file: the pixels that an annotation gives one label."""

    path: str
    task: str
    annotation: str
    label: str


def detect(source: Source) -> bool:
    """Return whether there are brush masks, and no JSON export, which holds the same strokes in their order."""
    return bool(_strokes(source)) and not any("annotations" in task for tasks in _task_lists(source) for task in tasks)


def _strokes(source: Source) -> list[_Stroke]:
    """Return the brush masks of the export, by label and name."""
    found = []
    for path in source.files:
        match = _NAME.fullmatch(posixpath.basename(path))
        if match is not None:
            found.append(_Stroke(path, match[1], match[2], match[3]))
    return sorted(found, key=lambda stroke: (stroke.label, stroke.path))


def _task_lists(source: Source) -> list[list[dict[str, Any]]]:
    """Return the tasks of each JSON file that is a list of tasks."""
    contents = (peek(path) for name, path in sorted(source.files.items()) if name.lower().endswith(".json"))
    return [
        content
        for content in contents
        if isinstance(content, list) and all(isinstance(task, dict) and "id" in task for task in content)
    ]


def read(source: Source, options: ImportOptions) -> Export:
    """Return the export. Raises DataFaults with all faults of its tasks."""
    findings, drawings = Findings(), list[Drawing]()
    strokes = _strokes(source)
    index = ImageIndex(source)
    index.used |= {stroke.path for stroke in strokes}
    data = {str(task["id"]): task for tasks in _task_lists(source) for task in tasks}
    images = {posixpath.basename(path).rpartition(".")[0]: path for path in source.files if is_image(path)}
    for task in dict.fromkeys(stroke.task for stroke in strokes):
        own = [stroke for stroke in strokes if stroke.task == task]
        with findings.entry(own[0].path, tr("task {id}", id=task)):
            if len(annotations := sorted({stroke.annotation for stroke in own})) > 1:
                expected = tr("one annotation for each image (delete the others in Label Studio)")
                raise InvalidFileError((expected, abbreviate(annotations)))
            image = find_task_image(index, data[task]) if task in data else _image_of_name(task, images)
            index.used.add(image)
            shapes = tuple(Shape(s.path, s.label, functools.partial(_painted, source, s.path)) for s in own)
            size = index.size(image)
            drawings.append(Drawing(item_name(image), split_of_directories(image), image, own[0].path, size, shapes))
    findings.left_out += [LeftOut(image, tr("not annotated (no task)")) for image in index.unused()]
    findings.raise_faults()
    labels = {stroke.label for stroke in strokes}
    categories, file = named_categories(labels, source)
    return assemble(drawings, categories, findings, options, file or strokes[0].path)


def _image_of_name(task: str, images: dict[str, str]) -> str:
    """Return the image that is called like a task. Raises InvalidFileError."""
    for name in (f"task-{task}", task):
        if name in images:
            return images[name]
    expected = tr("its image: add the export 'JSON-MIN', which names it, or call it task-{id}.*", id=task)
    raise InvalidFileError((expected, tr("no such file")))


def _painted(source: Source, path: str, height: int, width: int) -> Region:
    """Return the painted pixels of a brush mask. Raises InvalidFileError for other sizes and colour images."""
    with open_image(source.files[path].read_bytes(), DEFAULT_READING) as image:
        pixels = np.asarray(image)
        if image.mode not in ("1", "L"):
            raise InvalidFileError((tr("an 8-bit grey image"), tr("mode '{mode}'", mode=image.mode)))
    if pixels.shape != (height, width):
        expected = tr("{width}x{height} (size of the image)", width=width, height=height)
        raise InvalidFileError((expected, f"{pixels.shape[1]}x{pixels.shape[0]}"))
    return Region(0, 0, pixels != 0)
