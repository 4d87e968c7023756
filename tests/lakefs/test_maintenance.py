"""fsck lists damage, repair restores it, gc deletes only what is unreachable, even if it is killed."""

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.i18n import language_scope
from tests.lakefs.conftest import Repo, open_repo
from tests.support import servers
from utils.local_lakefs import maintenance
from utils.local_lakefs.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def repo(folder: Path) -> Iterator[Repo]:
    """A repository with two commits of large and small files, a staged change, and unreachable content."""
    with servers.embedded(folder) as server:
        repo = open_repo(server)
        repo.put("large", b"1" * 100_000)
        repo.put("d/small", "small")
        repo.put("d/overwritten", b"2" * 100_000)
        repo.put("d/overwritten", "staged over it, before the commit")
        repo.commit()
        repo.branch("deleted")
        repo.put("only-on-deleted", b"3" * 100_000, "deleted")
        repo.commit("deleted")
        repo.api.branches_api.delete_branch(repo.name, "deleted")
        repo.put("large", b"4" * 100_000)
        repo.commit()
        repo.put("staged", b"5" * 100_000)
        yield repo


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "utils.local_lakefs", *arguments, "--dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def content_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "content").glob("*") if path.suffix != ".part"]


def reachable_content(repo: Repo) -> dict[str, bytes]:
    """Return all reachable content: of main's commits, and what is staged."""
    return {f"{ref}/{path}": repo.get(path, ref) for ref in ("main", "main~0", "main~1") for path in repo.paths(ref)}


def test_fsck_finds_no_faults_in_undamaged_store(repo: Repo, folder: Path) -> None:
    ended = run(folder, "fsck")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "no faults\n", "")


@pytest.mark.parametrize("size", [50, 100_000, 100_001])
@pytest.mark.parametrize("damage", ["a changed byte", "missing"])
def test_fsck_lists_damaged_content(repo: Repo, folder: Path, size: int, damage: str) -> None:
    sha256 = repo.put("x/broken", b"b" * size).physical_address.removeprefix("local://")
    commit_id = repo.commit().id
    file = folder / "content" / sha256
    with sqlite3.connect(folder / "lakefs.db") as db:
        if damage == "missing":
            if not file.exists() or size % 2:
                db.execute("DELETE FROM blobs WHERE sha256=?", (sha256,))
            file.unlink(missing_ok=True)
        elif file.exists():
            file.write_bytes(b"b" * (size - 1) + b"c")
        else:
            db.execute("UPDATE blobs SET data=? WHERE sha256=?", (b"b" * (size - 1) + b"c", sha256))
    ended = run(folder, "fsck")
    assert ended.returncode == 1
    (line,) = ended.stdout.splitlines()
    assert line.startswith(f"lakefs://{repo.name}/{commit_id}/x/broken: content {sha256} ")
    repo.put("y/again", b"b" * size)  # uploading the same content repairs it
    assert run(folder, "fsck").stdout == "no faults\n"
    assert repo.get("x/broken", commit_id) == b"b" * size
    repo.commit()


@pytest.mark.parametrize("size", [50, 100_000])
@pytest.mark.parametrize("damage", ["a changed byte", "missing"])
def test_repair_restores_content_from_equal_files(
    repo: Repo, folder: Path, tmp_path: Path, size: int, damage: str
) -> None:
    content = secrets.token_bytes(size)
    sha256 = repo.put("x/broken", content).physical_address.removeprefix("local://")
    commit_id = repo.commit().id
    with sqlite3.connect(folder / "lakefs.db") as db:
        if damage == "missing":
            db.execute("DELETE FROM blobs WHERE sha256=?", (sha256,))
            (folder / "content" / sha256).unlink(missing_ok=True)
        elif size > 1000:
            (folder / "content" / sha256).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        else:
            db.execute("UPDATE blobs SET data=? WHERE sha256=?", (bytes([content[0] ^ 1]) + content[1:], sha256))
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/other").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert run(folder, "fsck", "--mend", str(tmp_path / "data")).returncode == 1, "alias; no file has this content"
    (tmp_path / "data/deep/renamed").write_bytes(content)
    ended = run(folder, "fsck", "--repair", str(tmp_path / "data"))
    lines = [f"content {sha256} restored from {tmp_path / 'data/deep/renamed'}", "no faults"]
    assert (ended.returncode, ended.stdout.splitlines()) == (0, lines), ended.stderr
    assert repo.get("x/broken", commit_id) == content
    assert run(folder, "gc", "--repair", str(tmp_path)).returncode == 2


