"""Layouts that differ in names: directories, splits, nested directories, masks; and layouts with two readings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataset.data import SegmentationData
from dataset.faults import DataFaults
from dataset.layout.matching import match_names
from dataset.layout.resolve import resolve_layout
from dataset.layout.vocabulary import mentions_split, read_directory_name
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import faults_of, only_fault, put_image, put_mask, write_classes


def put_files(root: Path, images: str, masks: str, count: int = 4) -> None:
    """Write pairs; in the patterns, # stands for the number of the pair."""
    for number in range(count):
        put_image(root / images.replace("#", str(number)))
        put_mask(root / masks.replace("#", str(number)))


def names_by_split(data: SegmentationData) -> dict[str, list[str]]:
    return {split: [pair.name for pair in data.split(split)] for split in data.pixel_counts}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("imgs/#.jpg", "masks/#_mask.gif"),  # Carvana, milesial/Pytorch-UNet
        ("images/#.jpg", "masks/#_mask.gif"),
        ("Images/#.png", "Labels/#.png"),
        ("IMAGE/#.png", "annotations/#.png"),
        ("JPEGImages/#.jpg", "Masks/#.png"),
        ("photos/#.jpg", "ground truth/#.png"),
        ("drone/original_images/#.jpg", "drone/label_images_semantic/#.png"),
        ("data/export/images/#.png", "data/export/masks/#.png"),
        ("segmentation/images/#.png", "segmentation/masks/#.png"),
        ("images/images/#.png", "masks/masks/#.png"),
        ("images/#.png", "masks/#_L.png"),
        ("images/#.jpg", "masks/#.jpg.png"),
        ("images/#.jpg", "masks/#-Mask.png"),
        ("images/#.jpg", "masks/#_GT.png"),
        ("images/#.jpg", "masks/#_seg.png"),
        ("images/#.jpg", "masks/mask_#.png"),
        ("images/image_#.jpg", "masks/label_#.png"),
        ("images/a_#_leftImg8bit.png", "masks/a_#_gtFine_labelIds.png"),
        ("images/#_sat.jpg", "masks/#_mask.png"),  # DeepGlobe
        ("images/#_training.tif", "masks/#_manual1.gif"),  # DRIVE
        ("images/IMG_#.JPG", "masks/img_#.PNG"),
        ("images/IMG_#.JPG", "masks/img_#_MASK.PNG"),
        ("images/cam/x #.jpg", "masks/cam/x #_roadlines.png"),  # a word that only these masks have
        ("images/#_nadir.jpg", "masks/#_mask.png"),
    ],
)
def test_names_that_differ_are_accepted_and_reported(tmp_path: Path, images: str, masks: str) -> None:
    put_files(tmp_path, images, masks)
    data = check_data(tmp_path, 0)
    assert {pair.image: pair.mask for pair in data.pairs} == {
        tmp_path / images.replace("#", str(number)): tmp_path / masks.replace("#", str(number)) for number in range(4)
    }
    (line,) = [line for line in summary(data).splitlines() if line.startswith("layout: ")]
    assert line != "layout: images/ + masks/ + splits/"
    assert (tmp_path / "splits" / "train.txt").exists()
    assert check_data(tmp_path, 1).pairs == data.pairs, "the stored names are found again"


