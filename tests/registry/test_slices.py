"""REGISTER_SLICES: a better mean does not promote a model that is worse on a part of the images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Settings, load_settings
from core.errors import UsageError
from dataset.classes import IGNORE_INDEX, UInt8
from dataset.decoding.options import DEFAULT_READING
from dataset.samples import Item, committed_items
from registry.comparison.models import compare_models
from registry.judging import gate
from registry.judging.slices import find_slices, measure_slices, parse_rules
from registry.promotion import Promotion
from registry.slice_table import slice_table
from registry.versions import Registry
from segmentation import evaluation
from segmentation.evaluation import EvaluationResult
from segmentation.model import Model
from segmentation.object_sizes import SIZES, object_sizes
from tests.support.lab import CPU, QUALITY, Lab, road_and_car, segment_by_quality
from utils.mlflow_utils import run_lineage
from versioning.provenance.card import describe_promotion
from versioning.provenance.verdict import DEFAULT_CONFIDENCE, MAX_TAG, MIN_SLICE_GROUPS, SliceGain, Verdict

VAL = [*(f"day/v{i}" for i in range(16)), *(f"night/v{i}" for i in range(8))]
ALONE = {name: name for name in ["t", *VAL]}  # so that no dark images are taken for a film
NIGHT = 0.2  # quality below which a model of the tests fails in the night


def with_slices(lab: Lab, rules: str, **settings: object) -> Promotion:
    chosen = dataclasses.replace(lab.settings, register_slices=rules, **settings)  # type: ignore[arg-type]
    return Promotion(Registry(lab.client, chosen), lab.lake)


@pytest.fixture
def fails_at_night(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab in which models of quality 0.9 have 0.2 on the images that are dark."""

    def segment(model: Model, images: Sequence[UInt8], device: torch.device) -> list[UInt8]:
        found: list[UInt8] = []
        for image in images:
            dark = image[..., 1].mean() < 64 and model.metrics[QUALITY] == 0.9
            seen = dataclasses.replace(model, metrics={QUALITY: NIGHT}) if dark else model
            found += segment_by_quality(seen, [image], device)
        return found

    monkeypatch.setattr(evaluation, "segment", segment)
    return lab


def slices_of(lab: Lab, version: str) -> dict[str, SliceGain]:
    verdict = Verdict.parse(lab.tags(version)["gate"], "test")
    return {one.label: one for one in verdict.slices}


@pytest.mark.parametrize("rule", ["directory", "brightness", "FILE"])
def test_a_loss_on_one_slice_prevents_promotion_of_a_better_mean(
    fails_at_night: Lab, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, night = (
        fails_at_night,
        {"directory": "directory night", "FILE": "places.csv dark"}.get(rule),
    )  # brightness: by its level
    file = lab.folder / "places.csv"
    file.write_text("image,slice\n" + "".join(f"{n}.png,{'dark' if 'night' in n else 'light'}\n" for n in VAL))
    data = lab.data(["t"], VAL, groups=ALONE)
    lab.promotion.register(lab.run(0.4, data))
    promotion = with_slices(lab, str(file) if rule == "FILE" else rule)
    promotion.register(lab.run(0.9, data))
    assert lab.aliases() == {"champion": "1", "challenger": "2"}
    found = slices_of(lab, "2")
    worst = next(iter(found.values()))
    assert worst.degraded and worst.label == (night or worst.label), found
    assert all(one.gain > 0 for one in list(found.values())[1:])
    assert lab.reasons("2").startswith(f"slice {worst.label}: miou ") and "gain -" in lab.reasons("2")
    assert " | " not in lab.reasons("2"), "the gain over all images is positive and certain"
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.strip().startswith(worst.label))
    assert row.rstrip().endswith("worse") and "(95% for all together)" in out
    description = lab.client.get_model_version(lab.name, "2").description or ""
    assert f"| {worst.label} | {worst.images} | {worst.groups} |" in description
    assert "To promote it all the same" not in out, "--force alone, with a reason"


def test_a_model_that_is_better_on_each_slice_becomes_champion(lab: Lab) -> None:
    data = lab.data(["t"], VAL, groups=ALONE)
    lab.promotion.register(lab.run(0.5, data))
    with_slices(lab, "directory, brightness,object-size").register(lab.run(0.8, data))
    assert lab.aliases() == {"champion": "2"}
    found = slices_of(lab, "2")
    assert {"directory day", "directory night"} <= found.keys()
    assert all(one.gain > 0 and not one.degraded for one in found.values())
    assert found["directory day"].interval is not None
    large = found["object-size 3-100%"]
    assert (large.images, large.interval) == (24, None), "all pixels are of large objects: judged as a whole"


