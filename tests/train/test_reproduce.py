"""The recorded code of a run, and `--reproduce`, which trains it again from that record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from core.git import worktree
from core.provenance.patch import CodePatch, read_patch
from tests.support.project import Project, make_project

TRAINING = ("--epochs", "1", "--batch-size", "4", "--image-size", "32", "32", "--seed", "3")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A run from a dirty tree: a changed file, a new one, a secret that must stay where it is."""
    project = make_project(tmp_path_factory.mktemp("reproduce"), images=15)
    optimizer = project.folder / "train/optim/optimizer.py"
    text = optimizer.read_text().replace("WEIGHT_DECAY = 0.01", "from train.own import DECAY as WEIGHT_DECAY")
    assert "train.own" in text
    optimizer.write_text(text)
    (project.folder / "train/own.py").write_text("DECAY = 0.3\n")
    (project.folder / ".env").write_text("BATCH_SIZE=5\n")
    (project.folder / "notes.txt").write_text("mine\n")
    done = project.run("train.py", *TRAINING)
    assert done.returncode == 0, done.stdout + done.stderr
    return project, project.runs()[0].info.run_id


def test_run_from_a_dirty_tree_is_reproduced_bit_identically(dirty: tuple[Project, str]) -> None:
    project, run_id = dirty
    (project.folder / "train/own.py").write_text("DECAY = 0.0\n")  # the current working tree differs
    before = project.git("status", "--porcelain")
    done = project.run("train.py", "--reproduce", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all metrics are bit-identical." in done.stdout and "environment: the same" in done.stdout
    assert project.git("status", "--porcelain") == before, "the working tree is unchanged"
    assert len(project.git("worktree", "list").splitlines()) == 1 and len(project.runs()) == 1


def test_foreign_record_is_refused_before_anything_is_executed(dirty: tuple[Project, str], tmp_path: Path) -> None:
    project, run_id = dirty
    client = project.mlflow()
    files = Path(client.download_artifacts(run_id, "code", str(tmp_path)))
    tags = client.get_run(run_id).data.tags

    def refused(*texts: str) -> None:
        done = project.run("train.py", "--reproduce", run_id)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert all(text in done.stderr + done.stdout for text in texts), done.stderr

    known = project.folder / ".lakefs/recorded_patches.txt"
    hashes = known.read_text()
    known.unlink()  # as on another machine
    refused(f"python train.py --reproduce {run_id} --trust-patch", "train/own.py")
    known.write_text(hashes)
    known.chmod(0o600)
    recorded = json.loads((files / "settings.json").read_text())
    recorded["settings"]["pythonpath"] = str(tmp_path)
    changed = json.dumps(recorded).encode()
    (tmp_path / "settings.json").write_bytes(changed)
    client.log_artifact(run_id, str(tmp_path / "settings.json"), "code")
    refused("code/settings.json was changed since", f"MLflow recorded {tags['settings_sha256']}")
    client.set_tag(run_id, "settings_sha256", hashlib.sha256(changed).hexdigest())
    refused("code/settings.json was changed since", f"lakeFS recorded {tags['settings_sha256']}")
    client.log_artifact(run_id, str(files / "settings.json"), "code")
    client.set_tag(run_id, "settings_sha256", tags["settings_sha256"])


def test_recorded_code_contains_no_secret(dirty: tuple[Project, str], tmp_path: Path) -> None:
    project, run_id = dirty
    client = project.mlflow()
    files = Path(client.download_artifacts(run_id, "code", str(tmp_path)))
    patch = (files / "changes.patch").read_text()
    assert "train/own.py" in patch and "DECAY = 0.3" in patch
    assert ".env" not in patch and "notes.txt" not in patch
    assert any(row.startswith("torch==") for row in (files / "packages.txt").read_text().splitlines())


def test_run_that_cannot_be_reproduced_is_an_error(dirty: tuple[Project, str]) -> None:
    project, run_id = dirty
    client = project.mlflow()

    def refused(text: str, run: str = run_id) -> None:
        done = project.run("train.py", "--reproduce", run)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr, done.stderr

    refused("'nope' does not name a run (expected at least 4 characters of a run ID, a version: ", "nope")
    for key, value, text in (
        ("git_commit", "0" * 40, "this clone has no Git commit 0000"),
        ("git_commit", "none", "trained without a Git commit"),
        (
            "git_patch",
            "not recorded: 9.9 MB, the limit is 5 MB",
            "the changes of its code are missing (not recorded: 9.9",
        ),
    ):
        right = client.get_run(run_id).data.tags[key]
        client.set_tag(run_id, key, value)
        refused(text)
        client.set_tag(run_id, key, right)


def test_uncommitted_changes_are_restored_in_a_worktree(tmp_path: Path) -> None:
    project = Project(tmp_path / "repo")
    project.folder.mkdir()
    sub = project.folder / "sub"
    sub.mkdir()
    for name in ("kept.py", "changed.py", "gone.py"):
        (sub / name).write_text(f"{name}\n")
    (sub / "image.bin").write_bytes(bytes(range(256)))
    project.git("init", "--quiet")
    assert read_patch(project.folder, ()) is None, "no commit to compare with"
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "first")
    commit = project.git("rev-parse", "HEAD")
    assert read_patch(sub, ()) == CodePatch(b"")
    (sub / "changed.py").write_text("other\n")
    (sub / "gone.py").unlink()
    (sub / "image.bin").write_bytes(bytes(range(255, -1, -1)))
    (sub / "새 파일.py").write_text("new\n")
    (sub / ".codefiles").write_text("*.py\n")
    for name in (".env", ".env.local", "server.key", "notes.md"):
        (sub / name).write_text("secret\n")
    staged = project.git("status", "--porcelain")
    found = read_patch(sub, ())
    assert found is not None and b"secret" not in found.patch
    patch = found.patch
    assert project.git("status", "--porcelain") == staged
    with worktree(sub, commit, patch) as copy:
        assert {file.name for file in copy.iterdir()} == {"kept.py", "changed.py", "image.bin", "새 파일.py"}
        assert (copy / "changed.py").read_text() == "other\n"
        assert (copy / "image.bin").read_bytes() == bytes(range(256)), "only code is recorded"
    assert len(project.git("worktree", "list").splitlines()) == 1
