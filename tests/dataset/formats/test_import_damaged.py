"""Annotation files with random damage are imported or refused by name; never a traceback, never half an import."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import UsageError
from tests.support.exports import polygon as exports

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 10**30, 1.5, float("nan"), float("inf"), "", "x", "../x", "\x00", "p00.png", "a" * 300),
    *([], [1], [[1, 2]], [[[]]], [None], [1, 2, 3, 4, 5, 6], {}, {"a": 1}, {"size": [120, 160], "counts": "0"}),
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value inside a JSON value, of lists only of the first three."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*place, key)
        yield from places(inner, (*place, key))


def damage(path: Path, rng: random.Random) -> None:
    """Delete or replace one value of a JSON file, or a few bytes of a text file."""
    if path.suffix != ".json":
        content = bytearray(path.read_bytes())
        for _ in range(3):
            start = rng.randrange(len(content))
            content[start : start + rng.randrange(9)] = rng.choice(
                (b"", b"nan", b"1e400", b"\xff\x00", b"- [", b"!!x ")
            )
        path.write_bytes(bytes(content))
        return
    value = json.loads(path.read_text())
    *parents, last = rng.choice(list(places(value)))
    holder = value
    for key in parents:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
    else:
        holder[last] = copy.deepcopy(rng.choice(VALUES))
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (exports.write_coco, "coco"),
        (exports.write_labelme, "labelme"),
        (exports.write_supervisely, "supervisely"),
        (exports.write_label_studio, "label-studio"),
        (exports.write_yolo, "yolo"),
    ],
)
def test_damaged_annotations_are_imported_or_refused_as_a_whole(
    tmp_path: Path, write: Callable[[Path], Path], name: str
) -> None:
    rng = random.Random(0)
    sound = write(tmp_path / "sound")
    for _ in range(30):
        source, target = shutil.copytree(sound, tmp_path / "export"), tmp_path / "data"
        files = sorted(path for path in source.rglob("*") if path.suffix in (".json", ".txt", ".yaml"))
        damage(rng.choice(files), rng)
        try:
            exports.run_import(source, target, "--format", name)
        except UsageError:
            assert not target.exists() or not any(target.rglob("*"))
        else:
            masks = {path.stem for path in (target / "masks").rglob("*.png")}
            assert masks == {path.stem for path in (target / "images").rglob("*.png")} != set()
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