def test_small_slices_are_reported_and_not_judged(fails_at_night: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab = fails_at_night
    few = [name for name in VAL if name.startswith("day")] + [f"night/v{i}" for i in range(MIN_SLICE_GROUPS - 1)]
    films = {name: name.split("/")[0] + name[-1] for name in [*few, "night/w"]} | {"t": "t"}
    films["night/w"] = "night0"  # a further frame of the same film is not a further group
    data = lab.data(["t"], [*few, "night/w"], groups=films)
    lab.promotion.register(lab.run(0.3, data))
    with_slices(lab, "directory").register(lab.run(0.9, data))
    night = slices_of(lab, "2")["directory night"]
    assert (night.images, night.groups, night.interval) == (MIN_SLICE_GROUPS, MIN_SLICE_GROUPS - 1, None)
    assert night.gain < 0 and lab.aliases()["champion"] == "2"
    assert "too few groups" in capsys.readouterr().out


def test_compare_shows_the_slices_on_its_page(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    data = lab.data(["t"], VAL, groups=ALONE)
    a, b = (run_lineage(lab.run(quality, data)) for quality in (0.8, 0.5))
    settings = dataclasses.replace(lab.settings, register_slices="directory")
    compare_models(settings, lab.lake, a, b, lab.folder / "compare")
    page = next((lab.folder / "compare").glob("*/compare.html"))
    assert "<h2>Slices</h2>" in page.read_text() and ">directory night<" in page.read_text()
    stored = json.loads(page.with_name("compare.json").read_text())["slices"]
    assert [one["name"] for one in stored] == ["day", "night"] and all(one["gain"] < 0 for one in stored)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("directory day"))
    assert row.rstrip().endswith("worse")


# --- which slices ---


def items(tmp_path: Path, *levels: int) -> list[Item]:
    from PIL import Image

    found = []
    for number, level in enumerate(levels):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)
        found.append(Item(f"set/{number}", path))
    return found


def test_brightness_divides_images_into_thirds_by_their_mean(tmp_path: Path) -> None:
    found = find_slices(["brightness"], items(tmp_path, 10, 20, 100, 110, 200, 255), DEFAULT_READING, ["val"] * 6)
    assert [(one.name, sorted(one.places)) for one in found] == [
        ("10-20", [0, 1]),
        ("100-110", [2, 3]),
        ("200-255", [4, 5]),
    ]
    same = find_slices(["brightness"], items(tmp_path, 7, 7, 7), DEFAULT_READING, ["val"] * 3)
    assert [(one.name, len(one.places)) for one in same] == [("7-7", 3)], "equal levels stay together"


def test_objects_are_divided_by_their_share_of_the_image() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[0, :29] = 1  # 0.29 %
    labels[10:20, 10:20] = 1  # 1 %
    labels[15, 20] = 2  # touches it, and is another class
    labels[40:80, :40] = 1  # 16 %
    labels[99] = IGNORE_INDEX
    sizes = object_sizes(labels)
    assert [int(sizes[place]) for place in ((0, 0), (12, 12), (15, 20), (50, 10), (90, 90))] == [0, 1, 0, 2, 2]
    scaled = object_sizes(labels.repeat(3, 0).repeat(3, 1))
    assert (scaled[::3, ::3] == sizes).all(), "the same in images of any size"


def test_sizes_divide_the_counts_of_an_image(lab: Lab) -> None:
    data = lab.data(["t"], VAL[:3])
    lineage = run_lineage(lab.run(0.5, data))
    cache = lab.settings.cache_dir
    _, listed = committed_items(lab.lake, data, "val", cache)
    model = gate.download_model(lab.lake, lineage, CPU, cache)
    found = evaluation.measure(model, listed, model.classes, CPU, sizes=True)
    assert found.by_size is not None and found.by_size.shape == (3, len(SIZES), 3, 3)
    assert (found.by_size.sum(1) == found.counts).all() and found.only([1]).of_size(2).counts.sum() == 16 * 16


def result(counts: list[list[list[int]]], groups: Sequence[str]) -> EvaluationResult:
    classes = road_and_car()
    padded = np.zeros((len(counts), 3, 3), np.int64)
    padded[:, :2, :2] = counts
    return EvaluationResult(tuple(groups), tuple(groups), classes, padded, 0.0)


def test_intervals_become_wider_with_the_number_of_judged_slices(tmp_path: Path) -> None:
    """So that ten slices refuse an equal model no more often than one."""
    random = np.random.default_rng(0)
    groups = [str(i) for i in range(40)]
    old, new = (
        result([[[90 - n, 10 + n], [10, 90]] for n in random.integers(-5, 5, 40).tolist()], groups) for _ in range(2)
    )
    table = [Item(f"{i % 4}/{i}", tmp_path) for i in range(40)]
    four = find_slices(["directory"], table, DEFAULT_READING, ["val"] * len(table))
    one = measure_slices([four[0]], old, new, range(40), "miou", 0.95)[0].interval
    of_four = measure_slices(four, old, new, range(40), "miou", 0.95)[0].interval
    without = measure_slices(four, old, new, range(40), "miou", 0.0)[0].interval
    assert one is not None and of_four is not None
    assert of_four[0] < one[0] and of_four[1] > one[1]
    assert without == of_four and DEFAULT_CONFIDENCE == 0.95, "--confidence 0 does not switch slices off"


