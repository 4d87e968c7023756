"""What the console prints fits the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from wcwidth import wcswidth

from config import Settings, load_settings
from core.console import wrap_items
from core.errors import UsageError
from lineage.trace import shorten
from versioning import data_directory


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", ["bicyclist", "자전거 타는 사람"])
def test_a_row_of_many_classes_is_broken_between_classes(
    monkeypatch: pytest.MonkeyPatch, columns: int, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    items = [f"{name} 0.5412"] * 11
    lines = wrap_items(items, "    IoU  ").split("\n")
    assert len(lines) > 1 and all(wcswidth(line) <= columns for line in lines)
    assert sum(line.count(items[0]) for line in lines) == 11


def test_ids_in_tables_are_beginnings_that_the_scripts_accept() -> None:
    commit, run = "8fd0b941" * 8, "54258d98" * 4
    assert shorten(f"lakefs://repo/{commit}/models/model.pth") == "8fd0b941/models/model.pth"
    assert shorten(run) == "54258d98" and shorten("17a8af3a" * 5) == "17a8af3a"
    assert shorten("image-segmentation v1") == "image-segmentation v1"


def test_status_and_push_know_the_directory_of_the_last_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data_directory, "ROOT", tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    (tmp_path / "cam").mkdir()
    named = load_settings(data_dir=tmp_path / "cam", lakefs_local_dir=tmp_path / ".lakefs")
    data_directory.record_directory(named)
    plain = Settings(lakefs_local_dir=tmp_path / ".lakefs", data_dir=tmp_path / "data")
    assert data_directory.of_last_training(plain, publishes=True).data_dir == tmp_path / "cam"
    assert f"data directory: {tmp_path / 'cam'} (of the last training" in capsys.readouterr().out
    assert data_directory.of_last_training(named, publishes=True) is named
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.json").write_text("[]")
    with pytest.raises(UsageError, match="name one of them by --data-dir"):
        data_directory.of_last_training(plain, publishes=True)
    assert data_directory.of_last_training(plain, publishes=False).data_dir == tmp_path / "cam"


def test_directory_in_the_project_is_the_own_one_in_a_copy_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    for project in (first, copy):
        (project / "data").mkdir(parents=True)
        (project / "data/classes.json").write_text("[]")
    plain = [Settings(lakefs_local_dir=tmp_path, data_dir=project / "data") for project in (first, copy)]
    monkeypatch.setattr(data_directory, "ROOT", first)
    data_directory.record_directory(plain[0])
    monkeypatch.setattr(data_directory, "ROOT", copy)
    assert data_directory.of_last_training(plain[1], publishes=True) is plain[1]


def test_clones_that_share_a_store_have_their_own_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, photos = tmp_path / "first", tmp_path / "second", tmp_path / "photos"
    for folder in (first, second, photos):
        folder.mkdir()
    store = first / ".lakefs"
    monkeypatch.setattr(data_directory, "ROOT", first)
    data_directory.record_directory(Settings(lakefs_local_dir=store, data_dir=photos))
    monkeypatch.setattr(data_directory, "ROOT", second)
    plain = Settings(lakefs_local_dir=store, data_dir=second / "data")
    assert data_directory.of_last_training(plain, publishes=True) is plain, "not the directory of the other clone"
    data_directory.record_directory(Settings(lakefs_local_dir=store, data_dir=first))
    assert data_directory.of_last_training(plain, publishes=True).data_dir == first
    monkeypatch.setattr(data_directory, "ROOT", first)
    assert data_directory.of_last_training(replace(plain, data_dir=first / "data"), False).data_dir == photos
