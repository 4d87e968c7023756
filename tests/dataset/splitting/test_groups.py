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
