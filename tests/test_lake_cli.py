"""`lake.py` as a user runs it, on the embedded and on a real server."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from tests.lake_cli_helpers import commit_id, data_of, lake, paint
from tests.project import Project, make_project
from tests.servers import Server


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", pictures=12)


@pytest.fixture
def served(project: Project, lakefs_server: Server) -> Project:
    """The project on a named server, embedded or real, in a repository of its own."""
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
    mask = paint(project, 3)
    (project.folder / "data" / removed).unlink()
    (project.folder / "data/images/한글 새.txt").write_text("new")
    (project.folder / "data/.hidden").write_text("not data")
    return mask


def require_diff_and_log(project: Project, first: str, second: str, mask: str, removed: str) -> None:
    """Fail unless `diff` and `log` show the change between the two data commits."""
    differs = lake(project, "diff", "main~1", second[:16])
    assert f"changed  data/{mask}" in differs and f"removed  data/{removed}" in differs
    assert "added 1, removed 1, changed 1" in differs
    row = next(line.split() for line in differs.splitlines() if line.startswith("3 "))
    assert row[1] == "triangle" and row[2] == "+100" and row[3] == "-0"
    assert "added 0, removed 0, changed 0" in lake(project, "diff", "main", second)
    log = [line.split() for line in lake(project, "log", "-n", "2").splitlines()[2:]]
    assert [line[0] for line in log] == [second[:12], first[:12]]
    assert "better" in log[0] and project.git("rev-parse", "HEAD")[:12] in log[0]


def require_usage_errors(project: Project) -> None:
    """Fail unless invalid tags, counts and references are refused with exit code 2; deletes the tag v0.1-initial."""
    assert "-d takes the name of one tag" in lake(project, "tag", "-d", code=2)
    assert "tag name 'a b': expected none of blanks" in lake(project, "tag", "a b", code=2)
    assert "'-3': a whole number of at least 1" in lake(project, "log", "-n", "-3", code=2)
    lake(project, "tag", "-d", "v0.1-initial")
    wrong = lake(project, "pull", "v0.1-initial", code=2)
    assert "'v0.1-initial' is not a branch, tag or commit" in wrong and "main" in wrong
    assert "no " in lake(project, "pull", "lock", code=2)


def test_push_status_diff_tag_pull_revert_and_verify(served: Project) -> None:
    assert "has no repository" in lake(served, "status", code=2)
    for command in (["tag"], ["tag", "-d", "v1"], ["branches"]):
        assert "no such repository: train.py or lake.py push creates it" in lake(served, *command, code=2)
    first_data = data_of(served)
    first = commit_id(lake(served, "push", "-m", "first pictures"))
    assert f"as on main, {len(first_data)} files" in lake(served, "status")
    assert f"existing commit {first}" in lake(served, "push"), "what is unchanged is not committed again"

    gone = max(first_data)
    mask = change_data(served, gone)
    said = lake(served, "status", code=1)
    assert "differs from main: 1 new, 1 changed, 1 removed" in said
    for mark, name in (("new", "images/한글 새.txt"), ("changed", mask), ("removed", gone)):
        assert f"  {mark:8} {name}\n" in said
    refused = lake(served, "pull", "main", code=2)
    assert "2 files that are in no commit would be lost" in refused and mask in refused
    second_data = data_of(served)
    second = commit_id(lake(served, "push", "-m", "one mask is better"))
    assert second != first and "as on main" in lake(served, "status")

    require_diff_and_log(served, first, second, mask, gone)
    assert first in lake(served, "tag", "v0.1-initial", "main~1") and first in lake(served, "tag")
    lake(served, "pull", "v0.1-initial")
    assert {k: v for k, v in data_of(served).items() if k != ".hidden"} == first_data
    lake(served, "pull", first[:20])
    lake(served, "pull", "main")
    assert data_of(served) == second_data
    paint(served, 2)
    assert "lost" in lake(served, "pull", "v0.1-initial", code=2) and data_of(served) != second_data
    lake(served, "pull", "v0.1-initial", "--force")
    assert {k: v for k, v in data_of(served).items() if k != ".hidden"} == first_data

    assert f"reverted {second[:12]} on main" in lake(served, "revert", second)
    assert "as on main" in lake(served, "status"), "the branch holds the first pictures again"
    assert "cannot be reverted" in lake(served, "revert", second, code=1)
    (served.folder / "data" / gone).unlink()
    paint(served, 1)
    lake(served, "push", "--keep-remote")
    assert f"  {'removed':8} {gone}" in lake(served, "status", code=1)
    assert "*main" in lake(served, "branches")
    assert "0 of" in lake(served, "verify", "v0.1-initial")
    require_usage_errors(served)


def test_concurrent_pushes_both_succeed(served: Project, tmp_path: Path) -> None:
    """Both change one mask, and each adds a file: both end well, and each is told a commit of exactly its own files."""
    lake(served, "push")
    other = Project(tmp_path / "other", served.env)
    shutil.copytree(served.folder, other.folder)
    both, folders = (served, other), []
    for value, project in enumerate(both, 1):
        paint(project, value)
        (project.folder / f"data/images/{value}.txt").write_text("new")
        folders.append(data_of(project))
    pushes = [project.start("lake.py", "push") for project in both]
    said = [push.communicate(timeout=120)[0] for push in pushes]
    assert [push.returncode for push in pushes] == [0, 0], said
    assert "sync-" not in lake(served, "branches"), "no private branch is left"
    for project, folder, output in zip(both, folders, said, strict=True):
        shutil.rmtree(project.folder / ".lakefs", ignore_errors=True)
        shutil.rmtree(project.folder / "data")
        lake(project, "pull", commit_id(output))
        assert data_of(project) == folder
    lake(served, "pull", "main")
    assert all(content in (folders[0].get(name), folders[1].get(name)) for name, content in data_of(served).items())


def test_cached_commits_need_no_server(served: Project) -> None:
    """A full commit id means one thing for ever; what is not in the cache is an error where the server is down."""
    first_data = data_of(served)
    first = commit_id(lake(served, "push"))
    paint(served, 3)
    second_data = data_of(served)
    second = commit_id(lake(served, "push"))
    for commit in (first, second):
        shutil.rmtree(served.folder / "data")
        assert "was not contacted" not in lake(served, "pull", commit)
    served.env["LAKEFS_ENDPOINT"] = "http://127.0.0.1:9"
    repo = served.env["LAKEFS_REPO"]
    for ref, wanted in ((first, first_data), (f"lakefs://{repo}/{second}/data/", second_data), (first, first_data)):
        assert "lakeFS http://127.0.0.1:9 was not contacted: everything is in the cache" in lake(served, "pull", ref)
        assert data_of(served) == wanted
    checked = served.run("train.py", "--check-only", "--data-ref", second)
    assert checked.returncode == 0 and "was not contacted" in checked.stdout, checked.stderr
    trained = served.run("train.py", "--smoke", "--data-ref", second)
    assert trained.returncode == 1 and "the server does not answer" in trained.stderr
    assert "pairs" in trained.stdout and "epoch" not in trained.stdout
    for ref in ("main", second[:20], "main~1"):
        assert "the server does not answer" in lake(served, "pull", ref, code=1)
    paint(served, 1)
    assert "the server does not answer" in lake(served, "pull", second, code=1), "this mask may be of any commit"
    lake(served, "pull", second, "--force")
    cached = next((served.folder / ".lakefs/cache/commits" / repo / first / "data/masks").iterdir())
    cached.unlink()
    assert "the server does not answer" in lake(served, "pull", first, code=1)


def test_interrupted_pull_is_reported_and_can_be_finished(project: Project) -> None:
    first = data_of(project)
    lake(project, "push")
    for mask in (project.folder / "data/masks").glob("*.png"):
        mask.unlink()
        (project.folder / "data/images" / mask.name).unlink()
    (project.folder / "data/other.txt").write_text("second")
    lake(project, "push")
    dying = (
        "import itertools, sys, lake\nfrom versioning import sync\nfrom core.process import run_script\n"
        "place, count = sync._copy_verified, itertools.count()\n"
        "def die(*a):\n    if next(count) > 5: raise KeyboardInterrupt\n    place(*a)\n"
        "sync._copy_verified = die\nrun_script(lake.main)\n"
    )
    (project.folder / "dying.py").write_text(dying)
    assert project.run("dying.py", "pull", "main~1").returncode == 130
    for script, *arguments in (("lake.py", "push"), ("lake.py", "status"), ("train.py", "--smoke")):
        done = project.run(script, *arguments)
        assert done.returncode == 2 and "was interrupted: run python lake.py pull" in done.stderr, done.stderr
    lake(project, "pull", "main~1")
    assert data_of(project) == first
