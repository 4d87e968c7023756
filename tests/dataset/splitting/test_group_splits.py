"""Splits by groups: films in blocks, classes in every split, names that are added, and splits that leak."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset.checks.groups import check_leaks
from dataset.data import SegmentationData
from dataset.directory import SPLITS
from dataset.faults import DataFaults
from dataset.splitting.films import find_leaks
from dataset.splitting.group_splits import extend_by_groups, split_by_groups
from dataset.splitting.groups import Groups, detect_groups
from dataset.splitting.splits import new_split, read_splits
from dataset.splitting.stratify import Unit, choose_splits
from dataset.summary import summary
from dataset.validation import check_data
from tests.support.data_directories import faults_of, put_image, put_mask, put_pair, warnings_of

# The frame numbers of CamVid's 367 training and 101 validation images: four clips of three films.
CAMVID = [
    *(f"0001TP_{number:06d}" for number in range(6690, 8521, 30)),
    *(f"0006R0_f{number:05d}" for number in range(930, 3931, 30)),
    *(f"0016E5_{number:05d}" for number in [*range(390, 871, 30), *range(901, 2401, 30), *range(4350, 7921, 30)]),
    *(f"0016E5_{number:05d}" for number in [*range(7959, 8160, 2), *range(8190, 8641, 30)]),
]


def put_film(root: Path, stem: str, count: int, seed: int) -> None:
    """Write frames of a camera that moves over one scene."""
    strip = np.random.default_rng(seed).integers(0, 256, (8, 8 + count, 3)).astype(np.uint8)
    wide = np.kron(strip, np.ones((8, 8, 1), np.uint8))
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        frame = wide[:, 4 * number : 4 * number + 64]
        Image.fromarray(frame).save(root / "images" / f"{stem}{number:04d}.png")
        put_mask(root / "masks" / f"{stem}{number:04d}.png", size=(64, 64))


def splits_of(data: SegmentationData) -> dict[str, str]:
    return {pair.name: pair.split for pair in data.pairs}


# --- films -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_held_out_frame_of_camvid_lies_within_30_frames_of_training(seed: int) -> None:
    groups = detect_groups(CAMVID)
    splits = split_by_groups(groups, {}, seed)
    held_out = [name for name, split in splits.items() if split != "train"]
    for name in held_out:
        frame = groups.frames[name]
        near = [
            other
            for other, there in groups.frames.items()
            if there.sequence == frame.sequence and abs(there.position - frame.position) <= 30
        ]
        assert not [other for other in near if splits.get(other) == "train"]
    counts = Counter(splits.values())
    assert all(0.08 * 468 < counts[split] < 0.125 * 468 for split in ("val", "test"))
    assert 468 - len(splits) <= 20, "few frames are left out"
    assert split_by_groups(detect_groups(CAMVID[::-1]), {}, seed) == splits


def test_each_of_many_films_stays_in_one_split(tmp_path: Path) -> None:
    for film in range(10):
        put_film(tmp_path, f"take{film}_", 5, film)
    data = check_data(tmp_path, 0)
    assert data.groups is not None and (data.groups.rule, data.groups.count) == ("films", 10)
    splits = {pair.group: pair.split for pair in data.pairs}
    assert Counter(splits.values()) == {"train": 8, "val": 1, "test": 1} and len(data.pairs) == 50


def test_single_film_is_cut_into_blocks_and_frames_between_them_are_left_out(tmp_path: Path) -> None:
    put_film(tmp_path, "film_", 120, 0)
    data = check_data(tmp_path, 0)
    assert data.groups is not None and data.groups.rule == "films"
    assert "films are cut into blocks" in data.groups.reason
    numbers = {split: [int(pair.name[-4:]) for pair in data.split(split)] for split in SPLITS}
    assert all(6 <= len(numbers[split]) <= 18 for split in ("val", "test"))
    assert min(abs(a - b) for a in numbers["val"] + numbers["test"] for b in numbers["train"]) >= 6
    assert len(data.pairs) + len(data.left_out) == 120 and 0 < len(data.left_out) <= 26
    assert {pair.group for pair in data.split("val")}.isdisjoint(pair.group for pair in data.split("train"))
    again = check_data(tmp_path, 5)
    assert (again.pairs, again.left_out, warnings_of(again)) == (data.pairs, data.left_out, warnings_of(data))
    stored = read_splits(tmp_path)
    assert stored is not None and len(stored.left_out) == len(data.left_out)


def test_frames_of_a_standing_camera_are_left_out_beside_another_split(tmp_path: Path) -> None:
    put_film(tmp_path, "film_", 120, 0)
    moving = check_data(tmp_path, 0, make_split=False)
    first = min(int(pair.name[-4:]) for pair in moving.split("val"))
    start = first - 10 if first >= 10 else max(int(pair.name[-4:]) for pair in moving.split("val")) - 1
    still = np.asarray(Image.open(tmp_path / "images" / f"film_{start:04d}.png"))
    for number in range(start, start + 12):
        noise = np.random.default_rng(number).integers(0, 3, still.shape)
        path = tmp_path / "images" / f"film_{number:04d}.png"
        Image.fromarray(np.clip(still + noise, 0, 255).astype(np.uint8)).save(path)
    data = check_data(tmp_path, 0)
    assert len(data.left_out) > len(moving.left_out)
    assert not [warning for warning in warnings_of(data) if warning.kind == "near-duplicate"]
    assert check_data(tmp_path, 0).pairs == data.pairs


def test_frames_that_are_added_to_a_film_do_not_move_others(tmp_path: Path) -> None:
    put_film(tmp_path / "all", "film_", 150, 0)
    for kind in ("images", "masks"):
        (tmp_path / "part" / kind).mkdir(parents=True)
        for number in range(120):
            shutil.copy(tmp_path / "all" / kind / f"film_{number:04d}.png", tmp_path / "part" / kind)
    before = check_data(tmp_path / "part", 0)
    shutil.copytree(tmp_path / "part" / "splits", tmp_path / "all" / "splits")
    after = check_data(tmp_path / "all", 0)
    assert splits_of(before).items() <= splits_of(after).items()
    assert {item.file for item in before.left_out} <= {item.file for item in after.left_out}
    assert len(after.pairs) > len(before.pairs)
    assert {warning.kind for warning in warnings_of(after)} <= {"few-groups"}


# --- groups and classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_rare_foreground_is_in_val(tmp_path: Path, seed: int) -> None:
    for number in range(12):
        put_image(tmp_path / "images" / f"p{number:02d}.png", size=(128, 128))
        mask = np.zeros((128, 128), np.uint8)
        if number in (3, 8):
            mask[60:62, 60:62] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{number:02d}.png")
    data = check_data(tmp_path, seed)
    assert data.pixel_counts["val"][1] == data.pixel_counts["train"][1] == 4
    assert len(data.split("val")) == 1


def test_patients_stay_together_whatever_the_sizes(tmp_path: Path) -> None:
    for patient in range(3):
        for slice_ in range(4):
            put_pair(tmp_path, f"patient{patient:03d}_slice_{slice_:02d}")
    data = check_data(tmp_path, 0)
    assert len({(pair.group, pair.split) for pair in data.pairs}) == 3
    assert data.groups is not None and "val has 33% of the images" in data.groups.reason


def test_stored_expression_decides_about_added_images(tmp_path: Path) -> None:
    for number in range(20):
        put_pair(tmp_path, f"{number % 5}x{number}")
    before = check_data(tmp_path, 0, split_group=r"^(\d)x")
    for number in range(20, 40):
        put_pair(tmp_path, f"{number % 5}x{number}")
    after = check_data(tmp_path, 0)
    assert splits_of(before).items() <= splits_of(after).items()
    assert len({(pair.group, pair.split) for pair in after.pairs}) == 5


def test_names_that_the_expression_does_not_match_are_faults(flat: Path) -> None:
    put_pair(flat, "other")
    with pytest.raises(DataFaults) as caught:
        check_data(flat, 0, split_group=r"(a)\d")
    assert [(fault.file, fault.found) for fault in caught.value.faults if "other" in fault.file] == [
        ("images/other.png", "other")
    ]


def test_one_group_cannot_be_split(flat: Path) -> None:
    (flat / "groups.csv").write_text("name,group\n" + "".join(f"a{n},g\n" for n in range(10)), encoding="utf-8")
    (fault,) = faults_of(flat)
    assert (fault.expected, fault.found) == (
        "at least 2 groups (1 train, 1 val)",
        "1 group (groups.csv lists them)",
    )


def test_directories_with_classes_of_their_own_are_not_groups(tmp_path: Path) -> None:
    for value, kind in enumerate(("cat", "dog", "cow"), 1):
        for number in range(10):
            put_pair(tmp_path, f"{kind}/{kind}{number}", (0, value))
    data = check_data(tmp_path, 0)
    assert data.groups is not None and data.groups.rule == "none"
    assert all(count > 0 for split in ("train", "val") for count in data.pixel_counts[split])


# --- splits that leak --------------------------------------------------------------------------------------


def test_patient_in_two_splits_of_the_directories_is_a_warning(tmp_path: Path) -> None:
    for split, slices in (("train", range(5)), ("val", range(5, 7))):
        for number in slices:
            put_pair(tmp_path / split, f"patient1_slice_{number}")
    put_pair(tmp_path / "train", "patient2_slice_0")
    (warning,) = warnings_of(check_data(tmp_path, 0))
    assert warning.kind == "leaking-split" and "2 of 2 images" in warning.text and "patient1" in warning.text


def test_stored_split_of_a_film_by_hash_is_kept_with_a_warning(tmp_path: Path) -> None:
    put_film(tmp_path, "film_", 60, 0)
    names = [f"film_{number:04d}" for number in range(60)]
    made = new_split(names, 0)
    (tmp_path / "splits").mkdir()
    for split in SPLITS:
        lines = "".join(f"{name}\n" for name in names if made[name] == split)
        (tmp_path / "splits" / f"{split}.txt").write_text(f"# made by train.py from seed 0\n{lines}")
    data = check_data(tmp_path, 0)
    assert splits_of(data) == made
    (warning,) = warnings_of(data)
    assert warning.kind == "leaking-split" and "delete splits/" in warning.text


def test_groups_that_the_user_named_may_divide_a_film_with_a_warning(tmp_path: Path) -> None:
    put_film(tmp_path, "film_", 60, 0)
    data = check_data(tmp_path, 0, split_group=r"_\d\d(\d)")
    (warning,) = (warning for warning in data.warnings if warning.kind == "leaking-split")
    assert "the groups of split-group divide a film" in warning.text


@pytest.mark.parametrize("step", [1, 7, 30, 100, 2500])
def test_split_that_was_made_here_never_leaks(step: int) -> None:
    groups = detect_groups([f"{stem}_{number * step}" for stem in ("a", "b") for number in range(120)])
    splits = split_by_groups(groups, {}, 0)
    assert set(splits.values()) == set(SPLITS)
    assert not list(check_leaks(groups, splits, own=True)) and not list(check_leaks(groups, splits, own=False))


# --- properties --------------------------------------------------------------------------------------------

MEMBERS = st.dictionaries(
    st.text("ab0", min_size=1, max_size=4),
    st.tuples(st.integers(0, 8), st.frozensets(st.integers(0, 4), max_size=3)),
    min_size=2,
    max_size=40,
)


def groups_of(members: dict[str, tuple[int, frozenset[int]]]) -> tuple[Groups, dict[str, frozenset[int]]]:
    of = {name: str(group) for name, (group, _) in members.items()}
    return Groups("subjects", "", of), {name: classes for name, (_, classes) in members.items()}


@given(members=MEMBERS, more=MEMBERS, seed=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_groups_never_span_splits_and_added_names_never_move_others(
    members: dict[str, tuple[int, frozenset[int]]], more: dict[str, tuple[int, frozenset[int]]], seed: int
) -> None:
    groups, classes = groups_of(members)
    first = split_by_groups(groups, classes, seed)
    assert first == split_by_groups(groups_of(dict(reversed(members.items())))[0], classes, seed)
    assert len({(groups.of[name], split) for name, split in first.items()}) == groups.count
    if groups.count >= 2:
        assert {"train", "val"} <= set(first.values())
    joined, all_classes = groups_of(more | members)
    second = extend_by_groups(first, (), joined, all_classes, seed)
    assert {name: second[name] for name in members} == first and set(second) == {*members, *more}
    assert len({(joined.of[name], split) for name, split in second.items()}) == joined.count


@given(members=MEMBERS, more=MEMBERS, contents=st.lists(st.integers(0, 25), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_equal_contents_never_span_splits_and_added_copies_never_move_others(
    members: dict[str, tuple[int, frozenset[int]]],
    more: dict[str, tuple[int, frozenset[int]]],
    contents: list[int],
) -> None:
    known = {name: str(contents[sum(map(ord, name)) % len(contents)]) for name in {*members, *more}}

    def with_equal(part: dict[str, tuple[int, frozenset[int]]]) -> tuple[Groups, dict[str, frozenset[int]]]:
        groups, classes = groups_of(part)
        return replace(groups, equal={name: known[name] for name in part}), classes

    groups, classes = with_equal(members)
    first = split_by_groups(groups, classes, 0)
    left_out = members.keys() - first.keys()
    assert len(left_out) <= 0.2 * len(members) and all(groups.equal[name] in known.values() for name in left_out)
    for labels in (groups.of, groups.equal):
        assert len({(labels[name], split) for name, split in first.items()}) == len({labels[name] for name in first})
    joined, all_classes = with_equal(more | members)
    second = extend_by_groups(first, left_out, joined, all_classes, 0)
    assert {name: second[name] for name in first} == first and set(second) == {*members, *more} - left_out
    assert len({(joined.equal[name], second[name]) for name in second}) == len(set(joined.equal.values()))


def patients(count: int, images: int, blank: int) -> Groups:
    """Return patients, the first `blank` of whom have one image of the same content."""
    of = {f"patient{p:02d}_{i}": f"patient{p:02d}" for p in range(count) for i in range(images)}
    return Groups("subjects", "patients", of, equal={f"patient{p:02d}_0": "black" for p in range(blank)})


@pytest.mark.parametrize("blank", [2, 18, 20])
def test_patients_with_an_empty_image_each_are_split_all_the_same(blank: int) -> None:
    groups = patients(20, 10, blank)
    splits = split_by_groups(groups, {}, 0)
    counts = Counter(splits.values())
    assert all(0.05 <= counts[split] / 200 <= 0.2 for split in ("val", "test")), counts
    assert len({(groups.of[name], split) for name, split in splits.items()}) == 20
    assert len({splits[name] for name in groups.equal if name in splits}) == 1
    assert set(groups.of) - set(splits) <= set(groups.equal), "only empty images are left out"


def put_copies(root: Path, names: list[str], original: str) -> None:
    for name in names:
        put_pair(root, name)
        (root / "images" / f"{name}.png").write_bytes((root / "images" / f"{original}.png").read_bytes())


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_images_stay_in_one_split(flat: Path, seed: int) -> None:
    put_copies(flat, ["copy1", "copy2", "zcopy"], "a0")
    put_copies(flat, ["other"], "a1")
    data = check_data(flat, seed)
    splits = splits_of(data)
    assert len({splits[name] for name in ("a0", "copy1", "copy2", "zcopy")}) == 1 and splits["other"] == splits["a1"]
    assert "images with the content of another one, which stay with it: 4" in summary(data)
    put_copies(flat, [f"late{number}" for number in range(5)], "a0")
    after = splits_of(check_data(flat, seed))
    assert {name: after[name] for name in splits} == splits, "added copies move no image"
    assert {after[f"late{number}"] for number in range(5)} == {splits["a0"]}


def test_copies_in_a_stored_split_are_a_fault_with_a_cure(flat: Path) -> None:
    splits = splits_of(check_data(flat, 0))
    train, val = (next(name for name in splits if splits[name] == split) for split in ("train", "val"))
    put_copies(flat, [val], train)
    (fault,) = faults_of(flat)
    assert fault.expected == "an image in one split only (delete one of the two, or splits/ to split again)"
    shutil.rmtree(flat / "splits")
    splits = splits_of(check_data(flat, 0))
    assert splits[train] == splits[val], "the cure works"


@pytest.mark.parametrize(
    "black",
    [
        ("a_0000", "a_0149", "b_0000", "b_0075"),
        tuple(f"{stem}{number:04d}" for stem in ("a_", "b_") for number in range(0, 150, 12)),
    ],
)
def test_equal_frames_of_two_films_are_not_in_two_splits(tmp_path: Path, black: tuple[str, ...]) -> None:
    for seed, stem in enumerate(("a_", "b_")):
        put_film(tmp_path, stem, 150, seed)
    for name in black:
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / f"{name}.png")
    data = check_data(tmp_path, 0)
    assert data.groups is not None and data.groups.rule == "films"
    assert len({pair.split for pair in data.pairs if pair.name in black}) == 1
    counts = Counter(pair.split for pair in data.pairs)
    assert counts["train"] > 180 and min(counts["val"], counts["test"]) >= 15


def test_images_of_which_all_are_equal_cannot_be_split(flat: Path) -> None:
    put_copies(flat, [f"a{number}" for number in range(1, 10)], "a0")
    (fault,) = faults_of(flat)
    assert fault.expected == "at least 2 groups (1 train, 1 val)" and "content of another one" in fault.found


@given(
    units=st.lists(st.tuples(st.integers(1, 6), st.frozensets(st.integers(0, 5), max_size=3)), min_size=2, max_size=40),
    seed=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_val_has_every_class_of_two_units_and_train_every_class(
    units: list[tuple[int, frozenset[int]]], seed: int
) -> None:
    made = [Unit(f"u{number}", 1, classes) for number, (_, classes) in enumerate(units)]
    splits = choose_splits(made, seed)
    in_train = Counter(value for unit in made if splits[unit.key] == "train" for value in unit.classes)
    in_val = {value for unit in made if splits[unit.key] == "val" for value in unit.classes}
    for value in {value for unit in made for value in unit.classes} - in_val:
        holders = [unit for unit in made if value in unit.classes]
        half_is_held_out = sum(split != "train" for split in splits.values()) >= len(made) // 2
        needed = all(any(in_train[v] < 2 for v in unit.classes) for unit in holders if splits[unit.key] == "train")
        assert len(holders) < 2 or needed or half_is_held_out
    if {value for unit in made for value in unit.classes} - in_train.keys():
        assert list(splits.values()).count("val") == 1, "train needs every unit, and val one"


def test_frames_of_other_films_do_not_count_as_neighbours() -> None:
    names = [f"{stem}_{number}" for stem in ("a", "b") for number in range(0, 300, 30)]
    groups = detect_groups(names)
    splits = {name: "val" if name.startswith("a") else "train" for name in names}
    assert find_leaks(groups.frames, splits) == set()
    assert find_leaks(groups.frames, splits | {"a_90": "train"}) == {"a_60", "a_120"}
