"""What the gate compares: enough images, the same for both models, none that the champion was trained on."""

from __future__ import annotations

import dataclasses
import json
import secrets
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import lakefs_sdk as sdk
import numpy as np
import pytest
import torch

from config import Settings
from core.errors import UsageError
from dataset.classes import ClassMap, UInt8
from dataset.decoding.options import ReadOptions
from dataset.faults import ABSENT_CLASS, SMALL_SPLIT, UNINFORMATIVE_KINDS, DataWarning
from dataset.samples import committed_items
from registry.comparison.models import compare_models
from registry.judging import contestants, gate
from registry.judging.overlap import judged_images
from registry.overview import overview
from registry.promotion import Promotion
from registry.records import version_lineage
from registry.versions import Registry
from segmentation import evaluation, intervals
from segmentation.means import format_metric
from segmentation.model import Model
from tests.support.lab import CPU, Lab, road_and_car, segment_by_quality
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage
from utils.mlflow_utils import run_lineage

VAL = [f"v{i}" for i in range(12)]


def register(lab: Lab, quality: float, data: LakePath, classes: ClassMap | None = None, **settings: object) -> str:
    """Register a new run and return its version number."""
    strict = dataclasses.replace(lab.settings, **settings)  # type: ignore[arg-type]
    run = lab.run(quality, data, classes)
    return str(Promotion(Registry(lab.client, strict), lab.lake).register(run).version)


def gate_record(lab: Lab, version: str) -> dict[str, object]:
    content: dict[str, object] = json.loads(lab.tags(version)["gate"])
    return content


# --- which images -----------------------------------------------------------------------------------------------


def test_the_champion_is_measured_again_on_the_data_of_the_candidate(lab: Lab) -> None:
    """The second commit has another class order, a new class and an image that the champion was trained on."""
    first = lab.data(["t0", "t1"], VAL)
    register(lab, 0.5, first)
    classes = road_and_car("car", "sky", "road")
    # The same images: where a mask said 0 for road, it now says 0 for car.
    second = lab.data(["t2"], [*VAL[:10], "t0", "new"], classes)
    assert register(lab, 0.9, second, classes) == "2"
    found = gate_record(lab, "2")
    assert found["data"] == str(second) and found["pictures"] == 12
    assert (found["seen_by_champion"], found["compared"]) == (1, 11), "t0 is in the training split of the champion"
    _, items = committed_items(lab.lake, second, "val", lab.settings.cache_dir)
    old = gate.download_model(
        lab.lake, run_lineage(lab.client.get_run(lab.tags("1")["run_id"])), CPU, lab.settings.cache_dir
    )
    again = evaluation.measure(old, items, classes, CPU)
    keep = [i for i, item in enumerate(items) if item.name != "t0"]
    assert found["champion"] == pytest.approx(again.only(keep).metric("miou"))
    assert found["champion_version"] == f"{lab.name} v1"


def test_a_champion_of_other_bands_is_refused_with_the_way_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    data, download = lab.data(["t"], VAL), gate.download_model
    register(lab, 0.5, data)

    def of_other_bands(lake: LakeFS, lineage: Lineage, device: torch.device, cache: Path) -> Model:
        model = download(lake, lineage, device, cache)
        return dataclasses.replace(model, reading=ReadOptions(channels=4)) if lineage.version else model

    monkeypatch.setattr(gate, "download_model", of_other_bands)
    run = lab.run(0.9, data)
    ways = rf"REGISTERED_MODEL=NAME.* python register_model\.py --run-id {run.info.run_id} --force REASON"
    with pytest.raises(
        UsageError, match=f"champion {lab.name} v1 cannot read the images of the candidate .*4 bands.*{ways}"
    ) as caught:
        lab.promotion.register(run)
    assert "\n" not in str(caught.value) and lab.aliases() == {"champion": "1"}
    lab.promotion.register(run, force="images of three bands from now on")
    assert lab.aliases()["champion"] == "2"
    first, second = (version_lineage(lab.registry.find(f"{lab.name}/{number}")) for number in "12")
    monkeypatch.setattr(gate, "download_model", lambda *a: dataclasses.replace(download(*a), reading=ReadOptions(channels=4))
                        if a[1] == first else download(*a))  # fmt: skip
    with pytest.raises(UsageError, match=f"{lab.name} v1 cannot read the images of {lab.name} v2"):
        compare_models(lab.settings, lab.lake, first, second, lab.folder)


