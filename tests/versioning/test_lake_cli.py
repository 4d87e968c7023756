"""`lake.py` as a user runs it, on the embedded and on a real server."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from tests.support.lake_cli_helpers import commit_id, paint_mask, read_data, run_lake
from tests.support.project import Project, make_project
from tests.support.servers import Server


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", images=12)


@pytest.fixture
def remote_project(project: Project, lakefs_server: Server) -> Project:
    """The project with its own repository on a separate server, embedded or real."""
    project.env = {
        "LAKEFS_ENDPOINT": lakefs_server.endpoint,
        "LAKEFS_ACCESS_KEY_ID": lakefs_server.access_key_id,
        "LAKEFS_SECRET_ACCESS_KEY": lakefs_server.secret_access_key,
        "LAKEFS_STORAGE_NAMESPACE": lakefs_server.storage_namespace,
        "LAKEFS_REPO": f"repo-{secrets.token_hex(6)}",
    }
    return project


def change_data(project: Project, removed: str) -> str:
    """Change one mask, remove one file and add one; return the path of the mask below data/."""
    mask = paint_mask(project, 3)
    (project.folder / "data" / removed).unlink()
    (project.folder / "data/images/한글 새.txt").write_text("new")
    (project.folder / "data/.hidden").write_text("not data")
    return mask


def require_diff_and_log(project: Project, first: str, second: str, mask: str, removed: str) -> None:
    """Fail unless `diff` and `log` show the change between the two data commits."""
    differs = run_lake(project, "diff", "main~1", second[:16])
    assert f"changed  data/{mask}" in differs and f"removed  data/{removed}" in differs
    assert "added 1, removed 1, changed 1" in differs
    row = next(line.split() for line in differs.splitlines() if line.startswith("3 "))
    assert row[1] == "triangle" and row[2] == "+100" and row[3] == "-0"
    assert "added 0, removed 0, changed 0" in run_lake(project, "diff", "main", second)
    log = [line.split() for line in run_lake(project, "log", "-n", "2").splitlines()[2:]]
    assert [line[0] for line in log] == [second[:8], first[:8]]
    assert "better" in log[0] and project.git("rev-parse", "HEAD")[:8] in log[0]
    full = run_lake(project, "log", "-n", "2", "--long")
    assert second in full and first in full


def require_usage_errors(project: Project) -> None:
    """Fail unless invalid tags, counts and references are refused with exit code 2; deletes the tag v0.1-initial."""
    assert "--delete: only with NAME" in run_lake(project, "tag", "-d", code=2)
    assert "tag name 'a b': must not contain blanks" in run_lake(project, "tag", "a b", code=2)
    assert "-n -3: expected a whole number of at least 1" in run_lake(project, "log", "-n", "-3", code=2)
    run_lake(project, "tag", "-d", "v0.1-initial")
    wrong = run_lake(project, "pull", "v0.1-initial", code=2)
    assert "'v0.1-initial' is not a branch, tag or commit" in wrong and "main" in wrong
    assert "no " in run_lake(project, "pull", "lock", code=2)


def test_push_status_diff_tag_pull_revert_and_verify(remote_project: Project) -> None:
    assert "has no repository" in run_lake(remote_project, "status", code=2)
    for command in (["tag"], ["tag", "-d", "v1"], ["branches"]):
        assert "no such repository: train.py or lake.py push creates it" in run_lake(remote_project, *command, code=2)
    first_data = read_data(remote_project)
    first = commit_id(run_lake(remote_project, "push", "-m", "first images"))
    assert f"as on main, {len(first_data)} files" in run_lake(remote_project, "status")
    assert f"existing commit {first}" in run_lake(remote_project, "push"), "unchanged data is not committed again"

    gone = max(first_data)
    mask = change_data(remote_project, gone)
    printed = run_lake(remote_project, "status", code=1)
    assert "differs from main: 1 new, 1 changed, 1 removed" in printed
    for mark, name in (("new", "images/한글 새.txt"), ("changed", mask), ("removed", gone)):
        assert f"  {mark:8} {name}\n" in printed
    refused = run_lake(remote_project, "pull", "main", code=2)
    assert "2 files that are in no commit would be lost" in refused and mask in refused
    second_data = read_data(remote_project)
    second = commit_id(run_lake(remote_project, "push", "-m", "one mask is better"))
    assert second != first and "as on main" in run_lake(remote_project, "status")

    require_diff_and_log(remote_project, first, second, mask, gone)
    assert first in run_lake(remote_project, "tag", "v0.1-initial", "main~1") and first in run_lake(
        remote_project, "tag"
    )
    run_lake(remote_project, "pull", "v0.1-initial")
    assert {k: v for k, v in read_data(remote_project).items() if k != ".hidden"} == first_data
    run_lake(remote_project, "pull", first[:20])
    run_lake(remote_project, "pull", "main")
    assert read_data(remote_project) == second_data
    paint_mask(remote_project, 2)
    assert (
        "lost" in run_lake(remote_project, "pull", "v0.1-initial", code=2) and read_data(remote_project) != second_data
    )
    run_lake(remote_project, "pull", "v0.1-initial", "--force")
    assert {k: v for k, v in read_data(remote_project).items() if k != ".hidden"} == first_data

    assert f"reverted {second[:12]} on main" in run_lake(remote_project, "revert", second)
    assert "as on main" in run_lake(remote_project, "status"), "the branch contains the first images again"
    assert "cannot be reverted" in run_lake(remote_project, "revert", second, code=1)
    (remote_project.folder / "data" / gone).unlink()
    paint_mask(remote_project, 1)
    run_lake(remote_project, "push", "--keep-remote")
    assert f"  {'removed':8} {gone}" in run_lake(remote_project, "status", code=1)
    assert "*main" in run_lake(remote_project, "branches")
    assert "0 of" in run_lake(remote_project, "verify", "v0.1-initial")
    require_usage_errors(remote_project)


def test_one_of_two_concurrent_pushes_is_refused_and_merged(remote_project: Project, tmp_path: Path) -> None:
    """Both change one mask and add a file: the second one is refused, and published after a merge."""
    run_lake(remote_project, "push")
    other = Project(tmp_path / "other", remote_project.env)
    shutil.copytree(remote_project.folder, other.folder)
    both, folders = (remote_project, other), []
    for value, project in enumerate(both, 1):
        paint_mask(project, value)
        (project.folder / f"data/images/{value}.txt").write_text("new")
        folders.append(read_data(project))
    pushes = [project.start("lake.py", "push") for project in both]
    printed = [push.communicate(timeout=120)[0] for push in pushes]
    assert sorted(push.returncode for push in pushes) == [0, 2], printed
    second = [push.returncode for push in pushes].index(2)
    assert "branch main has moved on since" in printed[second] and "deleted   images/" in printed[second]
    winner, loser = folders[1 - second], folders[second]
    assert read_data(both[second]) == loser
    assert "both changed 1 file: nothing was written" in run_lake(both[second], "pull", "--merge", code=2)
    run_lake(both[second], "pull", "--merge", "--prefer", "local")
    run_lake(both[second], "push")
    assert "sync-" not in run_lake(remote_project, "branches"), "no private branch is left"
    run_lake(both[1 - second], "pull", "main")
    assert read_data(both[1 - second]) == {**winner, **loser}


def test_cached_commits_need_no_server(remote_project: Project) -> None:
    """A full commit id is immutable; data missing from the cache is an error while the server is unavailable."""
    first_data = read_data(remote_project)
    first = commit_id(run_lake(remote_project, "push"))
    paint_mask(remote_project, 3)
    second_data = read_data(remote_project)
    second = commit_id(run_lake(remote_project, "push"))
    for commit in (first, second):
        shutil.rmtree(remote_project.folder / "data")
        assert "was not contacted" not in run_lake(remote_project, "pull", commit)
    remote_project.env["LAKEFS_ENDPOINT"] = "http://127.0.0.1:9"
    repo = remote_project.env["LAKEFS_REPO"]
    for ref, wanted in ((first, first_data), (f"lakefs://{repo}/{second}/data/", second_data), (first, first_data)):
        assert "lakeFS http://127.0.0.1:9 was not contacted: everything is in the cache" in run_lake(
            remote_project, "pull", ref
        )
        assert read_data(remote_project) == wanted
    checked = remote_project.run("train.py", "--check-only", "--data-ref", second)
    assert checked.returncode == 0 and "was not contacted" in checked.stdout, checked.stderr
    trained = remote_project.run("train.py", "--smoke", "--data-ref", second)
    assert trained.returncode == 1 and "the server does not answer" in trained.stderr
    assert "pairs" in trained.stdout and "epoch" not in trained.stdout
    for ref in ("main", second[:20], "main~1"):
        assert "the server does not answer" in run_lake(remote_project, "pull", ref, code=1)
    paint_mask(remote_project, 1)
    assert "the server does not answer" in run_lake(remote_project, "pull", second, code=1), (
        "this mask may belong to any commit"
    )
    run_lake(remote_project, "pull", second, "--force")
    cached = next((remote_project.folder / ".lakefs/cache/commits" / repo / first / "data/masks").iterdir())
    cached.unlink()
    assert "the server does not answer" in run_lake(remote_project, "pull", first, code=1)


def test_interrupted_pull_is_reported_and_can_be_finished(project: Project) -> None:
    first = read_data(project)
    run_lake(project, "push")
    for mask in (project.folder / "data/masks").glob("*.png"):
        mask.unlink()
        (project.folder / "data/images" / mask.name).unlink()
    (project.folder / "data/other.txt").write_text("second")
    assert "lacks 24 of the 28 files" in run_lake(project, "push", code=2)
    run_lake(project, "push", "--replace")
    interrupted = (
        "import itertools, sys, lake\nfrom versioning import sync\nfrom core.process import run_script\n"
        "place, count = sync._copy_verified, itertools.count()\n"
        "def die(*a):\n    if next(count) > 5: raise KeyboardInterrupt\n    place(*a)\n"
        "sync._copy_verified = die\nrun_script(lake.main)\n"
    )
    (project.folder / "dying.py").write_text(interrupted)
    assert project.run("dying.py", "pull", "main~1").returncode == 130
    for script, *arguments in (("lake.py", "push"), ("lake.py", "status"), ("train.py", "--smoke")):
        done = project.run(script, *arguments)
        assert done.returncode == 2 and "was interrupted: run python lake.py pull" in done.stderr, done.stderr
    run_lake(project, "pull", "main~1")
    assert read_data(project) == first
