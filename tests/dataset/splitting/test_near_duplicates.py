"""Images that show the same in two splits are found, and images that are only alike are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dataset.faults import MAX_ROWS
from dataset.sources.synthetic import draw_pair
from dataset.splitting.near_duplicates import find_near_duplicates
from dataset.splitting.thumbnails import make_thumbnail
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import put_mask

Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int = 60) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


CHANGES: dict[str, Change] = {
    "recoded": lambda image: jpeg(image, 95),
    "smaller": lambda image: image.resize((64, 64)),
    "larger": lambda image: image.resize((300, 300)),
    "other shape": lambda image: image.resize((200, 120)),
    "JPEG quality 60": jpeg,
    "corner": lambda image: image.crop((0, 0, 122, 122)),
    "all edges": lambda image: image.crop((6, 6, 122, 122)),
    "one edge": lambda image: image.crop((6, 0, 128, 128)),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "half turn": lambda image: image.rotate(180),
    "brighter": lambda image: image.point(lambda value: min(255, value * 9 // 8 + 10)),
    "all": lambda image: jpeg(ImageOps.mirror(image).crop((3, 3, 125, 125)).resize((90, 90))),
}


def image_of(number: int) -> Image.Image:
    return Image.fromarray(draw_pair(0, number)[0])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_copies_are_found_and_nothing_else(change: Change) -> None:
    images = {f"train{number}": image_of(number) for number in range(20)}
    images |= {f"copy{number}": change(image_of(number)).convert("RGB") for number in range(100, 110)}
    images |= {f"val{number}": image_of(number) for number in range(90, 110)}
    thumbnails = {name: make_thumbnail(np.asarray(image)) for name, image in images.items()}
    splits = {name: "val" if name.startswith("val") else "train" for name in images}
    found = find_near_duplicates(thumbnails, splits)
    assert {(pair.name, pair.other) for pair in found} == {(f"val{n}", f"copy{n}") for n in range(100, 110)}


def test_images_without_structure_and_copies_in_one_split_are_not_reported() -> None:
    flat = make_thumbnail(np.full((40, 40, 3), 200, np.uint8))
    one = make_thumbnail(np.asarray(image_of(1)))
    thumbnails = {"a": flat, "b": flat, "c": one, "d": one}
    assert find_near_duplicates(thumbnails, {"a": "train", "b": "val", "c": "train", "d": "train"}) == []
    assert find_near_duplicates(thumbnails, dict.fromkeys("abcd", "val")) == []
    (pair,) = find_near_duplicates(thumbnails, {"a": "train", "b": "train", "c": "val", "d": "test"})
    assert (pair.name, pair.other) == ("d", "c")


def test_copy_is_found_among_many_frames_that_show_the_same() -> None:
    still = {f"train{number:03d}": make_thumbnail(np.asarray(image_of(1))) for number in range(60)}
    splits = dict.fromkeys(still, "train") | {"val": "val"}
    found = find_near_duplicates({**still, "val": make_thumbnail(np.asarray(image_of(1)))}, splits)
    assert len(found) == 60


def put_data(root: Path) -> None:
    """Write six training and two validation pairs; val0 shows the same as train3, mirrored."""
    for split, count in (("train", 6), ("val", 2)):
        (root / split / "images").mkdir(parents=True)
        for number in range(count):
            image = image_of(number + 50 * (split == "val"))
            if (split, number) == ("val", 0):
                image = ImageOps.mirror(image_of(3))
            image.save(root / split / "images" / f"{split}{number}.png")
            put_mask(root / split / "masks" / f"{split}{number}.png", size=(128, 128))


def test_near_duplicates_are_warnings_of_the_check_with_both_names(tmp_path: Path) -> None:
    put_data(tmp_path)
    data = check_data(tmp_path, 0)
    (warning,) = [warning for warning in data.warnings if warning.kind == "near-duplicate"]
    assert "val/images/val0.png (val) shows the same as train/images/train3.png (train)" in warning.text
    assert warning.text in summary(data)


def test_long_lists_of_near_duplicates_end_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_data(tmp_path)
    image_of(4).rotate(180).save(tmp_path / "val" / "images" / "val1.png")
    monkeypatch.setattr("dataset.checks.duplicates.MAX_ROWS", 1)
    texts = [warning.text for warning in check_data(tmp_path, 0).warnings if warning.kind == "near-duplicate"]
    assert len(texts) == 2 < MAX_ROWS
    assert texts[1] == "1 more image shows the same as one of another split"


def test_deep_and_multi_band_images_have_thumbnails() -> None:
    eight = draw_pair(0, 7)[0]
    deep = np.concatenate([eight.astype(np.uint16) * 12, eight.astype(np.uint16)], axis=2)
    thumbnails = {"a": make_thumbnail(eight), "b": make_thumbnail(deep)}
    assert len(find_near_duplicates(thumbnails, {"a": "train", "b": "val"})) == 1
    assert make_thumbnail(np.full((3, 5), np.nan, np.float32)).shape == (32, 32)
