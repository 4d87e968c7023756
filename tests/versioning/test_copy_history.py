"""`lake.py push --to`: the complete history of the embedded store on another server, found by its old commit ids."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lakefs_sdk as sdk
import pytest

import config
from core.errors import AppError, UsageError
from tests.support import servers
from tests.support.project import make_project
from tests.support.publish_helpers import write_local_files
from tests.support.servers import Server
from utils.lakefs_client import transfer
from utils.lakefs_utils import LakeFS, connect
from versioning.migrate import DATE, EMBEDDED_ID, copy_history

NAMES = ["a.png", "with space.txt", "한글/이름.png", "odd #?%+&=;.bin", "empty", "n" * 200]


def settings_of(server: Server, store: Path, repo: str) -> config.Settings:
    return config.load_settings(**server.settings(lakefs_repo=repo, lakefs_local_dir=store, app_lang="en"))


@pytest.fixture
def settings(lakefs_server: Server, tmp_path: Path) -> config.Settings:
    return settings_of(lakefs_server, tmp_path / "store", f"repo-{secrets.token_hex(6)}")


def connect_embedded(settings: config.Settings) -> Any:
    import dataclasses

    return connect(dataclasses.replace(settings, lakefs_endpoint=None), create=True)


def make_history(lake: LakeFS, folder: Path) -> None:
    """Publications, a removal, an experiment merged over a conflict, a revert, foreign objects, tags, an empty commit."""
    files = write_local_files(folder, {name: b"" if name == "empty" else secrets.token_bytes(300) for name in NAMES})
    first = lake.publish(files, "data/", "first", {"key": "Wert ü"}, mirror=True).commit_id
    lake.set_tag("v0.1-initial", first)
    lake.start_experiment("wider")
    lake.publish(write_local_files(folder, {"model.pth": b"theirs"}), "models/", "model", {}, mirror=False)
    theirs, lake.connection.branch = lake.head(), "main"
    lake.publish(write_local_files(folder, {"model.pth": b"ours"}), "models/", "model", {}, mirror=False)
    lake.merge_commit(theirs, "merge wider", {})
    del files["a.png"]
    second = lake.publish(files, "data/", "one less", {}, mirror=True).commit_id
    lake.revert(second, "not one less", {})
    lake.create_branch("by-hand", "main")
    lake.connection.sdk.objects_api.upload_object(lake.repo, "by-hand", "data/foreign", content=b"of another client")
    lake.connection.sdk.commits_api.commit(lake.repo, "by-hand", sdk.CommitCreation(message="foreign"))
    lake.connection.sdk.commits_api.commit(lake.repo, "by-hand", sdk.CommitCreation(message="empty", allow_empty=True))


def history(lake: LakeFS, ref: str) -> list[tuple[str, str, int, dict[str, str]]]:
    """Return what a copy must preserve of the commits of a ref, in an order independent of ids and dates."""
    kept = []
    for commit in lake.log(ref, first_parent=False):
        metadata = dict(commit.metadata or {})
        name = metadata.pop(EMBEDDED_ID, commit.id)
        metadata.pop(DATE, None)
        kept.append((name, commit.message, len(commit.parents), metadata))
    return sorted(row for row in kept if row[2])  # the first commit is the server's own


def object_hashes(lake: LakeFS, ref: str) -> list[tuple[str, str | None]]:
    return [(file.path, file.sha256 or file.checksum) for file in lake.objects(ref, "")]


def require_copied(source: LakeFS, target: LakeFS) -> None:
    """Fail unless every branch, tag and commit of the source exists once on the target, with its content."""
    assert [name for name, _ in target.list_refs("branches")] == [name for name, _ in source.list_refs("branches")]
    assert [name for name, _ in target.list_refs("tags")] == [name for name, _ in source.list_refs("tags")]
    for kind in ("branches", "tags"):
        for name, commit_id in source.list_refs(kind):
            assert history(target, name) == history(source, name), name
            assert object_hashes(target, name) == object_hashes(source, name) == object_hashes(target, commit_id)
            assert target.resolve(commit_id) == dict(target.list_refs(kind))[name]


def test_complete_history_is_copied_once(settings: config.Settings, tmp_path: Path) -> None:
    with connect_embedded(settings) as source:
        make_history(source, tmp_path)
        copy_history(settings, str(settings.lakefs_endpoint))
        with connect(settings) as target:
            require_copied(source, target)
            dates = {c.metadata[EMBEDDED_ID]: c.creation_date for c in target.log("by-hand") if len(c.parents) == 1}
            assert {c.id: c.creation_date for c in source.log("by-hand") if c.id in dates} == dates
            copied = list(target.list_refs("tags", copied=True))
        source.publish(
            write_local_files(tmp_path, {"new": b"new"}), "data/", "more work on the laptop", {}, mirror=False
        )
        for _ in range(2):
            copy_history(settings, str(settings.lakefs_endpoint))
        with connect(settings) as target:
            require_copied(source, target)
            assert len(list(target.list_refs("tags", copied=True))) == len(copied) + 2, "a commit and its merge"
            theirs = target.publish(
                write_local_files(tmp_path, {"theirs": b"x"}), "data/", "theirs", {}, mirror=False
            ).commit_id
        source.publish(write_local_files(tmp_path, {"ours": b"x"}), "data/", "ours", {}, mirror=False)
        with pytest.raises(UsageError, match="has diverged: main: nothing was copied"):
            copy_history(settings, str(settings.lakefs_endpoint))
        with connect(settings) as target:
            assert target.head() == theirs


def test_repositories_created_in_the_same_second_share_their_first_commit(
    settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.local_lakefs.store.time", SimpleNamespace(time=lambda: 1.7e9))
    with connect_embedded(settings) as source:
        source.publish(write_local_files(tmp_path, {"x": b"x"}), "data/", "first", {}, mirror=True)
        for _ in range(2):  # no tag can map a commit id to itself: the second call must recognise it anyway
            copy_history(settings, str(settings.lakefs_endpoint))
        with connect(settings) as target:
            require_copied(source, target)


def test_target_with_another_history_is_refused(settings: config.Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no embedded store to copy"):
        copy_history(settings, str(settings.lakefs_endpoint))
    with connect(settings, create=True) as target:
        head = target.publish(write_local_files(tmp_path, {"x": b"x"}), "data/", "theirs", {}, mirror=True).commit_id
        with connect_embedded(settings) as source:
            source.publish(write_local_files(tmp_path, {"x": b"y"}), "data/", "ours", {}, mirror=True)
        with pytest.raises(UsageError, match="has another history: nothing was copied"):
            copy_history(settings, str(settings.lakefs_endpoint))
        assert target.head() == head and [name for name, _ in target.list_refs("branches")] == ["main"]


@pytest.fixture
def interrupt_after(settings: config.Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that interrupts this process after the given number of requests that change the target."""
    left, ask = [0], transfer.TimedPoolManager.urlopen

    def urlopen(self: transfer.TimedPoolManager, method: str, url: str, **options: Any) -> Any:
        answer = ask(self, method, url, **options)
        if method != "GET" and url.startswith(str(settings.lakefs_endpoint)):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(transfer.TimedPoolManager, "urlopen", urlopen)
    yield lambda count: left.__setitem__(0, count)


