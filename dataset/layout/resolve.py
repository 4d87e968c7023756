"""Resolve the layout of a data directory from its relative paths, whatever its directories are called."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Sequence

from core.i18n import tr, trn
from dataset.classes import CLASSES_FILE, abbreviate
from dataset.directory import GROUPS_FILE, SPLITS, images_below, is_image
from dataset.faults import DataFaults, Fault
from dataset.layout.layout import FLAT, SPLIT, Layout, Place, PlaceFiles
from dataset.layout.matching import base_name, match_names
from dataset.layout.survey import Survey, survey_directories
from dataset.layout.vocabulary import IMAGES, MASKS

LAYOUT_KEY = "data_layout"  # in the metadata of commits; _lakefs_actions/quality_gate.yaml reads it
OWN_DIRECTORIES = tuple(f"{prefix}{part}/" for prefix in ("", *(f"{s}/" for s in SPLITS)) for part in (IMAGES, MASKS))


def wanted_layouts() -> str:
    """Return the layouts that are accepted, as text."""
    return tr("images/ + masks/ or {train,val}/{images,masks}")


def resolve_layout(files: Collection[str], root_name: str = "data", committed: bool = False) -> Layout:
    """Return the layout of these relative paths. Raises DataFaults for no data, and for data with two readings.

    In a `committed` directory the project's own names win over others: earlier versions knew no other names.
    """
    paths = sorted(path for path in files if is_image(path))
    own = [path for path in paths if path.startswith(OWN_DIRECTORIES)]
    if committed and survey_directories(own, "").has_pairs:
        paths = own
    prefix = _find_prefix(paths, "")
    if prefix is None and survey_directories(paths, "").has_images:
        prefix = ""
    if prefix is None:
        found = tr("no data") + (f" ({abbreviate(files, 3)})" if files else "")
        raise DataFaults([Fault(f"{root_name}/", wanted_layouts(), found)])
    survey = survey_directories(paths, prefix)
    if survey.flat and survey.split and survey.without_weak().has_pairs:
        survey = survey.without_weak()
    if survey.flat and survey.split:
        raise DataFaults([_both_layouts(root_name)])
    splits = _one_of(files, prefix, "splits/")
    has_splits = any(path.startswith(f"{splits}splits/") and path.endswith(".txt") for path in files)
    places = _split_places(survey) if survey.split else _flat_places(survey, has_splits)
    parts = tuple(_match_place(paths, place) for place in places)
    return Layout(
        kind=SPLIT if any(place.split for place in places) else FLAT,
        parts=parts,
        prefix=prefix,
        class_file=f"{_one_of(files, prefix, CLASSES_FILE)}{CLASSES_FILE}",
        group_file=f"{_one_of(files, prefix, GROUPS_FILE)}{GROUPS_FILE}",
        splits_root=splits,
        unused_split_directories=has_splits and len(survey.subdirectories()) > 1,
    )


def layout_metadata(files: Collection[str]) -> dict[str, str]:
    """Return the metadata of a data commit about these files: how names differ from those that the quality gate checks."""
    try:
        layout = resolve_layout(files)
    except DataFaults:
        return {}
    return {LAYOUT_KEY: layout.describe()} if layout.complete and not layout.has_own_names else {}


def _both_layouts(root_name: str) -> Fault:
    wanted = wanted_layouts()
    return Fault(f"{root_name}/", tr("only one of {wanted}", wanted=wanted), tr("both layouts at once"))


def _find_prefix(paths: Sequence[str], prefix: str) -> str | None:
    """Return the directory that contains images and masks, '' for the data directory itself; None if none does.

    Raises DataFaults if there is more than one.
    """
    survey = survey_directories(paths, prefix)
    if survey.has_pairs:
        return prefix
    found = {}
    children: dict[str, list[str]] = {}
    for path in paths:
        name, slash, _ = path[len(prefix) :].partition("/")
        if slash:
            children.setdefault(name, []).append(path)
    for name, below in children.items():
        inner = _find_prefix(below, f"{prefix}{name}/")
        if inner is not None:
            found[name] = inner
    if len(found) > 1:
        expected = tr("one directory with images and masks")
        raise DataFaults(
            Fault(inner, expected, tr("{count}: {paths}", count=len(found), paths=", ".join(found.values())))
            for inner in found.values()
        )
    if not found or survey.known_directories - found.keys():
        return None
    return next(iter(found.values()))


def _one_of(files: Collection[str], prefix: str, name: str) -> str:
    """Return where `name` is: `prefix`, or '' for the data directory (also if it is nowhere). Raises DataFaults for both."""
    found_in = (
        any(path.startswith(place + name) for path in files) if name.endswith("/") else place + name in files
        for place in (prefix, "")
    )
    places = list(dict.fromkeys(place for place, present in zip((prefix, ""), found_in, strict=True) if present))
    if len(places) > 1:
        found = tr("{count}: {paths}", count=2, paths=", ".join(place + name for place in places))
        raise DataFaults([Fault(name, tr("one of this name"), found)])
    return places[0] if places else ""


def _choose(survey: Survey, directories: Collection[str]) -> str:
    """Return the only directory of these, as '/' prefix; strong names win over weak ones. Raises DataFaults for two."""
    strong = [directory for directory in directories if directory not in survey.weak]
    chosen = sorted(strong or directories)
    if len(chosen) > 1:
        expected = tr("one directory for them (rename or move the others)")
        listed = ", ".join(f"{survey.prefix}{directory}/" for directory in chosen)
        found = tr("{count}: {paths}", count=len(chosen), paths=listed)
        raise DataFaults(Fault(f"{survey.prefix}{directory}/", expected, found) for directory in chosen)
    return f"{survey.prefix}{chosen[0]}/"


def _split_places(survey: Survey) -> list[Place]:
    """Return the places of directories such as train/images/ or train_images/."""
    places = []
    for split in SPLITS:
        images, masks = (survey.split.get((split, role), set()) for role in (IMAGES, MASKS))
        if masks and not images:
            images = survey.bare.get(split, set())
        if images or masks:
            places.append(
                Place(
                    split,
                    _choose(survey, images) if images else f"{survey.prefix}{split}/{IMAGES}/",
                    _choose(survey, masks) if masks else f"{survey.prefix}{split}/{MASKS}/",
                )
            )
    return places


def _flat_places(survey: Survey, has_splits: bool) -> list[Place]:
    """Return the one place of images/ + masks/, or those of images/train/ + masks/train/ unless split files decide."""
    images, masks = (
        _choose(survey, survey.flat[role]) if role in survey.flat else f"{survey.prefix}{role}/"
        for role in (IMAGES, MASKS)
    )
    below = survey.subdirectories()
    if has_splits or len(below) < 2:
        return [Place("", images, masks)]
    beside = [path for path in survey.beside_splits if path.startswith((images, masks))]
    if beside:
        expected = tr("every file in {directories}", directories=", ".join(f"{split}/" for split in below))
        found = trn(
            "{count} file elsewhere: {paths}",
            "{count} files elsewhere: {paths}",
            len(beside),
            paths=abbreviate(beside, 3),
        )
        raise DataFaults([Fault(images, expected, found)])
    places = []
    for split in below:
        found_in = {role: survey.flat_splits.get((split, role), set()) for role in (IMAGES, MASKS)}
        name = min(found_in[IMAGES] or found_in[MASKS]).rpartition("/")[2]
        places.append(
            Place(
                split,
                _choose(survey, found_in[IMAGES]) if found_in[IMAGES] else f"{images}{name}/",
                _choose(survey, found_in[MASKS]) if found_in[MASKS] else f"{masks}{name}/",
            )
        )
    return places


# --- names -------------------------------------------------------------------------------------------------


def _match_place(paths: Sequence[str], place: Place) -> PlaceFiles:
    """Return the images and masks of a place, by the name of their pair."""
    place = _skip_single_directories(paths, place)
    masks_below = images_below(paths, place.masks)
    inside = place.masks.startswith(place.images)
    images = images_below([p for p in paths if not (inside and p.startswith(place.masks))], place.images)
    matching = match_names(images, masks_below)
    masks = {matching.pairs[name]: found for name, found in masks_below.items() if name in matching.pairs}
    in_conflict = {name for conflict in matching.conflicts for name in conflict.masks}
    for name, found in masks_below.items():
        if name not in matching.pairs and name not in in_conflict:
            base = base_name(name) if matching.rules else name
            masks[name if base in masks or base in images else base] = found
    conflicts = tuple(
        tuple([path for name in conflict.images for path in images[name]])
        + tuple([path for name in conflict.masks for path in masks_below[name]])
        for conflict in matching.conflicts
    )
    return PlaceFiles(place, images, masks, conflicts, dict(matching.rules))


def _skip_single_directories(paths: Sequence[str], place: Place) -> Place:
    """Return the place without directories that hold everything: images/images/ + masks/masks/ (of unpacked archives).

    Directories that images and masks share belong to the names of the pairs.
    """
    sides = [images_below(paths, directory) for directory in (place.images, place.masks)]
    inner = [_common_directory(names) for names in sides]
    if inner[0] == inner[1] or not all(sides) or sides[0].keys() & sides[1].keys():
        return place
    return Place(place.split, place.images + inner[0], place.masks + inner[1])


def _common_directory(names: Collection[str]) -> str:
    """Return the directory that all names begin with, '' or with '/' at the end."""
    if not names:
        return ""
    common = posixpath.commonprefix([min(names), max(names)])
    return common[: common.rfind("/") + 1]
