"""`train.py --git-commit` and `--git-tag`: the commit, the annotated tag and the same tag in lakeFS; never a push."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from tests.support.project import Project, make_project
from train.base_train import Validation
from train.release import publish as release
from train.tracking.result import Result
from utils import local_lakefs
from utils.identifiers import RunId, Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.lockfile import Lock, write_lock

REPO = "image-segmentation-local-repo"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = make_project(tmp_path / "project", images=0)
    for key, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", key, value)
    return project


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[LakeFS]:
    with local_lakefs.start(tmp_path / "store") as server:
        lake = LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")
        lake.ensure_repository(Settings(lakefs_repo=REPO))
        yield lake


def result(project: Project, lake: LakeFS, content: bytes, accuracy: float, miou: float) -> Result:
    """Publish a model and write its lock file, as train.py does."""
    file = project.folder / "models/model.pth"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    sha256 = file_sha256(file)
    done = lake.publish({"model.pth": LocalFile(file, sha256)}, "models/", "model", {}, mirror=False)
    made = Result(
        run_id="f" * 32,
        data_path=LakePath(REPO, "d" * 64, "data/"),
        data_manifest_sha256="e" * 64,
        model_path=LakePath(REPO, done.commit_id, "models/model.pth"),
        model_sha256=sha256,
        val=Validation(0.1, accuracy, miou, {"road": miou, "car": miou}),
        test=None,
    )
    write_lock(
        project.folder, Lock(made.data_path, Sha256("e" * 64), made.model_path, Sha256(sha256), RunId(made.run_id))
    )
    return made


def test_results_are_committed_and_tagged(project: Project, lake: LakeFS) -> None:
    parameters = {"epochs": "7", "learning_rate": "None", "resolved_learning_rate": "0.002", "seed": "0"}
    project.git("tag", "-a", "v0.1-initial", "-m", "first data")
    release.require_ready(lake, "auto", project.folder)
    first = result(project, lake, b"one", 0.851, 0.5)
    release.release(lake, first, "auto", parameters, project.folder)
    assert project.git("tag", "--list", "v1*") == "v1.0-acc85"
    assert project.git("cat-file", "-t", "v1.0-acc85") == "tag"
    assert first.model_path.ref in project.git("log", "-1", "--format=%b")
    assert project.git("log", "-1", "--format=%s") == "model: v1.0-acc85, val mIoU 0.5000"
    assert project.git("show", "--name-only", "--format=", "HEAD") == "lakefs.lock"
    assert project.git("rev-parse", "v1.0-acc85^{commit}") == project.git("rev-parse", "HEAD")
    assert dict(lake.list_refs("tags")) == {"v1.0-acc85": first.model_path.ref}
    message = project.git("tag", "--list", "--format=%(contents)", "v1.0-acc85")
    for part in (first.model_path.ref, "models/model.pth", first.model_sha256, "epochs 7", "learning rate 0.002"):
        assert part in message
    assert "since" not in message

    second = result(project, lake, b"two", 0.909, 0.6123)
    release.release(lake, second, "auto", parameters, project.folder)
    message = project.git("tag", "--list", "--format=%(contents)", "v1.1-acc90")
    assert "since v1.0-acc85: accuracy +5%p, mIoU +0.1123" in message
    release.release(lake, second, None, parameters, project.folder)
    assert project.git("rev-list", "--count", "HEAD") == "3", "an unchanged lock creates no new commit"


def test_invalid_tag_is_refused_before_training(project: Project, lake: LakeFS, tmp_path: Path) -> None:
    lake.set_tag("taken", lake.head())
    project.git("tag", "v1.0-acc85")
    for tag, text in (
        ("v1.0-acc85", "in Git"),
        ("taken", "in lakeFS"),
        ("a b", "not a valid tag name"),
        ("a/b", "not a valid tag name"),
        ("v1@prod", "not a valid tag name"),
        ("v1$", "not a valid tag name"),
        ("main", "lakeFS has a branch of this name"),
        ("wider", "lakeFS has a branch of this name"),
    ):
        with pytest.raises(UsageError, match=text):
            release.require_ready(lake, tag, project.folder, branch="wider")
    (project.folder / "new.py").write_text("# not committed")
    with pytest.raises(UsageError, match="uncommitted changes"):
        release.require_ready(lake, None, project.folder)
    with pytest.raises(UsageError, match="not a Git repository"):
        release.require_ready(lake, "auto", tmp_path)
    refused = project.run("train.py", "--smoke", "--git-tag")
    assert refused.returncode == 2 and "cannot be used with --smoke" in refused.stderr


def test_nothing_is_pushed(project: Project, lake: LakeFS, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    project.git("remote", "add", "origin", str(remote))
    project.git("push", "--quiet", "-u", "origin", "main")
    before = project.git("ls-remote", "origin")
    release.release(lake, result(project, lake, b"one", 0.5, 0.4), "v9.9-acc50", {}, project.folder)
    assert project.git("ls-remote", "origin") == before and project.git("tag", "--list") == "v9.9-acc50"


def test_tag_names_skip_existing_lakefs_tags(project: Project, lake: LakeFS) -> None:
    """A colleague's tag is in lakeFS before Git has fetched it."""
    lake.set_tag("v1.0-acc80", lake.head())
    first = result(project, lake, b"one", 0.85, 0.5)
    assert release.next_tag(lake, first, project.folder) == "v1.1-acc85"
    release.release(lake, first, "auto", {}, project.folder)
    assert project.git("tag", "--list") == "v1.1-acc85"
    assert dict(lake.list_refs("tags"))["v1.1-acc85"] == first.model_path.ref


