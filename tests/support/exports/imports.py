"""Run lake.py import-labels in tests, and compare what it wrote with what was exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lake
from dataset.classes import UInt8
from dataset.data import SegmentationData
from dataset.faults import DataFaults, Fault
from dataset.validation import check_data
from tests.support.exports.raster import Labelled


def run_import(source: Path, target: Path, *options: str) -> int:
    return lake.main(["import-labels", str(source), "--to", str(target), *options])


def faults_of_import(source: Path, target: Path, *options: str) -> tuple[Fault, ...]:
    """Return the faults of a refused import, which leaves nothing behind."""
    with pytest.raises(DataFaults) as caught:
        run_import(source, target, *options)
    assert not target.exists() or not list(target.rglob("*"))
    return caught.value.faults


def only_fault(source: Path, target: Path, *options: str) -> Fault:
    (fault,) = faults_of_import(source, target, *options)
    return fault


def mask_ids(root: Path, name: str) -> UInt8:
    with Image.open(root / "masks" / f"{name}.png") as image:
        assert image.mode == "P"
        return np.asarray(image)


def check_imported(root: Path, items: Sequence[Labelled]) -> SegmentationData:
    """Check that images, ids and splits are those of `items`; return the checked data."""
    for item in items:
        image = root / "images" / f"{item.name}{item.image.suffix}"
        assert image.read_bytes() == item.image.read_bytes()
        assert np.array_equal(mask_ids(root, item.name), item.ids)
    data = check_data(root, 0)
    assert {pair.name for pair in data.pairs} == {item.name for item in items}
    if any(item.split for item in items):
        assert {pair.name: pair.split for pair in data.pairs} == {item.name: item.split for item in items}
    return data
