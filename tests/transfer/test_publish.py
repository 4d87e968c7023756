"""Publishing to lakeFS: exact, resumable after a kill, atomic, and safe with concurrent clients."""

from __future__ import annotations

import itertools
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lakefs_sdk as sdk
import pytest

import config
from core.errors import AppError
from tests.support.publish_helpers import publish, published_hashes, write_local_files
from tests.support.servers import branches
from utils import lakefs_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.publish import Publisher
from utils.lakefs_utils import LakeFS, LakePath, connect

NAMES = [
    "a.png",
    "a/b.png",
    "with space.txt",
    "한글/이름.png",
    "odd #?%+&=;.bin",
    "empty",
    "deep/" * 20 + "x",
    "n" * 200,
    "/".join(["가" * 66] * 5) + "x",  # 1,000 bytes with data/; lakeFS allows 1,024
]


def test_published_files_are_downloaded_unchanged(lake: LakeFS, tmp_path: Path) -> None:
    contents = {name: b"" if name == "empty" else secrets.token_bytes(1000 + len(name)) for name in NAMES}
    done = publish(lake, write_local_files(tmp_path, contents))
    assert (done.uploaded, done.removed, len(done.commit_id)) == (len(NAMES), 0, 64)
    assert done.commit_id == lake.head()
    metadata = lake.commit_metadata(done.commit_id)
    assert metadata["key"] == "value" and len(metadata["data_manifest_sha256"]) == 64
    tree = lake.download(LakePath(lake.repo, done.commit_id, "data/"), tmp_path / "cache")
    assert {name: (tree / "data" / name).read_bytes() for name in NAMES if name != "a.png"} == {
        name: content for name, content in contents.items() if name != "a.png"
    }
    assert branches(lake) == ["main"]


def test_only_changed_files_are_uploaded(lake: LakeFS, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {f"{i}.png": secrets.token_bytes(50) for i in range(5)})
    first = publish(lake, files)
    assert publish(lake, files) == lakefs_utils.PublishResult(first.commit_id, 0, 0)
    del files["4.png"]
    files |= write_local_files(tmp_path, {"3.png": b"new", "5.png": b"more"})
    second = publish(lake, files)
    assert (second.uploaded, second.removed) == (2, 1)
    assert published_hashes(lake, second.commit_id) == {name: file.sha256 for name, file in files.items()}
    assert len(published_hashes(lake, first.commit_id)) == 5, "an older commit is unchanged"
    kept = publish(lake, write_local_files(tmp_path, {"0.png": b"only this"}), mirror=False)
    assert (kept.uploaded, kept.removed, len(published_hashes(lake, "main"))) == (1, 0, 5)


def test_unchanged_data_reuses_an_older_commit(lake: LakeFS, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {"x": b"1"})
    data = publish(lake, files)
    lake.publish(write_local_files(tmp_path, {"model.pth": b"2"}), "models/", "model", {}, mirror=False)
    assert lake.head() != data.commit_id
    assert publish(lake, files).commit_id == data.commit_id


def test_commit_reuse_depends_on_content_not_metadata(lake: LakeFS, tmp_path: Path) -> None:
    both = write_local_files(tmp_path, {"x": b"1", "y": b"2"})
    only_x = {"x": both["x"]}
    publish(lake, both)
    reported = publish(lake, write_local_files(tmp_path, {"x": b"3"}) | {"y": both["y"]})
    again = publish(lake, only_x, mirror=False)  # its metadata names x only, but y exists too
    assert len(published_hashes(lake, again.commit_id)) == 2 and reported.commit_id != again.commit_id
    lake.connection.sdk.objects_api.delete_object(lake.repo, "main", "data/y")
    lake.connection.sdk.commits_api.commit(lake.repo, "main", sdk.CommitCreation(message="by hand"))
    assert published_hashes(lake, publish(lake, only_x).commit_id) == {"x": both["x"].sha256}


def test_more_files_than_one_listing_page(lake: LakeFS, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {f"{i:04}": str(i).encode() for i in range(1001)})
    done = publish(lake, files)
    assert done.uploaded == 1001 and len(published_hashes(lake, done.commit_id)) == 1001
    tree = lake.download(LakePath(lake.repo, done.commit_id, "data/"), tmp_path / "cache") / "data"
    assert {path.name: path.read_text() for path in tree.iterdir()} == {f"{i:04}": str(i) for i in range(1001)}
    assert publish(lake, {}).removed == 1001
    assert published_hashes(lake, "main") == {}


