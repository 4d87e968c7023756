"""Which images belong together: rules by name, directory, groups.csv and expression, and films by their content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from config import load_settings
from core.errors import UsageError
from dataset.classes import UInt8
from dataset.faults import Fault
from dataset.sources.synthetic import draw_pair
from dataset.splitting.groups import detect_groups
from dataset.splitting.thumbnails import make_thumbnail
from dataset.validation import check_data
from tests.support.data_directories import faults_of, put_pair

CAMVID_STEMS = ("0001TP_", "0006R0_f", "0016E5_", "Seq05VD_f")


def moving_scene(count: int, seed: int = 0) -> list[UInt8]:
    """Return thumbnails of a camera that moves over one scene."""
    strip = np.random.default_rng(seed).integers(0, 256, (8, 8 + count)).astype(np.uint8)
    wide = np.kron(strip, np.ones((8, 8), np.uint8))
    return [make_thumbnail(wide[:, 4 * step : 4 * step + 64]) for step in range(count)]


@pytest.mark.parametrize(
    ("names", "rule", "groups"),
    [
        (["patient012_slice_03", "patient012_slice_04", "patient013_slice_03"], "subjects", 2),
        (["PID_0012_a", "PID_0012_b", "PID_0007_a"], "subjects", 2),
        (["sub-01_ses-02_slice-003", "sub-01_ses-01_slice-001", "sub-02_ses-01_slice-001"], "subjects", 2),
        (["video3_frame_01", "video3_frame_02", "video4_frame_01"], "subjects", 2),
        (["TCGA_A_slice_1", "TCGA_A_slice_2", "TCGA_B_slice_1"], "subjects", 2),
        (["big_x0_y0", "big_x0_y512", "other_x0_y0"], "subjects", 2),
        (["siteA_01", "siteA_02", "siteB_01"], "subjects", 2),
        (["a/1", "a/2", "b/1", "c/1"], "directories", 3),
        (["IMG_20240101_120000", "IMG_20240101_120003", "IMG_20240101_130000"], "times", 2),
        (["2024-01-01T12-00-00", "2024-01-01T12-00-05", "2024-01-02T12-00-00"], "times", 2),
        ([f"{stem}{number:05d}" for stem in CAMVID_STEMS for number in range(0, 300, 30)], "films", 4),
        ([f"sample_{number:04d}" for number in range(50)], "none", 50),
        ([f"IMG_{number}" for number in range(1234, 1260)], "none", 26),
        ([f"scan_{number}" for number in range(30)], "none", 30),
        (["pattern12_1", "pattern12_2", "patches3_1"], "none", 3),
        ([f"a/{number}" for number in range(9)], "none", 9),
        (["cat/1", "cat/2", "dog/1", "dog/2"], "none", 4),
    ],
)
def test_names_show_the_rule(names: list[str], rule: str, groups: int) -> None:
    found = detect_groups(names)
    assert (found.rule, found.count) == (rule, groups)
    assert set(found.of) == set(names) and found.reason
    assert detect_groups(names[::-1]) == found, "the order of the names says nothing"


def unrelated(names: list[str]) -> dict[str, UInt8]:
    """Return thumbnails of images that have nothing in common."""
    rng = np.random.default_rng(0)
    return {name: make_thumbnail(rng.integers(0, 256, (40, 40), np.uint8)) for name in names}


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize(
    "pattern",
    [
        "patient{A}_{n:02}",
        "patient_{A}_{n:02}",
        "patient-{name}_{n:02}",
        "Patient {Name} ({n})",
        "patient_id_{i}_{n}",
        "pt{i:02}_{n}",
        "P{i:02}_s{n:02}",
        "P{i:02}_z{n:03}_t1",
        "mouse{i}_img{n}",
        "rat_{i}_{n}",
        "volunteer{i}_{n}",
        "site{Name}_{n}",
        "hospital_{name}_{n}",
        "farm{i}_{n}",
        "field{i}_{n}",
        "clip{A}_{n:04}",
        "scan_{a}_{n}",
        "{n}_case{A}_x",
    ],
)
def test_sources_in_names_of_30_unrelated_images_are_groups(pattern: str, count: int) -> None:
    words = ["smith", "jones", "north", "south", "anna", "kim", "lee", "east", "west", "meyer"]
    made = [
        pattern.format(
            i=number % count, n=number, a="abcdefghij"[number % count], A="ABCDEFGHIJ"[number % count],
            name=words[number % count], Name=words[number % count].title(),
        )
        for number in range(30)
    ]  # fmt: skip
    found = detect_groups(made, unrelated(made))
    assert (found.rule, found.count) == ("subjects", count)
    assert [found.of[name] for name in made[:count]] == [found.of[name] for name in made[count : 2 * count]]


def test_two_directories_are_groups_by_their_names_or_by_an_expression() -> None:
    names = [f"{place}/{number}" for place in ("north", "south") for number in range(15)]
    found = detect_groups(names, unrelated(names))
    assert (found.rule, found.reason) == (
        "none",
        "two directories may be kinds of images: each image is assigned on its own "
        "(to keep them together: --split-group '^([^/]+)/')",
    )
    assert detect_groups(names, unrelated(names), "^([^/]+)/").count == 2
    sites = [f"site_{name}" for name in names]
    assert (detect_groups(sites, unrelated(sites)).rule, detect_groups(sites).count) == ("subjects", 2)


@pytest.mark.parametrize("pattern", ["BraTS20_Training_{i:03}_{n}", "0cdf5b5d0ce{i}_{n:02}", "KU{i:03}A_{n}"])
def test_codes_with_numbers_that_start_again_are_groups(pattern: str) -> None:
    names = [pattern.format(i=number // 5, n=number % 5 + 1) for number in range(30)]
    found = detect_groups(names, unrelated(names))
    assert (found.rule, found.count) == ("subjects", 6) and names[0].rpartition("_")[0] in found.reason


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{number:03}" for number in range(30)],
        [f"image_{letter}" for letter in "abcdefghijklmnopqrst"],
        [f"{2007 + number % 3}_{number:06}" for number in range(30)],  # Pascal VOC
        [f"{2007 + number % 6}_{number // 6:04}" for number in range(30)],
        [f"{breed}_{number}" for breed in ("Abyssinian", "american_bulldog", "pug") for number in range(10)],
        [f"{town}_{number:06}_000019_leftImg8bit" for number, town in enumerate(["aachen", "bremen", "ulm"] * 10)],
        [f"{stem}{number:06}" for stem in ("0001TP_", "Seq05VD_f", "0016E5_") for number in range(0, 300, 30)],
        [f"{word}_{number}" for word in ("pattern", "patch", "subway", "casement", "personal") for number in range(6)],
        [f"animal_{word}_{number}" for word in ("cat", "dog", "cow") for number in range(10)],
        [f"case_{word}_{number}" for word in ("benign", "malignant") for number in range(15)],
        [f"patient_{word}_{number}" for word in ("left", "right", "train2") for number in range(10)],
        [f"siteDay_{number}" if number % 2 else f"siteNight_{number}" for number in range(30)],
        [f"scan_{word}_{number}" for word in ("brain", "liver") for number in range(15)],
        [f"class{number % 6}_{number // 6}" for number in range(30)],
        [f"{number % 6:02}_{number // 6:04}" for number in range(30)],
        [f"BraTS20_{number // 6:03}_{number}" for number in range(30)],  # the number counts all images
        [f"ADE_train_{number:08}" for number in range(30)],
        [f"ISIC_{number:07}" for number in range(30)],
    ],
)
def test_ordinary_names_of_unrelated_images_are_no_groups(names: list[str]) -> None:
    assert detect_groups(names, unrelated(names)).rule == "none"


def test_lettered_recordings_that_are_films_can_still_be_cut() -> None:
    names = [f"clip{letter}_{number:04}" for letter in "AB" for number in range(40)]
    frames = [frame for seed in (0, 1) for frame in moving_scene(40, seed)]
    found = detect_groups(names, dict(zip(names, frames, strict=True)))
    assert (found.rule, found.count, found.divisible) == ("films", 2, True)


def test_film_with_one_stem_is_told_from_numbering_by_its_content() -> None:
    names = [f"frame{number:03d}" for number in range(40)]
    film = dict(zip(names, moving_scene(40), strict=True))
    found = detect_groups(names, film)
    assert (found.rule, found.count, found.divisible) == ("films", 1, True)
    shuffled = dict(zip(names, np.random.default_rng(1).permutation(np.stack(moving_scene(40))), strict=True))
    assert detect_groups(names, shuffled).rule == "none"


def test_images_that_are_sorted_by_what_they_show_are_not_a_film() -> None:
    rng = np.random.default_rng(0)
    scenes = [rng.integers(40, 200, (8, 8)) for _ in range(6)]
    images = [scenes[number // 12] + rng.normal(0, 25, (8, 8)) for number in range(72)]
    names = [f"DSC{number:05d}" for number in range(72)]
    thumbnails = {
        name: make_thumbnail(np.kron(np.clip(image, 0, 255).astype(np.uint8), np.ones((8, 8), np.uint8)))
        for name, image in zip(names, images, strict=True)
    }
    assert detect_groups(names, thumbnails).rule == "none"


def test_sample_data_and_prefixes_of_categories_are_not_films() -> None:
    names = [f"{breed}_{number}" for breed in ("beagle", "pug", "Bengal") for number in range(20)]
    photos = {name: make_thumbnail(draw_pair(0, number)[0]) for number, name in enumerate(names)}
    assert detect_groups(names, photos).rule == "none"


def test_burst_ends_after_ten_seconds_and_impossible_dates_are_no_times() -> None:
    names = [f"IMG_20240101_1200{second:02d}" for second in (0, 9, 18, 40)]
    assert detect_groups(names).count == 2
    assert detect_groups(["IMG_20249901_120000", "IMG_20249901_120003", "IMG_20249901_130000"]).rule == "none"


def test_expression_wins_over_group_file_and_names() -> None:
    names = ["patient1_a_x", "patient1_b_x", "patient2_a_x"]
    found = detect_groups(names, None, r"_([ab])_(x)", dict.fromkeys(names, "all"))
    assert (found.rule, set(found.of.values())) == ("split-group", {"a/x", "b/x"})
    assert detect_groups(names, listed=dict.fromkeys(names, "all")).rule == "groups.csv"


@pytest.mark.parametrize(
    ("expression", "rule"),
    [("(a", "a regular expression"), (r"a\d", "a group in parentheses"), ("(?P<a>x)(?P<a>y)", "a regular expression")],
)
def test_expression_that_is_not_one_is_refused(expression: str, rule: str) -> None:
    with pytest.raises(UsageError, match=f"--split-group .*expected .*{rule}"):
        load_settings(split_group=expression)


@pytest.mark.parametrize("header", ["name,group", "file;group", "Group\tName"])
def test_group_file_gives_the_groups(flat: Path, header: str) -> None:
    mark = next(mark for mark in ",;\t" if mark in header)
    rows = [(f"images/a{number}.png", f"g{number // 4}") for number in range(10)]
    lines = [mark.join(row[::-1] if header.startswith("Group") else row) for row in rows]
    (flat / "groups.csv").write_text("\n".join([header, *lines]), encoding="utf-8-sig")
    data = check_data(flat, 0)
    assert data.groups is not None and (data.groups.rule, data.groups.count) == ("groups.csv", 3)
    assert {pair.name: pair.group for pair in data.pairs}["a4"] == "g1"


def test_wrong_lines_of_the_group_file_are_faults(flat: Path) -> None:
    rows = ["name,group", "a0,x", "gone,x", "a1,", "a0,y"]
    (flat / "groups.csv").write_text("\n".join(rows), encoding="utf-8")
    assert faults_of(flat) == (
        Fault("groups.csv", "a group for each name", "'a1' (line 4)"),
        Fault("groups.csv", "a name of images/", "'gone' (line 3)"),
        Fault("groups.csv", "each name once", "'a0' (line 5): also in x"),
    )
    (flat / "groups.csv").write_text("name,group\na0,x\n", encoding="utf-8")
    (fault,) = faults_of(flat)
    assert (fault.expected, fault.found) == ("a line for each image", "9 missing: a1, a2, a3, a4 and 5 more")
    (flat / "groups.csv").write_text("image,patient\na0,x\n", encoding="utf-8")
    (fault,) = faults_of(flat)
    assert (fault.expected, fault.found) == ("columns 'name' (or 'file') and 'group'", "image, patient")


def test_group_file_may_have_images_that_no_split_file_lists(flat: Path) -> None:
    (flat / "splits").mkdir()
    (flat / "splits" / "train.txt").write_text("a0\na1\n")
    (flat / "splits" / "val.txt").write_text("a2\n")
    (flat / "groups.csv").write_text("name,group\n" + "".join(f"a{n},g{n}\n" for n in range(10)) + "\n")
    assert [pair.group for pair in check_data(flat, 0).pairs] == ["g0", "g1", "g2"]


def test_stored_expression_that_was_damaged_is_a_fault(flat: Path) -> None:
    check_data(flat, 0, split_group="(a.)")
    path = flat / "splits" / "train.txt"
    path.write_text(path.read_text().replace("(a.)", "(a"))
    (fault,) = faults_of(flat)
    assert fault.file == "splits/" and "SPLIT_GROUP" in fault.expected


def test_numbering_that_starts_again_in_each_split_shows_no_groups(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            put_pair(tmp_path / split, f"{number:03d}")
    data = check_data(tmp_path, 0)
    assert [pair.group for pair in data.pairs] == [None] * 6
