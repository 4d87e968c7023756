"""infer.py --select: the most uncertain images with pre-annotations, and the way back by lake.py import-labels."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import infer
import lake
from core.errors import UsageError
from dataset.classes import ClassMap, UInt8
from dataset.decoding.image import read_image
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.tiff import count_pages
from dataset.formats.record import source_metadata
from dataset.samples import Item
from dataset.validation import check_data
from inference import batch_job, inputs, selection
from inference.selection import FOLDER, reject_corrections, write_selection
from segmentation.predictor import Method, Predictor
from segmentation.reliability.uncertainty import entropies
from tests.support.data_directories import put_pair, write_classes
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model

UNCERTAIN = Method(uncertainty=True)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output directory with the predictions of six images."""
    return predict(tmp_path, draw(tmp_path / "in", 6))


def predict(tmp_path: Path, items: list[Item], resume: bool = False) -> Path:
    predictor = Predictor(make_model(), CPU, UNCERTAIN)
    batch_job.predict(predictor, items, tmp_path / "out", lineage(), None, resume)
    return tmp_path / "out"


def classes() -> ClassMap:
    return make_model().classes


def records(output: Path) -> list[dict[str, Any]]:
    return list(json.loads((output / "predictions.json").read_text())["images"])


def predicted(output: Path, name: str) -> UInt8:
    with Image.open(output / f"{name}.png") as mask:
        return np.asarray(mask)


def imported(target: Path, name: str) -> UInt8:
    with Image.open(target / "masks" / f"{name}.png") as mask:
        return np.asarray(mask)


# --- uncertainty ---------------------------------------------------------------------------------------------


def test_uncertainty_is_the_mean_entropy_of_the_probabilities(tmp_path: Path) -> None:
    predictor = Predictor(make_model(), CPU, Method(probabilities=True, uncertainty=True))
    image = predictor.prepare(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), "")
    (prediction,) = predictor.predict([image])
    assert prediction.probabilities is not None and prediction.uncertainty is not None
    p = prediction.probabilities.astype(np.float64).clip(1e-9)
    assert prediction.uncertainty == pytest.approx(float(-(p * np.log2(p)).sum(0).mean()), abs=1e-3)
    assert Predictor(make_model(), CPU).predict([image])[0].uncertainty is None


def test_uncertainty_of_an_image_in_tiles_counts_every_pixel_once() -> None:
    predictor = Predictor(make_model((128, 128)), CPU, Method(tile=128, probabilities=True, uncertainty=True))
    image = predictor.prepare(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8), "")
    (prediction,) = predictor.predict([image])
    assert prediction.probabilities is not None and prediction.uncertainty is not None
    p = prediction.probabilities.astype(np.float64).clip(1e-9)
    assert prediction.uncertainty == pytest.approx(float(-(p * np.log2(p)).sum(0).mean()), abs=1e-3)


def test_equal_probabilities_are_1_and_a_certain_class_0() -> None:
    assert entropies(torch.zeros(5, 4, 4), 1.0).mean() == pytest.approx(1)
    certain = torch.zeros(5, 4, 4)
    certain[2] = 1e4
    assert entropies(certain, 1.0).max() == 0
    assert entropies(torch.zeros(1, 4, 4), 1.0).max() == 0


def test_resume_measures_images_that_were_predicted_without(tmp_path: Path) -> None:
    items = draw(tmp_path / "in", 3)
    batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None)
    output = predict(tmp_path, items, resume=True)
    assert all("uncertainty" in record for record in records(output))


# --- the selection ---------------------------------------------------------------------------------------------


def test_most_uncertain_images_are_selected_and_described(output: Path) -> None:
    selected = write_selection(output, 4, classes())
    ranked = sorted(records(output), key=lambda record: -record["uncertainty"])[:4]
    assert [f"{item.name}.png" for item in selected] == [record["mask"] for record in ranked]
    content = json.loads((output / FOLDER / "selection.json").read_text())
    assert (content["run_id"], content["model_sha256"], content["selected_from"]) == ("f" * 32, "a" * 64, 6)
    assert [image["sha256"] for image in content["images"]] == [record["input_sha256"] for record in ranked]
    for tool in ("labelme", "cvat", "label-studio"):
        assert (output / FOLDER / tool / "selection.json").is_file()


