"""A data directory that was named and is not there stops every script; nothing is made in its place."""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from pathlib import Path

import pytest

import config
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from dataset.data import SegmentationData
from dataset.directory import data_files
from dataset.sources.synthetic import generate_sample, holds_sample
from tests.support.project import Project, make_project
from train.commands import audit
from train.resume import CHECKPOINT_FILE, find
from utils.identifiers import RunId, Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning import checkout, lockfile
from versioning.data_directory import is_default, require_data, require_directory, require_place
from versioning.lockfile import Lock, write_lock
from versioning.versions import find_data

PLACES = {
    "missing": "no such directory",
    "dangling": "leads to",
    "below a dangling link": "leads to",
    "loop": "leads to",
    "file": "is a file",
    "below a file": "is a file",
    "empty": "the directory is empty",
    "hidden files": "the directory is empty",
}


def make_place(kind: str, folder: Path) -> Path:
    """Make a data directory that cannot be used; return its path."""
    path = folder / "named"
    if kind in ("empty", "hidden files"):
        (path / "images").mkdir(parents=True)
        if kind == "hidden files":
            for name in (".DS_Store", "Thumbs.db", "images/.gitkeep"):
                (path / name).write_bytes(b"x")
    elif kind in ("dangling", "below a dangling link"):
        path.symlink_to(folder / "unmounted")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "missing":
        path.write_bytes(b"x")
    return path / "data" if kind.startswith("below") else path


def listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if ".git" not in path.parts)


@pytest.mark.parametrize("kind", PLACES)
def test_named_directory_without_data_is_an_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_place(kind, tmp_path)
    before = listing(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(path))
    for settings in (config.load_settings(), config.load_settings(data_dir=path)):
        assert not is_default(settings)
        with pytest.raises(UsageError, match=PLACES[kind]) as caught:
            require_data(settings)
        assert str(path) in str(caught.value) and caught.value.exit_code == 2
    assert listing(tmp_path) == before


def test_pull_may_make_a_directory_and_status_may_read_an_empty_one(tmp_path: Path) -> None:
    require_place(config.load_settings(data_dir=make_place("missing", tmp_path)))
    require_directory(config.load_settings(data_dir=make_place("empty", tmp_path)))


def test_named_default_directory_must_exist_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("versioning.data_directory.ROOT", tmp_path)
    monkeypatch.setattr("config.ROOT", tmp_path)
    assert is_default(config.load_settings())
    require_data(config.load_settings())
    with pytest.raises(UsageError, match="no such directory"):
        require_data(config.load_settings(data_dir=tmp_path / "data"))
    (tmp_path / "data").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UsageError, match="leads to"):
        require_data(config.load_settings())


def test_unset_shell_variable_is_not_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for script, *command in (("train.py",), ("lake.py", "push")):
        parse = runpy.run_path(str(config.ROOT / script))["parse"]
        with pytest.raises(UsageError, match="found an empty text"):
            parse([*command, "--data-dir", ""])
    monkeypatch.setenv("DATA_DIR", " ")
    assert is_default(config.load_settings())


@pytest.mark.parametrize("path", [config.ROOT, config.ROOT.parent])
def test_directory_of_the_project_itself_is_not_data(path: Path) -> None:
    with pytest.raises(UsageError, match="contains the project itself"):
        require_data(config.load_settings(data_dir=path))


def test_scripts_stop_before_anything_is_made(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0)
    before = listing(tmp_path)
    commands = (("train.py",), ("train.py", "--overfit", "2"), ("train.py", "--check-only"))
    for script, *arguments in (*commands, ("lake.py", "push"), ("lake.py", "status")):
        done = project.run(script, *arguments, "--data-dir", str(tmp_path / "fotos"))
        assert done.returncode == 2 and "fotos: no such directory" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    by_environment = project.run("train.py", env={"DATA_DIR": "fotos"})
    assert by_environment.returncode == 2 and "fotos: no such directory" in by_environment.stderr
    nothing = project.run("lake.py", "push")
    assert nothing.returncode == 2 and "no files to push" in nothing.stderr
    assert listing(tmp_path) == before


