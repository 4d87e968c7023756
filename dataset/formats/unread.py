"""Exports that cannot be imported, named so that their users know what to add, or to export instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.i18n import mark, tr
from dataset.directory import is_image
from dataset.faults import Fault
from dataset.formats.source import Source, levels

_HEAD = 4096  # bytes of a file that are looked into
_FILES = 5  # of a directory that are looked into
_BOX = 5  # numbers on the line of a box in YOLO's text files: class, centre, size


@dataclass(frozen=True)
class UnreadFormat:
    """A format without a reader; `cure` is what to do instead (English: it is translated when it is shown)."""

    title: str
    cure: str
    detect: Callable[[Source], bool]


@dataclass(frozen=True)
class IncompleteFormat:
    """A format with a reader, but without the file of its classes; `name` and `title` are those of the format."""

    name: str
    title: str
    missing: str  # the file
    cure: str  # what to add (English: it is translated when it is shown)
    detect: Callable[[Source], bool]


def _head(source: Source, name: str) -> bytes:
    """Return the beginning of a file; nothing of one that cannot be read."""
    try:
        with source.files[name].open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _contains(source: Source, name: str, *words: bytes) -> bool:
    """Return whether the beginning of a file contains all words."""
    head = _head(source, name)
    return all(word in head for word in words)


def _is_cvat_xml(source: Source) -> bool:
    return "annotations.xml" in source.files and _contains(source, "annotations.xml", b"<annotations", b"<meta")


def _is_via(source: Source) -> bool:
    names = [name for name in source.files if name.lower().endswith(".json") and "/" not in name]
    return any(_contains(source, name, b"_via_") or _contains(source, name, b'"regions"') for name in sorted(names)[:5])


def _is_boxes(source: Source) -> bool:
    names = [name for name in source.files if name.lower().endswith(".xml")]
    return bool(names) and _contains(source, min(names), b"<annotation", b"<bndbox")


def _yolo_numbers(source: Source) -> int:
    """Return how many numbers the first line of YOLO's text files in labels/ has; 0 if there are none."""
    names = sorted(name for name in source.files if name.endswith(".txt") and "labels" in name.split("/")[:-1])
    lines = (_head(source, name).strip().partition(b"\n")[0].split() for name in names[:_FILES])
    first = next((line for line in lines if line), [])  # an empty file is background
    try:
        return len([float(word) for word in first]) if first and int(first[0]) >= 0 else 0
    except ValueError:
        return 0


def _is_supervisely(source: Source) -> bool:
    names = sorted(name for name in source.files if "/ann/" in f"/{name}" and name.endswith(".json"))
    return any(_contains(source, name, b'"objects"', b'"size"') for name in names[:_FILES])


def _is_nnunet(source: Source) -> bool:
    return all(any(map(is_image, source.below(folder))) for folder in ("imagesTr/", "labelsTr/"))


INCOMPLETE_FORMATS = (
    IncompleteFormat(
        *("yolo", "YOLO segmentation", "data.yaml"),
        mark("data.yaml with the class names (names: [road, car]), or classes.txt with one name a line"),
        lambda source: _yolo_numbers(source) > _BOX,
    ),
    IncompleteFormat(
        *("supervisely", "Supervisely", "meta.json"),
        mark("meta.json of the project, which has its classes"),
        _is_supervisely,
    ),
    IncompleteFormat(
        *("nnunet", "nnU-Net", "dataset.json"),
        mark('dataset.json with the channels and classes ("channel_names": {"0": "RGB"}, "labels": {"background": 0})'),
        _is_nnunet,
    ),
)
_OUTLINES = mark("annotate outlines: boxes do not say which pixels are the object")
UNREAD_FORMATS = (
    UnreadFormat("CVAT for images", mark("export it from CVAT as 'Segmentation mask 1.1' or 'COCO 1.0'"), _is_cvat_xml),
    UnreadFormat("VGG Image Annotator (VIA)", mark("export the annotations from VIA as COCO"), _is_via),
    UnreadFormat("Pascal VOC (boxes)", _OUTLINES, _is_boxes),
    UnreadFormat("YOLO (boxes)", _OUTLINES, lambda source: _yolo_numbers(source) == _BOX),
)


def incomplete_faults(source: Source, command: Callable[[Path, str], str] | None = None) -> list[Fault]:
    """Return a fault that names the format of an export and the file that it lacks, if one without it is there.

    `command` returns what to type when the file has been added, for a directory and the name of a format.
    """
    for level in reversed(list(levels(source))):  # the innermost one is where the file belongs
        for known in INCOMPLETE_FORMATS:
            if known.detect(level):
                expected = tr(known.cure)
                if command is not None:
                    expected = tr("{cure}; then: {command}", cure=expected, command=command(source.root, known.name))
                found = tr("{title} without {file}", title=known.title, file=known.missing)
                return [Fault(f"{level.root.name}/", expected, found)]
    return []


def unread_faults(source: Source) -> list[Fault]:
    """Return a fault that names the format of an export and the cure, if it is one that is not imported."""
    for level in levels(source):
        for known in UNREAD_FORMATS:
            if known.detect(level):
                found = tr("{title}, which is not imported", title=known.title)
                return [Fault(f"{source.root.name}/", tr(known.cure), found)]
    return []
