"""A client killed (SIGKILL) while publishing: main is never partially updated, and the next call resumes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from tests.support.publish_helpers import published_hashes, settings_for, sha256s, write_files
from tests.support.servers import KINDS, KillableServer, Server, branches
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.publish import Publisher
from utils.lakefs_client.refs import Refs
from utils.lakefs_utils import LakeFS, connect

COUNT = 12
OWNERS = {"upload": Publisher, "commit_staged": Publisher, "merge_into_target": Publisher, "delete_branch": Refs}
STEPS = {  # method, number of the call, whether the server has completed it, number of uploaded files
    "an upload": ("upload", 5, True, 5),
    "before the commit": ("commit_staged", 1, False, COUNT),
    "after the commit": ("commit_staged", 1, True, COUNT),
    "before the merge": ("merge_into_target", 1, False, COUNT),
    "after the merge": ("merge_into_target", 1, True, COUNT),
    "before the branch goes": ("delete_branch", 1, False, COUNT),
}
NOBODY, ELSEWHERE, SAME_FILE = None, "notes/theirs", "data/0"  # what another client pushes before the second call
CASES = [
    *((step, NOBODY) for step in STEPS),
    *((step, theirs) for step in ("an upload", "after the commit") for theirs in (ELSEWHERE, SAME_FILE)),
]
PROCESSES = multiprocessing.get_context("forkserver")  # forks from a server process that has no threads
PROCESSES.set_forkserver_preload(["lakefs_sdk", __name__])


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    killable = KillableServer(request.param, tmp_path_factory.mktemp("kills") / "server")
    try:
        yield killable.start()
    finally:
        killable.kill()


def publish_and_kill_self(settings: config.Settings, files: dict[str, LocalFile], step: str) -> None:
    """Publish, and kill this process (SIGKILL) at the step, in the thread that runs it."""
    method, number, is_done, _ = STEPS[step]
    work, calls = getattr(OWNERS[method], method), iter(range(1, 1000))

    def kill_at_call(self: Any, *arguments: Any) -> Any:
        result = work(self, *arguments) if is_done else None
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if is_done else work(self, *arguments)

    setattr(OWNERS[method], method, kill_at_call)
    with connect(settings) as lake:
        lake.publish(files, "data/", "second", {}, mirror=True)


def staged_on_main(lake: LakeFS) -> list[str]:
    return [change.path for change in lake.connection.sdk.branches_api.diff_branch(lake.repo, "main").results]


def push(lake: LakeFS, path: str) -> None:
    """Commit a file directly to main, as another client."""
    import lakefs_sdk

    lake.connection.sdk.objects_api.upload_object(lake.repo, "main", path, content=b"theirs")
    lake.connection.sdk.commits_api.commit(lake.repo, "main", lakefs_sdk.CommitCreation(message="theirs"))


@pytest.mark.parametrize(("step", "theirs"), CASES)
def test_publish_resumes_after_a_client_kill_at_any_step(
    server: Server, step: str, theirs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(server, server.endpoint, tmp_path)
    settings = config.load_settings(**vars(settings) | {"lakefs_repo": f"killed-{CASES.index((step, theirs))}"})
    # Each file is replaced, and one is removed.
    before, files = write_files(tmp_path, COUNT + 1, 100), write_files(tmp_path, COUNT, 100)
    with connect(settings, create=True) as lake:
        lake.publish(before, "data/", "first", {}, mirror=True)
        child = PROCESSES.Process(target=publish_and_kill_self, args=(settings, files, step))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        is_merged = step in ("after the merge", "before the branch goes")
        assert published_hashes(lake, "main") == sha256s(files if is_merged else before)
        assert not staged_on_main(lake)
        (private,) = set(branches(lake)) - {"main"}
        arrived = {
            name for name, sha256 in published_hashes(lake, private).items() if sha256s(files).get(name) == sha256
        }
        assert len(arrived) >= STEPS[step][3]
        if theirs:
            push(lake, theirs)

        sent, upload = set[str](), Publisher.upload

        def counted(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
            sent.add(path.removeprefix("data/"))
            upload(self, branch, path, file)

        monkeypatch.setattr(Publisher, "upload", counted)
        commit = lake.publish(files, "data/", "second", {}, mirror=True).commit_id
        assert published_hashes(lake, commit) == published_hashes(lake, "main") == sha256s(files)
        assert not sent & arrived
        assert not staged_on_main(lake)
        assert branches(lake) == ["main"]
        if theirs == ELSEWHERE:
            assert ELSEWHERE in {file.path for file in lake.objects("main", "")}
