"""Branches, merges and re-reading in lakeFS, and counting what changed in masks; on the embedded and a real server."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path

import lakefs_sdk as sdk
import numpy as np
import pytest
from PIL import Image

import config
from core.errors import AppError, UsageError
from dataset.mask_diff import MaskChanges, compare_masks
from tests.support.publish_helpers import write_local_files
from tests.support.servers import branches
from utils.identifiers import ObjectPath, RunId, Sha256
from utils.lakefs_client.queries import Queries
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning.checkout import fill_if_empty
from versioning.lockfile import Lock, read_lock, write_lock
from versioning.sync import require_complete
from versioning.versions import committed_files


def put(lake: LakeFS, folder: Path, prefix: str, contents: dict[str, bytes]) -> str:
    return lake.publish(write_local_files(folder, contents), prefix, "message", {}, mirror=False).commit_id


def test_experiment_is_merged_by_its_commit(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> None:
    base = put(lake, tmp_path, "data/", {"a": b"1", "b": b"1"})
    with connect(lake_settings) as experiment:
        experiment.start_experiment("trial")
        put(experiment, tmp_path, "data/", {"a": b"2"})
        commit = put(experiment, tmp_path, "models/", {"model.pth": b"trial"})
        later = put(experiment, tmp_path, "models/", {"model.pth": b"later"})
    put(lake, tmp_path, "data/", {"b": b"3"})
    put(lake, tmp_path, "models/", {"model.pth": b"main's own"})
    assert lake.contains("main", base) and not lake.contains("main", commit)
    assert not lake.contains("main", "0" * 64)

    head = lake.merge_commit(commit, "merge", {"key": "value"})
    assert lake.contains("main", commit) and not lake.contains("main", later)
    assert lake.commit_metadata(head)["key"] == "value"
    tree = lake.download(LakePath(lake.repo, head, ""), tmp_path / "cache")
    published_hashes = {name: (tree / name).read_bytes() for name in ("data/a", "data/b", "models/model.pth")}
    assert published_hashes == {"data/a": b"2", "data/b": b"3", "models/model.pth": b"trial"}, (
        "the model that was chosen wins"
    )
    assert lake.merge_commit(commit, "merge", {}) == head, "a repeated merge is not an error"

    with connect(lake_settings) as experiment:
        experiment.start_experiment("clash")
        clash = put(experiment, tmp_path, "data/", {"a": b"4"})
    put(lake, tmp_path, "data/", {"a": b"5"})
    head = lake.head()
    with pytest.raises(AppError, match="both sides changed data/a: nothing was merged"):
        lake.merge_commit(clash, "merge", {})
    assert lake.head() == head and branches(lake) == ["clash", "main", "trial"]
    for wrong in ("main", "a/b", "-x", "ünter"):
        with pytest.raises(UsageError, match="experiment branch"):
            lake.start_experiment(wrong)


def test_versions_are_listed_and_reverted(lake: LakeFS, tmp_path: Path) -> None:
    first = put(lake, tmp_path, "data/", {"a": b"1"})
    second = put(lake, tmp_path, "data/", {"a": b"2", "b": b"2"})
    assert [lake.resolve(ref) for ref in ("main", second, second[:20], "main~1")] == [second, second, second, first]
    lake.set_tag("v1", first)
    assert lake.resolve("v1") == first and list(lake.list_refs("tags")) == [("v1", first)]
    assert {(d.path, d.type) for d in lake.differences(first, second)} == {("data/a", "changed"), ("data/b", "added")}
    assert [commit.id for commit in lake.log("main")][:2] == [second, first]
    touched = [commit.id for commit in lake.log("main", False, "data/")]  # merges are excluded: they change no file
    published_hashes = {file.sha256 for commit in touched for file in lake.objects(commit, "data/")}
    assert {file.sha256 for ref in (first, second) for file in lake.objects(ref, "data/")} == published_hashes
    undone = lake.revert(second, "undo", {"key": "value"})
    assert [file.path for file in lake.objects(undone, "data/")] == ["data/a"]
    assert lake.commit_metadata(undone)["key"] == "value"
    with pytest.raises(AppError, match="cannot be reverted"):
        lake.revert(second, "undo", {})
    lake.delete_tag("v1")
    with pytest.raises(UsageError, match="'v1' is not a branch, tag or commit"):
        lake.resolve("v1")
    source = LakePath(lake.repo, second, "data/")
    for file in lake.objects(second, "data/"):
        assert lake.verify_object(source, file) is None
        assert "expected" in str(lake.verify_object(source, dataclasses.replace(file, sha256=Sha256("0" * 64))))
        assert "404" in str(lake.verify_object(source, dataclasses.replace(file, path=ObjectPath("data/nowhere"))))


def test_cached_commit_is_not_listed_again(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, tmp_path, "data/", {"images/a": b"1", "masks/한글 a": b"22"})
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "data/foreign", content=b"3")  # has no SHA-256
    commit = str(lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="foreign")).id)
    source, cache = LakePath(lake.repo, commit, "data/"), tmp_path / "cache"
    listed = committed_files(lake, source, tmp_path / "other cache")
    tree = lake.download(source, cache)
    with monkeypatch.context() as without_server:
        without_server.setattr(Queries, "objects", None)
        assert committed_files(lake, source, cache) == listed
        assert listed["masks/한글 a"] == hashlib.sha256(b"22").hexdigest()
    (tree / "data/images/a").unlink()
    lake.download(source, cache)
    assert (tree / "data/images/a").read_bytes() == b"1", "a record of missing files is not trusted"


def test_mask_changes_are_counted(tmp_path: Path) -> None:
    masks = {"before": {"x": [0, 0, 1, 1], "gone": [2, 2]}, "after": {"x": [0, 1, 1, 3], "come": [1, 1, 1]}}
    for side, contents in masks.items():
        (tmp_path / side / "masks").mkdir(parents=True)
        for name, values in contents.items():
            Image.fromarray(np.array([values], np.uint8)).save(tmp_path / side / f"masks/{name}.png")
    names = [f"masks/{name}.png" for name in ("x", "gone", "come")]
    rows = [line.split() for line in compare_masks(tmp_path / "before", tmp_path / "after", names).splitlines()[2:]]
    assert rows == [
        ["0", "class_0", "+0", "-1", "+0", "-0", "1"],
        ["1", "class_1", "+4", "-1", "+1", "-0", "2"],
        ["2", "class_2", "+0", "-2", "+0", "-1", "1"],
        ["3", "class_3", "+1", "-0", "+1", "-0", "1"],
    ]
    resized = MaskChanges()
    resized.add(np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8))
    assert (resized.gained[0], resized.lost[0], resized.images_gained[0]) == (9, 4, 0)


def test_lock_file_round_trip_and_damaged_lock_error(tmp_path: Path) -> None:
    data, model = LakePath("repo", "a" * 64, "data/"), LakePath("repo", "b" * 64, "models/model.pth")
    lock = Lock(data, Sha256("c" * 64), model, Sha256("d" * 64), RunId("e" * 32))
    assert read_lock(tmp_path) is None
    path = write_lock(tmp_path, lock)
    assert read_lock(tmp_path) == lock and path.read_text().endswith("}\n") and list(tmp_path.iterdir()) == [path]
    written = path.stat().st_mtime_ns
    write_lock(tmp_path, lock)
    assert path.stat().st_mtime_ns == written
    good = path.read_text()
    for broken in ("", "[]", "{}", good.replace("a" * 64, "main"), good.replace('"version": 1', '"version": 2')):
        path.write_text(broken)
        with pytest.raises(UsageError, match=r"lakefs\.lock: not a valid lock"):
            read_lock(tmp_path)


def test_partially_filled_directory_is_not_accepted_as_data(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, tmp_path, "data/", {f"images/{number}.png": bytes([number]) for number in range(5)})
    empty = dataclasses.replace(lake_settings, data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "local")
    monkeypatch.setattr("versioning.data_directory.ROOT", tmp_path)  # the default directory, which is filled
    replace, done = os.replace, itertools.count()

    def dying(source: Path, target: Path) -> None:
        if Path(target).is_relative_to(empty.data_dir / "images") and next(done) >= 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        fill_if_empty(empty, lake)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UsageError, match="pull"):
        require_complete(empty.data_dir)
