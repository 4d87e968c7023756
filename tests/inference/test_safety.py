"""Malicious files: a clear error, no code executed, nothing written outside the output directory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import AppError
from core.hashing import file_sha256
from dataset import samples
from inference import batch_job, inputs
from segmentation.model_file import load_model, save_model
from segmentation.predictor import Predictor
from tests.support.images import draw, png_of_size
from tests.support.models import CPU, lineage, make_model


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.pth", make_model())
    return tmp_path / "model.pth"


def refused(path: Path, words: str, sha256: str | None = None) -> None:
    with pytest.raises(AppError, match=words) as caught:
        load_model(path, sha256 or file_sha256(path), CPU)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def resaved(path: Path, **changes: Any) -> Path:
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


class Payload:
    """Payload that creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickle_payload_is_not_executed(model_file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    refused(resaved(model_file, metrics=Payload(mark)), "not a model file of this project")
    model_file.write_bytes(pickle.dumps(Payload(mark)))
    refused(model_file, "not an archive of torch.save")
    assert not mark.exists()
    pickle.loads(model_file.read_bytes())
    assert mark.exists(), "the payload itself works"


def test_file_with_a_wrong_hash_is_never_opened(model_file: Path) -> None:
    refused(model_file, f"expected {'0' * 64}, found {file_sha256(model_file)}", "0" * 64)


def test_wrong_architecture_or_shapes_are_refused(model_file: Path) -> None:
    valid_model = model_file.read_bytes()
    refused(resaved(model_file, architecture="os.system"), "unknown model 'os.system'")
    model_file.write_bytes(valid_model)
    weights = torch.load(model_file, weights_only=True)["state_dict"]
    refused(resaved(model_file, state_dict=weights | {"head.weight": torch.zeros(99, 24, 1, 1)}), "size mismatch")
    model_file.write_bytes(valid_model)
    refused(
        resaved(model_file, input_size=[1 << 20, 1 << 20]),
        "input_size: 1048576, expected a whole number from 16 to 8192",
    )
    model_file.write_bytes(valid_model)
    missing = {name: value for name, value in weights.items() if name != "head.bias"}
    refused(resaved(model_file, state_dict=missing), "head.bias")


def test_zip_bomb_is_not_extracted(model_file: Path) -> None:
    valid_model = model_file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(valid_model)) as old, zipfile.ZipFile(model_file, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, bytes(1 << 24) if entry.filename.endswith("/data/0") else old.read(entry))
    refused(model_file, "compressed")
    huge = bytearray(valid_model)  # the central directory declares 4 GB for a small entry
    last = huge.rindex(b"PK\x01\x02")
    huge[last + 20 : last + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    model_file.write_bytes(huge)
    refused(model_file, r"entries declare 4,3[\d,]+ bytes in a file of")


def test_harmful_images_are_listed_and_skipped(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, 2)
    (folder / "huge.png").write_bytes(png_of_size(100_000, 100_000))
    (folder / "cut.png").write_bytes(png_of_size(5_000, 5_000))
    bomb = Image.new("1", (16_000, 16_000))  # 256 million pixels in a few hundred kilobytes
    bomb.save(folder / "bomb.png")
    (folder / "script.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\n"
    )
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "broken_link.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "linked").symlink_to(tmp_path)
    items = inputs.collect_items([folder])
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, out, lineage(), None)
    assert outcome.written == 2
    words = {
        "huge.png": "an image of at most",
        "cut.png": "unreadable",
        "bomb.png": "an image of at most",
        "script.png": "unreadable",
        "empty.jpg": "an empty file",
        "broken_link.png": "a broken link to",
        "linked": "links to directories are not followed",
    }
    found = {line.split(":")[0].rsplit("/", 1)[1]: line for line in outcome.failed}
    assert sorted(found) == sorted(words)
    assert all(text in found[name] for name, text in words.items()), found
    assert {p.stem.removesuffix("_overlay") for p in out.iterdir()} == {"000", "001", "predictions", "index"}
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}, "nothing was created elsewhere"