def test_faulty_data_creates_no_repository(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0)
    named = tmp_path / "named"
    named.mkdir()
    (named / "scan.dcm").write_bytes(b"x")
    done = project.run("train.py", "--data-dir", str(named))
    assert done.returncode == 2 and "scan.dcm" in done.stderr, done.stderr
    assert "no such repository" in project.run("lake.py", "branches").stderr
    assert not (project.folder / "data").exists()


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample set with 12 pairs, to be quick."""
    monkeypatch.setattr(
        checkout, "generate_sample", lambda root, seed, real=generate_sample: real(root, seed, count=12)
    )
    monkeypatch.setattr("dataset.sources.synthetic.COUNT", 12)


def default_settings(settings: config.Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    """Return settings whose data directory is the default one of a project in `folder`."""
    monkeypatch.setattr("versioning.data_directory.ROOT", folder)
    monkeypatch.setattr("versioning.checkout.ROOT", folder)
    return dataclasses.replace(
        settings, data_dir=folder / "data", lakefs_local_dir=folder / "local", explicit=frozenset()
    )


@pytest.mark.usefixtures("small_sample")
def test_only_the_empty_default_directory_gets_samples_or_the_branch(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = default_settings(lake_settings, tmp_path, monkeypatch)
    default.data_dir.mkdir()
    (default.data_dir / "README.md").write_text("put your data here")
    checkout.fill_if_empty(default, lake)
    assert holds_sample(default.data_dir, default.seed) is False, "README.md is not of the sample set"
    assert len(data_files(default.data_dir)) == 12 * 2 + 4 + 1

    other = dataclasses.replace(default, data_dir=tmp_path / "other")
    checkout.fill_if_empty(other, lake)
    assert not other.data_dir.exists(), "a named directory is not filled"
    checkout.fill_if_empty(other, lake, sample=True)
    assert holds_sample(other.data_dir, other.seed)
    checkout.fill_if_empty(other, lake, sample=True)
    (other.data_dir / "images/own.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="holds data already: --sample needs an empty directory"):
        checkout.fill_if_empty(other, lake, sample=True)

    scans = default_settings(lake_settings, tmp_path / "scans", monkeypatch)
    scans.data_dir.mkdir(parents=True)
    (scans.data_dir / "a.heic").write_bytes(b"x")
    checkout.fill_if_empty(scans, lake)
    assert list(data_files(scans.data_dir)) == ["a.heic"], "files that cannot be read are not a reason for samples"


@pytest.mark.usefixtures("small_sample")
def test_an_audit_makes_the_sample_set_that_was_asked_for(
    lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited: list[SegmentationData] = []
    monkeypatch.setattr("train.audit.command.audit_labels", lambda settings, data: audited.append(data))
    settings = dataclasses.replace(lake_settings, data_dir=tmp_path / "new")
    options = argparse.Namespace(sample=True, data_ref=None)
    for _ in range(2):  # the second call finds the set
        audit(settings, options)
    assert holds_sample(settings.data_dir, settings.seed)
    assert [len(data.pairs) for data in audited] == [12, 12]
    (settings.data_dir / "images/own.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="holds data already: --sample needs an empty directory"):
        audit(settings, options)


@pytest.mark.usefixtures("small_sample")
def test_sample_set_never_replaces_the_data_of_the_branch(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"team's")
    lake.publish({"images/a.png": LocalFile(file, file_sha256(file))}, "data/", "team", {}, mirror=True)
    default = default_settings(lake_settings, tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=r"--sample: branch main of .* has data"):
        checkout.fill_if_empty(default, lake, sample=True)
    assert not default.data_dir.exists()


def test_samples_are_not_made_in_place_of_locked_data(
    lake: LakeFS, lake_settings: config.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = default_settings(lake_settings, tmp_path, monkeypatch)
    monkeypatch.setattr("versioning.versions.ROOT", tmp_path)
    data, model = LakePath("other-repo", "a" * 64, "data/"), LakePath("other-repo", "b" * 64, "models/model.pth")
    lock = Lock(data, Sha256("c" * 64), model, Sha256("d" * 64), RunId("e" * 32))
    expected = {
        "": "on a lakeFS server .set LAKEFS_ENDPOINT.* or in the embedded store of another clone .set LAKEFS_LOCAL_DIR",
        lockfile.EMBEDDED: "it is in the embedded store of another clone.*LAKEFS_LOCAL_DIR",
        "http://lake:8000": "it is on lakeFS http://lake:8000: set LAKEFS_ENDPOINT",
    }
    for server, text in expected.items():
        write_lock(tmp_path, dataclasses.replace(lock, server=server))
        for read in (lambda: checkout.fill_if_empty(default, lake), lambda: find_data(lake, "lock")):
            with pytest.raises(UsageError, match=text) as caught:
                read()
            assert "lakefs.lock: data commit aaaaaaaaaaaa (model commit bbbbbbbbbbbb) is not in" in str(
                caught.value
            ) and "train.py" not in str(caught.value)
    assert not default.data_dir.exists()


def test_lock_without_its_store_is_explained_by_every_script(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0)
    data, model = LakePath("team", "a" * 64, "data/"), LakePath("team", "b" * 64, "models/model.pth")
    write_lock(
        project.folder, Lock(data, Sha256("c" * 64), model, Sha256("d" * 64), RunId("e" * 32), "http://lake:8000")
    )
    for script, *arguments in (
        ("lake.py", "pull", "lock"),
        ("lake.py", "status"),
        ("train.py", "--smoke"),
        ("train.py", "--smoke", "--data-ref", "lock"),
        ("train.py", "--reproduce", "e" * 32),
        ("lake.py", "branches"),
        ("lake.py", "trace", "lock"),
        ("infer.py",),
        ("register_model.py",),
    ):
        done = project.run(script, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        for part in (
            data.ref[:12],
            model.ref[:12],
            "has no repository 'team'",
            "http://lake:8000",
            "MLFLOW_TRACKING_URI",
        ):
            assert part in line, f"{script} {arguments}: {line}"
    assert not (project.folder / "data").exists()


def test_recorded_commit_of_another_store_is_explained(lake: LakeFS, tmp_path: Path) -> None:
    for repo in (lake.repo, "another-repo"):
        source = LakePath(repo, "a" * 64, "models/model.pth")
        with pytest.raises(AppError, match="its data is in another store: set LAKEFS_ENDPOINT") as caught:
            lake.verified_file(source, "b" * 64, tmp_path)
        assert f"{source} is not in lakeFS http" in str(caught.value)


def test_mistyped_checkpoint_path_does_not_resume_another_run(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "run1").mkdir(parents=True)
    (models / "run1" / CHECKPOINT_FILE).write_bytes(b"not read")
    for wrong in (str(tmp_path / "elsewhere/run1"), "elsewhere/run1", "./run1", str(models / "run2")):
        with pytest.raises(UsageError, match=r"no checkpoint .available in .*: run1"):
            find(models, wrong)


def make_sample_project(folder: Path) -> Project:
    return make_project(folder / "project", images=0)


def test_sample_option_fills_a_named_directory(tmp_path: Path) -> None:
    project = make_sample_project(tmp_path)
    named = tmp_path / "made"
    refused = project.run("train.py", "--sample", "--data-ref", "main")
    assert refused.returncode == 2 and "--sample cannot be used with --data-ref" in refused.stderr
    done = project.run("train.py", "--smoke", "--sample", "--data-dir", str(named))
    assert done.returncode == 0 and "500 in all" in done.stdout, done.stderr
    again = project.run("train.py", "--smoke", "--data-dir", str(named))
    assert again.returncode == 0 and "data unchanged" in again.stdout, again.stderr
    assert not (project.folder / "data").exists()
