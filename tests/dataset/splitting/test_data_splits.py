"""The check of a data directory: user split files, generated splits and their extension."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UsageError
from dataset.directory import SPLITS
from dataset.faults import DataFaults, Fault
from dataset.splitting.group_splits import extend_by_groups
from dataset.splitting.groups import Groups
from dataset.splitting.splits import new_split, write_splits
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import (
    faults_of,
    make_flat,
    make_split,
    only_fault,
    put_image,
    put_pair,
)


def write_user_split(root: Path, **splits: str) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for split, text in splits.items():
        (root / "splits" / f"{split}.txt").write_text(text, encoding="utf-8")


def test_user_split_files_are_used_and_kept(flat: Path) -> None:
    write_user_split(flat, train="# mine\na0\nimages/a1.png\n\na2.png\n", val="a3\n")
    put_image(flat / "images" / "no_mask.png")
    data = check_data(flat, 0)
    assert [(pair.split, pair.name) for pair in data.pairs] == [
        *(("train", f"a{n}") for n in range(3)),
        ("val", "a3"),
    ]
    assert {item.reason for item in data.left_out} == {"no split file lists it"}
    assert len(data.left_out) == 13, "7 images, and the masks of 6 of them"
    assert "files left out: 13 (no split file lists it): images/a4.png, " in summary(data)
    assert (flat / "splits" / "val.txt").read_text() == "a3\n"


def test_invalid_lines_of_user_split_files_are_faults(flat: Path) -> None:
    write_user_split(flat, train="a0\ngone\na0\n")
    assert faults_of(flat) == (
        Fault("splits/train.txt", "a name of images/", "'gone' (line 2)"),
        Fault("splits/train.txt", "each name once", "'a0' (line 3): also in train.txt"),
        Fault("splits/val.txt", "at least one name", "no such file"),
    )
    write_user_split(flat, train="a0\n", val="a0\n")
    assert Fault("splits/val.txt", "each name once", "'a0' (line 1): also in train.txt") in faults_of(flat)


def test_split_file_that_is_not_utf8_is_a_fault(flat: Path) -> None:
    write_user_split(flat, val="a1\n")
    (flat / "splits" / "train.txt").write_bytes("이름\n".encode("cp949"))
    assert only_fault(flat)[:2] == ("splits/", "train.txt: UTF-8 text")


def test_fewer_than_two_pairs_are_a_fault(tmp_path: Path) -> None:
    put_pair(tmp_path, "one")
    assert only_fault(tmp_path) == ("images/", "at least 2 pairs (1 train, 1 val)", "1 in all, 0 in train")
    put_pair(tmp_path, "two")
    data = check_data(tmp_path, 0)
    assert [len(data.split(split)) for split in SPLITS] == [1, 1, 0]


def test_generated_split_follows_added_and_removed_files(flat: Path) -> None:
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


def test_generated_split_without_val_pairs_is_a_fault(flat: Path) -> None:
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


def test_split_in_a_read_only_directory_raises_a_usage_error(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("core.files.os.replace", refuse)  # the mode bits do not hold back root
    with pytest.raises(UsageError, match="cannot store the split"):
        check_data(flat, 0)


def extend_split(stored: dict[str, str], names: set[str], seed: int) -> dict[str, str]:
    return extend_by_groups(stored, (), Groups("none", "", {name: name for name in names}), {}, seed)


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


def test_splits_have_80_10_10_percent(tmp_path: Path) -> None:
    names = {f"n{number}" for number in range(300)}
    made = list(new_split(names, 0).values())
    assert [made.count(split) for split in SPLITS] == [240, 30, 30]
    joined = list(extend_split({}, names, 0).values())
    assert 200 < joined.count("train") < 270 and min(joined.count("val"), joined.count("test")) > 10
    assert new_split(names, 0) != new_split(names, 1)
    write_splits(tmp_path, new_split(names, 0), 0)
    assert sorted(path.name for path in (tmp_path / "splits").iterdir()) == ["test.txt", "train.txt", "val.txt"]


@pytest.mark.parametrize("name", ["photo ", "#1", "#set/a", " a/b"])
def test_names_that_a_split_file_cannot_hold_are_faults(tmp_path: Path, name: str) -> None:
    """They would be read as another name, or as a comment: the image would have no split when the model is judged."""
    make_flat(tmp_path)
    put_pair(tmp_path, name)
    with pytest.raises(DataFaults) as caught:
        check_data(tmp_path, 0)
    faults = [(fault.file, fault.found) for fault in caught.value.faults]
    assert faults == [(f"images/{name}.png", repr(name))]
    assert not (tmp_path / "splits").exists()


def test_names_in_split_directories_need_no_split_file(tmp_path: Path) -> None:
    make_split(tmp_path)
    put_pair(tmp_path / "train", "#1")
    assert "#1" in {pair.name for pair in check_data(tmp_path, 0).split("train")}
