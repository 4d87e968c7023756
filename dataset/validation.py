"""Check every pair before anything is uploaded: return checked data, or raise all faults at once as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.i18n import tr
from core.reporting import progress
from dataset.classes import CLASSES_FILE, ClassMap, InvalidFileError, abbreviate, classes_from_values, read_classes
from dataset.data import Pair, SegmentationData
from dataset.decoding.mask import bilevel_high
from dataset.directory import IMAGE_SUFFIXES, LOSSY_SUFFIXES, SPLITS, data_files, is_image, list_linked_directories
from dataset.faults import DataFaults, Fault, faults_from_error
from dataset.layout import detect_layouts
from dataset.pair_reading import PairContent, read_pairs
from dataset.pairing import Candidate, find_pairs, layout_prefixes
from dataset.splitting.splits import write_splits

MAX_VALUES = 64  # distinct values in one mask that still look like classes


def check_data(root: Path, seed: int, make_split: bool = True) -> SegmentationData:
    """Read and check every pair below `root` once; store a split that was made here if `make_split`.

    Raises DataFaults with all faults at once, and UsageError where a file or directory cannot be used at all.
    """
    files = data_files(root)
    layout = _require_one_layout(root, files)
    faults = _check_files(root, files, layout)
    listed_classes, class_faults = _read_class_file(files)
    pairing = find_pairs(root, files, layout, seed)
    title, unit = tr("checking data"), tr("pairs")
    reading = read_pairs(files, pairing.candidates, listed_classes)
    contents = list(progress(reading, len(pairing.candidates), title, unit))
    faults += class_faults + pairing.faults
    faults += [fault for content in contents for fault in content.faults]
    classes = listed_classes
    if CLASSES_FILE not in files:
        classes, class_faults = _infer_classes(contents)
        faults += class_faults
    if classes is not None:
        faults += [fault for content in contents for fault in _check_values(content, classes)]
    faults += _check_duplicates(contents)
    if faults:
        raise DataFaults(faults)
    assert classes is not None  # missing classes are a fault
    assignment = pairing.assignment
    if assignment is not None and assignment.seed is not None and make_split:
        write_splits(root, assignment.splits, assignment.seed)
    unlisted = assignment.unlisted if assignment is not None else 0
    return _build_data(root, files, layout, contents, classes, unlisted)


# --- files -------------------------------------------------------------------------------------------------


def _require_one_layout(root: Path, files: Mapping[str, Path]) -> str:
    """Return the layout of the files. Raises DataFaults for no data and for two layouts."""
    layouts = detect_layouts(files.keys())
    wanted = tr("images/ + masks/ or {train,val}/{images,masks}")
    if not layouts:
        found = tr("no data") + (f" ({abbreviate(files, 3)})" if files else "")
        raise DataFaults([Fault(f"{root.name}/", wanted, found)])
    if len(layouts) == 2:
        both = tr("both layouts at once")
        raise DataFaults([Fault(f"{root.name}/", tr("only one of {wanted}", wanted=wanted), both)])
    return layouts[0]


def _check_files(root: Path, files: Mapping[str, Path], layout: str) -> list[Fault]:
    """Return faults of files that are not images, of broken links and of links to directories."""
    faults = []
    for name in list_linked_directories(root):
        expected = tr("a directory (or DATA_DIR set to the original)")
        faults.append(Fault(name, expected, tr("a link to a directory")))
    directories = tuple(f"{prefix}{part}/" for prefix in layout_prefixes(layout) for part in ("images", "masks"))
    for name, path in files.items():
        if not path.is_file():
            found = tr("a broken link") if path.is_symlink() else tr("a special file")
            faults.append(Fault(name, tr("a regular file"), found))
        elif name.startswith(directories) and not is_image(name):
            expected = tr("an image ({suffixes})", suffixes=" ".join(IMAGE_SUFFIXES))
            faults.append(Fault(name, expected, tr("not an image")))
    return faults


def _read_class_file(files: Mapping[str, Path]) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes of `classes.json`, None where there is no valid one, and its faults."""
    if CLASSES_FILE not in files:
        return None, []
    try:
        return read_classes(files[CLASSES_FILE]), []
    except InvalidFileError as error:
        return None, faults_from_error(CLASSES_FILE, error)


