"""The check of a data folder: every fault by file, expected and found; both layouts; splits that stay."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core import i18n
from core.errors import UsageError
from core.i18n import set_language
from dataset import faults
from dataset.faults import DataFaults, Fault
from dataset.layout import SPLITS, data_files, is_empty, list_linked_directories
from dataset.splits import extend_split, new_split, write_splits
from dataset.summary import summary
from dataset.validation import check_data

CAMVID = Path(os.environ.get("CAMVID_DIR") or Path(__file__).resolve().parents[2] / "shared" / "camvid")
SIZE = (6, 8)  # height, width


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    before = i18n._language
    set_language("en")
    yield
    set_language(before)


def put_image(path: Path, key: object = None, size: tuple[int, int] = SIZE) -> Path:
    """A noise picture that only its key (its path, unless given) decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(str(path if key is None else key))
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(*size, 3)
    Image.fromarray(pixels).save(path)
    return path


def put_mask(path: Path, values: tuple[int, ...] = (0, 1), size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)
    return path


def put_pair(folder: Path, name: str, values: tuple[int, ...] = (0, 1)) -> None:
    put_image(folder / "images" / f"{name}.png")
    put_mask(folder / "masks" / f"{name}.png", values)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Ten good pairs a0..a9 in images/ + masks/."""
    for number in range(10):
        put_pair(tmp_path, f"a{number}")
    return tmp_path


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """Three train and two val pairs in the other layout."""
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            put_pair(tmp_path / split, f"{split}{number}")
    return tmp_path


def faults_of(root: Path) -> tuple[Fault, ...]:
    with pytest.raises(DataFaults) as caught:
        check_data(root, 0)
    for fault in caught.value.faults[: faults.MAX_ROWS]:
        assert fault.file in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value.faults


def only_fault(root: Path) -> tuple[str, str, str]:
    (fault,) = faults_of(root)
    return fault.file, fault.expected, fault.found


# --- layouts -----------------------------------------------------------------------------------------------


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


def test_split_layout(parted: Path) -> None:
    data = check_data(parted, 0)
    assert [(pair.split, pair.name) for pair in data.pairs] == [
        *(("train", f"train{n}") for n in range(3)),
        *(("val", f"val{n}") for n in range(2)),
    ]
    assert not (parted / "splits").exists()
    assert list(data.pixel_counts) == ["train", "val"]
    assert data.pixel_counts["train"] == (3 * 24, 3 * 24)


def test_names_of_all_kinds(tmp_path: Path) -> None:
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


def test_no_data(tmp_path: Path) -> None:
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


def test_both_layouts(flat: Path) -> None:
    put_pair(flat / "train", "x")
    assert only_fault(flat)[2] == "both layouts at once"


def test_train_without_val(parted: Path) -> None:
    (parted / "val").rename(parted / "valid")
    file, expected, found = only_fault(parted)
    assert (file, found) == ("val/images/", "none (directories: train/, valid/)")
    assert "use images/ + masks/" in expected


# --- faults of files ---------------------------------------------------------------------------------------


def test_truncated_image(flat: Path) -> None:
    put_image(flat / "images" / "a3.png", size=(64, 64))
    put_mask(flat / "masks" / "a3.png", size=(64, 64))
    path = flat / "images" / "a3.png"
    path.write_bytes(path.read_bytes()[:2000])
    file, expected, found = only_fault(flat)
    assert (file, expected) == ("images/a3.png", "a complete image")
    assert found.startswith("unreadable, 2,000 bytes: ")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_unreadable_and_empty_files(flat: Path, part: str) -> None:
    (flat / part / "a1.png").write_bytes(b"not a picture at all")
    (flat / part / "a2.png").write_bytes(b"")
    first, second = faults_of(flat)
    assert first == Fault(f"{part}/a1.png", "a complete image", "unreadable, 20 bytes: cannot identify image file")
    assert second == Fault(f"{part}/a2.png", "a readable image", "an empty file (0 bytes)")


def test_missing_partners(flat: Path) -> None:
    (flat / "masks" / "a4.png").rename(flat / "masks" / "a4_mask.png")
    (flat / "images" / "a5.png").unlink()
    assert faults_of(flat) == (
        Fault("images/a4.png", "masks/a4.*", "no partner (similar name: masks/a4_mask.png)"),
        Fault("masks/a4_mask.png", "images/a4_mask.*", "no partner"),
        Fault("masks/a5.png", "images/a5.*", "no partner"),
    )


def test_sizes_that_differ(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", size=(8, 6))
    assert only_fault(flat) == ("masks/a0.png", "8x6 (size of the image)", "6x8")


def test_sizes_are_compared_upright(parted: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    pixels = np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(pixels).save(parted / "train/images/train0.png", exif=exif)
    assert only_fault(parted) == ("train/masks/train0.png", "6x8 (size of the image)", "8x6")
    put_mask(parted / "train/masks/train0.png", size=(8, 6))
    assert check_data(parted, 0).pairs[0].height == 8


def test_unknown_values(flat: Path) -> None:
    write_classes(flat, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 9, "name": "off", "ignore": True}])
    put_mask(flat / "masks" / "a2.png", (0, 1, 5, 7, 9))
    assert only_fault(flat) == ("masks/a2.png", "class values 0, 1, 9", "unknown values 5, 7")


def test_mask_that_is_all_ignored(parted: Path) -> None:
    put_mask(parted / "train/masks/train1.png", (255,))
    put_mask(parted / "val/masks/val0.png", (255,))
    assert faults_of(parted) == tuple(
        Fault(file, "pixels that are not ignored", "every pixel is ignored")
        for file in ("train/masks/train1.png", "val/masks/val0.png")
    )


def test_same_picture_in_two_splits(parted: Path) -> None:
    twin = parted / "val/images/val1.png"
    twin.write_bytes((parted / "train/images/train2.png").read_bytes())
    assert only_fault(parted) == (
        "val/images/val1.png",
        "an image in one split only",
        "same content as train/images/train2.png of train (this one: val)",
    )


def test_twins_within_one_split_are_fine(parted: Path) -> None:
    (parted / "train/images/train1.png").write_bytes((parted / "train/images/train2.png").read_bytes())
    assert len(check_data(parted, 0).pairs) == 5


def test_two_files_of_one_name_and_other_files(flat: Path) -> None:
    put_image(flat / "images" / "a6.bmp")
    (flat / "masks" / "notes.txt").write_text("x")
    first, second, third = faults_of(flat)
    assert [first.file, second.file] == ["images/a6.bmp", "images/a6.png"]
    assert first.found == "2: images/a6.bmp, images/a6.png"
    assert (third.file, third.found) == ("masks/notes.txt", "not an image")
    assert third.expected.startswith("an image (.png .jpg")


def test_links(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    target = put_image(elsewhere / "x.png")
    (flat / "images" / "a7.png").unlink()
    (flat / "images" / "a7.png").symlink_to(target)
    assert len(check_data(flat, 0).pairs) == 10, "a link to a file is a file"
    (flat / "images" / "loop").symlink_to(flat)
    (flat / "images" / "self.png").symlink_to("self.png")
    put_mask(flat / "masks" / "self.png")
    assert list_linked_directories(flat) == ["images/loop"]
    assert not any(name.startswith("images/loop") for name in data_files(flat))
    found = {fault.file: fault.found for fault in faults_of(flat) if fault.expected != "a readable file"}
    assert found == {"images/loop": "a link to a directory", "images/self.png": "a broken link"}


def test_a_linked_layout_folder_is_followed(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("linked")
    for part in ("images", "masks"):
        (root / part).symlink_to(flat / part)
    assert len(check_data(root, 0).pairs) == 10
    assert "images/a0.png" in data_files(root)


def test_all_faults_come_at_once_and_the_table_is_capped(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_korean_table(flat: Path) -> None:
    set_language("ko")
    (flat / "masks" / "a4.png").unlink()
    with pytest.raises(DataFaults, match="데이터에 문제가 1건 있습니다") as caught:
        check_data(flat, 0)
    assert all(word in str(caught.value) for word in ("파일", "기대", "발견", "짝 없음"))


# --- classes -----------------------------------------------------------------------------------------------


def write_classes(root: Path, content: object) -> None:
    (root / "classes.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def test_class_list_under_a_key(flat: Path) -> None:
    write_classes(flat, {"classes": [{"id": 1, "name": "나무", "color": [1, 2, 3]}, {"id": 0, "name": "sky"}]})
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.colors[1]) == ((0, 1), ("sky", "나무"), (1, 2, 3))


GOOD = {"id": 0, "name": "a"}


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        ([GOOD, {"id": 0, "name": "b"}], "ids that differ", "id 0 x2"),
        ([GOOD, {"id": 1, "name": "a"}], "names that differ", "name 'a' x2"),
        ([GOOD, {"id": 256, "name": "b"}], "class 2: id is a whole number from 0 to 255", "256"),
        ([GOOD, {"id": True, "name": "b"}], "class 2: id is a whole number from 0 to 255", "true"),
        ([GOOD, {"name": "b"}], "class 2: id is a whole number from 0 to 255", "missing"),
        ([GOOD, {"id": 1}], "class 2: a name that is not empty", "missing"),
        ([{**GOOD, "color": [0, 0, 300]}], "class 1: color is [red, green, blue], 0 to 255 each", "[0, 0, 300]"),
        ([{**GOOD, "color": "red"}], "class 1: color is [red, green, blue], 0 to 255 each", '"red"'),
        ([{**GOOD, "ignore": 1}], "class 1: ignore is true or false", "1"),
        (
            [{**GOOD, "colour": [0, 0, 0]}],
            "class 1: one of id, name, color, ignore",
            "unknown key 'colour' (did you mean 'color'?)",
        ),
        ([{**GOOD, "ignore": True}], "1 to 255 classes to learn (not ignored)", "0"),
        ([], "1 to 255 classes to learn (not ignored)", "0"),
        (["sky"], 'class 1: {"id": 0, "name": "..."}', '"sky"'),
        ("sky", "a list of classes [...]", '"sky"'),
    ],
)
def test_bad_class_lists(flat: Path, content: object, expected: str, found: str) -> None:
    write_classes(flat, content)
    assert Fault("classes.json", expected, found) in faults_of(flat)


def test_class_list_that_is_not_json(flat: Path) -> None:
    (flat / "classes.json").write_text("[{,")
    assert only_fault(flat)[:2] == ("classes.json", "readable JSON (UTF-8)")


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks(tmp_path: Path, high: int) -> None:
    for number in range(4):
        put_pair(tmp_path, f"b{number}", (0, 0, high))
    data = check_data(tmp_path, 0)
    assert (data.classes.ids, data.classes.names) == ((0, high), ("background", "foreground"))
    assert data.classes.ignore_ids == ()
    assert data.pixel_counts["val"] == (32, 16)


def test_classes_from_values(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", (0, 3, 255))
    classes = check_data(flat, 0).classes
    assert (classes.ids, classes.names, classes.ignore_ids) == ((0, 1, 3), ("class_0", "class_1", "class_3"), (255,))
    assert classes.colors[0] == (0, 0, 0) and len(set(classes.colors)) == 3


def test_one_value_only(tmp_path: Path) -> None:
    for number in range(3):
        put_pair(tmp_path, f"b{number}", (0,))
    file, expected, found = only_fault(tmp_path)
    assert (file, found) == ("masks/", "1: 0")
    assert expected == "2 to 255 class values in all masks together (or classes.json)"


def test_too_many_values_hint_at_the_cause(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.png", tuple(range(48)))
    check_data(flat, 0)
    put_image(flat / "images" / "a0.png", size=(16, 16))
    put_mask(flat / "masks" / "a0.png", tuple(range(100)), size=(16, 16))
    file, expected, found = only_fault(flat)
    assert (file, expected) == ("masks/a0.png", "at most 64 class values")
    assert found == "100 values (JPEG artefacts, or a photo? store masks as PNG)"


def test_jpeg_masks(flat: Path) -> None:
    put_mask(flat / "masks" / "a0.jpg", (0, 1, 90, 250))
    (flat / "masks" / "a0.png").unlink()
    assert "store masks as PNG" in only_fault(flat)[2]
    write_classes(flat, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    assert only_fault(flat)[1] == "class values 0, 1"
    assert "store masks as PNG" in only_fault(flat)[2]


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_one_bit_masks_among_others(tmp_path: Path, values: tuple[int, int]) -> None:
    """A set bit means 1 where the others use 1, else 255; the check and later reads must agree."""
    for number in range(4):
        put_pair(tmp_path, f"b{number}", values)
    Image.fromarray(np.resize(np.array([True, False]), SIZE)).save(tmp_path / "masks" / "b0.png")
    data = check_data(tmp_path, 0)
    assert data.classes.ids == values
    assert sum(sum(counts) for counts in data.pixel_counts.values()) == 4 * 48
    assert [sum(counts[i] for counts in data.pixel_counts.values()) for i in (0, 1)] == [96, 96]


# --- splits ------------------------------------------------------------------------------------------------


def own_split(root: Path, **splits: str) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for split, text in splits.items():
        (root / "splits" / f"{split}.txt").write_text(text, encoding="utf-8")


def test_own_split_files(flat: Path) -> None:
    own_split(flat, train="# mine\na0\nimages/a1.png\n\na2.png\n", val="a3\n")
    put_image(flat / "images" / "no_mask.png")
    data = check_data(flat, 0)
    assert [(pair.split, pair.name) for pair in data.pairs] == [
        *(("train", f"a{n}") for n in range(3)),
        ("val", "a3"),
    ]
    assert data.unlisted == 7
    assert "not used, because no split file lists them: 7 images" in summary(data)
    assert (flat / "splits" / "val.txt").read_text() == "a3\n"


def test_faults_of_own_split_files(flat: Path) -> None:
    own_split(flat, train="a0\ngone\na0\n")
    assert faults_of(flat) == (
        Fault("splits/train.txt", "a name of images/", "'gone' (line 2)"),
        Fault("splits/train.txt", "each name once", "'a0' (line 3): also in train.txt"),
        Fault("splits/val.txt", "at least one name", "no such file"),
    )
    own_split(flat, train="a0\n", val="a0\n")
    assert Fault("splits/val.txt", "each name once", "'a0' (line 1): also in train.txt") in faults_of(flat)


def test_split_file_that_is_not_text(flat: Path) -> None:
    own_split(flat, val="a1\n")
    (flat / "splits" / "train.txt").write_bytes("이름\n".encode("cp949"))
    assert only_fault(flat)[:2] == ("splits/", "train.txt: UTF-8 text")


def test_too_few_pairs(tmp_path: Path) -> None:
    put_pair(tmp_path, "one")
    assert only_fault(tmp_path) == ("images/", "at least 2 pairs (1 train, 1 val)", "1 in all, 0 in train")
    put_pair(tmp_path, "two")
    data = check_data(tmp_path, 0)
    assert [len(data.split(split)) for split in SPLITS] == [1, 1, 0]


def test_our_split_follows_the_files(flat: Path) -> None:
    before = {pair.name: pair.split for pair in check_data(flat, 3).pairs}
    for number in range(30):
        put_pair(flat, f"new{number}")
    gone = next(name for name, split in before.items() if split == "train")
    for part in ("images", "masks"):
        (flat / part / f"{gone}.png").unlink()
    data = check_data(flat, 4)
    after = {pair.name: pair.split for pair in data.pairs}
    assert {name: after[name] for name in before if name != gone} == {n: s for n, s in before.items() if n != gone}
    assert len(after) == 39 and len(set(after.values())) == 3
    assert gone not in (flat / "splits" / "train.txt").read_text()
    assert "seed 3" in (flat / "splits" / "train.txt").read_text()


def test_our_split_whose_val_is_gone(flat: Path) -> None:
    (val,) = check_data(flat, 0).split("val")
    val.image.unlink()
    val.mask.unlink()
    file, _, found = only_fault(flat)
    assert (file, found) == ("splits/val.txt", "9 in all, 0 in val (delete splits/ to split again)")


def test_interrupted_split_is_made_again(flat: Path) -> None:
    whole = check_data(flat, 0).pairs
    (flat / "splits" / "train.txt").unlink()  # it is written last
    assert check_data(flat, 0).pairs == whole


def test_split_is_not_stored_unless_asked(flat: Path) -> None:
    assert len(check_data(flat, 0, make_split=False).pairs) == 10
    assert not (flat / "splits").exists()


def test_folder_that_cannot_be_written(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dataset.layout.os.replace", refuse)  # the mode bits do not hold back root
    with pytest.raises(UsageError, match="cannot store the split"):
        check_data(flat, 0)


NAMES = st.sets(st.text("ab가0.", min_size=1, max_size=4), min_size=2, max_size=60)


@given(names=NAMES, more=NAMES, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_adding_names_never_moves_others(names: set[str], more: set[str], seed: int) -> None:
    first = new_split(names, seed)
    assert set(first) == names, "every name is in exactly one split"
    assert {"train", "val"} <= set(first.values()) <= set(SPLITS)
    assert ("test" in first.values()) == (len(names) >= 10)
    assert first == new_split(sorted(names), seed)
    second = extend_split(first, names | more, seed)
    assert set(second) == names | more
    assert {name: second[name] for name in names} == first


def test_split_shares(tmp_path: Path) -> None:
    names = {f"n{number}" for number in range(300)}
    made = list(new_split(names, 0).values())
    assert [made.count(split) for split in SPLITS] == [240, 30, 30]
    joined = list(extend_split({}, names, 0).values())
    assert 200 < joined.count("train") < 270 and min(joined.count("val"), joined.count("test")) > 10
    assert new_split(names, 0) != new_split(names, 1)
    write_splits(tmp_path, new_split(names, 0), 0)
    assert sorted(path.name for path in (tmp_path / "splits").iterdir()) == ["test.txt", "train.txt", "val.txt"]


# --- summary and real data ---------------------------------------------------------------------------------


def test_summary(parted: Path) -> None:
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
def test_camvid() -> None:
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
