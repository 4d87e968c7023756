"""Files of which `git lfs pull` has not brought the content: one line that says so, and nothing is committed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from core.files import require_content
from dataset.decoding.options import DEFAULT_READING
from dataset.formats.source import open_source
from dataset.validation import check_data
from inference import batch_job, inputs
from inference.streams import video
from segmentation.model_file import load_model
from segmentation.predictor import Predictor
from tests.support.clones import Clone
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model
from train.checkpoint import load_checkpoint
from utils.lakefs_utils import LakeFS
from versioning.lockfile import read_lock

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"0123456789abcdef" * 4)
OLD_POINTER = POINTER.replace(b"git-lfs.github.com", b"hawser.github.com")
FIX = "Git LFS pointer.*run git lfs pull"


def require_one_line(error: pytest.ExceptionInfo[AppError], *names: str) -> None:
    text = str(error.value)
    assert "\n" not in text and all(name in text for name in names), text


@pytest.mark.parametrize("pointer", [POINTER, OLD_POINTER])
@pytest.mark.parametrize(
    "names",
    [
        ("images/a0.png",),
        ("masks/a0.png",),
        ("classes.json",),
        ("splits/train.txt",),
        tuple(f"images/a{number}.png" for number in range(10)),
    ],
)
def test_check_says_it_once_for_all_files(flat: Path, names: tuple[str, ...], pointer: bytes) -> None:
    for name in names:
        (flat / name).parent.mkdir(exist_ok=True)
        (flat / name).write_bytes(pointer)
    with pytest.raises(UsageError, match=FIX) as caught:
        check_data(flat, 0)
    require_one_line(caught, names[0], str(len(names)), str(flat))


def test_push_commits_no_pointers(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> None:
    settings = dataclasses.replace(lake_settings, data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "l")
    clone = Clone(settings, lake)
    clone.write(na="one", nb=POINTER.decode())
    head = lake.head()
    with pytest.raises(UsageError, match=FIX) as caught:
        clone.push()
    require_one_line(caught, "images/b.png")
    assert lake.head() == head


def test_import_of_an_export_says_it(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_bytes(POINTER)
    with pytest.raises(UsageError, match=FIX) as caught:
        open_source(tmp_path)
    require_one_line(caught, "annotations.json")


def test_infer_says_it_for_each_image_and_predicts_the_others(tmp_path: Path) -> None:
    draw(tmp_path / "in", 2)
    (tmp_path / "in/000.png").write_bytes(POINTER)
    items = inputs.collect_items([tmp_path / "in"])
    outcome = batch_job.predict(Predictor(make_model(), CPU), items, tmp_path / "out", lineage(), None)
    assert outcome.written == 1
    (failed,) = outcome.failed
    assert "000.png" in failed and "git lfs pull" in failed
    with pytest.raises(UsageError, match=FIX):
        inputs.collect_items([tmp_path / "in/000.png"])


def test_infer_says_it_of_a_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(POINTER)
    with pytest.raises(UsageError, match=FIX):
        video.select_videos([tmp_path / "clip.mp4"], tmp_path / "out")


def test_model_checkpoint_and_lock_file_say_it(tmp_path: Path) -> None:
    for name in ("model.pth", "checkpoint.pth", "lakefs.lock"):
        (tmp_path / name).write_bytes(POINTER)
    sha256 = hashlib.sha256(POINTER).hexdigest()
    for expected in (sha256, "0" * 64):
        with pytest.raises(AppError, match=FIX) as caught:
            load_model(tmp_path / "model.pth", expected, CPU)
        require_one_line(caught, "model.pth")
    with pytest.raises(AppError, match=FIX):
        load_checkpoint(tmp_path / "checkpoint.pth")
    with pytest.raises(UsageError, match=FIX):
        read_lock(tmp_path)


def test_other_small_files_are_no_pointers(flat: Path) -> None:
    (flat / "notes.txt").write_text("version https://example.org\n")
    (flat / "empty").write_bytes(b"")
    os.mkfifo(flat / "control")
    for name in ("notes.txt", "empty", "control", "missing"):
        require_content(flat / name)
    os.unlink(flat / "control")
    assert len(check_data(flat, 0, reading=DEFAULT_READING).pairs) == 10