def test_no_promotion_if_the_champion_was_trained_on_all_images(lab: Lab) -> None:
    register(lab, 0.5, lab.data(VAL, ["v"]))
    assert register(lab, 0.9, lab.data(["t"], VAL)) == "2"
    assert lab.aliases() == {"champion": "1", "challenger": "2"}
    assert "the champion was trained on all 12 images of val" in lab.reasons("2")


def test_decomposed_korean_names_of_macos_match_composed_ones(lab: Lab) -> None:
    """macOS writes names in Unicode's decomposed form; lists of splits are read in the composed one."""
    name = unicodedata.normalize("NFC", "사진")
    first = lab.data([unicodedata.normalize("NFD", name)], VAL)
    register(lab, 0.5, first)
    register(lab, 0.9, lab.data(["t"], [*VAL, name]))
    assert (gate_record(lab, "2")["seen_by_champion"], gate_record(lab, "2")["compared"]) == (1, 12)


def test_imported_images_are_recognised_by_checksum_or_name(lab: Lab) -> None:
    """An import by reference stores no SHA-256 in lakeFS."""
    first = lab.data(["t0", "t1"], VAL)
    bare = without_hashes(lab, first)
    assert {file.sha256 for file in lab.lake.objects(bare.ref, "data/train/images/")} == {None}
    run = dataclasses.replace(run_lineage(lab.run(0.5, first)), data_path=bare)
    one = gate.contestant(lab.lake, run, CPU, lab.settings.cache_dir)
    lab.made["renamed"] = lab.made["t0"]
    again = lab.data(["t"], [*VAL, "renamed", "t1", "new"])
    _, items = committed_items(lab.lake, again, "val", lab.settings.cache_dir)
    images = judged_images(lab.lake, again, "val", items, lab.settings.cache_dir)
    seen = {image.item.name for image in images if one.trained.seen_by(image)}
    assert seen == {"renamed", "t1"}


def without_hashes(lab: Lab, data: LakePath) -> LakePath:
    """Commit the same files as another client would, without SHA-256 metadata."""
    branch = f"bare-{secrets.token_hex(4)}"
    lab.lake.create_branch(branch, data.ref)
    cache = lab.lake.download(data, lab.settings.cache_dir)
    for file in list(lab.lake.objects(data.ref, "data/train/")):
        content = (cache / file.path).read_bytes()
        lab.lake.connection.sdk.objects_api.delete_object(lab.lake.repo, branch, file.path)
        lab.lake.connection.sdk.objects_api.upload_object(lab.lake.repo, branch, file.path, content=content)
    commit = lab.lake.connection.sdk.commits_api.commit(lab.lake.repo, branch, sdk.CommitCreation(message="bare"))
    return LakePath(data.repo, commit.id, data.path)


# --- how many, how fast, which classes ---


@pytest.mark.parametrize("count", [1, intervals.MIN_GROUPS - 1])
def test_too_few_groups_prevent_promotion(lab: Lab, count: int) -> None:
    data = lab.data(["t"], VAL[:count])
    register(lab, 0.3, data)
    register(lab, 0.9, data)
    assert lab.aliases() == {"champion": "1", "challenger": "2"} and "interval" not in gate_record(lab, "2")
    assert f"images: {count}, groups: {count} (" in lab.reasons("2")
    assert "needs at least 3 groups, so it may be chance" in lab.reasons("2")
    register(lab, 0.9, data, register_confidence=0.0)
    assert lab.aliases()["champion"] == "3", "REGISTER_CONFIDENCE=0 disables the check"


