"""Confidence, uncertainty maps and images unlike those of the training: files, records, gallery, server, exports."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import infer
from config import Settings
from core.errors import UsageError
from core.i18n import language_scope
from dataset.classes import UInt8
from dataset.samples import Item
from inference import batch_job, export, inputs
from inference.batch_job import Outcome
from inference.commands import check_request
from inference.earlier.ownership import is_prediction, listed_files
from inference.geo.windows import require_windows
from inference.server import Service
from inference.streams import video
from inference.tally import report_drift
from segmentation.model import Model
from segmentation.predictor import Method, Predictor
from segmentation.preprocess import to_input
from segmentation.reliability.drift import Observations, fit_distribution
from segmentation.reliability.statistics import image_statistics
from tests.support.images import noise, write_video
from tests.support.models import CPU, lineage, make_model

MAPS = Method(uncertainty_map=True, compare=True)


def scene(seed: int) -> UInt8:
    """Return an image (48,64,3) of a sky over a road."""
    random = np.random.default_rng(seed)
    image = np.empty((48, 64, 3), np.float64)
    horizon = random.integers(18, 30)
    image[:horizon], image[horizon:] = (90, 130, 190), (120, 90, 60)
    return np.clip(image * random.uniform(0.9, 1.1) + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> Model:
    seen = np.stack([image_statistics(scene(seed), (48, 64)) for seed in range(40)])
    return replace(make_model((48, 64)), temperature=1.6, inputs=fit_distribution(3, Observations(seen, None), None))


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Two usual images, an inverted one and noise; the label of each is random."""
    (tmp_path / "in").mkdir()
    pixels = {"a": scene(100), "b": scene(101), "inverted": 255 - scene(102), "noise": noise(48, 64)}
    for number, (name, image) in enumerate(pixels.items()):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
        values = np.random.default_rng(number).choice(np.array([0, 7, 9], np.uint8), image.shape[:2])
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    return [Item(name, tmp_path / "in" / f"{name}.png", tmp_path / f"{name}.png") for name in pixels]


def predict(model: Model, items: list[Item], out: Path, method: Method = MAPS, resume: bool = False) -> Outcome:
    extras = ("uncertainty",) if method.uncertainty_map else ()
    return batch_job.predict(Predictor(model, CPU, method), items, out, lineage(), "val", resume, extras)


def listing(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text())
    return content


def page_data(out: Path) -> dict[str, Any]:
    page = (out / "index.html").read_text()
    data: dict[str, Any] = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    return data


