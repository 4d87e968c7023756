"""lake.py import-labels: the JSON export of Label Studio."""

from __future__ import annotations

import base64
import io
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


def _bitmask_url(pixels: np.ndarray[Any, Any], mode: str = "RGBA", kind: str = "PNG") -> str:
    """Return black opaque pixels on transparent ones, as Label Studio's editor stores them; in RGB all are opaque."""
    stream = io.BytesIO()
    alpha = Image.fromarray(pixels.astype(np.uint8) * 255)
    black = Image.new("L", alpha.size)
    Image.merge("RGBA", (black, black, black, alpha)).convert(mode).save(stream, kind)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("kind", ["bitmasklabels", "bitmask", "magicwand"])
def test_label_studio_pixels_of_each_tag_are_read(source: Path, target: Path, kind: str) -> None:
    exports.write_label_studio(source, 1)
    url = _bitmask_url(exports.filled(exports.CAR))

    def change(tasks: Any) -> None:
        result = tasks[0]["annotations"][0]["result"]
        runs = result[1]["value"]["rle"]
        value: dict[str, Any] = {"format": "rle", "rle": runs} if kind == "magicwand" else {"imageDataURL": url}
        if kind == "bitmasklabels":
            result[1].update(type=kind, value={**value, kind: ["car"]})
        else:  # with a separate <Labels>, which repeats the value
            result[1].update(type=kind, value=value)
            result.append({**result[1], "type": "labels", "value": {**value, "labels": ["car"]}})

    edit(source / "export.json", change)
    run_import(source, target)
    assert differing(target, "p00", reference(road=2, car=1)) <= 0.005


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (None, "region 2: null"),
        ("https://example.com/mask.png", 'region 2: "https://example.com/mask.png"'),
        ("data:image/png;base64,%%%", "region 2"),
        ("data:image/png;base64,iVBORw0KGgo=", "region 2: unreadable"),
        (_bitmask_url(exports.filled(exports.CAR), kind="TIFF"), "region 2"),
        (_bitmask_url(exports.filled(exports.CAR), "RGB"), "region 2: mode 'RGB'"),
        (_bitmask_url(exports.filled(exports.CAR)[:-1]), "region 2: 160x119"),
    ],
)
def test_label_studio_bitmask_that_cannot_be_used_is_named(
    source: Path, target: Path, url: str | None, found: str
) -> None:
    exports.write_label_studio(source)
    value = {"imageDataURL": url, "bitmasklabels": ["car"]}
    edit(
        source / "export.json",
        lambda tasks: tasks[1]["annotations"][0]["result"][1].update(type="bitmasklabels", value=value),
    )
    (fault,) = refused(source, target)
    assert fault.file == "export.json" and found in fault.found


@pytest.mark.parametrize(
    ("entry", "beside"),
    [
        ({"type": "superpixellabels", "value": {"superpixellabels": ["car"]}}, []),
        ({"type": "superpixel", "value": {"labels": ["car"]}}, []),
        ({"type": "superpixel", "value": {}}, [{"id": "b", "type": "labels", "value": {"labels": ["car"]}}]),
    ],
)
def test_label_studio_labels_of_an_unknown_shape_are_not_dropped(
    source: Path, target: Path, entry: dict[str, Any], beside: list[Any]
) -> None:
    exports.write_label_studio(source)

    def change(tasks: Any) -> None:
        result = tasks[1]["annotations"][0]["result"]
        result[1].update(entry)
        result += beside

    edit(source / "export.json", change)
    (fault,) = refused(source, target)
    assert "superpixel" in fault.found and "bitmask" in fault.expected


def test_label_studio_labels_of_a_text_are_not_shapes(source: Path, target: Path) -> None:
    exports.write_label_studio(source, 1)
    passage = {"id": "t", "type": "labels", "value": {"start": 0, "end": 3, "text": "car", "labels": ["noun"]}}
    edit(source / "export.json", lambda tasks: tasks[0]["annotations"][0]["result"].append(passage))
    assert run_import(source, target) == 0


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
