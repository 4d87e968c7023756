"""Check which files a data directory has: its layout, its class list, and files that are in no pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from core.i18n import tr
from dataset.class_file import ClassFile, read_class_file
from dataset.classes import InvalidFileError, abbreviate
from dataset.decoding.kinds import unread_suffix, why_unread
from dataset.directory import IMAGE_SUFFIXES, SPLITS, ignored_files, is_image
from dataset.faults import DataFaults, Fault, LeftOut, faults_from_error
from dataset.formats.record import RECORD_FILE
from dataset.formats.registry import check_export
from dataset.layout.ignore import IGNORE_FILE
from dataset.layout.layout import Layout
from dataset.layout.resolve import resolve_layout
from dataset.pairing import Pairing
from dataset.splitting.fold_file import is_fold_file
from dataset.splitting.splits import LEFT_OUT


def find_layout(root: Path, files: Mapping[str, Path]) -> tuple[Layout | None, list[Fault]]:
    """Return the layout of the files, or None and the faults: no data, two ways to read it, or an export to import."""
    faults: list[Fault] = []
    layout: Layout | None = None
    try:
        layout = resolve_layout(files.keys(), root.name)
    except DataFaults as error:
        faults = list(error.faults)
    has_pairs = layout is not None and all(
        any(getattr(part, kind) for part in layout.parts) for kind in ("images", "masks")
    )
    own = layout is not None and has_pairs and (layout.canonical or layout.class_file in files)
    exports = [] if own else check_export(root, files, has_pairs)
    return (None, exports) if exports else (layout, faults)


def check_unused_files(files: Mapping[str, Path], layout: Layout, pairing: Pairing) -> Iterator[Fault | LeftOut]:
    """Yield each file that is in no pair and is not a list of the data set: left out, or a fault for an unread mask."""
    used = {path for candidate in pairing.candidates for path in (candidate.image, candidate.mask)}
    used |= {layout.class_file, layout.group_file, RECORD_FILE, IGNORE_FILE, *(fault.file for fault in pairing.faults)}
    splits = tuple(f"{layout.splits_root}splits/{name}.txt" for name in (*SPLITS, LEFT_OUT))
    masks = {path[: path.rindex(".")] for path in used if layout.is_mask(path)}
    unlisted = _unlisted_files(layout, pairing)
    directories = layout.directories()
    for name in files:
        if name in used or name in splits or is_fold_file(name):
            continue
        inside, suffix = name.startswith(directories), unread_suffix(name)
        if is_image(name):
            reason = (
                _why_unused(name in unlisted) if inside else tr("outside of {names}", names=abbreviate(directories))
            )
        elif suffix and layout.is_in_masks(name) and name[: -len(suffix)] not in masks:
            expected = tr("an image ({suffixes})", suffixes=" ".join(IMAGE_SUFFIXES))
            yield Fault(name, expected, why_unread(name))
            continue
        else:
            reason = why_unread(name)
        yield LeftOut(name, reason)


def _why_unused(unlisted: bool) -> str:
    """Return why an image file in a directory of the layout is in no pair: a split file decides, else there is a fault."""
    return tr("no split file lists it") if unlisted else tr("in no valid pair (see the faults)")


def _unlisted_files(layout: Layout, pairing: Pairing) -> set[str]:
    """Return the image and mask files that the user's own split files leave out; none if these cannot be read."""
    plan = pairing.plan
    if plan is None or plan.own or not plan.splits:
        return set()
    sides = (files for part in layout.parts for files in (part.images, part.masks))
    return {path for files in sides for name, paths in files.items() if name not in plan.splits for path in paths}


def explain_ignored(root: Path, faults: list[Fault]) -> list[Fault]:
    """Return the faults of pairs; those of a missing partner say so if `.lakefsignore` excludes a file of that name."""
    hidden = {PurePosixPath(name).stem: name for name in ignored_files(root)} if faults else {}
    explained = []
    for fault in faults:
        stem = PurePosixPath(fault.file).stem
        name = hidden.get(stem) or next((hidden[s] for s in hidden if stem.startswith(f"{s}_")), None)
        text = tr(
            "{found}; {file} ignores {name}: ignore both files or neither",
            found=fault.found,
            file=IGNORE_FILE,
            name=name,
        )
        explained.append(fault if name is None else Fault(fault.file, fault.expected, text))
    return explained


def find_classes(files: Mapping[str, Path], layout: Layout) -> tuple[ClassFile | None, list[Fault]]:
    """Return the content of `classes.json`, None where there is no valid one, and its faults."""
    if layout.class_file not in files:
        return None, []
    try:
        return read_class_file(files[layout.class_file]), []
    except InvalidFileError as error:
        return None, faults_from_error(layout.class_file, error)