def test_each_image_has_a_confidence_and_the_unlike_ones_a_reason(
    model: Model, items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = predict(model, items, tmp_path / "out")
    content = listing(tmp_path / "out")
    assert all(0.5 <= record["confidence"] <= 1 for record in content["images"])
    flagged = {Path(r["mask"]).stem: r["drift"]["reasons"] for r in content["images"] if r["drift"]["flagged"]}
    assert flagged.keys() == {"inverted", "noise"} and "detail" in flagged["noise"]
    assert content["drift"] == outcome.drift and content["drift"] | {"reasons": {}} == {
        "compared": 4,
        "flagged": 2,
        "reasons": {},
    }
    report_drift(outcome.drift)
    shown = capsys.readouterr().err + capsys.readouterr().out
    assert shown.count("unlike the images of the training: 2 of 4 (") == 1
    plain = predict(model, items[:2], tmp_path / "plain", Method(compare=True))
    assert plain.drift == {"compared": 2, "flagged": 0, "reasons": {}}
    report_drift(plain.drift)
    assert not capsys.readouterr().err


def test_gallery_sorts_by_confidence_and_names_what_is_unlike(model: Model, items: list[Item], tmp_path: Path) -> None:
    predict(model, items, tmp_path / "out")
    page, data = (tmp_path / "out/index.html").read_text(), page_data(tmp_path / "out")
    assert '<option value="confidence">lowest confidence first' in page and '<option value="unlike">' in page
    assert "unlike the images of the training: 2 of 4" in page and "AUROC of the uncertainty for wrong pixels" in page
    by_name = {image["name"]: image for image in data["images"]}
    assert by_name["noise"]["notice"].startswith("unlike the images of the training: ") and not by_name["a"]["notice"]
    assert f"confidence {by_name['a']['confidence']:.4f}" in by_name["a"]["score"]
    assert by_name["a"]["panels"][-1] == {"kind": "uncertainty", "caption": "uncertainty", "url": "a_uncertainty.png"}
    older = replace(model, temperature=1.0, inputs=None)
    batch_job.predict(Predictor(older, CPU), items, tmp_path / "older", lineage(), "val")
    assert '<option value="unlike">' not in (tmp_path / "older/index.html").read_text()
    assert "drift" not in listing(tmp_path / "older")


def test_uncertainty_map_is_grey_with_its_origin_and_ranks_wrong_pixels(
    model: Model, items: list[Item], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = predict(model, items, out)
    content, pairs, ranks = listing(out), 0.0, 0.0
    wrong: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for item, record in zip(items, content["images"], strict=True):
        path = out / record["uncertainty_map"]
        with Image.open(path) as image:
            assert (image.mode, image.text["model_sha256"]) == ("I;16", "a" * 64)  # type: ignore[attr-defined]
            levels = np.asarray(image)
        assert is_prediction(path) and record["uncertainty_map"] in listed_files(out)
        assert record["uncertainty"] == pytest.approx(levels.mean() / 65535, abs=1e-4)
        assert item.mask is not None
        with Image.open(out / record["mask"]) as mask, Image.open(item.mask) as label:
            predicted, labels = np.asarray(mask), np.asarray(label)
        wrong.append(levels[(predicted != labels) & (labels != 9)])
        right.append(levels[(predicted == labels) & (labels != 9)])
    first, second = (np.sort(np.concatenate(values).astype(np.int64)) for values in (right, wrong))
    ranks = float((np.searchsorted(first, second, "left") + np.searchsorted(first, second, "right")).sum() / 2)
    pairs = len(first) * len(second)
    assert content["uncertainty_auroc"] == outcome.uncertainty_auroc == pytest.approx(ranks / pairs)


def test_resumed_job_reuses_maps_and_measures_the_same(model: Model, items: list[Item], tmp_path: Path) -> None:
    first = predict(model, items, tmp_path / "out")
    again = predict(model, items, tmp_path / "out", resume=True)
    assert again.reused == 4 and again.uncertainty_auroc == first.uncertainty_auroc and again.drift == first.drift
    (tmp_path / "out/b_uncertainty.png").unlink()
    assert predict(model, items, tmp_path / "out", resume=True).reused == 3
    without = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (tmp_path / "out/b_uncertainty.png").is_file() and len(without["images"]) == 4


def test_records_of_an_earlier_version_are_predicted_again(model: Model, items: list[Item], tmp_path: Path) -> None:
    older = Predictor(model, CPU)
    batch_job.predict(older, items, tmp_path / "out", lineage(), "val")
    assert predict(model, items, tmp_path / "out", Method(compare=True), resume=True).reused == 0
    assert all("drift" in record for record in listing(tmp_path / "out")["images"])


def test_maps_are_replaced_with_the_rest_of_a_job(model: Model, items: list[Item], tmp_path: Path) -> None:
    predict(model, items, tmp_path / "out")
    predict(model, items[:1], tmp_path / "out", Method())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("a.png", "a_overlay.jpg", "index.html", "predictions.json"),
    ]
    (tmp_path / "out/a_uncertainty.png").write_bytes((tmp_path / "in/a.png").read_bytes())
    with pytest.raises(UsageError, match=r"infer\.py did not write"):
        predict(model, items[:1], tmp_path / "out")


def test_two_outputs_of_one_name_are_refused(model: Model, tmp_path: Path) -> None:
    for name in ("a.png", "a_uncertainty.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(scene(0)).save(tmp_path / "in" / name)
    with pytest.raises(UsageError, match=r"a_uncertainty\.png: two outputs would have this name"):
        predict(model, inputs.collect_items([tmp_path / "in"]), tmp_path / "out")
    predict(model, inputs.collect_items([tmp_path / "in"]), tmp_path / "out", Method())


@pytest.mark.skipif(importlib.util.find_spec("rasterio") is None, reason="rasterio is not installed")
def test_map_of_a_georeferenced_image_keeps_its_coordinates(model: Model, tmp_path: Path) -> None:
    import rasterio

    from tests.inference.test_georeferenced import put_raster

    put_raster(tmp_path / "in.tif", scene(0), photometric="RGB")
    predict(model, inputs.collect_items([tmp_path / "in.tif"]), tmp_path / "out")
    with rasterio.open(tmp_path / "in.tif") as source, rasterio.open(tmp_path / "out/in_uncertainty.tif") as found:
        assert (found.crs, found.transform, found.dtypes) == (source.crs, source.transform, ("uint16",))
        assert found.tags()["model_sha256"] == "a" * 64 and found.read(1).max() > 0
    assert predict(model, inputs.collect_items([tmp_path / "in.tif"]), tmp_path / "out", resume=True).reused == 1


def test_maps_are_refused_where_an_image_is_never_there_at_once(model: Model) -> None:
    with pytest.raises(
        UsageError, match="--extra uncertainty cannot be used with images that are predicted in windows"
    ):
        require_windows(Predictor(model, CPU), ["uncertainty"])
    with pytest.raises(UsageError, match="--camera"):
        infer.parse(["--camera", "0", "--extra", "uncertainty"])
    options = infer.parse(["--input", "x.png", "--extra", "uncertainty"])
    assert options.extra == ["uncertainty"]
    with pytest.raises(UsageError, match="no such file"):
        check_request(Settings(), options)


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")
def test_frames_of_a_video_are_compared(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "clip.mkv", 5)
    video.predict_videos(
        Predictor(model, CPU, Method(compare=True)), [tmp_path / "clip.mkv"], lineage(), tmp_path / "out"
    )
    found = json.loads((tmp_path / "out/clip_overlay.json").read_text())["drift"]
    assert found["compared"] == found["flagged"] == 5 and found["reasons"]["detail"] == 5
    printed = capsys.readouterr()
    assert "unlike the images of the training: 5 of 5 (" in printed.out + printed.err


def test_server_answers_and_counts_what_is_unlike(model: Model, items: list[Item]) -> None:
    origin = dict.fromkeys(
        ("model_version", "run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit"), "x"
    )
    service = Service(Predictor(model, CPU, Method(compare=True)), origin, Settings())
    usual, strange = (service._predict(item.image.read_bytes())[1] for item in (items[0], items[3]))
    assert not usual["drift"]["flagged"] and 0.5 <= usual["confidence"] <= 1
    assert strange["drift"]["flagged"] and "detail" in strange["drift"]["reasons"]
    rendered = service.metrics.render(0)
    assert rendered is not None
    counted = {
        (sample.name, sample.labels.get("reason")): sample.value
        for family in text_string_to_metric_families(rendered[0].decode())
        for sample in family.samples
    }
    assert counted[("segmentation_predicted_images_total", None)] == 2
    assert counted[("segmentation_unlike_training_images_total", None)] == 1
    assert counted[("segmentation_unlike_training_reasons_total", "detail")] == 1
    assert counted[("segmentation_unlike_training_reasons_total", "aspect")] == 0
    for language in ("en", "ko"):
        with language_scope(language):
            assert '"reasons"' in service.page.texts[language]


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_export_has_the_temperature_and_predictions_with_it_are_equal(model: Model, tmp_path: Path, kind: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in export.REQUIRED_PACKAGES[kind]):
        pytest.skip("a package is not installed")
    own_logits = export._write_and_load(model, kind, tmp_path / "file")
    assert export.largest_difference(model, own_logits) <= export.MAX_DIFFERENCE
    image = scene(7)
    batch = to_input(torch.from_numpy(image.copy()).permute(2, 0, 1)[None], model.normalisation, CPU)
    with torch.inference_mode():
        if kind == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession((tmp_path / "file").read_bytes(), providers=["CPUExecutionProvider"])
            exported = torch.from_numpy(session.run(None, {"images": batch.contiguous().numpy()})[0])
        else:
            exported = torch.jit.load(tmp_path / "file")(batch)  # type: ignore[no-untyped-call]
        assert (exported - model.network(batch) / 1.6).abs().max() < 1e-4
    if kind == "onnx":
        method = Method(probabilities=True, compare=True)
        found = []
        for forward, engine in ((None, "torch"), (own_logits, "onnxruntime")):
            predictor = Predictor(model, CPU, method, forward, engine)
            found.append(predictor.predict([predictor.prepare(image, "")])[0])
        one, other = (np.asarray(prediction.probabilities, np.float64) for prediction in found)
        assert np.abs(one - other).max() < 2e-3
        assert found[1].drift is not None and not found[1].drift.flagged