def test_failed_upload_is_named_and_nothing_is_committed(lake: LakeFS, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {"good": b"1", "gone": b"2", "changed": b"3"})
    files["gone"].path.unlink()
    files["changed"].path.write_bytes(b"other")
    head = lake.head()
    with pytest.raises((AppError, OSError)) as error:
        publish(lake, files)
    assert "changed" in str(error.value) or "No such file" in str(error.value)
    assert lake.head() == head and published_hashes(lake, "main") == {}
    files |= write_local_files(tmp_path, {"gone": b"2", "changed": b"3"})
    assert publish(lake, files).uploaded == 3
    assert branches(lake) == ["main"]


def test_publish_resumes_after_a_kill(lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_local_files(tmp_path, {f"{i}": secrets.token_bytes(100) for i in range(20)})
    sent: list[str] = []
    upload, started = Publisher.upload, itertools.count()

    def interrupted(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        if next(started) >= 8:
            raise KeyboardInterrupt
        upload(self, branch, path, file)
        sent.append(path)

    monkeypatch.setattr(Publisher, "upload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(lake, files)
    assert published_hashes(lake, "main") == {}, "main contains no partial publication"
    again: list[str] = []

    def recorded(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        again.append(path)
        upload(self, branch, path, file)

    monkeypatch.setattr(Publisher, "upload", recorded)
    done = publish(lake, files)
    assert sorted(again) == sorted({f"data/{name}" for name in files} - set(sent)), "uploaded files are not sent again"
    assert len(published_hashes(lake, done.commit_id)) == 20 and branches(lake) == ["main"]


def publish_and_interrupt_before(step: str, lake: LakeFS, files: dict[str, LocalFile], mirror: bool = True) -> None:
    """Publish, and interrupt right before the method `step`."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Publisher, step, interrupted)
        publish(lake, files, mirror)


def record_uploads(patch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the paths of all later uploads."""
    upload, sent = Publisher.upload, list[str]()

    def recorded(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        sent.append(path)
        upload(self, branch, path, file)

    patch.setattr(Publisher, "upload", recorded)
    return sent


@pytest.mark.parametrize("step", ["commit_staged", "merge_into_target"])
@pytest.mark.parametrize("mirror", [True, False])
def test_resumed_publish_starts_from_the_current_target(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, mirror: bool
) -> None:
    """Another client has removed, changed and added a file meanwhile."""
    base = write_local_files(tmp_path, {"q": b"q", "other": b"1"})
    publish(lake, base)
    mine = {"q": base["q"], **write_local_files(tmp_path, {"new": b"new", "both": b"mine"})}
    publish_and_interrupt_before(step, lake, mine, mirror)
    theirs = write_local_files(tmp_path, {"z": b"z", "both": b"theirs"})
    publish(lake, theirs)
    sent = record_uploads(monkeypatch)
    done = publish(lake, mine, mirror)
    wanted = {name: file.sha256 for name, file in (mine if mirror else {**theirs, **mine}).items()}
    assert published_hashes(lake, done.commit_id) == published_hashes(lake, "main") == wanted
    assert sent == ["data/q"], "uploaded files are not sent again"
    assert branches(lake) == ["main"]


def test_merge_conflict_with_the_target_uploads_nothing_again(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (
        write_local_files(tmp_path, {"both": b"mine", "a": b"a"}),
        write_local_files(tmp_path, {"both": b"theirs"}),
    )
    sent, merge = record_uploads(monkeypatch), Publisher.merge_into_target

    def overtaken(self: Publisher, *arguments: str) -> object:
        monkeypatch.setattr(Publisher, "merge_into_target", merge)
        with connect(lake_settings) as other:
            publish(other, theirs)
        return merge(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Publisher, "merge_into_target", overtaken)
    done = publish(lake, mine)
    assert (
        published_hashes(lake, done.commit_id)
        == published_hashes(lake, "main")
        == {name: file.sha256 for name, file in mine.items()}
    )
    assert sorted(sent) == ["data/a", "data/both", "data/both"] and branches(lake) == ["main"]


def test_removals_of_a_killed_mirror_are_not_applied_without_mirror(lake: LakeFS, tmp_path: Path) -> None:
    publish(lake, write_local_files(tmp_path, {"a": b"a", "b": b"b"}))
    files = write_local_files(tmp_path, {"a": b"a2"})
    publish_and_interrupt_before("commit_staged", lake, files)
    publish(lake, files, mirror=False)
    assert sorted(published_hashes(lake, "main")) == ["a", "b"]


def test_staged_files_of_another_branch_are_not_published(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path
) -> None:
    files = write_local_files(tmp_path, {"a": b"a"})
    with connect(lake_settings) as experiment:
        experiment.start_experiment("wider")
        experiment.publish(write_local_files(tmp_path, {"model.pth": b"trial"}), "models/", "m", {}, mirror=False)
        publish_and_interrupt_before("merge_into_target", experiment, files)
    publish(lake, files)
    assert [file.path for file in lake.objects("main", "")] == ["data/a"]


def test_files_staged_on_the_target_are_named(lake: LakeFS, tmp_path: Path) -> None:
    done = publish(lake, write_local_files(tmp_path, {"a": b"1"}))
    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", "notes/theirs.txt", content=b"not committed")
    files = write_local_files(tmp_path, {"a": b"2"})
    words = r"branch main .* has uncommitted changes.*: notes/theirs.txt\. Commit them \(lakectl commit lakefs://"
    with pytest.raises(AppError, match=words):
        publish(lake, files)
    with pytest.raises(AppError, match=words):
        lake.revert(done.commit_id, "undo", {})
    lake.connection.sdk.branches_api.reset_branch(lake.repo, "main", sdk.ResetCreation(type="reset"))
    assert published_hashes(lake, publish(lake, files).commit_id) == {"a": files["a"].sha256}


@pytest.mark.parametrize("step", ["commit_staged", "merge_into_target"])
def test_commit_and_merge_succeed_after_a_lost_response(
    lake: LakeFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files, real = write_local_files(tmp_path, {"x": b"1"}), getattr(Publisher, step)

    def lost(self: Publisher, *arguments: object) -> object:
        real(self, *arguments)
        raise AppError("the connection broke before the answer came")

    monkeypatch.setattr(Publisher, step, lost)
    with pytest.raises(AppError):
        publish(lake, files)
    monkeypatch.setattr(Publisher, step, real)
    log = len(lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results)
    done = publish(lake, files)
    assert published_hashes(lake, done.commit_id) == {"x": files["x"].sha256}
    after = lake.connection.sdk.refs_api.log_commits(lake.repo, "main").results
    assert len(after) <= log + 2 and lake.commit_metadata(done.commit_id)["key"] == "value"


def test_concurrent_publish_of_the_same_files(lake_settings: config.Settings, tmp_path: Path) -> None:
    files = write_local_files(tmp_path, {f"{i}": secrets.token_bytes(100) for i in range(30)})

    def one(_: int) -> str:
        with connect(lake_settings, create=True) as lake:
            return publish(lake, files).commit_id

    with ThreadPoolExecutor(3) as pool:
        commits = list(pool.map(one, range(3)))
    with connect(lake_settings) as lake:
        wanted = {name: file.sha256 for name, file in files.items()}
        assert all(published_hashes(lake, commit) == wanted for commit in commits)
        assert published_hashes(lake, "main") == wanted and branches(lake) == ["main"]


def test_concurrent_publish_of_different_files(lake_settings: config.Settings, tmp_path: Path) -> None:
    def one(side: int) -> tuple[str, dict[str, LocalFile]]:
        files = write_local_files(
            tmp_path, {f"{side}-{i}": secrets.token_bytes(100) for i in range(20)} | {"same": bytes([side])}
        )
        with connect(lake_settings, create=True) as lake:
            return publish(lake, files).commit_id, files

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(one, range(3)))
    with connect(lake_settings) as lake:
        for commit, files in results:
            assert published_hashes(lake, commit) == {name: file.sha256 for name, file in files.items()}, (
                "each publication has its own commit"
            )
        reachable = {
            commit.id for commit in lake.connection.sdk.refs_api.log_commits(lake.repo, "main", amount=1000).results
        }
        assert {commit for commit, _ in results} <= reachable and branches(lake) == ["main"]
