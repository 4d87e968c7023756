"""A server killed (SIGKILL) or with a full disk during a publication: no data lost, no partial update."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import AppError
from core.hashing import file_sha256
from tests.support.faults import Faults, fault_proxy
from tests.support.publish_helpers import published_hashes, settings_for, sha256s, write_files
from tests.support.servers import KINDS, SOURCE, KillableServer
from utils.lakefs_client.content import LocalFile
from utils.lakefs_client.publish import Publisher
from utils.lakefs_utils import LakeFS, LakePath, connect

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def killable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KillableServer]:
    server = KillableServer(request.param, tmp_path / "server")
    yield server
    server.kill()


def require_complete(lake: LakeFS, files: dict[str, LocalFile], commits: int) -> None:
    """Fail unless main contains exactly the files after `commits` commits and no private branch is left."""
    assert published_hashes(lake, "main") == sha256s(files)
    assert len(list(lake.log("main", first_parent=False))) == commits
    assert [name for name, _ in lake.list_refs("branches")] == ["main"]


def kill_server_at(killable: KillableServer, faults: Faults, request: str) -> None:
    faults.match, faults.during_request = request, [killable.kill]


@pytest.mark.parametrize("killable", KINDS, indirect=True)
def test_publish_resumes_after_a_server_kill_at_any_step(killable: KillableServer, tmp_path: Path) -> None:
    server = killable.start()
    with fault_proxy(server.endpoint) as faults:
        settings = settings_for(server, faults.endpoint, tmp_path)
        with connect(settings, create=True) as lake:
            commits, files = 1, dict[str, LocalFile]()
            for step in ("/objects?path", "/commits HTTP", "/merge/"):
                before, files = files, write_files(tmp_path, 20, 70_000)
                kill_server_at(killable, faults, step)
                with pytest.raises(AppError):
                    lake.publish(files, "data/", step, {}, mirror=True)
                assert not faults.during_request, f"nothing asked for {step}"
                killable.start()
                assert published_hashes(lake, "main") in (sha256s(before), sha256s(files))
                commit = lake.publish(files, "data/", step, {}, mirror=True).commit_id
                commits += 2
                require_complete(lake, files, commits)
            kill_server_at(killable, faults, f"refs/{commit}/objects?path")
            with pytest.raises(AppError):
                lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
            assert not list((tmp_path / "cache").rglob("*.part"))
            killable.start()
            tree = lake.download(LakePath(lake.repo, commit, "data/"), tmp_path / "cache")
            assert {name: file_sha256(tree / "data" / name) for name in files} == sha256s(files)
    killable.kill()
    if killable.kind == "embedded":
        assert fsck(killable) == "no faults\n"


@pytest.mark.parametrize("killable", KINDS, indirect=True)
def test_server_kill_during_upload_error_names_every_file(
    killable: KillableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, files, real = killable.start(), write_files(tmp_path, 3, 100), Publisher.upload

    def dies(self: Publisher, branch: str, path: str, file: LocalFile) -> None:
        killable.kill()
        real(self, branch, path, file)

    with connect(settings_for(server, server.endpoint, tmp_path), create=True) as lake:
        with monkeypatch.context() as patch, pytest.raises(AppError) as error:
            patch.setattr(Publisher, "upload", dies)
            lake.publish(files, "data/", "m", {}, mirror=True)
        assert "3 files could not be uploaded" in str(error.value)
        assert all(f"\n  data/{name}: " in str(error.value) for name in files)
        killable.start()
        lake.publish(files, "data/", "m", {}, mirror=True)
        require_complete(lake, files, 3)


def fsck(killable: KillableServer) -> str:
    command = [sys.executable, "-m", "utils.local_lakefs", "fsck", "--dir", str(killable.folder / "store")]
    return subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("killable", ["embedded"], indirect=True)
@pytest.mark.parametrize(("count", "size"), [(1, 1_000_000), (150, 8_000)])
def test_publish_succeeds_after_a_full_disk_of_the_embedded_server(
    killable: KillableServer, tmp_path: Path, count: int, size: int
) -> None:
    """A large file exceeds the limit in the directory, many small ones exceed it in the database."""
    server = killable.start(max_file_bytes=500 * 1024)
    files = write_files(tmp_path, count, size)
    with connect(settings_for(server, server.endpoint, tmp_path), create=True) as lake:
        with pytest.raises(AppError, match="could not be uploaded, nothing was committed; run again to continue"):
            lake.publish(files, "data/", "too much", {}, mirror=True)
        assert published_hashes(lake, "main") == {}
        killable.kill()
        killable.start()
        lake.publish(files, "data/", "there is room again", {}, mirror=True)
        require_complete(lake, files, 3)
    killable.kill()
    assert fsck(killable) == "no faults\n" and not list((killable.folder / "store").rglob("*.part"))
