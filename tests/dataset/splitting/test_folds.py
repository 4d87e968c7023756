"""Folds for cross-validation: by groups, of equal sizes, and fixed for images that are there already."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import UsageError
from dataset.checks.inspection import Inspection
from dataset.splitting.fold_file import fold_file, read_folds, write_folds
from dataset.splitting.folds import assign_folds, near_fold
from dataset.splitting.groups import Groups, detect_groups
from dataset.splitting.names import Frame
from dataset.validation import inspect_data
from tests.support.data_directories import make_flat


def single(count: int) -> Groups:
    return Groups("none", "each image on its own", {f"image{number}": f"image{number}" for number in range(count)})


def film(count: int) -> Groups:
    """A film as `detect_groups` finds it, of consecutive frames."""
    names = {f"f_{number:04d}": Frame("f_", float(number)) for number in range(count)}
    return Groups("films", "one film", dict.fromkeys(names, "f_"), names, divisible=True)


def test_images_of_equal_content_are_in_one_fold() -> None:
    equal = {f"image{number}": str(number % 8) for number in range(0, 40, 2)}
    groups = replace(single(40), equal=equal)
    folds = assign_folds(groups, {}, 5, 0)
    assert len({(content, folds[name]) for name, content in equal.items()}) == len(set(equal.values()))
    stored = {name: fold for name, fold in folds.items() if int(name.removeprefix("image")) < 20}
    assert assign_folds(groups, {}, 5, 1, stored).items() >= {**stored, "image24": folds["image0"]}.items()


def test_equal_frames_in_all_blocks_of_a_film_are_not_trained_on_beside_their_fold() -> None:
    groups = film(200)
    groups = replace(groups, equal={f"f_{number:04d}": "black" for number in range(0, 200, 10)})
    folds = assign_folds(groups, {}, 4, 0)
    for fold in range(1, 5):
        trained = {name for name in folds if folds[name] != fold} - near_fold(groups, folds, fold)
        assert not trained & groups.equal.keys() and len(trained) > 60


def test_patients_with_an_empty_image_each_are_divided_and_none_is_trained_on_beside_its_copy() -> None:
    of = {f"patient{p:02d}_{i}": f"patient{p:02d}" for p in range(20) for i in range(10)}
    groups = Groups("subjects", "patients", of, equal={f"patient{p:02d}_0": "black" for p in range(20)})
    folds = assign_folds(groups, {}, 5, 0)
    assert len({(of[name], fold) for name, fold in folds.items()}) == 20
    assert set(Counter(folds.values()).values()) == {40}
    for fold in range(1, 6):
        trained = {name for name in folds if folds[name] != fold} - near_fold(groups, folds, fold)
        assert not trained & groups.equal.keys() and len(trained) == 144


@pytest.mark.parametrize("count", [7, 18, 100])
def test_folds_differ_by_one_image_at_most(count: int) -> None:
    sizes = Counter(assign_folds(single(count), {}, 5, 0).values())
    assert sorted(sizes) == [1, 2, 3, 4, 5] and max(sizes.values()) - min(sizes.values()) <= 1


def test_no_group_is_in_two_folds_and_another_seed_divides_otherwise() -> None:
    names = [f"patient{number:02d}_{slice}" for number in range(12) for slice in "abc"]
    groups = detect_groups(names, pattern=r"(patient\d+)")
    folds = assign_folds(groups, {}, 4, 0)
    for group in set(groups.of.values()):
        assert len({folds[name] for name in names if groups.of[name] == group}) == 1
    assert set(Counter(folds.values()).values()) == {9}
    assert assign_folds(groups, {}, 4, 1) != folds == assign_folds(groups, {}, 4, 0)


def test_each_fold_gets_a_rare_class() -> None:
    groups = single(25)
    classes = {name: frozenset({0, 1}) if index < 5 else frozenset({0}) for index, name in enumerate(groups.of)}
    folds = assign_folds(groups, classes, 5, 3)
    assert {folds[f"image{index}"] for index in range(5)} == {1, 2, 3, 4, 5}
    assert set(Counter(folds.values()).values()) == {5}


def test_added_images_move_no_other_and_fill_the_smallest_folds() -> None:
    first = assign_folds(single(12), {}, 5, 0)
    second = assign_folds(single(20), {}, 5, 0, first)
    assert all(second[name] == fold for name, fold in first.items())
    assert set(Counter(second.values()).values()) == {4}
    without = {name: name for name in list(first)[3:]}
    assert assign_folds(Groups("none", "", without), {}, 5, 0, first) == {name: first[name] for name in without}


def test_added_images_follow_their_group() -> None:
    of = {f"p{number}_{slice}": f"p{number}" for number in range(5) for slice in "ab"}
    first = assign_folds(Groups("subjects", "", of), {}, 5, 0)
    of |= {f"p{number}_c": f"p{number}" for number in range(5)}
    second = assign_folds(Groups("subjects", "", of), {}, 5, 0, first)
    assert all(second[f"p{number}_c"] == first[f"p{number}_a"] for number in range(5))


def test_a_film_is_cut_into_blocks_whose_neighbours_are_not_trained_on() -> None:
    groups = film(2000)
    folds = assign_folds(groups, {}, 5, 0)
    sizes = Counter(folds.values())
    assert set(sizes) == {1, 2, 3, 4, 5} and max(sizes.values()) < 1.3 * min(sizes.values())
    for fold in (1, 4):
        dropped = near_fold(groups, folds, fold)
        held_out = {groups.frames[name].position for name in folds if folds[name] == fold}
        trained = {groups.frames[name].position for name in folds if folds[name] != fold and name not in dropped}
        assert min(abs(a - b) for a in held_out for b in trained) > 30
        assert not any(folds[name] == fold for name in dropped)
    assert near_fold(single(10), assign_folds(single(10), {}, 2, 0), 1) == set()


def test_fewer_groups_than_folds_are_refused() -> None:
    groups = Groups("subjects", "subjects in the file names", {f"p{n % 3}_{n}": f"p{n % 3}" for n in range(30)})
    with pytest.raises(
        UsageError, match=r"--folds 5: 3 groups of images in train and val \(subjects in the file names\)"
    ):
        assign_folds(groups, {}, 5, 0)
    assert set(assign_folds(groups, {}, 3, 0).values()) == {1, 2, 3}


def test_the_file_gives_back_every_name(tmp_path: Path) -> None:
    folds = {'a,b "c"': 1, "ä/é": 3, "=1+1": 2}
    assert read_folds(tmp_path, 3) is None
    write_folds(tmp_path, 3, folds)
    assert read_folds(tmp_path, 3) == folds and read_folds(tmp_path, 4) is None


@pytest.mark.parametrize("row", ["x\t4", "x\t0", "x", "a\t1", "x\ty", "x,1"])
def test_a_wrong_line_is_named(tmp_path: Path, row: str) -> None:
    write_folds(tmp_path, 3, {"a": 1})
    with fold_file(tmp_path, 3).open("a") as stream:
        stream.write(row + "\n")
    with pytest.raises(
        UsageError, match=r"folds-3\.tsv, line 3: expected a name, once, a tab, and its fold from 1 to 3"
    ):
        read_folds(tmp_path, 3)


def test_the_data_check_accepts_the_file(tmp_path: Path) -> None:
    root = make_flat(tmp_path)
    write_folds(root, 3, {"a": 1})
    inspection: Inspection = inspect_data(root, 0)
    assert not inspection.faults and not [one for one in inspection.left_out if "folds" in one.file]
    assert inspection.data().splits_root == root
