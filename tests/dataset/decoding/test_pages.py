"""Pages of TIFF files are images of their own, called name_0001: in the data check, training data and prediction."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from config import Settings
from core.errors import UsageError
from core.hashing import file_sha256
from dataset.checks.committed_groups import add_groups
from dataset.checks.page import write_page
from dataset.classes import UInt8
from dataset.decoding.image import decode_image, read_image
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.tiff import count_pages
from dataset.directory import CHECK_PAGE
from dataset.pages import find_page
from dataset.samples import committed_items
from dataset.validation import check_data, inspect_data
from inference import batch_job, inputs
from segmentation.predictor import Predictor
from tests.support.data_directories import faults_of, put_image, put_mask
from tests.support.models import CPU, lineage, make_model
from tests.support.rasters import tiff
from train.loading.loader import SegmentationDataset
from train.loading.split import _read_stack
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath, connect

RANDOM = np.random.default_rng(0)


def stack(pages: int, colour: bool = False) -> UInt8:
    return RANDOM.integers(0, 256, (pages, 24, 32, *((3,) if colour else ())), np.uint8)


def labels(pages: int) -> UInt8:
    """Return masks (pages,24,32) whose first row tells them apart."""
    masks = np.zeros((pages, 24, 32), np.uint8)
    masks[:, 12:] = 1
    for page in range(pages):
        masks[page, 0, : page + 1] = 1
    return masks


def put_stack(root: Path, name: str, pages: int, masks: int | None = None) -> UInt8:
    """Write images/NAME.tif and masks/NAME.tif; return the pixels (pages,24,32)."""
    pixels = stack(pages)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(root / f"images/{name}.tif", pixels, photometric="minisblack")
    tifffile.imwrite(root / f"masks/{name}.tif", labels(masks or pages), photometric="minisblack")
    return pixels


def test_each_page_is_a_pair(tmp_path: Path) -> None:
    pixels = put_stack(tmp_path, "scan", 12)
    data = check_data(tmp_path, 0)
    names = sorted(pair.name for pair in data.pairs)
    assert set(names) <= {f"scan_{number:04}" for number in range(1, 13)}
    assert data.split("train") and data.split("val"), "a single stack is cut into blocks"
    for pair in data.pairs:
        page = int(pair.name[-4:]) - 1
        assert pair.page == page
        assert np.array_equal(read_image(pair.image, data.reading, pair.page)[..., 0], pixels[page])
        assert read_mask(pair.mask, data.classes, data.reading, pair.page)[0].sum() == page + 1
    again = check_data(tmp_path, 0)
    assert {p.name: p.split for p in again.pairs} == {p.name: p.split for p in data.pairs}


def test_bands_that_were_saved_as_pages_are_a_fault_with_the_call_that_saves_one_page(tmp_path: Path) -> None:
    bands = {name: stack(8) for name in ("a", "b")}
    (tmp_path / "images").mkdir()
    for name, pixels in bands.items():
        tifffile.imwrite(tmp_path / f"images/{name}.tif", pixels)
        put_mask(tmp_path / f"masks/{name}.png", size=(24, 32))
    (fault,) = [fault for fault in faults_of(tmp_path) if fault.file == "masks/a.png"]
    assert fault.found == "1 page" and fault.expected.startswith(
        "8 pages, as images/a.tif has (if they are bands of one"
    )
    (call,) = re.findall(r"tifffile\.imwrite\((.*)\)\)", fault.expected)
    for name, pixels in bands.items():  # what the fault says
        options = dict(part.split("=") for part in call.split(", ")[2:])
        tifffile.imwrite(tmp_path / f"images/{name}.tif", pixels, **{k: v.strip("'") for k, v in options.items()})
    data = check_data(tmp_path, 0)
    assert data.bands == 8 and len(data.pairs) == 2
    assert np.array_equal(read_image(data.pairs[0].image, data.reading), bands[data.pairs[0].name].transpose(1, 2, 0))


def test_pages_of_a_stack_stay_in_one_split(tmp_path: Path) -> None:
    for number in range(6):
        put_stack(tmp_path, f"scan{number}", 4)
    data = check_data(tmp_path, 0)
    assert len(data.pairs) == 24
    for number in range(6):
        assert len({pair.split for pair in data.pairs if pair.name.startswith(f"scan{number}_")}) == 1


def test_training_reads_the_page(tmp_path: Path) -> None:
    put_stack(tmp_path, "scan", 12)
    data = check_data(tmp_path, 0)
    images = SegmentationDataset(data.split("train"), data.classes, (24, 32), True, data.reading)
    for index, pair in enumerate(images.pairs):
        image, _, mask = images.arrays(index)
        assert np.array_equal(image, read_image(pair.image, data.reading, pair.page))
        assert mask[0].sum() == int(pair.name[-4:])
    data.pairs[0].image.write_bytes(b"")
    _read_stack.cache_clear()
    with pytest.raises(UsageError, match="changed since it was committed"):
        SegmentationDataset(data.split("val"), data.classes, (24, 32), True, data.reading).split.decode(0)


def test_own_split_files_name_the_file(tmp_path: Path) -> None:
    put_stack(tmp_path, "a", 3)
    put_stack(tmp_path, "b", 2)
    (tmp_path / "splits").mkdir()
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / f"splits/{split}.txt").write_text(f"{name}\n", encoding="utf-8")
    data = check_data(tmp_path, 0)
    assert [pair.name for pair in data.split("train")] == ["a_0001", "a_0002", "a_0003"]
    assert [pair.name for pair in data.split("val")] == ["b_0001", "b_0002"]


def test_masks_need_as_many_pages(tmp_path: Path) -> None:
    put_stack(tmp_path, "scan", 5, masks=4)
    put_stack(tmp_path, "good", 5)
    put_image(tmp_path / "images/one.png", size=(24, 32))
    (tmp_path / "masks/one.tif").write_bytes(tiff(labels(3), photometric="minisblack", planarconfig=None))
    assert [(f.file, f.expected, f.found) for f in faults_of(tmp_path)] == [
        ("masks/one.tif", "1 page, as images/one.png has", "3 pages"),
        ("masks/scan.tif", "5 pages, as images/scan.tif has", "4 pages"),
    ]


def test_an_image_called_like_a_page_is_a_fault(tmp_path: Path) -> None:
    put_stack(tmp_path, "scan", 3)
    put_image(tmp_path / "images/scan_0002.png", size=(24, 32))
    put_mask(tmp_path / "masks/scan_0002.png", size=(24, 32))
    assert [(f.file, f.found) for f in faults_of(tmp_path)] == [
        ("images/scan_0002.png", "also page 2 of images/scan.tif")
    ]


def test_overviews_are_not_pages(tmp_path: Path) -> None:
    path = tmp_path / "cog.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(stack(1, colour=True)[0], photometric="rgb")
        file.write(stack(1, colour=True)[0, ::2, ::2], photometric="rgb", subfiletype=1)
    assert count_pages(path) == count_pages(path.read_bytes()) == 1
    assert decode_image(path.read_bytes(), DEFAULT_READING).shape == (24, 32, 3)
    assert count_pages(put_image(tmp_path / "a.png")) == 1
    (tmp_path / "damaged.tif").write_bytes(b"II*\0nothing")
    assert count_pages(tmp_path / "damaged.tif") == 1


def test_several_pages_are_never_read_as_one(tmp_path: Path) -> None:
    put_stack(tmp_path, "scan", 3)
    with pytest.raises(UsageError, match=r"expected one image .*--input takes files of several pages\), found 3 pages"):
        read_image(tmp_path / "images/scan.tif", DEFAULT_READING)


def test_names_of_pages_and_of_files() -> None:
    assert find_page("scan_0002", {"scan"}) == ("scan", 1)
    assert find_page("scan_0002", {"scan", "scan_0002"}) == ("scan_0002", None)
    assert find_page("film_0002", {"scan"}) == ("film_0002", None)


def test_prediction_writes_a_mask_for_each_page(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "scan.tif", stack(3, colour=True), photometric="rgb")
    put_image(folder / "scan_0002.png", size=(24, 32))
    items = inputs.collect_items([folder])
    assert [(item.name, item.page) for item in items] == [
        ("scan_0001", 0), ("scan_0002.tif", 1), ("scan_0003", 2), ("scan_0002.png", None)
    ]  # fmt: skip
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None)
    assert outcome.written == 4 and not outcome.failed
    listing = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))
    assert [record.get("page") for record in listing["images"]] == [1, 2, 3, None]
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None, resume=True)
    assert outcome.reused == 4


@pytest.mark.parametrize("own_split", [False, True])
def test_pages_of_a_commit_are_those_of_the_data_check(tmp_path: Path, own_split: bool) -> None:
    root = tmp_path / "data"
    if own_split:
        put_stack(root / "train", "a", 3)
        put_stack(root / "val", "b", 4)
    else:
        put_stack(root, "scan", 30)
    data = check_data(root, 0)
    with connect(Settings(lakefs_local_dir=tmp_path / ".lakefs"), create=True) as lake:
        files = {name: LocalFile(path, file_sha256(path)) for name, path in data.files().items()}
        commit = lake.publish(files, "data/", "data", {}, mirror=True).commit_id
        source = LakePath(lake.repo, commit, "data/")
        committed = committed_items(lake, source, "val", tmp_path / "cache")
        items = add_groups(lake, source, committed, tmp_path / "cache", data.classes, data.reading)
    pairs = data.split("val")
    assert [(item.name, item.page) for item in items] == [(pair.name, pair.page) for pair in pairs]
    assert all(item.group for item in items), "pages of a stack depend on each other"


def test_check_page_shows_each_page(tmp_path: Path) -> None:
    put_stack(tmp_path, "scan", 12)
    inspection = inspect_data(tmp_path, 0)
    write_page(inspection)
    page = (tmp_path / CHECK_PAGE).read_text(encoding="utf-8")
    assert page.count("<h3>scan_00") == 6
