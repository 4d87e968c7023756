"""Data directories for tests, and the faults that the data check finds in them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import faults
from dataset.data import SegmentationData
from dataset.faults import DataFaults, DataWarning, Fault
from dataset.validation import check_data

SIZE = (6, 8)  # height, width


def put_image(path: Path, key: object = None, size: tuple[int, int] = SIZE) -> Path:
    """Write a noise image that depends only on its key (default: its path)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(str(path if key is None else key))
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(*size, 3)
    Image.fromarray(pixels).save(path)
    return path


def put_mask(path: Path, values: tuple[int, ...] = (0, 1), size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)
    return path


def put_pair(folder: Path, name: str, values: tuple[int, ...] = (0, 1)) -> None:
    put_image(folder / "images" / f"{name}.png")
    put_mask(folder / "masks" / f"{name}.png", values)


def make_flat(root: Path) -> Path:
    """Write ten valid pairs a0..a9 in images/ + masks/."""
    for number in range(10):
        put_pair(root, f"a{number}")
    return root


def make_split(root: Path) -> Path:
    """Write three training and two validation pairs in {train,val}/{images,masks}."""
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            put_pair(root / split, f"{split}{number}")
    return root


def write_classes(root: Path, content: object) -> None:
    (root / "classes.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def warnings_of(data: SegmentationData) -> list[DataWarning]:
    """Return the warnings, but not those of a small val, which the small data of tests always has."""
    return [warning for warning in data.warnings if warning.kind not in ("small-split", "few-groups")]


def faults_of(root: Path) -> tuple[Fault, ...]:
    with pytest.raises(DataFaults) as caught:
        check_data(root, 0)
    for fault in caught.value.faults[: faults.MAX_ROWS]:
        assert fault.file in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value.faults


def only_fault(root: Path) -> tuple[str, str, str]:
    (fault,) = faults_of(root)
    return fault.file, fault.expected, fault.found