# --- mask values -------------------------------------------------------------------------------------------


def _infer_classes(contents: Iterable[PairContent]) -> tuple[ClassMap | None, list[Fault]]:
    """Return the classes that the values of all masks show, None where they cannot be told, and the faults."""
    faults = []
    seen, bits = set[int](), set[int]()
    for content in contents:
        if content.values is None:
            continue
        mask, lossy = content.candidate.mask, content.candidate.mask.lower().endswith(LOSSY_SUFFIXES)
        if len(content.values) > MAX_VALUES or (lossy and not set(content.values) <= {0, 255}):
            count = len(content.values)
            hint = tr("JPEG artefacts, or a photo? store masks as PNG")
            expected = tr("at most {max_values} class values", max_values=MAX_VALUES)
            faults.append(Fault(mask, expected, tr("{count} values ({hint})", count=count, hint=hint)))
        (bits if content.bilevel else seen).update(content.values)
    if faults or not seen | bits:
        return None, faults
    try:
        return classes_from_values(seen | {bit * bilevel_high(seen) for bit in bits}), []
    except InvalidFileError as error:
        return None, faults_from_error("masks/", error)


def _count_values(content: PairContent, classes: ClassMap) -> dict[int, int]:
    """Return mask value -> pixels; the bits of a one-bit mask become the values that they stand for."""
    if content.values is None or not content.bilevel:
        return content.values or {}
    high = bilevel_high(classes.known)
    return {value * high: pixels for value, pixels in content.values.items()}


def _check_values(content: PairContent, classes: ClassMap) -> list[Fault]:
    """Return a fault for unknown values, or for a mask without a labelled pixel."""
    values, mask = _count_values(content, classes), content.candidate.mask
    unknown = [value for value in values if value not in classes.known]
    if unknown:
        found = tr("unknown values {unknown}", unknown=abbreviate(unknown))
        if mask.lower().endswith(LOSSY_SUFFIXES):
            found += tr(" (JPEG artefacts? store masks as PNG)")
        return [Fault(mask, tr("class values {known}", known=abbreviate(classes.known, 16)), found)]
    if values and set(values) <= set(classes.ignore_ids):
        return [Fault(mask, tr("pixels that are not ignored"), tr("every pixel is ignored"))]
    return []


# --- the result --------------------------------------------------------------------------------------------


def _check_duplicates(contents: Iterable[PairContent]) -> list[Fault]:
    """Return a fault for each image that occurs in two splits: it would make every metric too good."""
    faults = []
    first: dict[str, Candidate] = {}
    for content in contents:
        if content.image_size is None:
            continue  # equal unreadable files are not duplicates
        candidate = content.candidate
        other = first.setdefault(content.image_sha256, candidate)
        if other.split != candidate.split:
            found = tr(
                "same content as {other} of {other_split} (this one: {split})",
                other=other.image,
                other_split=other.split,
                split=candidate.split,
            )
            faults.append(Fault(candidate.image, tr("an image in one split only"), found))
    return faults


def _build_data(
    root: Path,
    files: Mapping[str, Path],
    layout: str,
    contents: Iterable[PairContent],
    classes: ClassMap,
    unlisted: int,
) -> SegmentationData:
    """Return the checked data, with the pixels of each class counted by split."""
    pairs: list[Pair] = []
    counts = {split: Counter[int]() for split in SPLITS}
    for content in contents:
        assert content.image_size is not None  # an unreadable image is a fault
        item = content.candidate
        image, mask = files[item.image], files[item.mask]
        checksums = content.image_sha256, content.mask_sha256
        pairs.append(Pair(item.name, item.split, image, mask, *checksums, *content.image_size))
        counts[item.split].update(_count_values(content, classes))
    used = [split for split in SPLITS if any(pair.split == split for pair in pairs)]
    return SegmentationData(
        root=root,
        pairs=tuple(pairs),
        classes=classes,
        pixel_counts={split: tuple(counts[split][value] for value in classes.ids) for split in used},
        ignored_pixels={split: sum(counts[split][value] for value in classes.ignore_ids) for split in used},
        layout=layout,
        unlisted=unlisted,
        class_file=CLASSES_FILE in files,
    )
