"""lake.py import-labels with outlines: what holds for every such format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from dataset.faults import DataFaults
from dataset.formats.record import read_record
from dataset.splitting.splits import read_splits
from dataset.validation import check_data
from tests.support.exports import polygon as exports
from tests.support.exports.polygon import class_list, differing, reference, refused, run_import

CASES = Path(__file__).resolve().parents[4] / "shared/cases"
TWO = {"background": 0, "road": 1, "car": 2}
BY_NAME = {"background": 0, "car": 1, "road": 2}


@pytest.mark.parametrize(
    ("write", "name", "ids", "split"),
    [
        (exports.write_labelme, "labelme", BY_NAME, False),
        (exports.write_yolo, "yolo", TWO, True),
        (exports.write_supervisely, "supervisely", TWO, True),
        (exports.write_label_studio, "label-studio", BY_NAME, False),
        (lambda root: exports.write_roboflow(root, "coco"), "roboflow", TWO, True),
        (lambda root: exports.write_roboflow(root, "yolo"), "roboflow", TWO, True),
        (lambda root: exports.write_roboflow(root, "masks"), "roboflow", TWO, True),
    ],
)
def test_export_is_imported_with_classes_splits_and_pixels(
    source: Path, target: Path, write: Callable[[Path], Path], name: str, ids: dict[str, int], split: bool
) -> None:
    assert run_import(write(source), target) == 0
    assert class_list(target) == ids
    record = read_record(target)
    assert record is not None and record.format == name and len(record.sha256) == 64
    expected = reference(road=ids["road"], car=ids["car"])
    for number in range(3):
        path = next((target / "masks").rglob(f"p{number:02d}.png"))
        assert differing(target, path.relative_to(target / "masks").with_suffix("").as_posix(), expected) <= 0.005
    stored = read_splits(target)
    assert (stored is not None) is split
    if stored is not None:
        assert sorted(part for part, _, _ in stored.lines) == ["train", "train", "val"]
        check_data(target, 0)


@pytest.mark.parametrize(
    "write", [exports.write_labelme, exports.write_yolo, exports.write_supervisely, exports.write_label_studio]
)
def test_overlap_of_two_classes_is_refused_with_strict(
    source: Path, target: Path, write: Callable[[Path], Path]
) -> None:
    found = refused(write(source), target, "--strict")
    assert len(found) == 3
    assert all("--strict" in fault.expected and "covers" in fault.found for fault in found)


@pytest.mark.parametrize(
    ("write", "title"),
    [
        (exports.write_coco, "COCO"),
        (exports.write_labelme, "labelme"),
        (exports.write_yolo, "YOLO segmentation"),
        (exports.write_supervisely, "Supervisely"),
        (exports.write_label_studio, "Label Studio (JSON)"),
        (lambda root: exports.write_roboflow(root, "coco"), "Roboflow"),
        (lambda root: exports.write_roboflow(root, "yolo"), "Roboflow"),
        (lambda root: exports.write_roboflow(root, "masks"), "Roboflow"),
    ],
)
def test_training_on_an_export_names_the_format_and_the_command(
    source: Path, write: Callable[[Path], Path], title: str
) -> None:
    with pytest.raises(DataFaults) as caught:
        check_data(write(source), 0)
    (fault,) = caught.value.faults
    assert title in fault.found and f"lake.py import-labels {source}" in fault.expected


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("case", "title", "corners"),
    [
        ("15_labelme_json", "labelme", [2, 2, 20, 2, 20, 15]),
        ("16_coco_json", "COCO", [2, 2, 20, 2, 20, 15]),
        ("29_yolo_seg", "YOLO", [3.2, 2.4, 19.2, 2.4, 19.2, 14.4]),
    ],
)
def test_case_is_named_and_imported(
    target: Path, capsys: pytest.CaptureFixture[str], case: str, title: str, corners: list[float]
) -> None:
    with pytest.raises(DataFaults, match=rf"import-labels .*{case}(.|\n)*{title}"):
        check_data(CASES / case / "data", 0)
    assert run_import(CASES / case / "data", target) == 0
    assert title in capsys.readouterr().out
    assert class_list(target) == {"background": 0, "road": 1}
    masks = [np.asarray(Image.open(path)) for path in sorted((target / "masks").rglob("*.png"))]
    assert len(masks) in (11, 12)
    expected = coco.decode(coco.merge(coco.frPyObjects([corners], 24, 32)))
    assert all((mask != expected).mean() <= 0.005 for mask in masks)


@pytest.mark.parametrize(
    "write", [exports.write_coco, exports.write_yolo, exports.write_supervisely, exports.write_label_studio]
)
def test_export_without_images_is_one_fault(source: Path, target: Path, write: Callable[[Path], Path]) -> None:
    for path in write(source).rglob("*.png"):
        path.unlink()
    (fault,) = refused(source, target)
    assert (fault.file, fault.found) == ("images/", "none")
