"""JSON files that others wrote: deeply nested or strange ones are one-line errors, or not what they claim to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import AppError
from core.safety.checksummed_json import KEY, verify_checksum, with_checksum
from dataset.classes import build_classes
from dataset.formats.selection import read_selection
from inference.earlier import ownership
from inference.earlier import results as earlier
from inference.formats import LISTING
from inference.outputs import OutputDirectory
from versioning.lockfile import parse_lock

DEEP = "[" * 100_000


def remove_listed(path: Path) -> None:
    (path.parent / LISTING).write_text(path.read_text())
    earlier.set_aside(OutputDirectory(path.parent, build_classes([(0, "a", None, False), (1, "b", None, False)]), {}))


@pytest.mark.parametrize("read", [read_selection, remove_listed, lambda path: parse_lock(path.read_text(), "lock")])
def test_deeply_nested_file_is_an_error_of_one_line(tmp_path: Path, read: Callable[[Path], object]) -> None:
    file = tmp_path / "file.json"
    file.write_text(DEEP)
    with pytest.raises(AppError, match="nested too deeply") as caught:
        read(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [DEEP, json.dumps(with_checksum({"images": [3, None, "ab"], "files": {}}))])
def test_listing_of_others_lists_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / LISTING).write_text(content)
    assert ownership.listed_files(tmp_path) == {}


def test_checksum_of_deeply_nested_content_is_wrong() -> None:
    content: list[object] = []
    for _ in range(5000):
        content = [content]
    assert verify_checksum({KEY: "0" * 64, "x": content}) is False
