"""The check of a data directory: layouts, faults of files, summary and real data."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.i18n import set_language
from dataset import faults
from dataset.directory import SPLITS, is_empty
from dataset.faults import DataFaults, Fault
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import (
    SIZE,
    faults_of,
    make_split,
    only_fault,
    put_image,
    put_mask,
    put_pair,
    write_classes,
)

CAMVID = Path(os.environ.get("CAMVID_DIR") or Path(__file__).resolve().parents[3] / "shared" / "camvid")


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    return make_split(tmp_path)


def test_flat_layout_is_split_once_and_stored(flat: Path) -> None:
    data = check_data(flat, 7)
    assert {split: len(data.split(split)) for split in SPLITS} == {"train": 8, "val": 1, "test": 1}
    assert (flat / "splits" / "val.txt").read_text().startswith("# made by train.py from seed 7\n")
    stored = {path.name: path.read_bytes() for path in (flat / "splits").iterdir()}
    assert check_data(flat, 99).pairs == data.pairs, "the stored split wins over another seed"
    assert {path.name: path.read_bytes() for path in (flat / "splits").iterdir()} == stored
    assert "splits/train.txt" in data.files()


def test_pairs_carry_hashes_sizes_and_order(flat: Path) -> None:
    data = check_data(flat, 0)
    assert [pair.split for pair in data.pairs] == sorted((p.split for p in data.pairs), key=SPLITS.index)
    names = [pair.name for pair in data.split("train")]
    assert names == sorted(names)
    assert {(pair.height, pair.width) for pair in data.pairs} == {SIZE}
    assert all(len(pair.image_sha256) == len(pair.mask_sha256) == 64 for pair in data.pairs)
    assert len({pair.image_sha256 for pair in data.pairs}) == 10


def test_split_layout_keeps_the_split_of_its_directories(parted: Path) -> None:
    data = check_data(parted, 0)
    assert [(pair.split, pair.name) for pair in data.pairs] == [
        *(("train", f"train{n}") for n in range(3)),
        *(("val", f"val{n}") for n in range(2)),
    ]
    assert not (parted / "splits").exists()
    assert list(data.pixel_counts) == ["train", "val"]
    assert data.pixel_counts["train"] == (3 * 24, 3 * 24)


def test_names_with_spaces_dots_subdirectories_and_korean_are_accepted(tmp_path: Path) -> None:
    names = ["한글 이름", "with space", "v1.0.2 final", "sub/folder/deep", "sub/other"]
    for name in names:
        put_image(tmp_path / "images" / f"{name}.JPG")
        put_mask(tmp_path / "masks" / f"{name}.PnG")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "images" / ".hidden.txt").write_bytes(b"x")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "sub.png").write_bytes(b"x")
    data = check_data(tmp_path, 0)
    assert sorted(pair.name for pair in data.pairs) == sorted(names)
    assert len(data.files()) == 2 * len(names) + 3
    assert {pair.name: pair.image for pair in data.pairs}["sub/other"] == tmp_path / "images/sub/other.JPG"


def test_composed_and_decomposed_korean_names_are_one(flat: Path) -> None:
    put_image(flat / "images" / (unicodedata.normalize("NFD", "가나") + ".png"))
    put_mask(flat / "masks" / (unicodedata.normalize("NFC", "가나") + ".png"))
    assert "가나" in [pair.name for pair in check_data(flat, 0).pairs]


def test_directory_without_data_is_a_fault(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".gitkeep").touch()
    (tmp_path / "README.md").touch()
    assert is_empty(tmp_path)
    assert is_empty(tmp_path / "missing")
    file, expected, found = only_fault(tmp_path)
    assert (file, found) == (f"{tmp_path.name}/", "no data (README.md)")
    assert expected == "images/ + masks/ or {train,val}/{images,masks}"
    put_image(tmp_path / "loose.png")
    assert not is_empty(tmp_path), "pictures in the wrong place are not an empty folder"
    assert only_fault(tmp_path)[2] == "no data (README.md, loose.png)"


def test_both_layouts_at_once_are_a_fault(flat: Path) -> None:
    put_pair(flat / "train", "x")
    assert only_fault(flat)[2] == "both layouts at once"


def test_train_without_val_is_a_fault(parted: Path) -> None:
    (parted / "val").rename(parted / "test")
    file, expected, _ = only_fault(parted)
    assert file == "val/images/" and "move some here from train/, or use images/ + masks/" in expected
    (parted / "test").rename(parted / "holdout")
    file, expected, found = only_fault(parted)
    assert (file, found) == ("val/images/", "none (directories: train/images/, train/masks/)")
    assert "rename train/masks/ to masks/" in expected


def test_truncated_image_is_a_fault(flat: Path) -> None:
    put_image(flat / "images" / "a3.png", size=(64, 64))
    put_mask(flat / "masks" / "a3.png", size=(64, 64))
    path = flat / "images" / "a3.png"
    path.write_bytes(path.read_bytes()[:2000])
    file, expected, found = only_fault(flat)
    assert (file, expected) == ("images/a3.png", "a complete image")
    assert found.startswith("unreadable, 2,000 bytes: ")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_unreadable_and_empty_files_are_faults(flat: Path, part: str) -> None:
    (flat / part / "a1.png").write_bytes(b"not a picture at all")
    (flat / part / "a2.png").write_bytes(b"")
    first, second = faults_of(flat)
    assert first == Fault(f"{part}/a1.png", "a complete image", "unreadable, 20 bytes: cannot identify image file")
    assert second == Fault(f"{part}/a2.png", "a readable image", "an empty file (0 bytes)")


def test_missing_partners_are_faults_with_similar_names(flat: Path) -> None:
    (flat / "masks" / "a4.png").rename(flat / "masks" / "a44.png")
    (flat / "images" / "a5.png").unlink()
    assert faults_of(flat) == (
        Fault("images/a4.png", "masks/a4.*", "no partner (similar name: masks/a44.png)"),
        Fault("masks/a44.png", "images/a44.*", "no partner"),
        Fault("masks/a5.png", "images/a5.*", "no partner"),
    )


def test_different_sizes_of_image_and_mask_are_a_fault(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", size=(8, 6))
    assert only_fault(flat) == ("masks/a0.png", "8x6 (size of the image)", "6x8")


def test_sizes_are_compared_after_exif_rotation(parted: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    pixels = np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(pixels).save(parted / "train/images/train0.png", exif=exif)
    cure = "the mask was drawn on the image as stored: use --raw-orientation"
    turned = "6x8 (image turned by its EXIF orientation 6)"
    assert only_fault(parted) == ("train/masks/train0.png", turned, f"8x6: {cure}")
    put_mask(parted / "train/masks/train0.png", size=(8, 6))
    assert check_data(parted, 0).pairs[0].height == 8


def test_unknown_mask_values_are_a_fault(flat: Path) -> None:
    write_classes(flat, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 9, "name": "off", "ignore": True}])
    put_mask(flat / "masks" / "a2.png", (0, 1, 5, 7, 9))
    assert only_fault(flat) == ("masks/a2.png", "class values 0, 1, 9", "unknown values 5, 7")


def test_mask_with_only_ignored_pixels_is_a_fault(parted: Path) -> None:
    put_mask(parted / "train/masks/train1.png", (255,))
    put_mask(parted / "val/masks/val0.png", (255,))
    assert faults_of(parted) == tuple(
        Fault(file, "pixels that are not ignored", "every pixel is ignored")
        for file in ("train/masks/train1.png", "val/masks/val0.png")
    )


def test_same_image_in_two_splits_is_a_fault(parted: Path) -> None:
    twin = parted / "val/images/val1.png"
    twin.write_bytes((parted / "train/images/train2.png").read_bytes())
    assert only_fault(parted) == (
        "val/images/val1.png",
        "an image in one split only (delete one of the two, or put both into one split)",
        "same content as train/images/train2.png of train (this one: val)",
    )


def test_duplicates_within_one_split_are_accepted(parted: Path) -> None:
    (parted / "train/images/train1.png").write_bytes((parted / "train/images/train2.png").read_bytes())
    assert len(check_data(parted, 0).pairs) == 5


def test_two_files_of_one_name_are_faults(flat: Path) -> None:
    put_image(flat / "images" / "a6.bmp")
    first, second = faults_of(flat)
    assert [first.file, second.file] == ["images/a6.bmp", "images/a6.png"]
    assert first.found == "2: images/a6.bmp, images/a6.png"


def test_all_faults_are_raised_at_once_and_the_table_is_limited(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "MAX_ROWS", 3)
    for number in range(5):
        (flat / "images" / f"a{number}.png").write_bytes(b"broken")
    with pytest.raises(DataFaults) as caught:
        check_data(flat, 0)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    assert text.startswith("5 faults in the data\n\nfile")
    assert "images/a2.png" in text and "images/a3.png" not in text and text.endswith("… and 2 more")
    assert not (flat / "splits").exists(), "a split is stored only for good data"


def test_faults_are_shown_in_korean(flat: Path) -> None:
    set_language("ko")
    (flat / "masks" / "a4.png").unlink()
    with pytest.raises(DataFaults, match="데이터에 문제가 1개 있습니다") as caught:
        check_data(flat, 0)
    assert all(word in str(caught.value) for word in ("파일", "기대", "실제", "짝 없음"))


def test_summary_shows_layout_counts_sizes_and_percentages(parted: Path) -> None:
    classes = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "rare"}]
    write_classes(parted, [*classes, {"id": 9, "name": "off", "ignore": True}])
    put_mask(parted / "train/masks/train0.png", (2, 9))
    text = summary(check_data(parted, 0))
    assert "layout: {train,val[,test]}/{images,masks}" in text
    assert "pairs: train 3, val 2 (5 in all)" in text
    assert "sizes (width x height): 8x6" in text
    assert "classes absent from val: rare" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "a", "40.00%", "50.00%"] in rows
    assert any(row[:2] == ["9", "(ignored,"] and row[-2:] == ["16.67%", "0.00%"] for row in rows)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here (CAMVID_DIR)")
def test_camvid_passes_the_check() -> None:
    data = check_data(CAMVID, 0)
    assert [len(data.split(split)) for split in SPLITS] == [367, 101, 0]
    assert data.classes.num_classes == 11 and data.classes.ignore_ids == (11,)
    assert data.classes.names[:2] == ("sky", "building")
    assert {(pair.height, pair.width) for pair in data.pairs} == {(360, 480)}
    for split in ("train", "val"):
        assert all(data.pixel_counts[split])
        pixels = sum(data.pixel_counts[split]) + data.ignored_pixels[split]
        assert pixels == len(data.split(split)) * 360 * 480
    assert len(data.files()) == 2 * 468 + 2
