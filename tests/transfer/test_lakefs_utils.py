"""The lakeFS client: listings, file names, checksums of other clients, wrong keys and invalid paths."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
from pathlib import Path
from types import SimpleNamespace

import lakefs_sdk as sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from core.errors import AppError, UsageError
from core.files import safe_join
from tests.support.publish_helpers import publish, write_local_files
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning import push, sync, versions


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b"null",
        b"no JSON",
        b"{}",
        b'{"results":[{}],"pagination":{"has_more":false}}',
        b'{"results":[7],"pagination":{"has_more":false}}',
        b'{"results":null,"pagination":{"has_more":false}}',
        b'{"results":[{"path":7,"checksum":"","physical_address":""}],"pagination":{"has_more":false}}',
        b'{"results":[],"pagination":{"has_more":true,"next_offset":""}}',
        b'{"results":[],"pagination":{"has_more":true}}',
    ],
)
def test_invalid_listing_response_is_an_error(lake: LakeFS, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    answers = itertools.repeat(answer, 3)

    def fake_listing(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(raw_data=next(answers))

    monkeypatch.setattr(type(lake.connection.sdk.objects_api), "list_objects_with_http_info", fake_listing)
    with pytest.raises(
        AppError,
        match=r"listing main/.*(not a response of lakeFS: check LAKEFS_ENDPOINT|refused the server's response: (object path|the listing))",
    ):
        list(lake.objects("main", ""))


def test_endless_listing_is_an_error(lake: LakeFS, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(results=[], pagination=SimpleNamespace(has_more=True, next_offset="x"))
    pages = itertools.repeat(page, 3)
    for api in (lake.connection.sdk.branches_api, lake.connection.sdk.refs_api):
        for name in ("list_branches", "log_commits", "diff_refs"):
            monkeypatch.setattr(api, name, lambda *_, **__: next(pages), raising=False)
    for listing in (lake.list_refs("branches"), lake.log("main"), lake.differences("main", "main")):
        pages = itertools.repeat(page, 3)
        with pytest.raises(AppError, match="the listing returns to a page that it had before"):
            list(listing)


# Korean names of 73 to 85 characters have up to 255 bytes, the limit of most file systems.
HARD_NAMES = [
    *("가" * length + ".png" for length in (73, 80, 83)),
    "나" * 85,
    "n" * 251 + ".png",
    "with some  spaces .png",
    "a#b?c%20d+e&f=g;h@i!j$k'l(m),n~o[p]q{r}^s`t|u",
    "sub folder/다른 폴더 #1?/100%+.png",
]


def test_unusual_file_names_are_pushed_and_pulled(lake: LakeFS, lake_settings: config.Settings, tmp_path: Path) -> None:
    here, there = (
        dataclasses.replace(lake_settings, data_dir=tmp_path / name, lakefs_local_dir=tmp_path / name / ".lakefs")
        for name in ("here", "there")
    )
    contents = {name: secrets.token_bytes(10) for name in HARD_NAMES}
    for name, content in contents.items():
        (here.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (here.data_dir / name).write_bytes(content)
    push.push(here, lake, None, "default")
    sync.pull(there, lake, "main", force=False)
    assert {name: file.path.read_bytes() for name, file in versions.local_files(there).items()} == contents
    assert {file.path.removeprefix("data/") for file in lake.objects("main", "")} == contents.keys()


def test_missing_file_is_an_error(lake: LakeFS, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no such file on lakeFS"):
        lake.download(LakePath(lake.repo, lake.head(), "nowhere/"), tmp_path)
    files = write_local_files(tmp_path, {"ab": b"1"})
    publish(lake, files)
    with pytest.raises(AppError, match="no such file on lakeFS"):
        lake.download(LakePath(lake.repo, lake.head(), "data/a"), tmp_path / "cache")


def test_objects_of_other_clients_are_verified_by_md5(lake: LakeFS, tmp_path: Path) -> None:
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "data/other", content=b"from elsewhere")
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="theirs"))
    tree = lake.download(LakePath(lake.repo, lake.head(), "data/"), tmp_path)
    assert (tree / "data/other").read_bytes() == b"from elsewhere"
    same = write_local_files(tmp_path, {"other": b"from elsewhere"})
    assert publish(lake, same).uploaded == 0, "existing files are not uploaded again"
    assert publish(lake, write_local_files(tmp_path, {"other": b"from_elsewhere"})).uploaded == 1


def test_wrong_keys_and_missing_repository_are_one_line_errors(lake_settings: config.Settings) -> None:
    wrong = dataclasses.replace(lake_settings, lakefs_secret_access_key="wrong")
    refused = pytest.raises(AppError, match="check LAKEFS_ACCESS_KEY_ID and LAKEFS_SECRET_ACCESS_KEY")
    with connect(wrong) as lake, refused:
        lake.head()
    with connect(lake_settings) as lake, pytest.raises(UsageError, match=r"no such repository: train.py"):
        lake.head()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:/x", "", "a\0b"])
def test_path_outside_its_directory_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(AppError):
        safe_join(tmp_path, path)


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1, max_size=4))
def test_joined_path_stays_inside_its_directory(parts: list[str]) -> None:
    root = Path("/root-of-test")
    try:
        path = safe_join(root, "/".join(parts))
    except AppError:
        return
    assert ".." not in path.parts and path.is_relative_to(root)


@pytest.mark.parametrize("uri", ["s3://a/b/c", "lakefs://repo", "lakefs://repo/ref", "lakefs:///x/y", "nothing"])
def test_invalid_lakefs_path_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="not a lakeFS path"):
        LakePath.parse(uri)
    assert str(LakePath.parse("lakefs://repo/ref/a/b")) == "lakefs://repo/ref/a/b"
