"""lake.py import-labels: the JSON export of Label Studio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.exports import polygon as exports
from tests.support.exports.polygon import differing, edit, reference, refused, run_import, write_json


def test_label_studio_rectangles_and_ellipses_are_drawn(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)
    box = {"x": 10, "y": 10, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["box"]}
    disk = {"x": 70, "y": 50, "radiusX": 12.5, "radiusY": 25, "rotation": 90, "ellipselabels": ["disk"]}
    result = [
        {"id": "a", "type": "rectanglelabels", "value": box},
        {"id": "b", "type": "ellipselabels", "value": disk},
        {"id": "c", "type": "choices", "value": {"choices": ["night"]}},
    ]
    edit(source / "export.json", lambda tasks: tasks[0]["annotations"][0].update(result=result))
    run_import(source, target)
    values = np.asarray(Image.open(target / "masks/p00.png"))
    assert (values == 1).sum() == 40 * 60
    assert (values == 2).sum() == pytest.approx(np.pi * 20 * 30, rel=0.01)
    assert values[60, 140] == 2 and values[35, 112] == 0  # turned: wide, not high


def test_label_studio_labels_beside_the_shape_are_joined_by_id(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def split_labels(tasks: Any) -> None:
        result = tasks[0]["annotations"][0]["result"]
        polygon = result[0]
        polygon["type"] = "polygon"
        result.append({"id": "a", "type": "labels", "value": {"labels": polygon["value"].pop("polygonlabels")}})

    edit(source / "export.json", split_labels)
    run_import(source, target)
    assert differing(target, "p00", reference(road=2, car=1)) <= 0.005


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda task: task["annotations"].append(task["annotations"][0]), "task 2: 2"),
        (
            lambda task: task["annotations"][0]["result"][1]["value"].update(rle=[1, 2, 3]),
            "region 2: data that ends early",
        ),
        (lambda task: task["annotations"][0]["result"][1].update(original_width=80), "region 2: 80x120"),
        (lambda task: task["annotations"][0]["result"][0].update(image_rotation=90), "region 1: 90"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(points=[[1, 1]]), "region 1: 1"),
        (lambda task: task["annotations"][0]["result"][0].update(type="keypointlabels"), "region 1: keypointlabels"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(polygonlabels=["a", "b"]), '["a", "b"]'),
        (lambda task: task["data"].update(image="s3://bucket/other.png"), "task 2: none"),
        (lambda task: task.pop("annotations"), "task 2"),
    ],
)
def test_malformed_label_studio_task_is_named(
    source: Path, target: Path, change: Callable[[Any], object], found: str
) -> None:
    exports.write_label_studio(source)
    edit(source / "export.json", lambda tasks: change(tasks[1]))
    (fault,) = refused(source, target)
    assert fault.file == "export.json" and found in fault.found


def test_relations_and_choices_of_label_studio_are_not_regions(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)
    others = [{"type": "relation", "from_id": "a", "to_id": "b"}, {"type": "choices", "value": {"choices": ["x"]}}]
    edit(source / "export.json", lambda tasks: tasks[0]["annotations"][0]["result"].extend(others))
    assert run_import(source, target) == 0


def test_annotation_that_is_the_ground_truth_is_chosen(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def add_other(tasks: Any) -> None:
        tasks[0]["annotations"][0]["ground_truth"] = True
        tasks[0]["annotations"].insert(0, {"id": 9, "result": [], "ground_truth": False})

    edit(source / "export.json", add_other)
    run_import(source, target)
    assert differing(target, "p00", reference(road=2, car=1)) <= 0.005


def test_label_studio_region_ids_of_any_kind_are_joined(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)

    def odd_ids(tasks: Any) -> None:
        result = tasks[0]["annotations"][0]["result"]
        result[0].update(id=[1], type="polygon")
        result.append({"id": [1], "type": "labels", "value": {"labels": result[0]["value"].pop("polygonlabels")}})

    edit(source / "export.json", odd_ids)
    assert run_import(source, target) == 0


def test_skipped_label_studio_tasks_are_left_out(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exports.write_label_studio(source)
    edit(source / "export.json", lambda tasks: tasks[1]["annotations"][0].update(was_cancelled=True))
    run_import(source, target)
    assert "left out (not annotated): images/p01.png" in capsys.readouterr().out


def test_label_studio_json_min_is_refused_by_name(source: Path, target: Path) -> None:
    exports.write_label_studio(source)
    write_json(source / "export.json", [{"image": "p00.png", "id": 1, "annotator": 1, "annotation_id": 1, "label": []}])
    (fault,) = refused(source, target)
    assert "JSON-MIN" in fault.expected
