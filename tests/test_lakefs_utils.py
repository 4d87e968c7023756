"""Publishing and downloading, on the embedded server and on a real one: exact, resumable, and never half done."""

from __future__ import annotations

import dataclasses
import itertools
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import lakefs_sdk as sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from core.errors import AppError, UsageError
from core.files import safe_join
from core.hashing import file_sha256
from core.workers import MAX_UNAVAILABLE, ServerUnavailable, Skipped, iterate_successes, parallel, raise_if_cancelled
from tests.servers import SOURCE, Server, branches
from utils import lakefs_utils
from utils.lakefs_client import download
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.publish import Publisher
from utils.lakefs_client.queries import Queries
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning import sync, versions

NAMES = [
    "a.png",
    "a/b.png",
    "with space.txt",
    "한글/이름.png",
    "odd #?%+&=;.bin",
    "empty",
    "deep/" * 20 + "x",
    "n" * 200,
    "/".join(["가" * 66] * 5) + "x",  # with data/ before it 1,000 bytes; lakeFS takes 1,024
]


@pytest.fixture
def settings(lakefs_server: Server) -> config.Settings:
    return config.load_settings(
        lakefs_endpoint=lakefs_server.endpoint,
        lakefs_access_key_id=lakefs_server.access_key_id,
        lakefs_secret_access_key=lakefs_server.secret_access_key,
        lakefs_storage_namespace=lakefs_server.storage_namespace,
        lakefs_repo=f"repo-{secrets.token_hex(6)}",
        app_lang="en",
    )


@pytest.fixture
def lake(settings: config.Settings) -> Iterator[LakeFS]:
    with connect(settings, create=True) as lake:
        yield lake


def local(folder: Path, contents: dict[str, bytes]) -> dict[str, LocalFile]:
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"{number}-{secrets.token_hex(4)}"
        path.write_bytes(content)
        files[name] = LocalFile(path, file_sha256(path))
    return files


def publish(lake: LakeFS, files: dict[str, LocalFile], mirror: bool = True) -> lakefs_utils.PublishResult:
    return lake.publish(files, "data/", "message", {"key": "value"}, mirror)


def held(lake: LakeFS, ref: str) -> dict[str, str | None]:
    return {file.path.removeprefix("data/"): file.sha256 for file in lake.objects(ref, "data/")}


def test_what_is_published_comes_back_whole(lake: LakeFS, tmp_path: Path) -> None:
    contents = {name: b"" if name == "empty" else secrets.token_bytes(1000 + len(name)) for name in NAMES}
    done = publish(lake, local(tmp_path, contents))
    assert (done.uploaded, done.removed, len(done.commit_id)) == (len(NAMES), 0, 64)
    assert done.commit_id == lake.head()
    metadata = lake.commit_metadata(done.commit_id)
    assert metadata["key"] == "value" and len(metadata["data_manifest_sha256"]) == 64
    tree = lake.download(LakePath(lake.repo, done.commit_id, "data/"), tmp_path / "cache")
    assert {name: (tree / "data" / name).read_bytes() for name in NAMES if name != "a.png"} == {
        name: content for name, content in contents.items() if name != "a.png"
    }
    assert branches(lake) == ["main"]


def test_only_what_differs_is_sent(lake: LakeFS, tmp_path: Path) -> None:
    files = local(tmp_path, {f"{i}.png": secrets.token_bytes(50) for i in range(5)})
    first = publish(lake, files)
    assert publish(lake, files) == lakefs_utils.PublishResult(first.commit_id, 0, 0)
    del files["4.png"]
    files |= local(tmp_path, {"3.png": b"new", "5.png": b"more"})
    second = publish(lake, files)
    assert (second.uploaded, second.removed) == (2, 1)
    assert held(lake, second.commit_id) == {name: file.sha256 for name, file in files.items()}
    assert len(held(lake, first.commit_id)) == 5, "an older commit stays as it was"
    kept = publish(lake, local(tmp_path, {"0.png": b"only this"}), mirror=False)
    assert (kept.uploaded, kept.removed, len(held(lake, "main"))) == (1, 0, 5)