def test_pairs_have_the_names_of_their_images(tmp_path: Path) -> None:
    put_files(tmp_path, "export/imgs/sub/#_leftImg8bit.png", "export/labels/sub/#_gtFine_labelIds.png")
    data = check_data(tmp_path, 0)
    assert {pair.name for pair in data.pairs} == {f"sub/{number}_leftImg8bit" for number in range(4)}
    assert data.layout == (
        "export/imgs/ + export/labels/ + splits/ (mask NAME_gtFine_labelIds belongs to image NAME_leftImg8bit)"
    )


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}/#.png", "masks/{}/#.png"),  # YOLO, mmsegmentation
        ("img_dir/{}/#.png", "ann_dir/{}/#.png"),
        ("{}/images/#.png", "{}/masks/#.png"),
        ("{}/Imgs/#.jpg", "{}/labels/#_mask.png"),
        ("{}_images/#.jpg", "{}_masks/#.png"),
        ("images-{}/#.jpg", "annot-{}/#.png"),
        ("{}/#.png", "{}annot/#.png"),  # SegNet
        ("{}/#.jpg", "{}/masks/#.png"),
        ("images_prepped_{}/#.png", "annotations_prepped_{}/#.png"),
        ("unpacked/dataset/images/{}/#.png", "unpacked/dataset/masks/{}/#.png"),
        ("images/{}_images/#.png", "masks/masks-{}/#.png"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ("train", "val", "test"),
        ("Training", "valid", "testing"),
        ("TRAIN", "validation", "Test"),
        ("trn", "vld", "tst"),
        ("train", "dev", "test"),
        ("train", "Eval", "test"),
    ],
)
def test_directories_of_splits_are_used_as_the_split(
    tmp_path: Path, images: str, masks: str, words: tuple[str, str, str]
) -> None:
    for count, word in zip((4, 3, 2), words, strict=True):
        put_files(tmp_path, images.format(word), masks.format(word), count)
    data = check_data(tmp_path, 0)
    assert names_by_split(data) == {"train": list("0123"), "val": list("012"), "test": list("01")}
    assert not list(tmp_path.rglob("splits")), "nothing is left to assign"
    assert check_data(tmp_path, 5).pairs == data.pairs


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}/#.png", "masks/{}/#.png"),
        ("{}/images/#.png", "{}/masks/#.png"),
        ("coco/{}/Imgs/#.png", "coco/{}/labels/#_mask.png"),
        ("images_{}/#.png", "masks_{}/#.png"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ("train2017", "val2017", "test2017"),
        ("train_set", "val_set", "test-set"),
        ("Train1", "Val1", "Test2"),
        ("raw_train", "raw_val", "raw_test"),
        ("train_data_v2", "dev_data_v2", "test_data_v2"),
    ],
)
def test_split_words_with_numbers_and_neutral_words_are_used_as_the_split(
    tmp_path: Path, images: str, masks: str, words: tuple[str, str, str]
) -> None:
    for count, word in zip((4, 3, 2), words, strict=True):
        put_files(tmp_path, images.format(word), masks.format(word), count)
    assert names_by_split(check_data(tmp_path, 0)) == {"train": list("0123"), "val": list("012"), "test": list("01")}


@pytest.mark.parametrize("name", ["train_data", "dev", "test2", "export_train"])
def test_directory_that_holds_everything_is_not_a_split_by_a_weak_name(tmp_path: Path, name: str) -> None:
    put_files(tmp_path, f"{name}/images/#.png", f"{name}/masks/#.png")
    assert check_data(tmp_path, 0).layout == f"{name}/images/ + {name}/masks/ + splits/"


def test_weak_names_of_splits_give_way_to_the_usual_ones(tmp_path: Path) -> None:
    for word in ("train", "val", "dev", "train_raw"):
        put_files(tmp_path, f"{word}/images/#.png", f"{word}/masks/#.png", 2)
    data = check_data(tmp_path, 0)
    assert data.layout == "{train,val[,test]}/{images,masks}" and len(data.left_out) == 8


def test_two_directories_of_one_split_are_a_fault(tmp_path: Path) -> None:
    for word in ("train2014", "train2017", "val2017"):
        put_files(tmp_path, f"images/{word}/#.png", f"masks/{word}/#.png", 2)
    assert [(fault.file, fault.found) for fault in faults_of(tmp_path)] == [
        (f"images/train{year}/", "2: images/train2014/, images/train2017/") for year in (2014, 2017)
    ]


@pytest.mark.parametrize(
    ("directories", "warned"),
    [
        (("train", "holdout"), True),
        (("trainval", "test"), True),
        (("city-train", "city-val"), True),
        (("A_TestSet", "myTrain"), True),
        (("train1", "train2"), True),
        (("train", "bus", "tram"), True),  # possibly a split: only the user knows
        (("", "val"), True),  # files beside a directory
        (("bus", "tram"), False),
        (("interval1", "constraint"), False),
        (("trainer", "latest", "device"), False),
        (("train",), False),
    ],
)
@pytest.mark.parametrize("above", ["", "scenes/"])
def test_directories_that_may_be_splits_are_a_warning(
    tmp_path: Path, directories: tuple[str, ...], warned: bool, above: str
) -> None:
    for name in directories:
        put_files(tmp_path, f"images/{above}{name}/{name}#.png", f"masks/{above}{name}/{name}#.png")
    for _ in range(2):  # with the split that the first check stored, too
        data = check_data(tmp_path, 0)
        found = [warning.text for warning in data.warnings if warning.kind == "split-like-directories"]
        assert len(found) == warned and all(name in text for name in directories for text in found)
    assert "splits/" in data.layout, "they are parts of names"


