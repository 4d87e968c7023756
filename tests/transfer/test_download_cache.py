"""The download cache: damaged files and records are detected and downloaded again."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import lakefs_sdk as sdk
import pytest

from core.errors import AppError
from core.hashing import file_sha256
from tests.support.publish_helpers import publish, write_local_files
from utils.lakefs_client import download
from utils.lakefs_client.queries import Queries
from utils.lakefs_utils import LakeFS, LakePath


def overwrite_in_place(path: Path, content: bytes) -> None:
    """Overwrite a file in place, so that all its hard links change."""
    path.chmod(0o600)
    path.write_bytes(content)


def test_changed_file_in_the_cache_is_downloaded_again(
    lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {"x": b"content", "y": b"others", "other": b"from elsewhere"}
    files, cache = write_local_files(tmp_path, {name: contents[name] for name in ("x", "y")}), tmp_path / "cache"
    publish(lake, files)
    lake.connection.sdk.objects_api.upload_object(
        lake.repo, "main", "data/other", content=b"from elsewhere"
    )  # without SHA-256
    commit = str(lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="theirs")).id)
    source = LakePath(lake.repo, commit, "data/")

    def cached() -> dict[str, bytes]:
        tree = lake.download(source, cache)
        return {name: (tree / "data" / name).read_bytes() for name in contents}

    assert cached() == contents
    for name, changed in (("x", b"Content"), ("other", b"From elsewhere")):
        overwrite_in_place(cache / "commits" / lake.repo / commit / "data" / name, changed)
        assert cached() == contents and f"data/{name}: changed in the cache" in capsys.readouterr().err
    overwrite_in_place(cache / "commits" / lake.repo / commit / "data/y", b"Others")
    lake.download(source, cache, lambda path: path.endswith("x"))
    assert cached() == contents, "a changed file outside the selection is repaired too"


def test_copied_cache_is_verified_once_and_reused(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = LakePath(lake.repo, publish(lake, write_local_files(tmp_path, {"x": b"1", "y": b"2"})).commit_id, "data/")
    lake.download(source, tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    monkeypatch.setattr(Queries, "objects", None)  # the server must not be contacted
    read: list[Path] = []

    def recorded(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(download, "file_sha256", recorded)
    for _ in range(2):
        tree = lake.download(source, tmp_path / "copy")
        assert (tree / "data/x").read_bytes() == b"1" and len(read) == 2
    assert capsys.readouterr().err == ""


def test_corrupted_model_in_the_cache_is_downloaded_again(
    lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, cache = write_local_files(tmp_path, {"x": b"content"}), tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, files).commit_id, "data/x")
    path = lake.verified_file(source, files["x"].sha256, cache)
    before = path.stat()
    overwrite_in_place(path, b"Content")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the file status does not show the change
    assert lake.verified_file(source, files["x"].sha256, cache).read_bytes() == b"content"
    assert f"{path}: changed in the cache" in capsys.readouterr().err
    with pytest.raises(AppError, match=f"SHA-256 differs from its record .*cached as {path}"):
        lake.verified_file(source, "0" * 64, cache)


def test_damaged_cache_record_is_replaced(lake: LakeFS, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, write_local_files(tmp_path, {"x": b"1"})).commit_id, "data/")
    (record,) = (lake.download(source, cache) / ".complete").iterdir()
    good = record.read_bytes()
    for damage in (
        b"",
        b"\xff",
        b"7",
        b"{}1",
        b'[["data/x"]]',
        b'[[1, 2, 3, 4, "5"]]',
        good.replace(b"data/x", b"../../x"),
    ):
        record.write_bytes(damage)
        assert [file.path for file in lake.committed_objects(source, cache)] == ["data/x"]
        assert (lake.download(source, cache) / "data/x").read_bytes() == b"1" and record.read_bytes() == good


def test_repeated_partial_download_leaves_no_temporary_files(lake: LakeFS, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {f"{i}": secrets.token_bytes(10) for i in range(5)})
    source = LakePath(lake.repo, publish(lake, files).commit_id, "data/")
    for _ in range(3):
        lake.download(source, tmp_path / "cache", lambda path: path != "data/4")
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("sha256", ["", "../../../../escaped/x", "0" * 63, "0" * 63 + "g", "A" * 64])
def test_invalid_sha256_metadata_is_ignored(lake: LakeFS, tmp_path: Path, sha256: str) -> None:
    headers = {**lake.connection.transfer.auth, "x-lakefs-meta-sha256": sha256, "Content-Length": "5"}
    url = lake.connection.transfer._url(lake.repo, "branches", "main", "data/theirs")
    assert lake.connection.pool.request("POST", url, body=b"bytes", headers=headers).status == 201
    assert [file.sha256 for file in lake.objects("main", "")] == [None]
    cache = tmp_path / "a/b/c/cache"
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="theirs"))
    tree = lake.download(LakePath(lake.repo, lake.head(), "data/"), cache)
    assert (tree / "data/theirs").read_bytes() == b"bytes"
    assert not (cache / "sha256").exists() and not list(tmp_path.rglob("escaped"))
