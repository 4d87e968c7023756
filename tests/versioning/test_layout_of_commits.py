"""Data commits whose directories and masks are named differently: split, overlap and changed masks; both servers."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from dataset.samples import committed_items
from tests.support.data_directories import put_image, put_mask
from tests.support.publish_helpers import write_local_files
from utils.lakefs_utils import LakeFS, LakePath
from versioning import commands
from versioning.provenance.training_images import images_of


def commit(lake: LakeFS, folder: Path) -> LakePath:
    """Publish the files of a data directory."""
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files = write_local_files(folder.parent, contents)
    done = lake.publish(files, "data/", "data", {}, mirror=True)
    return LakePath(lake.repo, done.commit_id, "data/")


def test_renamed_commit_is_read_split_and_compared(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for name in ("IMG_1", "IMG_2", "IMG_3"):
        put_image(root / f"export/imgs/{name}.jpg")
        put_mask(root / f"export/gt/{name.lower()}_mask.png")
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("IMG_1\nIMG_3\n")
    (root / "splits/val.txt").write_text("IMG_2\n")
    first = commit(lake, root)
    split, items = committed_items(lake, first, None, tmp_path / "cache")
    assert (split, [item.name for item in items]) == ("val", ["IMG_2"])
    assert items[0].mask is not None and items[0].mask.name == "img_2_mask.png"
    assert list(images_of(lake, first, "train", tmp_path / "cache")) == ["IMG_1", "IMG_3"]
    put_mask(root / "export/gt/img_1_mask.png", (0, 2))
    commands.diff(lake, lake_settings, first.ref, commit(lake, root).ref)
    printed = capsys.readouterr().out
    assert "changed  data/export/gt/img_1_mask.png" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.lstrip().startswith(("1 ", "2 "))] == ["1", "2"]


def test_commit_with_directories_of_splits_is_read(lake: LakeFS, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "valid"):
        put_image(root / f"images/{split}/a.png", key=split)
        put_mask(root / f"labels/{split}/a.png")
    source = commit(lake, root)
    split, items = committed_items(lake, source, None, tmp_path / "cache")
    assert (split, [item.name for item in items]) == ("val", ["a"])
    assert items[0].image.parent.name == "valid"
    assert list(images_of(lake, source, "train", tmp_path / "cache")) == ["a"]
