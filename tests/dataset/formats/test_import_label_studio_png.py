"""lake.py import-labels: Label Studio's PNG export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset.classes import UInt8
from tests.support.exports.imports import check_imported, faults_of_import, only_fault, run_import
from tests.support.exports.raster import SIZE, Labelled, draw_labelled, save_png

LABELS = ("car", "traffic-sign")  # numbered from 1 by name


def write_brushes(root: Path, items: list[Labelled], labels: tuple[str, ...] = LABELS) -> Path:
    """Write a PNG for each label of each image, as task 1, 2, ..., and the images as task-1.png, ..."""
    for task, item in enumerate(items, 1):
        (root / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.image, root / f"images/task-{task}.png")
        for value, label in enumerate(labels, 1):
            save_png(brush(root, task, label), np.where(item.ids == value, 255, 0).astype(np.uint8))
    return root


def brush(root: Path, task: int, label: str, annotation: int = 7) -> Path:
    return root / f"task-{task}-annotation-{annotation}-by-ann@example.org-tag-{label}-0.png"


def renamed(items: list[Labelled]) -> list[Labelled]:
    return [Labelled(f"task-{task}", None, item.image, item.ids) for task, item in enumerate(items, 1)]


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    return draw_labelled(tmp_path / "drawn", [None] * 3)


def test_brushes_become_classes_by_name_over_background(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    run_import(write_brushes(tmp_path / "export", items), target)
    assert check_imported(target, renamed(items)).classes.names == ("background", *LABELS)


def test_images_are_those_that_json_min_names(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_brushes(tmp_path / "export", items)
    tasks = []
    for task, item in enumerate(items, 1):
        (source / f"images/task-{task}.png").rename(source / f"images/{item.name}.png")
        tasks.append({"id": task, "image": f"/data/upload/3/0a1b2c3d-{item.name}.png", "annotation_id": 7})
    (source / "tasks.json").write_text(json.dumps(tasks))
    run_import(source, target)
    check_imported(target, items)


def test_images_without_a_task_are_left_out(
    tmp_path: Path, items: list[Labelled], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_brushes(tmp_path / "export", items)
    for label in LABELS:
        brush(source, 3, label).unlink()
    run_import(source, target)
    check_imported(target, renamed(items)[:2])
    assert "left out (not annotated (no task)): images/task-3.png" in capsys.readouterr().out


def test_overlap_of_labels_is_a_fault_only_if_strict(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_brushes(tmp_path / "export", items)
    everything: UInt8 = np.full(SIZE, 255, np.uint8)
    save_png(brush(source, 1, "traffic-sign"), everything)
    assert "pixels of class 1" in only_fault(source, target, "--strict").found
    run_import(source, target)
    covered = Labelled("task-1", None, items[0].image, np.full(SIZE, 2, np.uint8))
    check_imported(target, [covered, *renamed(items)[1:]])


def test_contradictory_brushes_are_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_brushes(tmp_path / "export", items)
    save_png(brush(source, 1, "car", annotation=8), np.zeros(SIZE, np.uint8))
    (source / "images/task-2.png").rename(source / "images/other.png")
    faults = faults_of_import(source, target)
    assert [fault.found for fault in faults] == ["task 1: 7, 8", "task 2: no such file"]


def test_brush_of_another_size_is_refused(tmp_path: Path, items: list[Labelled], target: Path) -> None:
    source = write_brushes(tmp_path / "export", items)
    save_png(brush(source, 1, "car"), np.zeros((3, 4), np.uint8))
    fault = only_fault(source, target)
    assert fault.expected == "8x6 (size of the image)" and fault.found.endswith("4x3")
