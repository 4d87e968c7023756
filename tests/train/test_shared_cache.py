"""Trainings that share one cache of decoded images: one removes the files of another at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.decoding.options import DEFAULT_READING
from dataset.validation import check_data
from tests.support.data_directories import put_pair
from train.loading.decoded_cache import open_decoded
from train.loading.loader import SegmentationDataset, attach_decoded_cache
from train.parallel import distributed
from versioning.streaming.disk import decoded_bytes, make_room

LIMIT = 1e9  # bytes


def images_of(folder: Path) -> SegmentationDataset:
    for number in range(4):
        put_pair(folder, f"a{number}")
    data = check_data(folder, 0)
    return SegmentationDataset(data.pairs, data.classes, (16, 16), False, DEFAULT_READING)


def remove_all(cache: Path) -> None:
    """Make room, as another training does that takes the whole limit."""
    make_room(cache, 0)
    assert not list(cache.glob("*.pictures"))


def require_decoded(images: SegmentationDataset, read: list[Any]) -> None:
    assert images.decoded is not None
    for index, expected in enumerate(read):
        assert all(map(np.array_equal, images.arrays(index), expected))


def test_files_that_are_removed_after_they_were_made_are_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, cache = images_of(tmp_path / "data"), tmp_path / "cache"
    read = [images.arrays(index) for index in range(len(images))]

    def broadcast(make: Callable[[], Any]) -> Any:
        made = make()
        remove_all(cache)
        return made

    monkeypatch.setattr(distributed, "broadcast_on_node", broadcast)
    attach_decoded_cache(cache, LIMIT, images)
    require_decoded(images, read)


def test_other_process_makes_files_again_that_were_removed_before_it_opened_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, cache = images_of(tmp_path / "data"), tmp_path / "cache"
    read = [images.arrays(index) for index in range(len(images))]
    made = open_decoded(cache, LIMIT, [images.split])
    assert made is not None
    monkeypatch.setattr(distributed, "broadcast_on_node", lambda _: [decoded.path for decoded in made])
    attach_decoded_cache(cache, LIMIT, images)
    require_decoded(images, read)
    images.decoded = None
    remove_all(cache)
    attach_decoded_cache(cache, LIMIT, images)
    require_decoded(images, read)
    assert len(list(cache.glob("*.pictures"))) == 1
    images.decoded = None
    remove_all(cache)
    attach_decoded_cache(cache, 1, images)
    assert images.decoded is None, "without room, it reads the image files"
    assert np.array_equal(images.arrays(0)[0], read[0][0])


def test_file_that_vanishes_while_the_cache_is_measured_has_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.pictures", "b.pictures", ".c.pictures.0.part"):
        (tmp_path / name).write_bytes(bytes(1000))
    scandir = os.scandir

    def scan_and_remove(folder: Path) -> Any:
        with scandir(folder) as entries:
            found = list(entries)
        (tmp_path / "b.pictures").unlink(missing_ok=True)
        return Entries(found)

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert decoded_bytes(tmp_path) == 2000


class Entries(list[Any]):
    """What os.scandir returns: a context manager over entries."""

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *_: object) -> None:
        pass
