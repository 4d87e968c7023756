"""Check which files a data directory has: its layout, links, and files that are not images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from core.i18n import tr
from dataset.classes import ClassMap, InvalidFileError, read_classes
from dataset.directory import IMAGE_SUFFIXES, is_image, list_linked_directories
from dataset.faults import DataFaults, Fault, faults_from_error
from dataset.formats.registry import check_export
from dataset.layout.layout import Layout
from dataset.layout.resolve import resolve_layout


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


def check_files(root: Path, files: Mapping[str, Path], layout: Layout) -> Iterator[Fault]:
    """Yield faults of files that are not images, of broken links and of links to directories."""
    for name in list_linked_directories(root):
        expected = tr("a directory (or DATA_DIR set to the original)")
        yield Fault(name, expected, tr("a link to a directory"))
    for name, path in files.items():
        if not path.is_file():
            found = tr("a broken link") if path.is_symlink() else tr("a special file")
            yield Fault(name, tr("a regular file"), found)
        elif name.startswith(layout.directories()) and not is_image(name):
            expected = tr("an image ({suffixes})", suffixes=" ".join(IMAGE_SUFFIXES))
            yield Fault(name, expected, tr("not an image"))


def read_class_file(files: Mapping[str, Path], layout: Layout) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes of `classes.json`, None where there is no valid one, and its faults."""
    if layout.class_file not in files:
        return None, []
    try:
        return read_classes(files[layout.class_file]), []
    except InvalidFileError as error:
        return None, faults_from_error(layout.class_file, error)
