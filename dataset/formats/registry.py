"""The annotation formats that can be imported, and which of them a directory holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import abbreviate
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon import coco, label_studio, labelme, roboflow, supervisely, yolo
from dataset.formats.raster import camvid, cityscapes, cvat, nnunet, voc
from dataset.formats.source import Source, levels


@dataclass(frozen=True)
class Format:
    """An annotation format. `name` is stored in commits, `title` is what its users call it.

    `detect` looks at paths first, and at the content of few files only where paths do not tell; `read` raises
    DataFaults with all faults that it finds.
    """

    name: str
    title: str
    detect: Callable[[Source], bool]
    read: Callable[[Source, ImportOptions], Export]


# In the order of detection: the first that fits is taken.
FORMATS = (
    Format("cvat", "CVAT 'Segmentation mask 1.1'", cvat.detect, cvat.read),
    Format("voc", "Pascal VOC", voc.detect, voc.read),
    Format("camvid", "Kaggle CamVid (class_dict.csv)", camvid.detect, camvid.read),
    Format("cityscapes", "Cityscapes", cityscapes.detect, cityscapes.read),
    Format("nnunet", "nnU-Net (2-D images)", nnunet.detect, nnunet.read),
    Format("roboflow", "Roboflow", roboflow.detect, roboflow.read),
    Format("coco", "COCO", coco.detect, coco.read),
    Format("supervisely", "Supervisely", supervisely.detect, supervisely.read),
    Format("labelme", "labelme", labelme.detect, labelme.read),
    Format("label-studio", "Label Studio (JSON)", label_studio.detect, label_studio.read),
    Format("yolo", "YOLO segmentation", yolo.detect, yolo.read),
)


def detect_format(source: Source, name: str | None = None) -> tuple[Format, Source] | None:
    """Return the format of an export, and the directory in which it starts; None for an unknown one.

    With `name`, only that format is looked for.
    """
    return next(
        (
            (known, level)
            for level in levels(source)
            for known in FORMATS
            if name in (None, known.name) and known.detect(level)
        ),
        None,
    )


def require_format(source: Source, name: str | None) -> tuple[Format, Source]:
    """Return the format of an export, and the directory in which it starts. Raises UsageError, DataFaults."""
    if name is not None and name not in {known.name for known in FORMATS}:
        available = ", ".join(known.name for known in FORMATS)
        raise UsageError(tr("unknown format '{name}' (available: {available})", name=name, available=available))
    found = detect_format(source, name)
    if found is None:
        titles = ", ".join(known.title for known in FORMATS if name in (None, known.name))
        expected = tr("an export in one of the formats {titles}", titles=titles)
        raise DataFaults([Fault(f"{source.root.name}/", expected, abbreviate(source.files, 3) or tr("no files"))])
    return found


def describe_export(root: Path, files: Mapping[str, Path]) -> tuple[str, str] | None:
    """Return the title of the format that a data directory is in, and the command that imports it; None if unknown."""
    found = detect_format(Source(root, files))
    if found is None:
        return None
    return found[0].title, f"python lake.py import-labels {root} --to data/"
