"""Masks that can mean different things, and classes that cannot be learned, are reported before anything is uploaded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import to_upright
from dataset.faults import DataFaults
from dataset.validation import check_data
from tests.support.data_directories import (
    faults_of,
    make_flat,
    only_fault,
    put_image,
    put_mask,
    put_pair,
    write_classes,
)
from tests.support.mask_files import Values, palette_png, put_masks, saved, scene
from tests.support.rasters import tiff

COLORS = {0: (0, 0, 0), 1: (230, 75, 60), 2: (60, 180, 75)}
ENTRIES = [{"id": value, "name": f"c{value}", "color": color} for value, color in COLORS.items()]


def put_greys(root: Path, masks: list[Values]) -> Path:
    files = {f"p{number:02}.png": saved(Image.fromarray(mask)) for number, mask in enumerate(masks)}
    return put_masks(root, files, masks[0].shape)


def kinds(root: Path) -> dict[str, str]:
    return {warning.kind: warning.text for warning in check_data(root, 0).warnings}


# --- palettes ----------------------------------------------------------------------------------------------


def test_palettes_in_any_order_are_counted_by_colour(tmp_path: Path) -> None:
    orders = [[2, 1, 0], [1, 0, 2], [0, 1, 2], [0, 2, 1]]
    put_masks(tmp_path, {f"p{n}.png": palette_png(scene(seed=n), COLORS, order) for n, order in enumerate(orders)})
    write_classes(tmp_path, ENTRIES)
    data = check_data(tmp_path, 0)
    counts = np.sum([data.pixel_counts[split] for split in data.pixel_counts], axis=0)
    assert counts.tolist() == np.sum([np.bincount(scene(seed=n).ravel()) for n in range(4)], axis=0).tolist()
    assert not any(warning.kind == "palette-colors" for warning in data.warnings)


def test_palettes_that_differ_without_listed_colours_are_a_fault_that_names_both_files(tmp_path: Path) -> None:
    files = {f"p{n}.png": palette_png(scene(seed=n), COLORS, [0, 1, 2]) for n in range(4)}
    put_masks(tmp_path, files | {"p9.png": palette_png(scene(seed=9), COLORS, [0, 2, 1])})
    file, expected, found = only_fault(tmp_path)
    assert (file, expected) == ("masks/p9.png", "index 1 in #e64b3c, as in masks/p0.png")
    assert "index 1 in #3cb44b: 1 by index, 2 by colour" in found


def test_black_and_white_palette_beside_one_with_a_white_background_is_a_fault(tmp_path: Path) -> None:
    """White is class 0 in the coloured masks, and the foreground in the one of two colours."""
    white, red = (255, 255, 255), (230, 75, 60)
    bits = [(scene(seed=n) > 0).astype(np.uint8) for n in range(4)]
    files = {f"p{n}.png": palette_png(mask, {0: white, 1: red}, [0, 1]) for n, mask in enumerate(bits)}
    files["a.png"] = palette_png(bits[0], {0: white, 1: (0, 0, 0)}, [0, 1])
    file, expected, found = only_fault(put_masks(tmp_path, files))
    assert (file, expected, found) == (
        "masks/a.png",
        "index 0 in #ffffff, as in masks/p0.png",
        "#ffffff for the value 1",
    )


def test_palettes_in_one_order_are_read_by_index_without_classes(tmp_path: Path) -> None:
    put_masks(tmp_path, {f"p{n}.png": palette_png(scene(seed=n), COLORS, [0, 1, 2]) for n in range(4)})
    assert check_data(tmp_path, 0).classes.ids == (0, 1, 2)


def test_palettes_in_other_colours_than_the_listed_ones_are_a_warning(tmp_path: Path) -> None:
    voc = {0: (1, 1, 60), 1: (128, 0, 0), 2: (0, 128, 0)}
    put_masks(tmp_path, {f"p{n}.png": palette_png(scene(seed=n), voc, [0, 1, 2]) for n in range(4)})
    write_classes(tmp_path, ENTRIES)
    assert "4 palette masks are read by index" in kinds(tmp_path)["palette-colors"]


@pytest.mark.parametrize("white_is_zero", [True, False])
def test_bits_that_are_shown_inverted_are_a_warning_with_both_readings(tmp_path: Path, white_is_zero: bool) -> None:
    """Such as scans; they are read as every viewer shows them."""
    tags = {"photometric": "miniswhite" if white_is_zero else "minisblack", "software": False, "metadata": None}
    put_masks(tmp_path, {f"p{n}.tif": tiff(scene(seed=n) > 0, **tags) for n in range(4)})
    text = kinds(tmp_path).get("inverted-bits", "")
    assert bool(text) == white_is_zero
    if white_is_zero:
        assert "foreground in 83.3% of the pixels; as stored it would be 16.7%" in text and "masks/p0.tif" in text


# --- grey values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greys", [(0, 128, 255), (0, 127, 255), (50, 150, 255)])
def test_greys_up_to_255_are_a_fault_that_shows_how_to_name_them(tmp_path: Path, greys: tuple[int, ...]) -> None:
    lookup = np.array(greys, np.uint8)
    put_greys(tmp_path, [lookup[scene(seed=n)] for n in range(4)])
    file, expected, found = only_fault(tmp_path)
    assert file == "masks/" and f'{{"id": {greys[1]}, "name": "..."}}' in expected and "is 255 (" in found
    write_classes(tmp_path, [{"id": value, "name": str(value)} for value in greys])
    assert check_data(tmp_path, 0).classes.ids == greys, "the list that the fault shows is the cure"


@pytest.mark.parametrize("low", [(0, 1, 2), (0, 11, 26), (0, 1)])
def test_ids_beside_an_ignored_255_are_read(tmp_path: Path, low: tuple[int, ...]) -> None:
    lookup = np.array([*low, low[-1]][:3], np.uint8)
    masks = [lookup[scene(seed=n)] for n in range(4)]
    for mask in masks:
        mask[:2] = 255
    data = check_data(put_greys(tmp_path, masks), 0)
    assert (data.classes.ids, data.classes.ignore_ids) == (low, (255,))


@pytest.mark.parametrize("filter_", ["BILINEAR", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("scale", [0.5, 2])
def test_interpolated_masks_are_faults_that_name_the_files_and_the_cure(
    tmp_path: Path, filter_: str, scale: float
) -> None:
    masks = []
    for number in range(4):
        image = Image.fromarray((scene(48, 64, number) > 0).astype(np.uint8) * np.uint8(255))
        size = round(64 * scale), round(48 * scale)
        masks.append(np.asarray(image.rotate(20, Image.Resampling.BILINEAR).resize(size, Image.Resampling[filter_])))
    faults = faults_of(put_greys(tmp_path, masks))
    assert {fault.file for fault in faults} == {f"masks/p{number:02}.png" for number in range(4)}
    assert all(
        "interpolation" in fault.found and "nearest neighbour" in fault.expected + fault.found for fault in faults
    )


@pytest.mark.parametrize("quality", [60, 95, 100])
def test_png_masks_that_were_jpeg_before_are_faults(tmp_path: Path, quality: int) -> None:
    masks = [(scene(48, 64, n) > 0).astype(np.uint8) * np.uint8(255) for n in range(4)]
    copies = [np.asarray(Image.open(io.BytesIO(saved(Image.fromarray(m), "JPEG", quality=quality)))) for m in masks]
    changed = {f"masks/p{n:02}.png" for n, copy in enumerate(copies) if not set(np.unique(copy).tolist()) <= {0, 255}}
    faults = faults_of(put_greys(tmp_path, copies))
    assert faults and {fault.file for fault in faults} <= changed
    assert all("JPEG" in fault.found or "interpolation" in fault.found for fault in faults)


def test_interpolation_is_found_where_all_values_between_occur(tmp_path: Path) -> None:
    """Ids 0, 10 and 20 become 0 to 20: a row of ids like any other."""
    turned = [Image.fromarray(scene(48, 64, n) * np.uint8(10)).rotate(10, Image.Resampling.BILINEAR) for n in range(6)]
    faults = faults_of(put_greys(tmp_path, [np.asarray(image) for image in turned]))
    assert all("only along outlines" in fault.found for fault in faults)


def test_thin_classes_between_others_are_no_interpolation(tmp_path: Path) -> None:
    """Layers of two pixels, each between a lower and a higher id."""
    put_thin_layers(tmp_path)
    assert check_data(tmp_path, 0).classes.num_classes == 7


def interpolated(ids: tuple[int, ...], seed: int, scale: float, filter_: str = "BILINEAR") -> Values:
    """Return a scene in which `ids` stand for 0, 1 and 2, resized with interpolation."""
    image = Image.fromarray(np.array(ids, np.uint8)[scene(48, 64, seed)])
    return np.asarray(image.resize((round(64 * scale), round(48 * scale)), Image.Resampling[filter_]))


@pytest.mark.parametrize("ids", [(3, 7, 11), (0, 5, 9)])
@pytest.mark.parametrize(("filter_", "scale"), [("BILINEAR", 0.7), ("BICUBIC", 0.7), ("BILINEAR", 2.5)])
@pytest.mark.parametrize("listed", [12, 21])
def test_interpolation_between_listed_classes_is_a_warning_that_counts(
    tmp_path: Path, ids: tuple[int, ...], filter_: str, scale: float, listed: int
) -> None:
    """A file that lists all ids from 0 has the mixtures of ids, too; without the file they are faults."""
    put_greys(tmp_path, [interpolated(ids, number, scale, filter_) for number in range(6)])
    assert all("only along outlines" in fault.found for fault in faults_of(tmp_path))
    write_classes(tmp_path, [f"c{value}" for value in range(listed)])
    (warning,) = (warning for warning in check_data(tmp_path, 0).warnings if warning.kind == "interpolated-masks")
    assert f"values {ids[0] + 1}, " in warning.text and "nearest neighbour" in warning.text
    assert "in 6 masks (such as masks/p00.png)" in warning.text and warning.counts_against("val")


def put_thin_layers(root: Path) -> None:
    rows = np.minimum(np.arange(24) // 2, 6).astype(np.uint8)
    put_greys(root, [np.roll(np.tile(rows[:, None], (1, 32)), n, 1) for n in range(4)])


def put_sharp(root: Path) -> None:
    put_greys(root, [np.array([3, 7, 11], np.uint8)[scene(seed=n)] for n in range(4)])


def put_small_objects(root: Path) -> None:
    """Write objects of 3x3 pixels, each with an ignored border."""
    masks = np.zeros((4, 24, 32), np.uint8)
    for value, left in ((1, 2), (2, 10), (3, 18)):
        masks[:, 4:9, left : left + 5] = 255
        masks[:, 5:8, left + 1 : left + 4] = value
    put_greys(root, list(masks))


@pytest.mark.parametrize("put", [put_thin_layers, put_sharp, put_small_objects])
def test_listed_classes_that_are_thin_or_small_are_no_interpolation(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path)
    entries = [{"id": value, "name": f"c{value}"} for value in range(12)]
    write_classes(tmp_path, [*entries, {"id": 255, "name": "border", "ignore": True}])
    assert "interpolated-masks" not in kinds(tmp_path)


def test_interpolated_values_that_are_not_listed_are_explained(tmp_path: Path) -> None:
    blurred = Image.fromarray((scene(48, 64) > 0).astype(np.uint8) * np.uint8(255)).resize((32, 24), 2)
    put_greys(tmp_path, [np.asarray(blurred), *[(scene(seed=n) > 0).astype(np.uint8) * 255 for n in range(3)]])
    mask = np.asarray(blurred.rotate(15, Image.Resampling.BILINEAR))
    (tmp_path / "masks/p00.png").write_bytes(saved(Image.fromarray(mask)))
    write_classes(tmp_path, [{"id": 0, "name": "a"}, {"id": 255, "name": "b"}])
    file, _, found = only_fault(tmp_path)
    assert file == "masks/p00.png" and "resized with interpolation" in found


def test_files_that_disagree_about_the_foreground_are_a_fault(tmp_path: Path) -> None:
    masks = [(scene(seed=n) > 0).astype(np.uint8) * np.uint8(255 if n % 2 else 1) for n in range(6)]
    file, expected, found = only_fault(put_greys(tmp_path, masks))
    assert (file, expected) == ("masks/p01.png", "values as in masks/p00.png (0, 1), or a classes.json that names 255")
    assert found == "0 and 255, as in 3 masks: a class, or ignored?"


def drawn(values: tuple[int, ...], seed: int = 0) -> Values:
    """Return a mask (48,64) with an area of each value above 0, of 12x12 pixels, on the first."""
    mask = np.full((48, 64), values[0], np.uint8)
    for number, value in enumerate(values[1:]):
        mask[8 + seed : 20 + seed, 2 + 15 * number : 14 + 15 * number] = value
    return mask


GREYS_OF_COLOURS = [(0, 29, 76, 255), (0, 29, 76, 150, 255), (0, 20, 255), (0, 10, 20, 255)]


@pytest.mark.parametrize("values", GREYS_OF_COLOURS)
@pytest.mark.parametrize("background", [False, True])
def test_other_greys_beside_areas_of_255_are_a_fault(tmp_path: Path, values: tuple[int, ...], background: bool) -> None:
    """Such as red, green and blue on black after `convert("L")`; white may also be the background."""
    order = values[::-1] if background else values
    masks = [drawn(order, seed) for seed in range(4)]
    for mask in masks:
        mask[30:] = 255
    file, expected, found = only_fault(put_greys(tmp_path, masks))
    assert file == "masks/" and f'{{"id": {values[1]}, "name": "..."}}' in expected and "a class, or ignored?" in found


@pytest.mark.parametrize("low", [(0, 15), (0, 7, 15), (0, 1, 2), (0, 2, 8, 10), tuple(range(12))])
def test_ids_of_voc_with_its_thin_borders_are_read(tmp_path: Path, low: tuple[int, ...]) -> None:
    masks = []
    for seed in range(4):
        mask = np.zeros((96, 128), np.uint8)
        for number, value in enumerate(low[1:]):
            top, left = 4 + seed + 30 * (number // 4), 4 + 30 * (number % 4)
            mask[top : top + 26, left : left + 26] = 255
            mask[top + 4 : top + 22, left + 4 : left + 22] = value
        masks.append(mask)
    assert min((mask == 255).mean() for mask in masks) > 0.025
    data = check_data(put_greys(tmp_path, masks), 0)
    assert (data.classes.ids, data.classes.ignore_ids) == (low, (255,))


@pytest.mark.parametrize("low", [(0, 1, 2), (0, 1, 3), (0, 2, 8, 10), (0, 1)])
def test_ids_in_a_row_beside_large_areas_of_255_are_read(tmp_path: Path, low: tuple[int, ...]) -> None:
    masks = [drawn(low, seed) for seed in range(4)]
    for mask in masks:
        mask[34:] = 255
    data = check_data(put_greys(tmp_path, masks), 0)
    assert (data.classes.ids, data.classes.ignore_ids) == (low, (255,))


@pytest.mark.parametrize(
    ("row", "greys"),
    [
        ((0, 1, 2), (0, 128, 255)),
        ((0, 1, 2, 255), (0, 128, 255)),
        ((0, 1), (0, 254)),
        ((0, 1, 2), (0, 127, 254)),
        ((0, 1, 2, 3), (0, 85, 170, 255)),
        ((0, 1), (0, 100)),
    ],
)
def test_files_with_ids_beside_files_with_greys_are_a_fault(
    tmp_path: Path, row: tuple[int, ...], greys: tuple[int, ...]
) -> None:
    file, expected, found = only_fault(put_greys(tmp_path, [drawn(greys if n % 3 == 2 else row, n) for n in range(6)]))
    assert file == "masks/p02.png" and expected.startswith("values as in masks/p00.png (0, 1")
    assert found == f"{', '.join(map(str, greys))} in 2 masks: other classes, or the same ones in greys?"
    write_classes(tmp_path, [{"id": value, "name": str(value)} for value in sorted({*row, *greys})])
    assert check_data(tmp_path, 0).classes.ids == tuple(sorted({*row, *greys}))


@pytest.mark.parametrize(
    "files",
    [
        [(0, 1), (0, 40), (0, 90)],  # ids of COCO, a class an image
        [(0, 1), (0, 200), (0, 1, 200)],  # one mask has both
        [(0, 1), (0, 15, 130)],
        [(0, value) for value in range(1, 103, 5)],  # a class an image of 102
        [(0, 1, 2), (0, 3, 4)],
    ],
)
def test_ids_with_gaps_in_different_files_are_read(tmp_path: Path, files: list[tuple[int, ...]]) -> None:
    masks = [drawn(values, seed) for seed in range(2) for values in files]
    known = {value for values in files for value in values}
    assert set(check_data(put_greys(tmp_path, masks), 0).classes.ids) == known


def test_jpeg_masks_are_faults_even_if_every_value_is_listed(tmp_path: Path) -> None:
    make_flat(tmp_path)
    put_image(tmp_path / "images/j.png", size=(24, 32))
    (tmp_path / "masks/j.png").write_bytes(saved(Image.fromarray(scene()), "JPEG"))
    write_classes(tmp_path, [{"id": value, "name": str(value)} for value in range(8)])
    file, _, found = only_fault(tmp_path)
    assert file == "masks/j.png" and "JPEG artefacts" in found


# --- what can be learned -----------------------------------------------------------------------------------


def test_one_listed_class_is_a_fault_that_suggests_the_background(tmp_path: Path) -> None:
    write_classes(make_flat(tmp_path), [{"id": 1, "name": "crack"}])
    file, expected, found = only_fault(tmp_path)
    assert file == "classes.json" and '{"id": 0, "name": "background"}' in expected
    assert found.startswith("unknown values 0: in 10 masks")


def test_class_that_is_saved_as_another_value_than_listed_is_named(tmp_path: Path) -> None:
    put_greys(tmp_path, [(scene(seed=n) > 0).astype(np.uint8) * np.uint8(255) for n in range(4)])
    write_classes(tmp_path, [{"id": 0, "name": "background"}, {"id": 1, "name": "crack"}])
    file, expected, found = only_fault(tmp_path)
    assert file == "classes.json" and "'crack' with id 255 instead of 1" in expected
    assert found.startswith("unknown values 255: in 4 masks")


def test_single_class_left_to_learn_is_a_fault(tmp_path: Path) -> None:
    write_classes(make_flat(tmp_path), [{"id": 0, "name": "background", "ignore": True}, {"id": 1, "name": "crack"}])
    assert only_fault(tmp_path)[2] == "1: crack (ignored: 0)"


def test_training_split_with_labels_of_one_class_is_a_fault(tmp_path: Path) -> None:
    for split, values in (("train", (0,)), ("val", (0, 1))):
        for number in range(3):
            put_pair(tmp_path / split, f"{split}{number}", values)
    assert only_fault(tmp_path) == (
        "train",
        "labelled pixels of at least two classes in the training split",
        "background",
    )


def test_class_without_pixels_and_ignored_background_are_warnings(tmp_path: Path) -> None:
    make_flat(tmp_path)
    for number in range(10):
        put_mask(tmp_path / f"masks/a{number}.png", (0, 1, 2))
    entries = [{"id": 0, "name": "background", "ignore": True}, *({"id": v, "name": f"c{v}"} for v in (1, 2, 3))]
    write_classes(tmp_path, entries)
    found = kinds(tmp_path)
    assert found["unlabelled-class"].endswith("c3") and "33.3% of the pixels" in found["background-ignored"]


def test_sparse_labels_are_a_warning(tmp_path: Path) -> None:
    masks = []
    for number in range(4):
        mask = np.full((96, 128), 255, np.uint8)
        mask[10 + number, 20:26], mask[80, 90:96] = 0, 1
        masks.append(mask)
    assert "99.9% of the pixels of train are ignored" in kinds(put_greys(tmp_path, masks))["sparse-labels"]


# --- orientation -------------------------------------------------------------------------------------------


def put_photos(
    root: Path, orientation: int, mask_upright: bool, size: tuple[int, int] = (24, 32), suffix: str = ".jpg"
) -> Path:
    """Write photos with this tag, and masks drawn on them as a viewer shows them, or as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(4):
        ids = scene(*size, seed=number)
        image = Image.fromarray((ids * np.uint8(90) + 20)[..., None].repeat(3, 2))
        (root / "images").mkdir(parents=True, exist_ok=True)
        image.save(root / f"images/p{number}{suffix}", exif=exif, quality=95)
        mask = to_upright(ids, orientation) if mask_upright else ids
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/p{number}.png")
    return root


