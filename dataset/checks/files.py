"""Check which files a data directory has: its layout, links, and files that are not images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from core.i18n import tr
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, abbreviate, read_classes
from dataset.directory import IMAGE_SUFFIXES, is_image, list_linked_directories
from dataset.faults import Fault, faults_from_error
from dataset.layout import detect_layouts
from dataset.pairing import layout_prefixes


def find_layout(root: Path, files: Mapping[str, Path]) -> tuple[str | None, list[Fault]]:
    """Return the layout of the files, or None and a fault for no data and for two layouts."""
    layouts = detect_layouts(files.keys())
    wanted = tr("images/ + masks/ or {train,val}/{images,masks}")
    if not layouts:
        found = tr("no data") + (f" ({abbreviate(files, 3)})" if files else "")
        return None, [Fault(f"{root.name}/", wanted, found)]
    if len(layouts) == 2:
        both = tr("both layouts at once")
        return None, [Fault(f"{root.name}/", tr("only one of {wanted}", wanted=wanted), both)]
    return layouts[0], []


def check_files(root: Path, files: Mapping[str, Path], layout: str) -> Iterator[Fault]:
    """Yield faults of files that are not images, of broken links and of links to directories."""
    for name in list_linked_directories(root):
        expected = tr("a directory (or DATA_DIR set to the original)")
        yield Fault(name, expected, tr("a link to a directory"))
    directories = tuple(f"{prefix}{part}/" for prefix in layout_prefixes(layout) for part in ("images", "masks"))
    for name, path in files.items():
        if not path.is_file():
            found = tr("a broken link") if path.is_symlink() else tr("a special file")
            yield Fault(name, tr("a regular file"), found)
        elif name.startswith(directories) and not is_image(name):
            expected = tr("an image ({suffixes})", suffixes=" ".join(IMAGE_SUFFIXES))
            yield Fault(name, expected, tr("not an image"))


def read_class_file(files: Mapping[str, Path]) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes of `classes.json`, None where there is no valid one, and its faults."""
    if CLASSES_FILE not in files:
        return None, []
    try:
        return read_classes(files[CLASSES_FILE]), []
    except InvalidFileError as error:
        return None, faults_from_error(CLASSES_FILE, error)