def test_pre_annotations_of_labelme_are_the_predictions_and_name_the_model_when_imported(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_selection(output, 3, classes())
    corrected = shutil.copytree(output / FOLDER / "labelme", tmp_path / "corrected")
    assert lake.main(["import-labels", str(corrected), "--to", str(tmp_path / "data")]) == 0
    names = sorted(path.stem for path in (tmp_path / "data/images").iterdir())
    assert len(names) == 3
    assert all(np.array_equal(imported(tmp_path / "data", name), predicted(output, name)) for name in names)
    metadata = source_metadata(tmp_path / "data")
    assert metadata["selected_by_run"] == "f" * 32 and metadata["selected_by_model_sha256"] == "a" * 64
    assert metadata["label_format"] == "labelme"
    assert f"selected by run {'f' * 32}" in capsys.readouterr().out


def test_selected_pages_are_files_of_one_page_that_import_with_their_masks(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), np.uint8)
    pixels[2] //= 8
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/scan.tif", pixels, photometric="rgb")
    output = predict(tmp_path, inputs.collect_items([tmp_path / "in"]))
    pages = {item.name: int(item.name[-4:]) - 1 for item in write_selection(output, 3, classes())}
    images = {"labelme": "", "cvat": "JPEGImages", "label-studio": "images"}
    for name, page in pages.items():
        for tool, folder in images.items():
            data = (output / FOLDER / tool / folder / f"{name}.tif").read_bytes()
            assert count_pages(data) == 1 and np.array_equal(read_image(data, DEFAULT_READING), pixels[page])
    for tool in ("labelme", "cvat"):
        data_dir = tmp_path / f"data-{tool}"
        assert lake.main(["import-labels", str(output / FOLDER / tool), "--to", str(data_dir)]) == 0
        assert source_metadata(data_dir)["selected_by_run"] == "f" * 32
        for name, page in pages.items():
            assert np.array_equal(read_image(data_dir / f"images/{name}.tif", DEFAULT_READING), pixels[page])
            mask = imported(data_dir, name) * np.uint8(
                7 if tool == "cvat" else 1
            )  # that format numbers the classes anew
            assert np.array_equal(mask, predicted(output, name))


def test_corrected_selection_updates_the_data_that_it_is_stored_beside(tmp_path: Path, output: Path) -> None:
    write_selection(output, 3, classes())
    data = tmp_path / "data"
    for number in range(4):
        put_pair(data, f"old{number}", (0, 7))
    write_classes(data, [{"id": 0, "name": "sky"}, {"id": 7, "name": "road"}])
    shutil.copytree(output, data / "predictions")
    export = data / "predictions" / FOLDER / "cvat"
    assert lake.main(["import-labels", str(export), "--to", str(data), "--update"]) == 0
    new = [path.stem for path in (data / "images").iterdir() if not path.stem.startswith("old")]
    assert len(new) == 3
    assert all(np.array_equal(imported(data, name), predicted(output, name)) for name in new)
    assert source_metadata(data)["selected_by_run"] == "f" * 32


def test_cvat_archive_is_the_directory_and_imports_as_the_predictions(tmp_path: Path, output: Path) -> None:
    write_selection(output, 3, classes())
    with zipfile.ZipFile(output / FOLDER / "cvat.zip") as archive:
        archive.extractall(tmp_path / "export")
    (tmp_path / "export/selection.json").unlink()  # an export of CVAT does not have it
    command = ["import-labels", str(tmp_path / "export"), "--to", str(tmp_path / "data")]
    assert lake.main([*command, "--selection", str(output / FOLDER)]) == 0
    checked = check_data(tmp_path / "data", 0)
    assert checked.classes.names == ("sky", "road")
    for pair in checked.pairs:
        order = {0: 0, 1: 7}
        values = imported(tmp_path / "data", pair.name)
        assert np.array_equal(np.vectorize(order.get)(values), predicted(output, pair.name))
    assert source_metadata(tmp_path / "data")["selected_by_run"] == "f" * 32


def test_label_studio_tasks_become_an_export_that_imports_as_the_predictions(tmp_path: Path, output: Path) -> None:
    write_selection(output, 3, classes())
    export = shutil.copytree(output / FOLDER / "label-studio", tmp_path / "export")
    tasks = json.loads((export / "tasks.json").read_text())
    assert {"data", "predictions"} == tasks[0].keys()
    config = (export / "label_config.xml").read_text()
    assert '<Label value="road" background="#' in config
    done = [
        {"id": i, "data": task["data"], "annotations": [{"id": i, "result": task["predictions"][0]["result"]}]}
        for i, task in enumerate(tasks)
    ]
    (export / "project-1.json").write_text(json.dumps(done))  # what Label Studio exports after a click on "submit"
    assert lake.main(["import-labels", str(export), "--to", str(tmp_path / "data")]) == 0
    for path in (tmp_path / "data/images").iterdir():
        assert np.array_equal(imported(tmp_path / "data", path.stem), predicted(output, path.stem))
    assert source_metadata(tmp_path / "data")["selected_by_run"] == "f" * 32