# --- what a person writes ---


@pytest.mark.parametrize("rules", ["brightness directory", "sizes", "", "brightness,", "slices.txt"])
def test_unknown_rules_are_refused_when_settings_are_read(rules: str) -> None:
    with pytest.raises(UsageError, match=r"REGISTER_SLICES.*object-size, brightness, directory, FILE\.csv") as caught:
        load_settings(register_slices=rules)
    assert "\n" not in str(caught.value)


def test_rules_are_separated_by_commas_and_counted_once() -> None:
    settings = load_settings(register_slices=" directory,my places.csv , directory")
    assert parse_rules(settings.register_slices) == ("directory", "my places.csv")
    assert parse_rules(Settings().register_slices) == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"line 1: expected columns 'image' and 'slice', found nothing"),
        ("file,group\na,b\n", r"line 1: expected columns 'image' and 'slice', found file, group"),
        ("image,slice\nset/0,dark\nset/9,dark\n", r"line 3: expected an image of the data commit, found 'set/9'"),
        ("image,slice\nset/0\n", r"line 2: expected a slice for each image, found nothing"),
        ("image,slice\ntrain,dark\n", r"expected an image of the split that decides, found none"),
        (b"\xff\xfe\xfd", r"cannot read the slices"),
        (None, r"cannot read the slices \(No such file"),
    ],
)
def test_an_unusable_slice_file_is_refused_in_one_line(tmp_path: Path, content: str | bytes | None, words: str) -> None:
    file = tmp_path / "places.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=words) as caught:
        find_slices([str(file)], items(tmp_path, 1, 2), DEFAULT_READING, ["val"] * 2, {"train": {"train"}})
    assert "\n" not in str(caught.value) and "places.csv" in str(caught.value)


def test_an_image_may_be_in_several_slices_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "places.csv"
    file.write_text("file;slice\nimages/set/0.png;dark\nset/0;rain\nset/1;rain\ntrain;rain\n")
    found = find_slices([str(file)], items(tmp_path, 1, 2), DEFAULT_READING, ["val"] * 2, {"train": {"train"}})
    assert [(one.label, sorted(one.places)) for one in found] == [("places.csv dark", [0]), ("places.csv rain", [0, 1])]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("train/images/set/0.png,night\nval/images/set/0.png,day\nset/1,day", {"day": [0, 1]}),
        ("valid/set/0.png,day\nimages/train/set/0.png,night", {"day": [0]}),
        ("train/set/1,night\nset/0,day", None),  # in both splits, and nothing says in which
    ],
)
def test_a_line_names_the_image_of_its_split(tmp_path: Path, lines: str, expected: dict[str, list[int]] | None) -> None:
    """Images of different splits may have the same name: those of train are not judged."""
    file = tmp_path / "places.csv"
    file.write_text(f"image,slice\n{lines}\n")
    others = {"train": {"set/0", "set/2"} if expected else {"set/0", "set/1"}}
    if expected is None:
        with pytest.raises(UsageError, match=r"line 3: expected the split in front of .*\(train, val\), found 'set/0'"):
            find_slices([str(file)], items(tmp_path, 1, 2), DEFAULT_READING, ["val"] * 2, others)
        return
    found = find_slices([str(file)], items(tmp_path, 1, 2), DEFAULT_READING, ["val"] * 2, others)
    assert {one.label.split()[-1]: sorted(one.places) for one in found} == expected


def test_a_line_names_the_image_of_one_of_two_judged_splits(tmp_path: Path) -> None:
    """With folds, images of train and val are judged."""
    file = tmp_path / "places.csv"
    file.write_text("image,slice\ntrain/set/0.png,a\nval/set/0.png,b\n")
    both = [one for one in items(tmp_path, 1) for _ in range(2)]
    found = find_slices([str(file)], both, DEFAULT_READING, ["train", "val"])
    assert [(one.label, sorted(one.places)) for one in found] == [("places.csv a", [0]), ("places.csv b", [1])]


def test_a_verdict_with_many_slices_fits_a_tag_and_keeps_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    slices = [SliceGain("slices.csv", "n" * 300 + str(i), 10, 10, 0.5, -0.1, (-0.2, -0.1)) for i in range(40)]
    verdict = Verdict("challenger", ("r" * 400,) * 3, "1", {"slices": [one.content() for one in slices]})
    tag = verdict.to_tag()
    found = Verdict.parse(tag, "test")
    assert len(tag) <= MAX_TAG and found.slices == tuple(slices[: len(found.slices)]) and found.slices
    assert "| slice | images |" in describe_promotion(found)
    assert slice_table(found.slices, "A", "B", 0.95).count("worse") == len(found.slices)
