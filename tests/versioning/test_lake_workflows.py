"""lakefs.lock, --data-ref and experiment branches with the real scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.git import read_facts
from core.hashing import file_sha256
from tests.support.lake_cli_helpers import REPO, paint_mask, read_data, run_lake, run_train
from tests.support.project import Project, make_project
from utils import local_lakefs
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", images=12)


def test_git_commit_restores_its_data_and_model(project: Project) -> None:
    files, models, locks = [], [], []
    for value, tag in ((1, "v1.0-acc1"), (2, "v1.1-acc2")):
        paint_mask(project, value, 20)
        output = run_train(project, "--epochs", "1")
        assert "git add lakefs.lock && git commit -F" in output
        lock = (project.folder / "lakefs.lock").read_text()
        assert lock == json.dumps(json.loads(lock), indent=2, sort_keys=True) + "\n"
        assert read_facts(project.folder).dirty == "false", "the lock file does not count as a code change"
        files.append(read_data(project))
        models.append((project.folder / "models/model.pth").read_bytes())
        locks.append(json.loads(lock))
        assert "same as the local files" in run_lake(project, "status")
        project.git("add", "lakefs.lock")
        project.git("commit", "--quiet", "-F", "models/git_commit_message.txt")
        project.git("tag", tag)
    run = project.runs()[0]
    assert locks[1]["data"]["commit"] == run.data.tags["lakefs_data_commit"] != locks[0]["data"]["commit"]
    assert locks[1]["model"]["sha256"] == run.data.tags["model_sha256"]

    project.git("checkout", "--quiet", "v1.0-acc1")
    printed = run_lake(project, "status", code=1)
    assert "as on main" in printed and printed.count("lake.py pull lock restores it") == 2
    (project.folder / "models/model.pth").write_bytes(b"my own")
    assert "model.pth" in run_lake(project, "pull", "lock", code=2) and read_data(project) == files[1]
    (project.folder / "models/model.pth").unlink()
    run_lake(project, "pull", "lock")
    assert read_data(project) == files[0] and (project.folder / "models/model.pth").read_bytes() == models[0]
    printed = run_lake(project, "status")
    assert "same as the local files" in printed, "newer data on the branch is not a difference"
    assert "data: that of lakefs.lock; branch main has other data: " in printed

    run_lake(project, "pull", "main")
    smoke = run_train(project, "--smoke", "--data-ref", "lock")
    tags = project.runs()[0].data.tags
    assert tags["lakefs_data_commit"] == locks[0]["data"]["commit"] and "git add lakefs.lock" not in smoke
    assert read_data(project) == files[1], "the data directory is unchanged"
    assert json.loads((project.folder / "lakefs.lock").read_text()) == locks[0], "--smoke writes no lock"
    (project.folder / "lakefs.lock").write_text("<<<<<<< HEAD\n")
    assert "lakefs.lock: not a valid lock" in run_lake(project, "status", code=2)


@pytest.fixture
def store(project: Project) -> Iterator[LakeFS]:
    """A client of the project's embedded store."""
    with local_lakefs.start(project.folder / ".lakefs") as server:
        yield LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")


