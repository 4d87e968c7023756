"""infer.py --extra polygons: outlines for labelme and COCO that give the predicted masks again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lake
from core.errors import UsageError
from dataset.classes import ClassMap, UInt8, build_classes
from dataset.shapes.polygon import as_points, fill
from inference import batch_job
from inference.annotations.polygons import coco_polygons_json, labelme_json, outlines
from inference.earlier.ownership import is_prediction
from segmentation.predictor import Predictor
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model

WITH_BACKGROUND = build_classes([(0, "background", None, False), (7, "road", None, False), (9, "car", None, False)])


def masks_of(folder: Path) -> dict[str, UInt8]:
    """Return name -> mask values of the predictions in a directory."""
    records = json.loads((folder / "predictions.json").read_text())["images"]
    found = {}
    for record in records:
        with Image.open(folder / record["mask"]) as mask:
            found[record["mask"].removesuffix(".png")] = np.asarray(mask)
    return found


def predict(tmp_path: Path, classes: ClassMap | None = None, count: int = 3) -> Path:
    """Predict noise images; return the output directory."""
    model = make_model()
    if classes is not None:
        model = dataclasses.replace(model, classes=classes)
    items = draw(tmp_path / "in", count)
    batch_job.predict(Predictor(model, CPU), items, tmp_path / "out", lineage(), None, extras=("polygons",))
    return tmp_path / "out"


def test_outlines_of_labelme_and_coco_give_the_predicted_masks(tmp_path: Path) -> None:
    out = predict(tmp_path)
    content = json.loads((out / "predictions_polygons.json").read_text())
    ids = {category["name"]: category["id"] for category in content["categories"]}
    assert ids == {"sky": 0, "road": 7}
    for number, (name, mask) in enumerate(masks_of(out).items(), 1):
        file = json.loads((out / f"{name}_shapes.json").read_text())
        assert (out / file["imagePath"]).resolve() == (tmp_path / f"in/{name}.png").resolve()
        labelme = [(shape["label"], shape["points"]) for shape in file["shapes"]]
        names = {value: label for label, value in ids.items()}
        annotations = [entry for entry in content["annotations"] if entry["image_id"] == number]
        coco = [(names[entry["category_id"]], entry["segmentation"][0]) for entry in annotations]
        for shapes in (labelme, coco):
            drawn = np.full(mask.shape, 255, np.uint8)
            for label, points in shapes:
                region = fill([as_points(points)], *mask.shape)
                drawn[region.window][region.pixels] = ids[label]
            assert np.array_equal(drawn, mask)
        areas = sum(entry["area"] for entry in annotations)
        assert areas == pytest.approx(mask.size, rel=0.1)


def test_background_is_what_remains(tmp_path: Path) -> None:
    indices = np.zeros((20, 30), np.uint8)
    indices[5:15, 5:25] = 1
    indices[8:12, 10:20] = 2
    indices[9:11, 12:14] = 0
    rings = list(outlines(indices, WITH_BACKGROUND))
    assert [index for index, _ in rings] == [1, 2]
    drawn = np.zeros_like(indices)
    for index, ring in rings:
        region = fill([ring], 20, 30)
        drawn[region.window][region.pixels] = index
    assert np.array_equal(drawn, indices)


def test_labelme_files_are_imported_as_the_predicted_masks(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 3, (40, 60)).astype(np.uint8)
    export = tmp_path / "export"
    export.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(export / "a.png")
    (export / "a_shapes.json").write_bytes(labelme_json(indices, WITH_BACKGROUND, "../elsewhere/a.png", {}))
    record = {"height": 40, "width": 60, "input": "a.png", "polygons": "a_shapes.json"}
    coco = coco_polygons_json(export, [record], WITH_BACKGROUND, {})
    assert lake.main(["import-labels", str(export), "--to", str(tmp_path / "labelme")]) == 0
    (export / "a_shapes.json").unlink()
    (export / "coco.json").write_bytes(coco)
    assert lake.main(["import-labels", str(export), "--to", str(tmp_path / "coco"), "--strict"]) == 0
    with Image.open(tmp_path / "labelme/masks/a.png") as mask:
        assert np.array_equal(np.array([0, 2, 1])[indices], np.asarray(mask)), "by name: car 1, road 2"
    with Image.open(tmp_path / "coco/masks/a.png") as mask:
        assert np.array_equal(np.array([0, 7, 9])[indices], np.asarray(mask))


def test_corrected_outlines_are_never_replaced(tmp_path: Path) -> None:
    out = predict(tmp_path)
    assert is_prediction(out / "000_shapes.json") and is_prediction(out / "predictions_polygons.json")
    path = out / "001_shapes.json"
    path.write_text(path.read_text().replace('"road"', '"corrected"'))
    with pytest.raises(UsageError, match=r"001_shapes\.json"):
        predict_again(tmp_path)
    assert "corrected" in path.read_text()
    shutil.copy(path, tmp_path / "kept.json")
    path.unlink()
    predict_again(tmp_path)
    assert '"road"' in path.read_text()


def predict_again(tmp_path: Path) -> Any:
    shutil.rmtree(tmp_path / "in")
    return predict(tmp_path)


def test_outlines_of_an_earlier_call_are_removed(tmp_path: Path) -> None:
    out = predict(tmp_path)
    batch_job.predict(Predictor(make_model(), CPU), draw(tmp_path / "other", 1), out, lineage(), None)
    assert not list(out.glob("*_shapes.json")) and not (out / "predictions_polygons.json").exists()