def test_gaps_of_corrected_outlines_are_ignored_where_no_class_is_background(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_selection(output, 3, classes())
    corrected = shutil.copytree(output / FOLDER / "labelme", tmp_path / "corrected")
    path = sorted(corrected.glob("0*.json"))[0]
    content = json.loads(path.read_text())
    content["shapes"] = [{"label": "road", "points": [[0, 0], [10, 0], [10, 10], [0, 10]], "shape_type": "polygon"}]
    path.write_text(json.dumps(content))
    lake.main(["import-labels", str(corrected), "--to", str(tmp_path / "data")])
    values = imported(tmp_path / "data", path.stem)
    assert (values == 7).sum() == 100 and (values == 255).sum() == values.size - 100
    assert check_data(tmp_path / "data", 0).classes.ids == (0, 7)
    assert "no class named background" in capsys.readouterr().err


# --- nothing is lost ---------------------------------------------------------------------------------------------


def test_corrections_are_never_replaced(output: Path) -> None:
    write_selection(output, 2, classes())
    reject_corrections(output)
    write_selection(output, 3, classes())  # unchanged: replaced
    path = next((output / FOLDER / "labelme").glob("0*.json"))
    path.write_text(path.read_text() + " ")
    with pytest.raises(UsageError, match=rf"changed or added since the selection: 1 \(labelme/{path.name}\)"):
        reject_corrections(output)


def test_other_directory_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        reject_corrections(tmp_path)


def test_images_of_a_selection_are_not_predicted_again(tmp_path: Path) -> None:
    output = predict(tmp_path, draw(tmp_path / "in", 3))
    write_selection(output, 2, classes())
    shutil.move(output, tmp_path / "in/out")
    assert [item.name for item in inputs.collect_items([tmp_path / "in"])] == ["000", "001", "002"]


def test_earlier_selection_stays_if_writing_the_next_one_fails(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_selection(output, 2, classes())
    before = sorted(path.name for path in (output / FOLDER).rglob("*"))
    monkeypatch.setattr(selection, "_write_label_studio", fail)
    with pytest.raises(OSError, match="disk full"):
        write_selection(output, 3, classes())
    assert sorted(path.name for path in (output / FOLDER).rglob("*")) == before


def test_replaced_selection_is_counted_and_a_kill_loses_neither(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_selection(output, 2, classes())
    assert "earlier selection" not in capsys.readouterr().out
    write_selection(output, 3, classes())
    assert f"earlier selection replaced in {output / FOLDER}: 2" in capsys.readouterr().out
    (output / FOLDER / "selection.json").write_text("no JSON")
    write_selection(output, 3, classes())
    assert f"earlier selection replaced in {output / FOLDER}, whose list cannot be read" in capsys.readouterr().out
    before = (output / FOLDER / "selection.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(
            selection, "_replace", lambda folder, new, aside: folder.rename(aside)
        )  # killed after this step
        write_selection(output, 2, classes())
    assert not (output / FOLDER).exists()
    reject_corrections(output)  # the next call
    assert (output / FOLDER / "selection.json").read_bytes() == before
    write_selection(output, 1, classes())
    assert sorted(path.name for path in output.iterdir() if "selection" in path.name) == [FOLDER]


def fail(*_: object) -> None:
    raise OSError("disk full")


# --- wrong use ---------------------------------------------------------------------------------------------------


def test_import_of_other_images_than_selected_is_refused(tmp_path: Path, output: Path) -> None:
    write_selection(output, 2, classes())
    corrected = shutil.copytree(output / FOLDER / "labelme", tmp_path / "corrected")
    for path in corrected.glob("*.png"):
        with Image.open(path) as image:
            Image.new("RGB", image.size, (1, 2, 3)).save(path)
    with pytest.raises(UsageError, match="none of the images"):
        lake.main(["import-labels", str(corrected), "--to", str(tmp_path / "data")])


@pytest.mark.parametrize(
    ("change", "words"),
    [("}", "not the file of a selection"), ('{"run_id": 1}', "not the file of a selection"), (None, "was changed")],
)
def test_damaged_file_of_a_selection_is_refused(tmp_path: Path, output: Path, change: str | None, words: str) -> None:
    write_selection(output, 2, classes())
    corrected = shutil.copytree(output / FOLDER / "labelme", tmp_path / "corrected")
    path = corrected / "selection.json"
    path.write_text(change or path.read_text().replace("a" * 64, "b" * 64))
    with pytest.raises(UsageError, match=words):
        lake.main(["import-labels", str(corrected), "--to", str(tmp_path / "data")])


@pytest.mark.parametrize(
    "arguments", [["--select", "3"], ["--select", "0", "--input", "x"], ["--select", "3", "--serve"], ["--select", "x"]]
)
def test_select_needs_images_and_a_number(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="--select"):
        infer.parse(arguments)