def test_tag_conflict_and_interrupted_call_are_handled(
    project: Project, lake: LakeFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, set_tag = lake.head(), lake.set_tag
    first = result(project, lake, b"one", 0.85, 0.5)

    def overtaken(name: str, commit: str) -> None:
        if name == "v1.0-acc85":
            set_tag(name, base)
        set_tag(name, commit)

    with monkeypatch.context() as patch:
        patch.setattr(lake, "set_tag", overtaken)
        release.release(lake, first, "auto", {}, project.folder)
    assert project.git("tag", "--list") == "v1.1-acc85"
    project.git("tag", "-d", "v1.1-acc85")  # as after a kill between the two tags
    release.release(lake, first, "auto", {}, project.folder)
    assert project.git("tag", "--list") == "v1.1-acc85"
    assert sorted(dict(lake.list_refs("tags"))) == ["v1.0-acc85", "v1.1-acc85"], (
        "the interrupted tag is completed, no third one is created"
    )


def test_existing_tag_name_leaves_git_unchanged(project: Project, lake: LakeFS) -> None:
    lake.set_tag("mine", lake.head())
    before = project.git("rev-parse", "HEAD")
    made = result(project, lake, b"one", 0.85, 0.5)
    with pytest.raises(AppError, match="tag mine"):
        release.release(lake, made, "mine", {}, project.folder)
    assert project.git("rev-parse", "HEAD") == before and project.git("tag", "--list") == ""
    lake.set_tag("theirs", made.model_path.ref)
    release.release(lake, made, "theirs", {}, project.folder)
    assert project.git("tag", "--list") == "theirs", "a tag on the same commit is accepted"


def test_training_commits_and_tags(tmp_path: Path) -> None:
    """With train.py: v0.1-initial by name, then the next automatic name, skipping a tag that exists only in lakeFS."""
    project = make_project(tmp_path / "project", images=20)
    for key, value in (("user.name", "Test"), ("user.email", "test@example.org")):
        project.git("config", key, value)
    small = ("--epochs", "1", "--batch-size", "4", "--image-size", "32", "32")
    first = project.run("train.py", *small, "--git-tag", "v0.1-initial")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "tag v0.1-initial: Git " in first.stdout
    assert project.git("rev-parse", "v0.1-initial^{commit}") == project.git("rev-parse", "HEAD")
    assert project.git("status", "--porcelain") == "" and project.git("rev-list", "--count", "HEAD") == "2"
    message = project.git("tag", "--list", "--format=%(contents)", "v0.1-initial")
    run = project.runs()[0]
    for part in (run.info.run_id, run.data.tags["lakefs_model_commit"], "epochs 1", "image size 32 32", "seed 0"):
        assert part in message, message
    assert project.run("lake.py", "tag", "v1.0-acc99").returncode == 0
    refused = project.run("train.py", *small, "--git-tag", "v1.0-acc99")
    assert refused.returncode == 2 and "already exists in lakeFS" in refused.stderr and len(project.runs()) == 1
    second = project.run("train.py", *small, "--seed", "1", "--git-tag")
    assert second.returncode == 0, second.stdout + second.stderr
    (tag,) = project.git("tag", "--list", "v1*").splitlines()
    assert tag.startswith("v1.1-acc") and f"tag {tag}: Git " in second.stdout
    assert "git tag -a" not in first.stdout + second.stdout, "it is done: the command would fail"
    assert "since v0.1-initial: accuracy " in project.git("tag", "--list", "--format=%(contents)", tag)
    tags = project.run("lake.py", "tag").stdout
    assert tag in tags and project.runs()[0].data.tags["lakefs_model_commit"][:12] in tags
    hook = project.folder / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not today >&2; exit 1\n")
    hook.chmod(0o755)
    third = project.run("train.py", *small, "--seed", "2", "--git-commit")
    assert third.returncode == 1 and "not today" in third.stderr
    folder = project.folder / "models" / project.runs()[0].info.run_id
    assert not (folder / "checkpoint.pth").exists() and not (folder / ".lock").exists(), "the run itself is complete"
