"""Formats that are not imported, named so that their users know what to export instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.i18n import mark, tr
from dataset.faults import Fault
from dataset.formats.source import Source, levels

_HEAD = 4096  # bytes of a file that are looked into


@dataclass(frozen=True)
class UnreadFormat:
    """A format without a reader; `cure` is what to do instead (English: it is translated when it is shown)."""

    title: str
    cure: str
    detect: Callable[[Source], bool]


def _contains(source: Source, name: str, *words: bytes) -> bool:
    """Return whether the beginning of a file contains all words."""
    try:
        with source.files[name].open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return all(word in head for word in words)


def _is_cvat_xml(source: Source) -> bool:
    return "annotations.xml" in source.files and _contains(source, "annotations.xml", b"<annotations", b"<meta")


def _is_via(source: Source) -> bool:
    names = [name for name in source.files if name.lower().endswith(".json") and "/" not in name]
    return any(_contains(source, name, b"_via_") or _contains(source, name, b'"regions"') for name in sorted(names)[:5])


def _is_boxes(source: Source) -> bool:
    names = [name for name in source.files if name.lower().endswith(".xml")]
    return bool(names) and _contains(source, min(names), b"<annotation", b"<bndbox")


UNREAD_FORMATS = (
    UnreadFormat("CVAT for images", mark("export it from CVAT as 'Segmentation mask 1.1' or 'COCO 1.0'"), _is_cvat_xml),
    UnreadFormat("VGG Image Annotator (VIA)", mark("export the annotations from VIA as COCO"), _is_via),
    UnreadFormat(
        "Pascal VOC (boxes)", mark("annotate outlines: boxes do not say which pixels are the object"), _is_boxes
    ),
)


def unread_faults(source: Source) -> list[Fault]:
    """Return a fault that names the format of an export and the cure, if it is one that is not imported."""
    for level in levels(source):
        for known in UNREAD_FORMATS:
            if known.detect(level):
                found = tr("{title}, which is not imported", title=known.title)
                return [Fault(f"{source.root.name}/", tr(known.cure), found)]
    return []