@pytest.mark.parametrize("kind", sorted(UNINFORMATIVE_KINDS))
def test_warnings_of_the_validation_split_prevent_promotion(
    lab: Lab, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of the first model, which no champion is compared with."""
    data = lab.data(["t"], VAL)
    run = lab.run(0.9, data, warnings=(DataWarning(kind, "val says little", "val"), DataWarning("other", "an aside")))
    lab.promotion.register(run)
    assert lab.aliases() == {"challenger": "1"}
    assert lab.reasons("1").startswith("val says little (warning of the data check; --accept-warnings")
    assert "Not promoted because:\n  - val says little" in capsys.readouterr().out and "aside" not in lab.reasons("1")
    accepting = dataclasses.replace(lab.settings, register_accept_warnings=True)
    Promotion(Registry(lab.client, accepting), lab.lake).register(run)
    assert lab.aliases()["champion"] == "1" and gate_record(lab, "1")["accepted"] == ["val says little"]
    assert "accepted by --accept-warnings: val says little" in capsys.readouterr().err


def test_warnings_of_other_splits_do_not_count(lab: Lab) -> None:
    data = lab.data(["t"], VAL)
    warnings = (DataWarning(SMALL_SPLIT, "test is small", "test"), DataWarning(ABSENT_CLASS, "not in train", "train"))
    lab.promotion.register(lab.run(0.9, data, warnings=warnings))
    assert lab.aliases() == {"champion": "1"}


def test_means_of_a_split_without_all_classes_say_so(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    classes = road_and_car("road", "car", "sky")
    data = lab.data(["t"], VAL, classes)
    register(lab, 0.5, data, classes)
    register(lab, 0.4, data, classes)
    assert "miou 0.2308 (2 of 3 classes), champion 0.3333 (2 of 3 classes)" in lab.reasons("2")
    out = capsys.readouterr().out
    assert "miou 0.2308 (2 of 3 classes), champion 0.3333 (2 of 3 classes), gain" in out
    a, b = (run_lineage(lab.client.get_run(lab.tags(version)["run_id"])) for version in "12")
    compare_models(lab.settings, lab.lake, a, b, lab.folder / "compare")
    out = capsys.readouterr().out
    assert "0.3333 (2 of 3 classes)" in out and "(mIoU of the classes in each)" in out
    assert overview(lab.registry).count("(2 of 3 classes)") == 0, "these runs stored no number of classes"
    lab.client.set_tag(b.run_id, "val_classes", "2/3")
    assert format_metric("best_val_miou", 0.25, lab.client.get_run(b.run_id).data.tags) == "0.2500 (2 of 3 classes)"


def test_images_of_one_group_are_one_observation(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    two = lab.data(["t"], VAL, groups={name: f"film{index % 2}" for index, name in enumerate(["t", *VAL])})
    register(lab, 0.3, two)
    register(lab, 0.9, two)
    assert lab.aliases()["champion"] == "1" and "images: 12, groups: 2 (" in lab.reasons("2")
    four = lab.data(["t"], VAL, groups={name: f"film{index % 4}" for index, name in enumerate(["t", *VAL])})
    register(lab, 0.9, four)
    assert lab.aliases()["champion"] == "3" and gate_record(lab, "3")["groups"] == 4
    assert "on the same 12 images of val (groups: 4)" in capsys.readouterr().out


def test_the_measured_time_excludes_the_first_warm_up_batch(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, now = list[int](), [0.0]

    def cold(model: Model, images: Sequence[UInt8], device: torch.device) -> list[UInt8]:
        now[0] += 0.004 * len(images) if calls else 2.0
        calls.append(len(images))
        return segment_by_quality(model, images, device)

    run = run_lineage(lab.run(0.5, lab.data(["t"], VAL[:2])))
    cache = lab.settings.cache_dir
    _, items = committed_items(lab.lake, run.data_path, "val", cache)
    model = gate.download_model(lab.lake, run, CPU, cache)
    monkeypatch.setattr(evaluation, "segment", cold)
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert evaluation.measure(model, items, model.classes, CPU).milliseconds == pytest.approx(4)


def test_class_minimums_are_checked_before_measuring(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.cars = False
    data = lab.data(["t"], VAL)
    register(lab, 1.0, data, register_min_class_iou="0.2")
    assert lab.aliases() == {"challenger": "1"} and "class car: does not occur in val" in lab.reasons("1")
    register(lab, 1.0, data, register_min_class_iou="0.2 car=0")
    assert lab.aliases()["champion"] == "2"

    def never(*_: object) -> object:
        raise AssertionError("measured before the class name was checked")

    run = lab.run(1.0, data)
    monkeypatch.setattr(contestants, "measure", never)
    wrong = dataclasses.replace(lab.settings, register_min_class_iou="raod=0.5")
    with pytest.raises(UsageError, match=r"unknown class 'raod' \(classes: road\)"):
        Promotion(Registry(lab.client, wrong), lab.lake).register(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("register_max_ms", value) for value in (-5.0, 0.0, float("nan"))),
        ("register_max_mb", float("nan")),
        *(("register_threshold", value) for value in (float("nan"), 7.0, -0.1)),
        *(("register_min_gain", value) for value in (float("inf"), float("nan"), -0.1)),
        *(("registered_model", value) for value in ("", "a/b", "a@b", "a:b", " a")),
        *(("register_metric", value) for value in ("val_loss", "", "best_val_miou ")),
        *(("register_min_class_iou", value) for value in ("2", "x", "road=", "=0.5", "road=nan")),
    ],
)
def test_invalid_settings_are_rejected(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name.upper()}=.*: expected "):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_valid_settings_are_accepted() -> None:
    for name in ("seg.v2", "분할 모델", "a", "it's"):
        Settings(registered_model=name, register_metric="val_accuracy", register_min_class_iou=", 0.2 car=0,road=1 ")


# --- comparing ---


def test_compare_reports_all_metrics_and_images_seen_in_training(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    classes = road_and_car("road", "car", "sky")
    a = run_lineage(lab.run(0.75, lab.data(["t0"], VAL)))
    b = run_lineage(lab.run(0.5, lab.data(["t1"], ["t0", *VAL[:10]], classes), classes))
    compare_models(lab.settings, lab.lake, a, b, lab.folder / "compare")
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert rows["road"] == ["0.6000", "0.3333", "-0.2667"] == rows["car"], "right in 3 of 4 rows, and in half"
    assert rows["sky"] == ["absent", "absent"]
    assert "mIoU 0.6000 (2 of 3 classes) 0.3333 (2 of 3 classes) -0.2667 [-0.2667, -0.2667]" in " ".join(shown.split())
    assert rows["accuracy"][:3] == ["0.7500", "0.5000", "-0.2500"]
    assert rows["t0"] == ["0.6000", "0.3333", "-0.2667"] and not {"v7", "v8", "v9"} & set(rows), "8 of 11"
    assert "A was trained on 1 of them, which favours A" in shown
    (folder,) = (lab.folder / "compare").iterdir()
    content = json.loads((folder / "compare.json").read_text())
    assert content["a"]["miou"] == pytest.approx(0.6) and content["b"]["miou"] == pytest.approx(1 / 3)
    assert content["b"]["iou"] == {"road": pytest.approx(1 / 3), "car": pytest.approx(1 / 3), "sky": None}
    assert [row["name"] for row in content["pictures"] if row["seen_by_a"]] == ["t0"]
    assert len(content["pictures"]) == 11 and content["data"] == str(b.data_path)
    assert [row["a"] for row in content["pictures"]] == pytest.approx([0.6] * 11)
    compare_models(lab.settings, lab.lake, b, b, lab.folder / "same")
    assert "favours" not in capsys.readouterr().out


def test_compare_reports_no_interval_for_too_few_images(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    data = lab.data(["t"], VAL[:2])
    a, b = (run_lineage(lab.run(quality, data)) for quality in (0.3, 0.9))
    compare_models(lab.settings, lab.lake, a, b, lab.folder / "compare")
    assert capsys.readouterr().out.count("too few groups") == 2
    assert np.isfinite(json.loads(next((lab.folder / "compare").glob("*/compare.json")).read_text())["a"]["miou"])