def test_unchanged_data_behind_newer_commits_keeps_its_commit(lake: LakeFS, tmp_path: Path) -> None:
    files = local(tmp_path, {"x": b"1"})
    data = publish(lake, files)
    lake.publish(local(tmp_path, {"model.pth": b"2"}), "models/", "model", {}, mirror=False)
    assert lake.head() != data.commit_id
    assert publish(lake, files).commit_id == data.commit_id


def test_a_commit_is_taken_for_what_it_holds_not_for_what_it_says(lake: LakeFS, tmp_path: Path) -> None:
    both = local(tmp_path, {"x": b"1", "y": b"2"})
    only_x = {"x": both["x"]}
    publish(lake, both)
    said = publish(lake, local(tmp_path, {"x": b"3"}) | {"y": both["y"]})
    again = publish(lake, only_x, mirror=False)  # its metadata name x alone, but y is there too
    assert len(held(lake, again.commit_id)) == 2 and said.commit_id != again.commit_id
    lake.connection.sdk.objects_api.delete_object(lake.repo, "main", "data/y")
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="by hand"))
    assert held(lake, publish(lake, only_x).commit_id) == {"x": both["x"].sha256}


def test_a_page_and_one_more(lake: LakeFS, tmp_path: Path) -> None:
    files = local(tmp_path, {f"{i:04}": str(i).encode() for i in range(1001)})
    done = publish(lake, files)
    assert done.uploaded == 1001 and len(held(lake, done.commit_id)) == 1001
    tree = lake.download(LakePath(lake.repo, done.commit_id, "data/"), tmp_path / "cache") / "data"
    assert {path.name: path.read_text() for path in tree.iterdir()} == {f"{i:04}": str(i) for i in range(1001)}
    assert publish(lake, {}).removed == 1001
    assert held(lake, "main") == {}


def test_a_file_that_cannot_be_sent_is_named_and_nothing_is_committed(lake: LakeFS, tmp_path: Path) -> None:
    files = local(tmp_path, {"good": b"1", "gone": b"2", "changed": b"3"})
    files["gone"].path.unlink()
    files["changed"].path.write_bytes(b"other")
    head = lake.head()
    with pytest.raises((AppError, OSError)) as error:
        publish(lake, files)
    assert "changed" in str(error.value) or "No such file" in str(error.value)
    assert lake.head() == head and held(lake, "main") == {}
    files |= local(tmp_path, {"gone": b"2", "changed": b"3"})
    assert publish(lake, files).uploaded == 3
    assert branches(lake) == ["main"]


