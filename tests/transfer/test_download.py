"""--dataset, offline: torchvision's own file layouts, made small, and a network that is not there."""

from __future__ import annotations

import importlib.util
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import AppError, UsageError
from dataset.sources import public
from dataset.validation import check_data


def write_image(path: Path, values: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        random = np.random.default_rng([*path.name.encode()])  # no two are equal
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    else:
        mask = Image.fromarray(np.array(values, np.uint8)[np.arange(20 * 24) % len(values)].reshape(20, 24)).convert(
            "P"
        )
        mask.putpalette(list(range(256)) * 3)
        mask.save(path)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def fake_pets(archives: Path) -> None:
    base = archives / "oxford-iiit-pet"
    for split, names in {
        "trainval": [f"Abyssinian_{i}" for i in range(20)],
        "test": ["beagle_1", "beagle_2", "twin"],
    }.items():
        write_lines(base / "annotations" / f"{split}.txt", [f"{name} 1 1 1" for name in names])
        for name in names:
            write_image(base / "images" / f"{name}.jpg")
            write_image(base / "annotations/trimaps" / f"{name}.png", [1, 2, 3])
    shutil.copy(base / "images/Abyssinian_3.jpg", base / "images/twin.jpg")


def fake_voc(archives: Path) -> None:
    base = archives / "VOCdevkit/VOC2012"
    for split, names in {"train": ["2007_1", "2007_2"], "val": ["2007_3", "twin"]}.items():
        write_lines(base / "ImageSets/Segmentation" / f"{split}.txt", names)
        for name in names:
            write_image(base / "JPEGImages" / f"{name}.jpg")
            write_image(base / "SegmentationClass" / f"{name}.png", [0, 15, 255])
    shutil.copy(base / "JPEGImages/2007_1.jpg", base / "JPEGImages/twin.jpg")


@pytest.mark.parametrize(
    ("name", "fake", "counts", "classes"),
    [
        ("oxford-iiit-pet", fake_pets, {"train": 18, "val": 2, "test": 2}, ("pet", "background", "border")),
        ("voc2012", fake_voc, {"train": 2, "val": 1, "test": 0}, public.VOC_CLASSES),
    ],
)
def test_a_data_set_becomes_a_data_folder_that_passes_the_check(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    fake: object,
    counts: dict[str, int],
    classes: tuple[str, ...],
) -> None:
    assert callable(fake)
    fake(tmp_path / public.ARCHIVES)
    public.fetch(name, tmp_path, seed=0)
    data = check_data(tmp_path, 0)
    assert {split: len(data.split(split)) for split in counts} == counts and data.classes.names == classes
    assert not (tmp_path / public.ARCHIVES).exists() and "left out 1 duplicate image" in capsys.readouterr().out
    public.fetch(name, tmp_path, seed=0)  # it is there: nothing to do
    with pytest.raises(UsageError, match="holds other data"):
        public.fetch(next(other for other in public.DATASETS if other != name), tmp_path, seed=0)


def test_download_without_network_fails_and_a_second_call_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", offline)
    with pytest.raises(
        AppError, match=r"cannot download the data set oxford-iiit-pet .*no route to host.*check the network"
    ):
        public.fetch("oxford-iiit-pet", tmp_path, seed=0)
    fake_pets(tmp_path / public.ARCHIVES)
    public.fetch("oxford-iiit-pet", tmp_path, seed=0)
    assert len(check_data(tmp_path, 0).pairs) == 22


def test_command_line_names_equal_the_names_of_the_module() -> None:
    spec = importlib.util.spec_from_file_location("train_script", Path(__file__).resolve().parents[2] / "train.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.DATASETS == tuple(public.DATASETS) == tuple(public.CLASSES)
