"""The data check names the format of an export and the command that imports it, instead of a fault for each file."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import lake
from dataset.faults import DataFaults
from dataset.formats.registry import require_format
from dataset.formats.source import open_source
from dataset.validation import check_data
from tests.support.data_directories import make_flat, only_fault, put_image, put_mask, write_classes
from tests.support.exports.imports import faults_of_import
from tests.support.exports.polygon import write_supervisely
from tests.support.exports.raster import (
    Labelled,
    draw_labelled,
    write_ade20k,
    write_cityscapes,
    write_cvat,
    write_kaggle_camvid,
    write_nnunet,
    write_voc,
)

NNUNET_LABELS: dict[str, object] = {"background": 0, "road": 1, "car": 2}


def write_labelme(root: Path, items: Sequence[Labelled]) -> None:
    for item in items:
        put_image(root / "images" / f"{item.name}.png")
        content: dict[str, object] = {
            "version": "5.0",
            "shapes": [],
            "imagePath": f"{item.name}.png",
            "imageData": None,
        }
        (root / "images" / f"{item.name}.json").write_text(json.dumps(content))


def write_coco(root: Path, items: Sequence[Labelled]) -> None:
    for item in items:
        put_image(root / "images" / f"{item.name}.png")
    (root / "annotations").mkdir()
    (root / "annotations/instances_default.json").write_text('{"images": [], "annotations": [], "categories": []}')


def write_yolo(root: Path, items: Sequence[Labelled]) -> None:
    for item in items:
        put_image(root / "images/train" / f"{item.name}.png")
        label = root / "labels/train" / f"{item.name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [road]\n")


def only_fault_of_import(source: Path, target: Path) -> tuple[str, str, str]:
    (fault,) = faults_of_import(source, target)
    return fault.file, fault.expected, fault.found


WRITERS: dict[str, Callable[[Path, Sequence[Labelled]], object]] = {
    "CVAT 'Segmentation mask 1.1'": write_cvat,
    "Pascal VOC": lambda root, items: write_voc(root, items, bytes(768)),
    "Kaggle CamVid (class_dict.csv)": write_kaggle_camvid,
    "Cityscapes": write_cityscapes,
    "ADE20K scene parsing": lambda root, items: write_ade20k(root, items, ("wall", "sky")),
    "nnU-Net (2-D images)": lambda root, items: write_nnunet(root, items, NNUNET_LABELS),
    "labelme": write_labelme,
    "COCO": write_coco,
    "YOLO segmentation": write_yolo,
}


@pytest.mark.parametrize("title", WRITERS)
def test_export_is_one_fault_with_its_format_and_command(tmp_path: Path, title: str) -> None:
    WRITERS[title](tmp_path / "export", draw_labelled(tmp_path / "drawn", ["train", "train", "val"]))
    file, expected, found = only_fault(tmp_path / "export")
    assert (file, found) == ("export/", f"an export in the format {title}")
    assert f"python lake.py import-labels {tmp_path / 'export'} --to data/" in expected


@pytest.mark.parametrize(
    ("file", "content", "title", "cure"),
    [
        ("annotations.xml", "<annotations><version>1.1</version><meta>", "CVAT for images", "'Segmentation mask 1.1'"),
        ("via.json", '{"_via_settings": {}}', "VGG Image Annotator (VIA)", "as COCO"),
        ("via.json", '{"a.png123": {"filename": "a.png", "regions": []}}', "VGG Image Annotator (VIA)", "as COCO"),
        ("labels/a.xml", "<annotation><object><bndbox>", "Pascal VOC (boxes)", "annotate outlines"),
        ("labels/a.txt", "0 0.5 0.5 0.2 0.1\n", "YOLO (boxes)", "annotate outlines"),
    ],
)
def test_formats_without_a_reader_are_named_with_the_cure(
    tmp_path: Path, file: str, content: str, title: str, cure: str
) -> None:
    put_image(tmp_path / "export/images/a.png")
    (tmp_path / "export" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "export" / file).write_text(content)
    for fault in (only_fault(tmp_path / "export"), only_fault_of_import(tmp_path / "export", tmp_path / "data")):
        assert fault[2] == f"{title}, which is not imported" and cure in fault[1]


@pytest.mark.parametrize(
    ("write", "missing", "name", "title"),
    [
        (write_yolo, "data.yaml", "yolo", "YOLO segmentation"),
        (lambda root, items: write_supervisely(root), "meta.json", "supervisely", "Supervisely"),
        (WRITERS["nnU-Net (2-D images)"], "dataset.json", "nnunet", "nnU-Net"),
    ],
)
@pytest.mark.parametrize("inside", ["", "project"])
def test_export_without_its_classes_is_named_with_the_file_to_add(
    tmp_path: Path,
    write: Callable[[Path, Sequence[Labelled]], object],
    missing: str,
    name: str,
    title: str,
    inside: str,
) -> None:
    root = tmp_path / "export" / inside
    write(root, draw_labelled(tmp_path / "drawn", ["train", "train", "val"]))
    (root / missing).unlink()
    checked, imported = only_fault(tmp_path / "export"), only_fault_of_import(tmp_path / "export", tmp_path / "data")
    assert checked[0] == imported[0] == f"{root.name}/"
    assert checked[2] == imported[2] == f"{title} without {missing}"
    assert imported[1].startswith(missing) and checked[1].startswith(imported[1])
    assert f"python lake.py import-labels {tmp_path / 'export'} --to data/" in checked[1]
    with pytest.raises(DataFaults, match=f"{title} without {missing}"):
        require_format(open_source(tmp_path / "export"), name)


def test_texts_in_a_directory_of_labels_are_not_yolo(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/notes.txt").write_text("2024 was a good year for all of us\n")
    assert "YOLO" not in only_fault(tmp_path)[2]


@pytest.mark.parametrize("place", ["data", "my photos", ".", "data/export"])
def test_command_imports_the_export_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    write_cvat(Path(place), draw_labelled(tmp_path / "drawn", ["train", "train", "val"]))
    command = only_fault(Path(place).resolve())[1].split("import the export by ")[1]
    move, _, rest = command.rpartition(" && ")
    if move:
        program, old, new = shlex.split(move)
        assert program == "mv"
        shutil.move(old, new)
    python, script, *arguments = shlex.split(rest)
    assert (python, script) == ("python", "lake.py") and lake.main(arguments) == 0
    assert len(check_data(Path(arguments[-1]), 0).pairs) == 3


def test_directory_of_several_exports_names_each(tmp_path: Path) -> None:
    items = draw_labelled(tmp_path / "drawn", ["train", "train", "val"])
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / "archive/VOCdevkit" / year, items, bytes(768))
    listed = "exports in VOCdevkit/VOC2007/ (Pascal VOC), VOCdevkit/VOC2012/ (Pascal VOC)"
    assert only_fault_of_import(tmp_path / "archive", tmp_path / "data")[2] == listed
    _, expected, found = only_fault(tmp_path / "archive")
    assert found == listed and f"import-labels {tmp_path}/archive/VOCdevkit/VOC2007 --to" in expected


def test_export_beside_other_files_is_found(tmp_path: Path) -> None:
    write_cvat(tmp_path / "unpacked/task", draw_labelled(tmp_path / "drawn", ["train", "train", "val"]))
    (tmp_path / "unpacked/task.zip").touch()
    assert only_fault(tmp_path / "unpacked")[2] == "exports in task/ (CVAT 'Segmentation mask 1.1')"


def test_annotations_beside_own_masks_are_no_export(tmp_path: Path) -> None:
    make_flat(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "dataset.json").write_text("{}")
    assert len(check_data(tmp_path, 0).pairs) == 10


def test_other_names_with_own_classes_are_no_export(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            put_image(tmp_path / split / f"{split}{number}.png")
            put_mask(tmp_path / f"{split}_labels" / f"{split}{number}_L.png")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\na,0,0,0\n")
    assert "CamVid" in only_fault(tmp_path)[2]
    write_classes(tmp_path, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    assert len(check_data(tmp_path, 0).pairs) == 5
