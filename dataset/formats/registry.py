"""The annotation formats that can be imported, and which of them a directory holds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import abbreviate
from dataset.faults import DataFaults, Fault
from dataset.formats.export import Export, ImportOptions
from dataset.formats.polygon import coco, label_studio, label_studio_png, labelme, roboflow, supervisely, yolo
from dataset.formats.raster import ade20k, camvid, cityscapes, cvat, nnunet, voc
from dataset.formats.source import Source, levels
from dataset.formats.unread import incomplete_faults, unread_faults


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


# In the order of detection: the first that fits is taken. Those of MASK_FORMATS have masks as images.
MASK_FORMATS = (
    Format("cvat", "CVAT 'Segmentation mask 1.1'", cvat.detect, cvat.read),
    Format("voc", "Pascal VOC", voc.detect, voc.read),
    Format("camvid", "Kaggle CamVid (class_dict.csv)", camvid.detect, camvid.read),
    Format("cityscapes", "Cityscapes", cityscapes.detect, cityscapes.read),
    Format("ade20k", "ADE20K scene parsing", ade20k.detect, ade20k.read),
    Format("nnunet", "nnU-Net (2-D images)", nnunet.detect, nnunet.read),
)
DRAWN_FORMATS = (
    Format("roboflow", "Roboflow", roboflow.detect, roboflow.read),
    Format("coco", "COCO", coco.detect, coco.read),
    Format("supervisely", "Supervisely", supervisely.detect, supervisely.read),
    Format("labelme", "labelme", labelme.detect, labelme.read),
    Format("label-studio-png", "Label Studio (PNG)", label_studio_png.detect, label_studio_png.read),
    Format("label-studio", "Label Studio (JSON)", label_studio.detect, label_studio.read),
    Format("yolo", "YOLO segmentation", yolo.detect, yolo.read),
)
FORMATS = MASK_FORMATS + DRAWN_FORMATS


def detect_format(source: Source, formats: Sequence[Format] = FORMATS) -> tuple[Format, Source] | None:
    """Return which of the formats an export has, and the directory in which it starts; None for an unknown one."""
    return next(
        ((known, level) for level in levels(source) for known in formats if known.detect(level)),
        None,
    )


def _find_inner(source: Source) -> list[tuple[Format, Source]]:
    """Return the exports in the directories of a directory that is none itself, as two parts of a data set are."""
    *_, level = levels(source)
    tops = sorted({name.partition("/")[0] for name in level.files if "/" in name})
    parts = (
        Source(level.root / top, {name.removeprefix(f"{top}/"): level.files[name] for name in level.below(f"{top}/")})
        for top in tops
    )
    return [found for part in parts if (found := detect_format(part)) is not None]


def _describe_inner(found: Sequence[tuple[Format, Source]], root: Path) -> str:
    listed = (f"{level.root.relative_to(root).as_posix()}/ ({known.title})" for known, level in found)
    return tr("exports in {directories}", directories=abbreviate(listed, 4))


def require_format(source: Source, name: str | None) -> tuple[Format, Source]:
    """Return the format of an export, and the directory in which it starts. Raises UsageError, DataFaults."""
    formats = FORMATS if name is None else tuple(known for known in FORMATS if known.name == name)
    if not formats:
        available = ", ".join(known.name for known in FORMATS)
        raise UsageError(tr("unknown format '{name}' (available: {available})", name=name, available=available))
    found = detect_format(source, formats)
    if found is None:
        if inner := _find_inner(source):
            shown = _describe_inner(inner, source.root)
            raise DataFaults([Fault(f"{source.root.name}/", tr("the directory of one export"), shown)])
        if faults := incomplete_faults(source) or unread_faults(source):
            raise DataFaults(faults)
        expected = tr("an export in one of the formats {titles}", titles=", ".join(known.title for known in formats))
        raise DataFaults([Fault(f"{source.root.name}/", expected, abbreviate(source.files, 3) or tr("no files"))])
    return found


def check_export(root: Path, files: Mapping[str, Path], has_pairs: bool) -> list[Fault]:
    """Return a fault if a data directory holds an export, with the command that imports it, or what to do instead.

    If it `has_pairs` of images and masks, only formats whose masks are images are looked for: they have the classes in
    files of their own, while other annotations may have been left beside the masks that were made from them.
    """
    source = Source(root, files)
    found = detect_format(source, MASK_FORMATS if has_pairs else FORMATS)
    if found is not None:
        expected = tr("images and masks: import the export by {command}", command=import_command(root, found[0].name))
        return [Fault(f"{root.name}/", expected, tr("an export in the format {title}", title=found[0].title))]
    if has_pairs:
        return []
    if inner := _find_inner(source):
        command = import_command(inner[0][1].root, inner[0][0].name)
        expected = tr("images and masks: import one export by {command}", command=command)
        return [Fault(f"{root.name}/", expected, _describe_inner(inner, root))]
    return incomplete_faults(source, import_command) or unread_faults(source)


def import_command(root: Path, format_name: str) -> str:
    """Return the command that imports the export in `root` into data/, or elsewhere if one is inside the other."""
    source, target = root.resolve(), Path("data").resolve()
    if source == target:
        moved = source.with_name(f"{source.name}-{format_name}")
        return f"mv {_quote(source)} {_quote(moved)} && python lake.py import-labels {_quote(moved)} --to data/"
    if target.is_relative_to(source):
        target = source.with_name(f"{source.name}-imported")
    elif source.is_relative_to(target):
        target = target.with_name(f"{source.name}-imported")
    return f"python lake.py import-labels {_quote(source)} --to {_quote(target)}/"


def _quote(path: Path) -> str:
    """Return a path for the shell, relative where it is below the current directory or its parent."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith(os.path.join("..", "..")) else relative)
