"""Commits name the annotation export that their labels were imported from."""

from __future__ import annotations

from pathlib import Path

from config import Settings
from dataset.formats.record import source_metadata
from tests.support.exports.imports import run_import
from tests.support.exports.raster import draw_labelled, write_cvat
from tests.support.lake_cli_helpers import REPO, commit_id, run_lake, run_train
from tests.support.project import make_project
from utils import local_lakefs
from utils.lakefs_utils import LakeFS, connect
from versioning.push import push


def test_push_records_format_and_hash_of_the_export(tmp_path: Path) -> None:
    run_import(write_cvat(tmp_path / "export", draw_labelled(tmp_path / "drawn", ["train", "val"])), tmp_path / "data")
    settings = Settings(data_dir=tmp_path / "data", lakefs_local_dir=tmp_path / "lakefs")
    with connect(settings, create=True) as lake:
        push(settings, lake, None, "default")
        metadata = lake.commit_metadata(lake.head())
        assert metadata.items() >= source_metadata(tmp_path / "data").items()
        assert metadata["label_format"] == "cvat" and len(metadata["label_source_sha256"]) == 64
        assert any(file.path == "data/label_source.json" for file in lake.objects(lake.head(), "data/"))


def test_training_records_format_and_hash_of_the_export(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0)
    write_cvat(tmp_path / "export", draw_labelled(tmp_path / "drawn", [None] * 12))
    run_lake(project, "import-labels", str(tmp_path / "export"), "--to", "data/")
    commit = commit_id(run_train(project, "--smoke"))
    with local_lakefs.start(project.folder / ".lakefs") as server:
        store = LakeFS(server.endpoint, server.access_key_id, server.secret_access_key, REPO, "main")
        metadata = store.commit_metadata(commit)
    assert metadata["label_format"] == "cvat" and metadata["mlflow_run_id"]