def test_symlink_named_by_the_user_is_followed(tmp_path: Path) -> None:
    draw(tmp_path / "in", 1)
    (tmp_path / "link.png").symlink_to(tmp_path / "in/000.png")
    (item,) = inputs.collect_items([tmp_path / "link.png"])
    assert item.fault is None


def test_nothing_is_written_or_removed_outside_the_output_directory(tmp_path: Path) -> None:
    predictor, items = Predictor(make_model(), CPU), draw(tmp_path / "in/sub", 1)
    out, victim = tmp_path / "out", tmp_path / "victim"
    for folder in (out, victim):
        folder.mkdir()
    (victim / "000.png").write_bytes(b"precious")
    climbing = [samples.Item("../victim/000", items[0].image)]
    with pytest.raises(AppError, match="is outside of"):
        batch_job.predict(predictor, climbing, out, lineage(), None)
    (out / "sub").symlink_to(victim)
    items = inputs.collect_items([tmp_path / "in"])
    assert items[0].name == "sub/000"
    with pytest.raises(AppError, match="leads out of"):
        batch_job.predict(predictor, items, out, lineage(), None)
    for mask in ("../victim/000.png", "sub/000.png", str(victim / "000.png")):
        listing = {"images": [{"mask": mask, "overlay": mask}]}
        (out / ".predictions.jsonl").unlink(missing_ok=True)
        (out / "predictions.json").write_text(json.dumps(listing))
        with pytest.raises(AppError):
            batch_job.predict(predictor, items, out, lineage(), None)
    assert [p.read_bytes() for p in victim.iterdir()] == [b"precious"]
    (out / "sub").unlink()
    (out / "predictions.json").unlink(missing_ok=True)
    (out / "sub").mkdir()
    (out / "sub/000.png").symlink_to(victim / "000.png")
    with pytest.raises(AppError, match="leads out of"):
        batch_job.predict(predictor, items, out, lineage(), None)
    assert (victim / "000.png").read_bytes() == b"precious"


def test_dots_in_a_file_name_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a..png", "..b.png"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "in" / name)
    items = inputs.collect_items([tmp_path / "in" / "a..png", tmp_path / "in" / "..b.png"])
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None)
    assert outcome.written == 2
    assert all(p.parent == tmp_path / "out" for p in (tmp_path / "out").rglob("*"))


def test_invalid_output_names_are_changed_or_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    draw(folder, 1)
    pixels = (folder / "000.png").read_bytes()
    for name in (
        b"10:30.png",
        b"10_30.png",
        rb"a\b.png",
        b"n" * 250 + b".png",
        b"\xff\xfe.png",
        ("가" * 80).encode() + b".png",
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(pixels)
    items = inputs.collect_items([folder])
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None)
    made = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert made == {"000", "10_30.png", "10_30.png-2", "a_b", "가" * 80}, "each has its own name"
    assert len(outcome.failed) == 2
    assert any(r"\xff\xfe.png: expected a name in UTF-8: rename it" in line for line in outcome.failed)
    assert any("nnn.png: expected a name of at most 243 bytes: rename it" in line for line in outcome.failed)
    again = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None, resume=True)
    assert (again.reused, len(again.failed)) == (5, 2)


def test_skipped_files_of_a_directory_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "in", 1)
    (tmp_path / "in/locked").mkdir()
    (tmp_path / "in/clip.MP4").write_bytes(b"")
    scandir = os.scandir

    def closed(path: Any = ".") -> Any:  # root can read everything
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    items = inputs.collect_items([tmp_path / "in"])
    assert [item.fault for item in items] == [None, f"{tmp_path}/in/locked: Permission denied"]
    assert "1 video in a directory is skipped" in (warning := capsys.readouterr().err) and "in/clip.MP4" in warning


def test_invalid_preprocessing_values_are_refused(model_file: Path) -> None:
    valid = model_file.read_bytes()
    for values in ({"mean": [0.5], "std": [0.2]}, {"mean": [0.5] * 3, "std": [0.2, 0, 0.2]}, {"mean": [0.5] * 3}):
        refused(
            resaved(model_file, normalisation=values),
            r"not a model file of this project .*(one mean and one standard deviation|std)",
        )
        model_file.write_bytes(valid)