def test_fsck_lists_missing_and_modified_commits_and_trees(repo: Repo, folder: Path) -> None:
    head = repo.api.branches_api.get_branch(repo.name, "main").commit_id
    first = repo.api.refs_api.log_commits(repo.name, "main").results[-1].id
    with sqlite3.connect(folder / "lakefs.db") as db:
        tree = repo.api.commits_api.get_commit(repo.name, head).meta_range_id
        db.execute("UPDATE nodes SET data=? WHERE id=?", (zlib.compress(b"[]"), tree))
        db.execute("UPDATE refs SET commit_id='0000' WHERE id='main'")
        db.execute("UPDATE commits SET data='{' WHERE id=?", (first,))
    lines = run(folder, "fsck").stdout.splitlines()
    assert any(line.endswith(f": commit {first} does not match its hash") for line in lines)
    assert f"lakefs://{repo.name}/main: commit 0000 is missing" in lines
    assert f"lakefs://{repo.name}/{head}: node {tree} does not match its hash" in lines
    ended = run(folder, "gc", "--grace-hours", "0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "nothing was freed" in ended.stderr


def test_gc_deletes_only_unreachable_content(repo: Repo, folder: Path) -> None:
    expected = reachable_content(repo)
    dead_part = folder / "content" / "dead.part"
    dead_part.write_bytes(b"x" * 10)
    os.utime(dead_part, (0, 0))
    (folder / "content" / "alive.part").write_bytes(b"x")
    before = len(content_files(folder))
    ended = run(folder, "gc")
    assert ended.stdout == "freed contents: 0, commits: 0, tree nodes: 0, bytes of files: 10\n"
    assert len(content_files(folder)) == before == 5
    ended = run(folder, "gc", "--grace-hours", "0")
    assert ended.stdout == "freed contents: 2, commits: 1, tree nodes: 2, bytes of files: 200,000\n"
    assert (len(content_files(folder)), list((folder / "content").glob("*.part"))) == (
        3,
        [folder / "content" / "alive.part"],
    )
    assert reachable_content(repo) == expected
    repo.put("again", b"3" * 100_000)  # deleted content can be uploaded again
    repo.commit()
    assert repo.get("again") == b"3" * 100_000
    assert run(folder, "fsck").stdout == "no faults\n"


def test_gc_keeps_commits_of_mlflow_runs_until_dropped(repo: Repo, folder: Path) -> None:
    """The run's model is on a deleted branch, and its data on another one, named only by the model's metadata."""
    repo.branch("data")
    repo.put("data/x", b"6" * 100_000, "data")
    data = repo.commit("data").id
    repo.branch("experiment")
    repo.put("models/model.pth", b"7" * 100_000, "experiment")
    metadata = {"mlflow_run_id": "r1", "lakefs_data_path": f"lakefs://{repo.name}/{data}/data/"}
    model = repo.commit("experiment", metadata=metadata).id
    for name in ("data", "experiment"):
        repo.api.branches_api.delete_branch(repo.name, name)
    for arguments in ((), ("--drop-run", "another")):
        assert run(folder, "gc", "--grace-hours", "0", *arguments).returncode == 0
        assert repo.get("data/x", data) == b"6" * 100_000 and repo.get("models/model.pth", model) == b"7" * 100_000
    assert run(folder, "fsck").stdout == "no faults\n"
    dropped = run(folder, "gc", "--grace-hours", "0", "--drop-run", "r1")
    assert dropped.stdout.startswith("freed contents: 2, commits: 2"), dropped.stderr
    assert len(content_files(folder)) == 3


@pytest.mark.parametrize("delay", [0.15, 0.2, 0.25, 0.3, 0.4])
def test_killed_gc_loses_no_reachable_content(repo: Repo, folder: Path, delay: float) -> None:
    for number in range(50):
        repo.put("often", os.urandom(70_000) + bytes([number]))
    expected = reachable_content(repo)
    command = [sys.executable, "-m", "utils.local_lakefs", "gc", "--grace-hours", "0", "--dir", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert reachable_content(repo) == expected
    repo.commit()
    assert run(folder, "fsck").stdout == "no faults\n"
    assert run(folder, "gc", "--grace-hours", "0").returncode == 0
    assert len(content_files(folder)) == 4  # 1, 4, 5 and the newest of "often"


def test_gc_can_run_during_uploads(repo: Repo, folder: Path) -> None:
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            assert run(folder, "gc", "--grace-hours", "0").returncode == 0

    collector = threading.Thread(target=collect)
    collector.start()
    for number in range(60):
        data = str(number % 7).encode() * 70_000  # uploaded repeatedly, also after gc deleted it
        while repo.raw("POST", "/branches/main/objects", data, path="a").status == 503:
            pass
        if number % 5 == 0:
            repo.commit(allow_empty=True)
        assert repo.get("a") == data
    done.set()
    collector.join()
    assert run(folder, "fsck").stdout == "no faults\n"


def test_faults_and_summary_are_in_the_language_of_the_console(folder: Path) -> None:
    store = Store(folder)
    store.db("INSERT INTO blobs(sha256, size, data, synced, used) VALUES(?, 1, ?, 1, 0)", "a" * 64, b"x")
    with language_scope("ko"):
        assert maintenance.fsck(store) == [f"(가리키는 것 없음): 내용 {'a' * 64}: 해시와 다릅니다"]
        assert maintenance.gc(store, 0) == "지운 것: 내용 1개, 커밋 0개, 트리 노드 0개; 파일 0바이트"
