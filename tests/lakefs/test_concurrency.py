"""Concurrent clients and processes, and SIGKILL: no lost update, no partial commit, no partial object."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from tests.lakefs.conftest import Repo, open_repo
from tests.support.servers import Server

ROOT = Path(__file__).resolve().parents[2]


def test_concurrent_commits_lose_no_changes(repo: Repo) -> None:
    def work(number: int) -> None:
        for step in range(5):
            repo.put(f"{number}/{step}", f"{number}-{step}")
            with contextlib.suppress(Exception):  # another thread's commit may have included this change
                repo.commit(message=f"{number}/{step}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    if repo.staged():
        repo.commit()
    assert repo.paths() == sorted(f"{number}/{step}" for number in range(6) for step in range(5))
    commits = repo.api.refs_api.log_commits(repo.name, "main", amount=1000, first_parent=True).results
    added = [path for commit in commits[:-1] for path, _ in repo.diff(f"{commit.id}~", commit.id)]
    assert sorted(added) == repo.paths()  # every change is in exactly one commit


def test_concurrent_merges_lose_no_changes(repo: Repo) -> None:
    def work(number: int) -> None:
        repo.branch(f"b{number}")
        repo.put(f"file{number}", "x", f"b{number}")
        repo.commit(f"b{number}")
        for _ in range(50):
            with contextlib.suppress(Exception):  # lakeFS may answer that main has changed: try again
                repo.merge(f"b{number}")
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert repo.paths() == [f"file{number}" for number in range(8)]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", Server]]:
    """Run `python -m utils.local_lakefs` over `folder` on a free port."""
    command = [sys.executable, "-m", "utils.local_lakefs", "--port", "0", "--dir", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line == f"source {folder.resolve() / 'lakectl.env'}\n"
        lines = (folder / "lakectl.env").read_text().splitlines()
        endpoint, access, secret = (text.partition("=")[2] for text in lines)
        yield process, Server("embedded", endpoint, access, secret, "local://tests")
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_two_server_processes_share_one_directory(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, one), serving(tmp_path) as (_, two):
        first = open_repo(one)
        second = open_repo(two)
        second.name = first.name
        assert one.access_key_id == two.access_key_id

        def work(repo: Repo, name: str) -> None:
            for step in range(20):
                repo.put(f"{name}/{step}", os.urandom(70_000 if step % 2 else 70))
                with contextlib.suppress(Exception):
                    repo.commit(message=f"{name}/{step}")

        threads = [threading.Thread(target=work, args=pair) for pair in ((first, "one"), (second, "two"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if first.staged():
            first.commit()
        assert (
            first.paths() == second.paths() == sorted(f"{name}/{step}" for name in ("one", "two") for step in range(20))
        )
        assert all(len(first.get(path)) in (70, 70_000) for path in first.paths())


def test_store_is_created_once_by_concurrent_processes(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from utils import local_lakefs; "
        "server = local_lakefs.start(pathlib.Path(sys.argv[1])); print(server.secret_access_key); server.stop()"
    )
    folder = tmp_path / "new"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    answers = {process.communicate()[0] for process in started}
    assert len(answers) == 1
    assert all(process.returncode == 0 for process in started)
    assert list(folder.glob("*.part")) == []


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.7])
def test_sigkill_leaves_every_acknowledged_commit_complete(tmp_path: Path, delay: float) -> None:
    with serving(tmp_path) as (process, server):
        repo = open_repo(server)
        acknowledged: list[tuple[str, dict[str, str]]] = []
        timer = threading.Timer(delay, process.kill)
        timer.start()
        tree: dict[str, str] = {}
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            for number in range(10_000):
                data = os.urandom(100_000 if number % 3 == 0 else 1000)
                sha256 = hashlib.sha256(data).hexdigest()
                repo.put(f"f{number % 17}", data, sha256=sha256)
                tree[f"f{number % 17}"] = sha256
                if number % 4 == 3:
                    acknowledged.append((repo.commit().id, dict(tree)))
        timer.join()
        assert process.wait() == -signal.SIGKILL
    with serving(tmp_path) as (_, server):
        again = open_repo(server)
        again.name = repo.name
        for commit_id, expected in acknowledged:
            stats = {item.path: item.metadata["sha256"] for item in again.stats(commit_id)}
            assert stats == expected
        commits = again.api.refs_api.log_commits(again.name, "main", amount=1000).results
        assert {commit_id for commit_id, _ in acknowledged} <= {commit.id for commit in commits}
        for ref in ("main", commits[0].id):
            for item in again.stats(ref):
                assert hashlib.sha256(again.get(item.path, ref)).hexdigest() == item.metadata["sha256"]
        again.put("after", "x")
        again.commit()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_stop_server_with_exit_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with serving(tmp_path) as (process, server):
        assert (tmp_path / "lakectl.env").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600
        assert json.loads((tmp_path / "credentials.json").read_text())["secret_access_key"] == server.secret_access_key
        process.send_signal(number)
        assert process.wait(120) == code


def test_port_in_use_is_reported_in_one_line(tmp_path: Path, lakefs_server: Server) -> None:
    if lakefs_server.kind != "embedded":
        pytest.skip("about the embedded server's command")
    port = lakefs_server.endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "utils.local_lakefs", "--port", port, "--dir", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert port in ended.stderr