@pytest.mark.parametrize(
    ("orientation", "size"), [(2, (24, 32)), (3, (24, 32)), (4, (24, 32)), (6, (24, 32)), (8, (32, 32))]
)
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_masks_drawn_on_the_stored_image_are_faults_that_name_the_tag_and_the_option(
    tmp_path: Path, orientation: int, size: tuple[int, int], suffix: str
) -> None:
    faults = faults_of(put_photos(tmp_path, orientation, mask_upright=False, size=size, suffix=suffix))
    assert len(faults) == 4
    assert all(f"EXIF orientation {orientation}" in f.expected and "--raw-orientation" in f.found for f in faults)
    data = check_data(tmp_path, 0, reading=ReadOptions(raw_orientation=True))
    assert (data.pairs[0].height, data.pairs[0].width) == size


@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_masks_drawn_on_the_turned_image_are_read(tmp_path: Path, orientation: int, suffix: str) -> None:
    assert len(check_data(put_photos(tmp_path, orientation, mask_upright=True, suffix=suffix), 0).pairs) == 4


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_raw_orientation_on_masks_of_the_turned_image_is_a_fault(tmp_path: Path, suffix: str) -> None:
    put_photos(tmp_path, 6, mask_upright=True, suffix=suffix)
    with pytest.raises(DataFaults, match="leave out --raw-orientation"):
        check_data(tmp_path, 0, reading=ReadOptions(raw_orientation=True))


def test_classes_with_colours_say_so_in_what_a_model_file_stores(tmp_path: Path) -> None:
    put_masks(tmp_path, {f"p{n}.png": palette_png(scene(seed=n), COLORS, [0, 1, 2]) for n in range(4)})
    write_classes(tmp_path, ENTRIES)
    stored = json.loads(json.dumps(check_data(tmp_path, 0).classes.to_dict()))
    assert stored["listed_colors"] is True and type(check_data(tmp_path, 0).classes).from_dict(stored).listed_colors