def test_copy_resumes_after_an_interruption_at_any_step(
    settings: config.Settings, tmp_path: Path, interrupt_after: Callable[[int], None]
) -> None:
    with connect_embedded(settings) as source:
        make_history(source, tmp_path)
        deaths = 0
        while deaths < 60:
            interrupt_after(2 + deaths % 2)  # so that each kind of request is interrupted at least once
            try:
                copy_history(settings, str(settings.lakefs_endpoint))
                break
            except KeyboardInterrupt:
                deaths += 1
        assert 10 < deaths < 60
        with connect(settings) as target:
            require_copied(source, target)
            origins = [
                c.metadata.get(EMBEDDED_ID) for name, _ in target.list_refs("branches") for c in target.log(name, False)
            ]
            commits = {c.id for name, _ in target.list_refs("branches") for c in target.log(name, False)}
            assert len({o for o in origins if o}) == len(commits) - 1, "no commit occurs twice in the history"


@pytest.fixture
def one_server(tmp_path: Path) -> Iterator[Server]:
    """A real server if available, otherwise the embedded one: one complete training is enough."""
    start = servers.real if servers.real_available() else servers.embedded
    (tmp_path / "server").mkdir()
    with start(tmp_path / "server") as server:
        yield server


def test_lock_runs_and_registered_models_resolve_on_the_target(one_server: Server, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=12)
    for script, *arguments in (
        ("train.py", "--batch-size", "4", "--epochs", "1", "--experiment-branch", "wider"),
        ("register_model.py", "--threshold", "0"),
        ("lake.py", "tag", "v0.1-initial"),
    ):
        done = project.run(script, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    run, lock = project.runs()[0], json.loads((project.folder / "lakefs.lock").read_text())
    model = (project.folder / "models/model.pth").read_bytes()
    project.env = {
        "LAKEFS_ACCESS_KEY_ID": one_server.access_key_id,
        "LAKEFS_SECRET_ACCESS_KEY": one_server.secret_access_key,
        "LAKEFS_STORAGE_NAMESPACE": one_server.storage_namespace,
    }
    both = project.run("lake.py", "push", "--to", one_server.endpoint, "-m", "x")
    assert both.returncode == 2 and "--message cannot be used with --to" in both.stderr
    pushed = project.run("lake.py", "push", "--to", one_server.endpoint)
    assert pushed.returncode == 0 and "copied to image-segmentation-local-repo" in pushed.stdout, pushed.stderr
    assert one_server.secret_access_key not in pushed.stdout + pushed.stderr

    shutil.rmtree(project.folder / ".lakefs")  # store and cache: everything must come from the server
    shutil.rmtree(project.folder / "data")
    (project.folder / "models/model.pth").unlink()
    project.env["LAKEFS_ENDPOINT"] = one_server.endpoint
    for script, *arguments in (
        ("lake.py", "pull", "lock"),
        ("lake.py", "status"),
        ("lake.py", "verify", "lock"),
        ("infer.py", "--split", "val"),
    ):
        done = project.run(script, *arguments)
        assert done.returncode == 0, (script, arguments, done.stdout + done.stderr)
    assert (project.folder / "models/model.pth").read_bytes() == model
    assert project.predictions()["lakefs_model_path"] == run.data.params["lakefs_model_path"], "by its old id"
    tags = project.run("lake.py", "tag").stdout
    assert "v0.1-initial" in tags and lock["data"]["commit"] not in tags.split("v0.1-initial")[0]


def test_unavailable_server_is_reported(settings: config.Settings, tmp_path: Path) -> None:
    with connect_embedded(settings):
        pass
    with pytest.raises(AppError, match="does not answer"):
        copy_history(settings, "http://127.0.0.1:9")