def test_training_on_data_of_another_repository(project: Project, store: LakeFS) -> None:
    theirs = {"LAKEFS_REPO": "somebody-else"}
    assert project.run("lake.py", "push", env=theirs).returncode == 0
    their_commit = store.resolve("main", "somebody-else")
    shutil.rmtree(project.folder / "data")
    source = "lakefs://somebody-else/main/data/"
    both = project.run("train.py", "--data-ref", source, "--data-dir", "data")
    assert both.returncode == 2 and "cannot be used with" in both.stderr
    check = project.run("train.py", "--check-only", "--data-ref", "lakefs://somebody-else/main")
    assert check.returncode == 0 and "pairs: train" in check.stdout, check.stdout + check.stderr
    run_train(project, "--epochs", "1", "--data-ref", source)
    path = project.runs()[0].data.params["lakefs_data_path"]
    assert path == f"lakefs://somebody-else/{their_commit}/data/"
    assert not list(store.objects("main", "data/")), "no data was published"
    lock = json.loads((project.folder / "lakefs.lock").read_text())
    assert (lock["data"]["repository"], lock["model"]["repository"]) == ("somebody-else", REPO)
    run_lake(project, "pull", "lock")
    assert len(read_data(project)) == len(list(store.objects("main", "data/", "somebody-else")))
    nowhere = project.run("train.py", "--check-only", "--data-ref", "nowhere")
    assert nowhere.returncode == 2 and "'nowhere' is not a branch, tag or commit" in nowhere.stderr

    cached = next((project.folder / ".lakefs/cache/commits/somebody-else" / their_commit / "data/masks").iterdir())
    content, before = cached.read_bytes(), cached.stat()
    cached.chmod(0o600)
    cached.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(
        cached, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # disk corruption: the file status does not show the change
    broken = project.run("train.py", "--smoke", "--data-ref", source)
    assert broken.returncode == 1 and "remove the cache directory" in broken.stderr and cached.name in broken.stderr
    os.utime(cached)
    run_train(project, "--smoke", "--data-ref", source)  # a changed file is downloaded again
    assert cached.read_bytes() == content


def register(project: Project, run_id: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("register_model.py", "--threshold", "0", "--run-id", run_id, *arguments)


def test_experiment_branch_is_merged_when_registered(project: Project, store: LakeFS, tmp_path: Path) -> None:
    run_lake(project, "push")
    main = store.head()
    wrong = project.run("train.py", "--smoke", "--experiment-branch", "a/b")
    assert wrong.returncode == 2 and "experiment branch 'a/b'" in wrong.stderr
    paint_mask(project, 2)
    run_train(project, "--epochs", "1", "--experiment-branch", "wider")
    run = project.runs()[0]
    tags = run.data.tags
    assert (tags["lakefs_branch"], tags["lakefs_target_branch"]) == ("wider", "main")
    assert store.head() == main, "the target is unchanged"
    assert store.contains("wider", tags["lakefs_model_commit"]) and store.contains("wider", main)
    assert "is not on branch main" in run_lake(project, "status", code=1)
    low = project.run("register_model.py", "--threshold", "0.99", "--run-id", run.info.run_id)
    assert low.returncode == 3 and store.head() == main

    other = tmp_path / "other.pth"
    other.write_bytes(b"a model that main got meanwhile")
    files = {"model.pth": LocalFile(other, file_sha256(other))}
    store.publish(files, "models/", "another model", {}, mirror=False)
    kept = register(project, run.info.run_id, "--keep-branch")
    assert kept.returncode == 0 and "merged wider into main" in kept.stdout, kept.stdout + kept.stderr
    head = store.head()
    metadata = store.commit_metadata(head)
    assert (metadata["mlflow_run_id"], metadata["model_sha256"]) == (run.info.run_id, tags["model_sha256"])
    version = project.mlflow().get_model_version_by_alias("image-segmentation", "champion")
    commit = str(version.source).split("/")[3]
    assert store.contains("main", commit)
    for ref in ("main", commit):
        assert [file.sha256 for file in store.objects(ref, "models/model.pth")] == [tags["model_sha256"]]
    assert [name for name, _ in store.list_refs("branches")] == ["main", "wider"]
    again = register(project, run.info.run_id)
    assert again.returncode == 0 and "already registered" in again.stdout and store.head() == head
    assert "deleted the branch wider" in again.stdout and [name for name, _ in store.list_refs("branches")] == ["main"]
    assert "same as the local files" in run_lake(project, "status")

    mask = paint_mask(project, 3, 30)
    run_train(project, "--epochs", "1", "--experiment-branch", "clash")
    clash = project.runs()[0].info.run_id
    paint_mask(project, 1, 50)
    run_lake(project, "push")
    before = store.head()
    refused = project.run("register_model.py", "--run-id", clash, "--force", "whatever the gate says")
    assert refused.returncode == 1 and f"both sides changed data/{mask}" in refused.stderr, refused.stderr
    assert store.head() == before and "clash" in dict(store.list_refs("branches"))
