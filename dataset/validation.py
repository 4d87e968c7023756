"""Check every pair before anything is uploaded: return checked data, or raise all faults at once as one table."""

from __future__ import annotations

from pathlib import Path

from core.i18n import tr
from core.reporting import progress
from dataset.checks.duplicates import check_duplicates, check_near_duplicates
from dataset.checks.files import check_unused_files, explain_ignored, find_classes, find_layout
from dataset.checks.groups import split_by_groups
from dataset.checks.image_values import measure_images
from dataset.checks.inspection import Inspection
from dataset.checks.learnable import check_learnable
from dataset.checks.masks.blends import warn_of_blends
from dataset.checks.masks.categories import complete_classes
from dataset.checks.masks.orientation import check_orientation
from dataset.checks.masks.palettes import check_palettes, warn_of_inverted_bits
from dataset.checks.masks.values import check_values, infer_classes
from dataset.checks.split_contents import (
    check_absent_classes,
    check_decidable,
    check_split_directories,
    check_split_sizes,
)
from dataset.class_file import Form
from dataset.data import SegmentationData
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.formats.record import import_warnings
from dataset.pages import expand_pages
from dataset.pairing import find_pairs
from dataset.sources.files import LOCAL_FILES, FileSource
from dataset.splitting.splits import check_listable, write_splits


def check_data(
    root: Path,
    seed: int,
    make_split: bool = True,
    reading: ReadOptions = DEFAULT_READING,
    split_group: str | None = None,
    source: FileSource = LOCAL_FILES,
) -> SegmentationData:
    """Read and check every pair below `root` once; store a split that was made here if `make_split`.

    `split_group` is the regular expression of SPLIT_GROUP; `source` is where the files are read from.

    Raises DataFaults with all faults at once, and UsageError where a file or directory cannot be used at all.
    """
    inspection = inspect_data(root, seed, reading, split_group, source)
    data = inspection.data()
    if inspection.assignment is not None and make_split:
        assert inspection.layout is not None  # else there is no assignment
        made = inspection.assignment
        write_splits(root / inspection.layout.splits_root, made.splits, made.seed, made.left_out, made.pattern)
    return data


def inspect_data(
    root: Path,
    seed: int,
    reading: ReadOptions = DEFAULT_READING,
    split_group: str | None = None,
    source: FileSource = LOCAL_FILES,
) -> Inspection:
    """Read and check every pair below `root` once; return what is known, with all faults, warnings and files left out.

    Raises UsageError where a file or directory cannot be used at all.
    """
    listing = source.listing(root)
    inspection, files = Inspection(root, listing.files, reading, source=source), listing.files
    inspection.add(listing.refused)
    if listing.refused:
        return inspection
    inspection.add(import_warnings(root))
    inspection.layout, faults = find_layout(root, files)
    inspection.add(faults)
    if inspection.layout is None:
        return inspection
    listed, faults = find_classes(files, inspection.layout)
    inspection.add(faults)
    inspection.pairing = expand_pages(find_pairs(root, files, inspection.layout), files, source.count_pages)
    inspection.add(explain_ignored(root, inspection.pairing.faults))
    inspection.add(check_unused_files(files, inspection.layout, inspection.pairing))
    candidates = inspection.pairing.candidates
    contents = source.contents(files, candidates, listed.classes if listed is not None else None, reading)
    inspection.contents = list(progress(contents, len(candidates), tr("checking data"), tr("pairs")))
    for content in inspection.contents:
        inspection.add(content.faults)
    if listed is not None:
        inspection.classes, warnings = complete_classes(listed, inspection.contents)
        inspection.add(warnings)
    elif inspection.layout.class_file not in files:
        inspection.classes, faults = infer_classes(inspection.contents)
        inspection.add(faults)
    split_by_groups(inspection, seed, split_group)
    if inspection.own_split:
        inspection.add(check_listable((candidate.image, candidate.name) for candidate in candidates))
    measured = measure_images(inspection.contents, reading)
    inspection.reading, inspection.bands = measured.reading, measured.bands
    inspection.add(measured.findings)
    _check_masks(inspection, inspection.layout.class_file, listed.form if listed is not None else "entries")
    inspection.add(check_duplicates(inspection.contents, inspection.own_split, inspection.layout.splits_root))
    inspection.add(check_near_duplicates(inspection.contents, inspection.groups))
    inspection.add(check_split_directories(inspection.layout, inspection.own_split))
    inspection.add(check_split_sizes(inspection.contents))
    inspection.add(check_decidable(inspection))
    if inspection.classes is not None:
        inspection.add(check_absent_classes(inspection.class_counts(), inspection.classes))
    return inspection


def _check_masks(inspection: Inspection, class_file: str, form: Form) -> None:
    """Check whether the masks of all pairs mean the same, fit their images, and show something to learn."""
    contents, classes = inspection.contents, inspection.classes
    inspection.add(check_palettes(contents, classes))
    inspection.add(warn_of_inverted_bits(contents))
    inspection.add(check_orientation(contents, inspection.reading))
    if classes is not None:
        faults = list(check_values(contents, classes, class_file, form))
        inspection.add(faults or check_learnable(inspection.class_counts(), classes, class_file))
        inspection.add(() if faults else warn_of_blends(contents, classes))