def test_a_call_after_a_kill_goes_on(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = local(tmp_path, {f"{i}": secrets.token_bytes(100) for i in range(20)})
    sent: list[str] = []
    upload, started = Publisher.upload, itertools.count()

    def dying(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        if next(started) >= 8:
            raise KeyboardInterrupt
        upload(self, branch, path, file)
        sent.append(path)

    monkeypatch.setattr(Publisher, "upload", dying)
    with pytest.raises(KeyboardInterrupt):
        publish(lake, files)
    assert held(lake, "main") == {}, "nothing half done shows on main"
    again: list[str] = []

    def noting(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        again.append(path)
        upload(self, branch, path, file)

    monkeypatch.setattr(Publisher, "upload", noting)
    done = publish(lake, files)
    assert sorted(again) == sorted({f"data/{name}" for name in files} - set(sent)), "what had arrived is not sent again"
    assert len(held(lake, done.commit_id)) == 20 and branches(lake) == ["main"]


def killed_before(step: str, lake: LakeFS, files: dict[str, LocalFile], mirror: bool = True) -> None:
    """Publish, and end right before `step`, as by kill -9."""

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Publisher, step, dying)
        publish(lake, files, mirror)


def uploads(patch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are sent from now on."""
    upload, sent = Publisher.upload, list[str]()

    def noting(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        sent.append(path)
        upload(self, branch, path, file)

    patch.setattr(Publisher, "upload", noting)
    return sent


@pytest.mark.parametrize("step", ["commit_staged", "merge_into_target"])
@pytest.mark.parametrize("mirror", [True, False])
def test_a_call_after_a_kill_starts_from_what_the_target_has_become(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, mirror: bool
) -> None:
    """A colleague has removed a file that was there, changed one and added one meanwhile."""
    base = local(tmp_path, {"q": b"q", "other": b"1"})
    publish(lake, base)
    mine = {"q": base["q"], **local(tmp_path, {"new": b"new", "both": b"mine"})}
    killed_before(step, lake, mine, mirror)
    theirs = local(tmp_path, {"z": b"z", "both": b"theirs"})
    publish(lake, theirs)
    sent = uploads(monkeypatch)
    done = publish(lake, mine, mirror)
    wanted = {name: file.sha256 for name, file in (mine if mirror else {**theirs, **mine}).items()}
    assert held(lake, done.commit_id) == held(lake, "main") == wanted
    assert sent == ["data/q"], "what had arrived is not sent again"
    assert branches(lake) == ["main"]


def test_a_conflict_with_what_the_target_got_meanwhile_sends_nothing_again(
    lake: LakeFS, settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = local(tmp_path, {"both": b"mine", "a": b"a"}), local(tmp_path, {"both": b"theirs"})
    sent, merge = uploads(monkeypatch), Publisher.merge_into_target

    def overtaken(self: Publisher, *arguments: str) -> object:
        monkeypatch.setattr(Publisher, "merge_into_target", merge)
        with connect(settings) as other:
            publish(other, theirs)
        return merge(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Publisher, "merge_into_target", overtaken)
    done = publish(lake, mine)
    assert held(lake, done.commit_id) == held(lake, "main") == {name: file.sha256 for name, file in mine.items()}
    assert sorted(sent) == ["data/a", "data/both", "data/both"] and branches(lake) == ["main"]


def test_removals_of_a_call_that_was_killed_are_not_taken_over_by_one_that_keeps(lake: LakeFS, tmp_path: Path) -> None:
    publish(lake, local(tmp_path, {"a": b"a", "b": b"b"}))
    files = local(tmp_path, {"a": b"a2"})
    killed_before("commit_staged", lake, files)
    publish(lake, files, mirror=False)
    assert sorted(held(lake, "main")) == ["a", "b"]


def test_what_was_meant_for_another_branch_does_not_get_into_this_one(
    lake: LakeFS, settings: config.Settings, tmp_path: Path
) -> None:
    files = local(tmp_path, {"a": b"a"})
    with connect(settings) as experiment:
        experiment.start_experiment("wider")
        experiment.publish(local(tmp_path, {"model.pth": b"trial"}), "models/", "m", {}, mirror=False)
        killed_before("merge_into_target", experiment, files)
    publish(lake, files)
    assert [file.path for file in lake.objects("main", "")] == ["data/a"]


def test_files_that_somebody_staged_on_the_target_are_named(lake: LakeFS, tmp_path: Path) -> None:
    done = publish(lake, local(tmp_path, {"a": b"1"}))
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "notes/theirs.txt", content=b"not committed")
    files = local(tmp_path, {"a": b"2"})
    words = r"branch main .* has uncommitted changes.*: notes/theirs.txt\. Commit them \(lakectl commit lakefs://"
    with pytest.raises(AppError, match=words):
        publish(lake, files)
    with pytest.raises(AppError, match=words):
        lake.revert(done.commit_id, "undo", {})
    lake.connection.sdk.branches_api.reset_branch(lake.repo, "main", sdk.ResetCreation(type="reset"))
    assert held(lake, publish(lake, files).commit_id) == {"a": files["a"].sha256}


@pytest.mark.parametrize("step", ["commit_staged", "merge_into_target"])
def test_a_lost_answer_to_commit_or_merge_is_settled(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files, real = local(tmp_path, {"x": b"1"}), getattr(Publisher, step)

    def lost(self: Publisher, *arguments: object) -> object:
        real(self, *arguments)
        raise AppError("the connection broke before the answer came")

    monkeypatch.setattr(Publisher, step, lost)
    with pytest.raises(AppError):
        publish(lake, files)
    monkeypatch.setattr(Publisher, step, real)
    log = len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results)
    done = publish(lake, files)
    assert held(lake, done.commit_id) == {"x": files["x"].sha256}
    after = lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results
    assert len(after) <= log + 2 and lake.commit_metadata(done.commit_id)["key"] == "value"


def test_the_same_files_from_two_sides_at_once(settings: config.Settings, tmp_path: Path) -> None:
    files = local(tmp_path, {f"{i}": secrets.token_bytes(100) for i in range(30)})

    def one(_: int) -> str:
        with connect(settings, create=True) as lake:
            return publish(lake, files).commit_id

    with ThreadPoolExecutor(3) as pool:
        commits = list(pool.map(one, range(3)))
    with connect(settings) as lake:
        wanted = {name: file.sha256 for name, file in files.items()}
        assert all(held(lake, commit) == wanted for commit in commits)
        assert held(lake, "main") == wanted and branches(lake) == ["main"]


def test_different_files_from_two_sides_at_once(settings: config.Settings, tmp_path: Path) -> None:
    def one(side: int) -> tuple[str, dict[str, LocalFile]]:
        files = local(tmp_path, {f"{side}-{i}": secrets.token_bytes(100) for i in range(20)} | {"same": bytes([side])})
        with connect(settings, create=True) as lake:
            return publish(lake, files).commit_id, files

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(one, range(3)))
    with connect(settings) as lake:
        for commit, files in results:
            assert held(lake, commit) == {name: file.sha256 for name, file in files.items()}, (
                "each has a commit of its own"
            )
        reachable = {
            commit.id for commit in lake.connection.sdk.refs_api.log_commits(lake.repo, "main", amount=1000).results
        }
        assert {commit for commit, _ in results} <= reachable and branches(lake) == ["main"]


def rewrite(path: Path, content: bytes) -> None:
    """As an editor does that nothing stops: the file stays the same one, with whatever hard links it has."""
    path.chmod(0o600)
    path.write_bytes(content)


def test_a_changed_byte_in_the_cache_is_healed(
    lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {"x": b"content", "y": b"others", "other": b"from elsewhere"}
    files, cache = local(tmp_path, {name: contents[name] for name in ("x", "y")}), tmp_path / "cache"
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
        rewrite(cache / "commits" / lake.repo / commit / "data" / name, changed)
        assert cached() == contents and f"data/{name}: changed in the cache" in capsys.readouterr().err
    rewrite(cache / "commits" / lake.repo / commit / "data/y", b"Others")
    lake.download(source, cache, lambda path: path.endswith("x"))
    assert cached() == contents, "what was changed and not wanted is not left for the next call"


def test_a_copied_cache_is_read_once_and_kept(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = LakePath(lake.repo, publish(lake, local(tmp_path, {"x": b"1", "y": b"2"})).commit_id, "data/")
    lake.download(source, tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    monkeypatch.setattr(Queries, "objects", None)  # the server is not asked
    read: list[Path] = []

    def noting(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(download, "file_sha256", noting)
    for _ in range(2):
        tree = lake.download(source, tmp_path / "copy")
        assert (tree / "data/x").read_bytes() == b"1" and len(read) == 2
    assert capsys.readouterr().err == ""


def test_a_model_whose_bits_rot_in_the_cache_is_healed(
    lake: LakeFS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, cache = local(tmp_path, {"x": b"content"}), tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, files).commit_id, "data/x")
    path = lake.verified_file(source, files["x"].sha256, cache)
    before = path.stat()
    rewrite(path, b"Content")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # no stat tells
    assert lake.verified_file(source, files["x"].sha256, cache).read_bytes() == b"content"
    assert f"{path}: changed in the cache" in capsys.readouterr().err
    with pytest.raises(AppError, match=f"SHA-256 differs from its record .*cached as {path}"):
        lake.verified_file(source, "0" * 64, cache)


def test_a_damaged_record_is_not_believed(lake: LakeFS, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = LakePath(lake.repo, publish(lake, local(tmp_path, {"x": b"1"})).commit_id, "data/")
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


def test_fetching_a_part_again_leaves_nothing_behind(lake: LakeFS, tmp_path: Path) -> None:
    files = local(tmp_path, {f"{i}": secrets.token_bytes(10) for i in range(5)})
    source = LakePath(lake.repo, publish(lake, files).commit_id, "data/")
    for _ in range(3):
        lake.download(source, tmp_path / "cache", lambda path: path != "data/4")
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("sha256", ["", "../../../../escaped/x", "0" * 63, "0" * 63 + "g", "A" * 64])
def test_metadata_that_is_no_hash_is_none(lake: LakeFS, tmp_path: Path, sha256: str) -> None:
    headers = {**lake.connection.transfer.auth, "x-lakefs-meta-sha256": sha256, "Content-Length": "5"}
    url = lake.connection.transfer._url(lake.repo, "branches", "main", "data/theirs")
    assert lake.connection.pool.request("POST", url, body=b"bytes", headers=headers).status == 201
    assert [file.sha256 for file in lake.objects("main", "")] == [None]
    cache = tmp_path / "a/b/c/cache"
    tree = lake.download(LakePath(lake.repo, "main", "data/"), cache)
    assert (tree / "data/theirs").read_bytes() == b"bytes"
    assert not (cache / "sha256").exists() and not list(tmp_path.rglob("escaped"))


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
def test_a_listing_that_is_none_is_said(lake: LakeFS, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    answers = itertools.repeat(answer, 3)

    def given(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(raw_data=next(answers))

    monkeypatch.setattr(type(lake.connection.sdk.objects_api), "list_objects_with_http_info", given)
    with pytest.raises(AppError, match=r"listing main/.*not a response of lakeFS: check LAKEFS_ENDPOINT"):
        list(lake.objects("main", ""))


def test_a_listing_that_never_ends_is_said(lake: LakeFS, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(results=[], pagination=SimpleNamespace(has_more=True, next_offset="x"))
    pages = itertools.repeat(page, 3)
    for api in (lake.connection.sdk.branches_api, lake.connection.sdk.refs_api):
        for name in ("list_branches", "log_commits", "diff_refs"):
            monkeypatch.setattr(api, name, lambda *_, **__: next(pages), raising=False)
    for listing in (lake.list_refs("branches"), lake.log("main"), lake.differences("main", "main")):
        pages = itertools.repeat(page, 3)
        with pytest.raises(AppError, match="not a response of lakeFS"):
            list(listing)


# What people call their files: Korean of 73 to 85 characters has up to 255 bytes, all that a file system allows.
HARD_NAMES = [
    *("가" * length + ".png" for length in (73, 80, 83)),
    "나" * 85,
    "n" * 251 + ".png",
    "with some  spaces .png",
    "a#b?c%20d+e&f=g;h@i!j$k'l(m),n~o[p]q{r}^s`t|u",
    "sub folder/다른 폴더 #1?/100%+.png",
]


def test_every_name_goes_up_and_comes_back(lake: LakeFS, settings: config.Settings, tmp_path: Path) -> None:
    here, there = (
        dataclasses.replace(settings, data_dir=tmp_path / name, lakefs_local_dir=tmp_path / name / ".lakefs")
        for name in ("here", "there")
    )
    contents = {name: secrets.token_bytes(10) for name in HARD_NAMES}
    for name, content in contents.items():
        (here.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (here.data_dir / name).write_bytes(content)
    sync.push(here, lake, None, keep_remote=False)
    sync.pull(there, lake, "main", force=False)
    assert {name: file.path.read_bytes() for name, file in versions.local_files(there).items()} == contents
    assert {file.path.removeprefix("data/") for file in lake.objects("main", "")} == contents.keys()


def test_a_file_that_is_not_there(lake: LakeFS, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no such file on lakeFS"):
        lake.download(LakePath(lake.repo, "main", "nowhere/"), tmp_path)
    files = local(tmp_path, {"ab": b"1"})
    publish(lake, files)
    with pytest.raises(AppError, match="no such file on lakeFS"):
        lake.download(LakePath(lake.repo, lake.head(), "data/a"), tmp_path / "cache")


def test_objects_of_other_clients_are_verified_by_their_md5(lake: LakeFS, tmp_path: Path) -> None:
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "data/other", content=b"from elsewhere")
    tree = lake.download(LakePath(lake.repo, "main", "data/"), tmp_path)
    assert (tree / "data/other").read_bytes() == b"from elsewhere"
    same = local(tmp_path, {"other": b"from elsewhere"})
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="theirs"))
    assert publish(lake, same).uploaded == 0, "what is there already is not sent again"
    assert publish(lake, local(tmp_path, {"other": b"from_elsewhere"})).uploaded == 1


def test_wrong_keys_and_a_missing_repository_are_one_line(settings: config.Settings) -> None:
    wrong = dataclasses.replace(settings, lakefs_secret_access_key="wrong")
    refused = pytest.raises(AppError, match="check LAKEFS_ACCESS_KEY_ID and LAKEFS_SECRET_ACCESS_KEY")
    with connect(wrong) as lake, refused:
        lake.head()
    with connect(settings) as lake, pytest.raises(UsageError, match=r"no such repository: train.py"):
        lake.head()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:/x", "", "a\0b"])
def test_a_path_that_leaves_its_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(AppError):
        safe_join(tmp_path, path)


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1, max_size=4))
def test_inside_never_leaves(parts: list[str]) -> None:
    root = Path("/root-of-test")
    try:
        path = safe_join(root, "/".join(parts))
    except AppError:
        return
    assert ".." not in path.parts and path.is_relative_to(root)


@pytest.mark.parametrize("uri", ["s3://a/b/c", "lakefs://repo", "lakefs://repo/ref", "lakefs:///x/y", "nothing"])
def test_what_is_no_lakefs_path_is_said(uri: str) -> None:
    with pytest.raises(UsageError, match="not a lakeFS path"):
        LakePath.parse(uri)
    assert str(LakePath.parse("lakefs://repo/ref/a/b")) == "lakefs://repo/ref/a/b"


def test_who_leaves_does_not_wait_for_long_work(tmp_path: Path) -> None:
    """In a process of its own, whose end would wait too."""
    program = (
        "import os, signal, threading, time\nfrom core.workers import parallel\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "for _ in parallel(lambda n: time.sleep(60), range(100), 4): pass\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, timeout=50)
    assert "KeyboardInterrupt" in done.stderr and time.monotonic() - start < 10


def test_work_for_which_nobody_waits_stops_where_it_heeds() -> None:
    ended: list[int] = []
    begun = threading.Barrier(3)

    def work(number: int) -> None:
        begun.wait(30)
        if number == 0:
            raise KeyboardInterrupt
        try:
            for _ in parallel(inner, range(2), 2):  # as the parts of a file
                pass
        finally:
            ended.append(number)

    def inner(_: int) -> None:
        for _ in range(1000):
            raise_if_cancelled()
            time.sleep(0.01)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(parallel(work, [1, 2, 0], 3))
    assert sorted(ended) == [1, 2] and time.monotonic() - start < 8, "it would take 10 seconds to its end"


def test_what_a_gone_server_would_fail_is_not_tried() -> None:
    def work(number: int) -> int:
        if number in (3, 5) or number >= 8:  # 3 and 5 alone are no reason to stop
            raise AppError(f"no {number}") from ServerUnavailable()
        return number

    tried = list(parallel(work, range(1000), 1))
    assert [n for n, result in tried if isinstance(result, Skipped)] == list(range(8 + MAX_UNAVAILABLE, 1000))
    with pytest.raises(AppError) as error:
        list(iterate_successes(parallel(work, range(1000), 1), lambda count: f"{count} failed"))
    assert str(error.value).startswith("994 failed:\n  10: no 10\n  3: no 3")
    assert str(error.value).endswith("  9: no 9\n  … and 989 more not tried: the server is unavailable")


def test_parallel_keeps_few_in_the_air_and_every_result() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    results = parallel(lambda n: n if n % 7 else 1 // 0, source(), workers=2)
    first = next(results)
    assert taken <= 8, "the source is not read ahead of the work"
    found = dict([first, *results])
    assert sorted(found) == list(range(200))
    assert all(isinstance(found[n], ZeroDivisionError) if n % 7 == 0 else found[n] == n for n in found)
