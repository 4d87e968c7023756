"""lake.py import-labels: what Roboflow exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lake
from tests.support.exports import polygon as exports
from tests.support.exports.polygon import differing, reference, refused, run_import


def test_roboflow_masks_are_bit_identical(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    run_import(source, target)
    assert differing(target, "p00", reference(road=1, car=2)) == 0


def test_roboflow_class_lists_that_differ_are_refused(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    (source / "valid/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n2, road\n")
    (fault,) = refused(source, target)
    assert fault.file == "valid/_classes.csv" and "train/_classes.csv" in fault.expected


def test_incomplete_roboflow_masks_are_refused(source: Path, target: Path) -> None:
    exports.write_roboflow(source, "masks")
    (source / "train/p00_mask.png").unlink()
    (source / "train/p01.png").unlink()
    assert [fault.file for fault in refused(source, target)] == ["train/p00_mask.png", "train/p01_mask.png"]


def test_export_without_any_outline_is_refused(source: Path, target: Path) -> None:
    exports.write_yolo(source)
    shutil.rmtree(source / "labels")
    (source / "labels").mkdir()
    (source / "labels/p00.txt").write_text("")
    found = refused(source, target)
    assert any(fault.file in ("labels/p00.txt", "data.yaml") for fault in found)


def test_formats_are_listed_for_an_unknown_directory(source: Path, target: Path) -> None:
    source.mkdir()
    (source / "notes.txt").write_text("nothing")
    with pytest.raises(Exception, match=r"COCO, .*Supervisely, labelme"):
        lake.main(["import-labels", str(source), "--to", str(target)])