def test_own_split_files_need_no_warning_of_unclear_directories(tmp_path: Path) -> None:
    for name in ("train", "holdout"):
        put_files(tmp_path, f"images/{name}/#.png", f"masks/{name}/#.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("".join(f"train/{number}\n" for number in range(4)))
    (tmp_path / "splits/val.txt").write_text("holdout/0\nholdout/1\n")
    assert "split-like-directories" not in {warning.kind for warning in check_data(tmp_path, 0).warnings}


def test_stored_split_of_a_flat_directory_wins_over_its_subdirectories(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put_files(tmp_path, f"images/{split}/{split}#.png", f"masks/{split}/{split}#.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("# made by train.py from seed 0\ntrain/train0\nval/val0\n")
    (tmp_path / "splits/val.txt").write_text("# made by train.py from seed 0\ntrain/train1\n")
    data = check_data(tmp_path, 0)
    assert ("train/train1", "val") in [(pair.name, pair.split) for pair in data.pairs]
    assert ("val/val0", "train") in [(pair.name, pair.split) for pair in data.pairs]
    (warning,) = [w for w in data.warnings if w.kind == "unused-split-directories"]
    assert warning.text.startswith("images/ has directories of splits, but splits/ decides")


def test_subdirectories_that_are_not_all_splits_are_part_of_the_names(tmp_path: Path) -> None:
    for kind in ("bus", "train", "tram"):
        put_files(tmp_path, f"images/{kind}/#.png", f"masks/{kind}/#.png")
    assert "train/0" in [pair.name for pair in check_data(tmp_path, 0).pairs]


@pytest.mark.parametrize(
    "extra",
    ["imgs/0.png", "Images/0.png", "labels/0.png", "train/images/0.png", "other/images/0.png"],
)
def test_more_than_one_reading_is_a_fault(tmp_path: Path, extra: str) -> None:
    put_files(tmp_path, "images/#.png", "masks/#.png")
    put_image(tmp_path / extra)
    if extra.startswith("other"):
        assert len(check_data(tmp_path, 0).pairs) == 4, "images/ + masks/ are complete"
        return
    assert len(faults_of(tmp_path)) <= 2


def test_names_that_often_mean_something_else_count_only_alone(tmp_path: Path) -> None:
    put_files(tmp_path, "images/#.png", "masks/#.png")
    put_files(tmp_path, "raw_images/#.png", "frames/#.png")
    put_files(tmp_path, "raw_images_train/#.png", "gt_test/#.png")
    data = check_data(tmp_path, 0)
    assert data.layout == "images/ + masks/ + splits/" and len(data.left_out) == 16


def test_two_nested_data_sets_are_a_fault(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        put_files(tmp_path, f"{parent}/images/#.png", f"{parent}/masks/#.png")
    assert [fault.file for fault in faults_of(tmp_path)] == ["first/", "second/"]


def test_files_beside_the_directories_of_splits_are_a_fault(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put_files(tmp_path, f"images/{split}/#.png", f"masks/{split}/#.png")
    put_files(tmp_path, "images/loose.png", "masks/loose.png", 1)
    file, expected, found = only_fault(tmp_path)
    assert (file, expected) == ("images/", "every file in train/, val/")
    assert found == "2 files elsewhere: images/loose.png, masks/loose.png"


def test_two_masks_or_two_images_of_a_name_are_a_fault(tmp_path: Path) -> None:
    put_files(tmp_path, "images/#.jpg", "masks/#.png")
    put_mask(tmp_path / "masks/0_mask.png")
    put_files(tmp_path, "images/x_#.jpg", "masks/x_#_mask.png", 2)
    put_image(tmp_path / "images/X_0.jpg")
    found = {fault.file: fault.found for fault in faults_of(tmp_path)}
    assert found["masks/0_mask.png"] == found["masks/0.png"] == "3: images/0.jpg, masks/0.png, masks/0_mask.png"
    assert found["images/X_0.jpg"] == "3: images/X_0.jpg, images/x_0.jpg, masks/x_0_mask.png"


def test_equal_names_win_over_names_with_words() -> None:
    names = ["scene", "scene_L", "scene_mask", "Scene_R"]
    assert match_names(names, names).pairs == {name: name for name in names}
    assert match_names(["x", "x_L"], ["X", "X_L"]).pairs == {"X": "x", "X_L": "x_L"}
    assert match_names(["1", "2"], ["1_2", "2_2"]).pairs == {}, "a number is not a word"
    assert match_names(["a_left", "b_left"], ["a_right", "b_right"]).pairs == {}, "two unknown words are a guess"


def test_images_without_any_mask_are_one_fault(tmp_path: Path) -> None:
    for number in range(3):
        put_image(tmp_path / f"images/{number}.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances.json").write_text("{}")
    file, expected, found = only_fault(tmp_path)
    assert (file, found) == ("masks/", "no image files")
    assert expected == "one file for each of 3 files such as images/0.png"


def test_nested_data_has_its_class_list_and_splits_beside_it(tmp_path: Path) -> None:
    put_files(tmp_path, "export/images/#.png", "export/masks/#.png")
    write_classes(tmp_path / "export", [{"id": 0, "name": "sky"}, {"id": 1, "name": "road"}])
    (tmp_path / "export/splits").mkdir()
    (tmp_path / "export/splits/train.txt").write_text("0\n1\n")
    (tmp_path / "export/splits/val.txt").write_text("2\n")
    data = check_data(tmp_path, 0)
    assert data.classes.names == ("sky", "road") and names_by_split(data) == {"train": ["0", "1"], "val": ["2"]}
    write_classes(tmp_path, [{"id": 0, "name": "other"}])
    assert only_fault(tmp_path)[:2] == ("classes.json", "one of this name")


def test_lines_of_split_files_may_have_the_names_of_files_and_directories(tmp_path: Path) -> None:
    put_files(tmp_path, "imgs/sub/#.jpg", "gt/sub/#_gt.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("imgs/sub/0.jpg\nsub/1.jpg\n")
    (tmp_path / "splits/val.txt").write_text("sub/2\ntrain/imgs/sub/3.jpg\n")
    assert names_by_split(check_data(tmp_path, 0)) == {"train": ["sub/0", "sub/1"], "val": ["sub/2", "sub/3"]}


def test_own_names_of_a_commit_win_over_others() -> None:
    files = ["images/a.png", "masks/a.png", "imgs/a.png", "valid/images/b.png", "valid/masks/b.png"]
    with pytest.raises(DataFaults):
        resolve_layout(files)
    layout = resolve_layout(files, committed=True)
    assert layout.images("train") == {"a": ["images/a.png"]}
    assert layout.is_mask("masks/a.png") and not layout.is_mask("valid/masks/b.png")
    assert not layout.is_mask("images/a.png") and not layout.is_mask("masks/a.txt")


def test_layout_of_real_size_is_resolved_in_one_pass() -> None:
    names = [f"scene {number // 100}/{number:06}" for number in range(5_000)]
    files = [path for name in names for path in (f"imgs/{name}.jpg", f"gt/{name}_x.png")]
    layout = resolve_layout(files)
    assert len(layout.images("train")) == len(layout.masks("train")) == 5_000
    assert layout.masks("val")["scene 3/000300"] == ["gt/scene 3/000300_x.png"]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("train/c#.jpg", "train_masks/c#_mask.gif"),  # Carvana as Kaggle publishes it
        ("train/images/c#.png", "train/masks/c#.png"),
        ("train/c#.png", "train/masks/c#.png"),
        ("val/images/c#.png", "val/masks/c#.png"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "carvana/"])
def test_split_that_is_alone_is_a_fault_that_says_how_to_go_on(
    tmp_path: Path, prefix: str, images: str, masks: str
) -> None:
    put_files(tmp_path / prefix, images, masks, count=12)
    put_image(tmp_path / prefix / "test/t.png")  # published without masks
    other = "train" if images.startswith("val") else "val"
    file, expected, _ = only_fault(tmp_path)
    assert file == f"{prefix}{other}/images/"
    assert f"or add {prefix}{other}/images/ and {prefix}{other}/masks/" in expected
    steps = re.findall(r"(?:rename|then) (\S+) to ([^\s,]+)", expected)
    assert [new for _, new in steps] == [f"{prefix}masks/", f"{prefix}images/"]
    for old, new in steps:
        (tmp_path / old).rename(tmp_path / new)
    assert len(check_data(tmp_path, 0).pairs) == 12


@pytest.mark.parametrize(
    "name",
    ["1.3.6.1.4.1.14519.5.2.1.6279.6001.298806137288633453246975630178", "9" * 200, "dataset" * 30 + "x", "v1" * 99],
)
def test_long_directory_names_are_read_at_once(name: str) -> None:
    """A pattern that tries all parts of the number would not end."""
    assert read_directory_name(name).split == "" and not mentions_split(name)
    assert read_directory_name(f"train{'9' * 200}").split == "train"
