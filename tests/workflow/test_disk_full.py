"""A full disk: one line with the fix, the files that were there stay as they are, and the next call continues."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config import Settings
from core import files
from core.errors import AppError
from core.files import atomic_replace, write_atomically
from core.machine.storage import describe_storage_error
from dataset.formats.record import ImportRecord, read_record
from dataset.splitting.splits import read_splits, write_splits
from tests.support.models import make_model
from tests.support.project import SOURCE
from train.checkpoint import load_checkpoint, save_checkpoint
from utils.lakefs_utils import connect

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_atomic_write_keeps_the_old_file_and_names_it(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="file") as caught, atomic_replace(path) as part:
        part.write_bytes(b"new")
        raise OSError(number, os.strerror(number))
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["file"]
    text = describe_storage_error(caught.value)
    assert text is not None and str(path) in text and "free some space" in text and "\n" not in text


def test_error_of_a_library_on_a_full_disk_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), atomic_replace(tmp_path / "file"):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    monkeypatch.setattr(files, "_LEAST_BYTES", 1 << 62)
    with pytest.raises(OSError, match="No space left") as caught, atomic_replace(tmp_path / "file"):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.OperationalError("database or disk is full"), "free some space"),
        (RuntimeError("[enforce fail] write failed: No space left on device (28)"), "free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/x/models"), "/x/models cannot be read or written"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/data"), "/x/data cannot be read or written"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "database cannot be written"),
    ],
)
def test_errors_of_disks_are_explained(error: Exception, words: str) -> None:
    for each in (error, wrapped(error, AppError("publishing failed"))):
        text = describe_storage_error(each)
        if isinstance(each, AppError) and "free" not in words:
            continue  # it has its own words
        assert text is not None and words in text and "\n" not in text
    assert describe_storage_error(ValueError("other")) is None
    assert describe_storage_error(FileNotFoundError(errno.ENOENT, "no such file", "x")) is None


def wrapped(cause: Exception, error: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


def write_record(folder: Path, text: str) -> None:
    ImportRecord(text, "0" * 64).write(folder)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "checkpoint": lambda folder, n: save_checkpoint(folder / "checkpoint.pth", {"weights": torch.full((1000,), n)}),
    "splits": lambda folder, n: write_splits(folder, {"a": "train", "b": "val", "c": "test"}, n),
    "import record": lambda folder, n: write_record(folder, f"format{n}"),
    "bytes": lambda folder, n: write_atomically(folder / "file", bytes([n]) * 5000),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_keeps_what_was_there(tmp_path: Path, writer: str) -> None:
    """The limit of a file's size is the only full disk that every system has; the child process ends at it."""
    (tmp_path / "splits").mkdir()
    WRITERS[writer](tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code = "import resource, sys; from pathlib import Path; from tests.workflow.test_disk_full import WRITERS\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4)); WRITERS[sys.argv[1]](Path(sys.argv[2]), 2)"
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, writer, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    WRITERS[writer](tmp_path, 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} != before


def test_embedded_store_on_a_full_disk_says_so_at_once_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.lakefs_client.content import LocalFile
    from utils.local_lakefs.content import ContentFiles

    (tmp_path / "a").write_bytes(b"a" * 100_000)
    file = LocalFile(tmp_path / "a", hashlib.sha256(b"a" * 100_000).hexdigest())
    settings = Settings(lakefs_local_dir=tmp_path / ".lakefs")
    with connect(settings, create=True) as lake:
        head = lake.head()
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise FULL

            patch.setattr(ContentFiles, "receive", fail)
            with pytest.raises(AppError) as caught:
                lake.publish({"a": file}, "data/", "first", {}, True)
        text = describe_storage_error(caught.value)
        assert text is not None and "free some space" in text and str(tmp_path / ".lakefs") in text
        assert lake.head() == head
        assert lake.publish({"a": file}, "data/", "first", {}, True).commit_id != head


def test_model_file_is_written_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentation.model_file import save_model

    path = tmp_path / "model.pth"
    save_model(path, make_model())
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"model\.pth"):
        save_model(path, make_model())
    assert path.read_bytes() == old


def test_checkpoint_read_record_and_splits_survive(tmp_path: Path) -> None:
    for number in (1, 2):
        for write in WRITERS.values():
            (tmp_path / "splits").mkdir(exist_ok=True)
            write(tmp_path, number)
    assert load_checkpoint(tmp_path / "checkpoint.pth")["weights"][0] == 2
    record, splits = read_record(tmp_path), read_splits(tmp_path)
    assert record is not None and record.format == "format2"
    assert splits is not None and splits.seed == 2
