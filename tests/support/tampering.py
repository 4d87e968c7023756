"""Single changed bytes and values in every artifact of a lineage chain, each undone at the end of its `with`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.lifecycle import NAME, REPO, Lifecycle
from utils.lakefs_utils import connect

MODEL = f"{NAME}/1"


@contextlib.contextmanager
def replaced_content(path: Path, content: bytes) -> Iterator[None]:
    """Give a file another content."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def flipped_bit(path: Path, offset: int = -1) -> AbstractContextManager[None]:
    """Flip one bit of a file."""
    return replaced_content(path, _flip_bit(path.read_bytes(), offset))


def _flip_bit(content: bytes, offset: int) -> bytes:
    index = offset % len(content)
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


@contextlib.contextmanager
def changed_cell(path: Path, cell: str, change: Callable[[Any], Any], **where: object) -> Iterator[None]:
    """Change one value of a SQLite database; `cell` is table.column."""
    table, column = cell.split(".")
    condition = " AND ".join(f"{key}=?" for key in where)

    def write(value: object) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            done = db.execute(f"UPDATE {table} SET {column}=? WHERE {condition}", (value, *where.values()))
            assert done.rowcount == 1

    with contextlib.closing(sqlite3.connect(path)) as db:
        (before,) = db.execute(f"SELECT {column} FROM {table} WHERE {condition}", tuple(where.values())).fetchone()
    write(change(before))
    try:
        yield
    finally:
        write(before)


def _flipped_object(lifecycle: Lifecycle, sha256: str) -> AbstractContextManager[None]:
    """Flip one bit of an object of embedded lakeFS, which is a file, or a blob of the database if it is small."""
    store = lifecycle.project.folder / ".lakefs"
    if (store / "content" / sha256).exists():
        return flipped_bit(store / "content" / sha256)
    return changed_cell(store / "lakefs.db", "blobs.data", lambda data: _flip_bit(data, -3), sha256=sha256)


@dataclass(frozen=True)
class Tampering:
    """A change, what is traced while it is in place, and a part of the fault that must be reported."""

    change: AbstractContextManager[None]
    target: str
    fault: str


TamperingMaker = Callable[[Lifecycle], Tampering]


def on_disk(name: str, target: str, fault: str = "SHA-256 expected", offset: int = -3) -> TamperingMaker:
    """Flip one bit of a file of the project."""

    def make(lifecycle: Lifecycle) -> Tampering:
        path = lifecycle.project.folder / name
        return Tampering(flipped_bit(path, offset), str(lifecycle.project.folder / target), f"{path}: {fault}")

    return make


def in_lakefs(name: str) -> TamperingMaker:
    """Flip one bit of an object of the model's commit or the export's, or of the first one of the data."""

    def make(lifecycle: Lifecycle) -> Tampering:
        run = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"])
        params, tags = run.data.params, run.data.tags
        special = {"model.onnx": tags["lakefs_onnx_path"], "masks/": params["lakefs_data_path"] + "masks/"}
        uri = special.get(name, params["lakefs_model_path"].replace("model.pth", name))
        with connect(lifecycle.settings) as lake:
            _, _, repo, ref, path = uri.split("/", 4)
            file = next(lake.objects(ref, path, repo))
        assert file.sha256
        return Tampering(_flipped_object(lifecycle, file.sha256), MODEL, f"{file.path}: ")

    return make


def in_mlflow(table: str, key: str, fault: str, **where: object) -> TamperingMaker:
    """Change a value that MLflow has of the run, or of its version."""

    def make(lifecycle: Lifecycle) -> Tampering:
        run = lifecycle.runs["changed"]
        owner = {"name": NAME, "version": 1} if table == "model_version_tags" else {"run_uuid": run}

        def change(value: Any) -> Any:
            if isinstance(value, float):
                return value + 0.001
            last = value[-1]  # of a hash: another digit
            return value[:-1] + (f"{int(last, 16) ^ 1:x}" if last in "0123456789abcdef" else chr(ord(last) ^ 1))

        database = lifecycle.project.folder / "mlflow.db"
        cell = changed_cell(database, f"{table}.value", change, key=key, **owner, **where)
        return Tampering(cell, MODEL, fault.format(run=run))

    return make


def in_metric_history(lifecycle: Lifecycle) -> Tampering:
    """Change the loss of the best epoch in MLflow's metric history."""
    best = int(lifecycle.project.mlflow().get_run(lifecycle.runs["changed"]).data.metrics["best_epoch"])
    return in_mlflow("metrics", "val_loss", "metric history {run}: val_loss: says", step=best)(lifecycle)


def in_recorded(name: str) -> TamperingMaker:
    """Flip one bit of a file that a run recorded in MLflow beside its code."""

    def make(lifecycle: Lifecycle) -> Tampering:
        run = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"])
        file = Path(urlsplit(run.info.artifact_uri).path) / "code" / name
        return Tampering(flipped_bit(file), MODEL, f"changed: code/{name} (the run): SHA-256 expected")

    return make


def in_patch(lifecycle: Lifecycle) -> Tampering:
    """Flip one bit of the run's recorded uncommitted changes."""
    run = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"])
    patch = Path(urlsplit(run.info.artifact_uri).path) / "code/changes.patch"
    commit = run.data.tags["git_commit"]
    return Tampering(flipped_bit(patch), MODEL, f"code {commit}: code/changes.patch: SHA-256 expected")


def in_git_object(lifecycle: Lifecycle) -> Tampering:
    """Flip one bit of a source file's object in Git."""
    commit = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"]).data.tags["git_commit"]
    blob = lifecycle.project.git("rev-parse", f"{commit}:config.py")
    path = lifecycle.project.folder / ".git/objects" / blob[:2] / blob[2:]
    return Tampering(flipped_bit(path, offset=-20), MODEL, f"code {commit}: ")


def in_lakefs_tag(lifecycle: Lifecycle) -> Tampering:
    """Move the model's lakeFS tag to a commit of data."""
    data = lifecycle.project.mlflow().get_run(lifecycle.runs["changed"]).data.tags["lakefs_data_commit"]
    store, name = lifecycle.project.folder / ".lakefs/lakefs.db", f"model-{NAME}-v1"
    change = changed_cell(store, "refs.commit_id", lambda _: data, repo=REPO, id=name)
    return Tampering(change, MODEL, f"the lakeFS tag {name} is {data}")


TAMPERINGS: dict[str, TamperingMaker] = {
    "mask": on_disk("out/one.png", "out"),
    "mask that is the target": on_disk("out/one.png", "out/one.png"),
    "overlay": on_disk("out/one_overlay.jpg", "out"),
    "probabilities": on_disk("out/one.npz", "out"),
    "outlines": on_disk("out/one_shapes.json", "out"),
    "areas": on_disk("out/areas.csv", "out"),
    "COCO": on_disk("out/predictions_coco.json", "out/predictions_coco.json"),
    "input": on_disk("new/two.png", "out"),
    "listing": on_disk("out/predictions.json", "out", "changed since it was written", offset=60),
    "video": on_disk("video/clip_overlay.mp4", "video/clip_overlay.mp4"),
    "record of a video": on_disk("video/clip_overlay.json", "video", "changed since it was written", offset=60),
    "input video": on_disk("clip.mp4", "video"),
    "local model": on_disk("models/model.pth", "models/model.pth", "model_sha256: says"),
    "local metrics": on_disk("models/metrics.json", "models/metrics.json", "metrics.json_sha256: says", offset=5),
    "model in lakeFS": in_lakefs("model.pth"),
    "metrics in lakeFS": in_lakefs("metrics.json"),
    "MLmodel": in_lakefs("MLmodel"),
    "export": in_lakefs("model.onnx"),
    "data": in_lakefs("masks/"),
    "metric": in_mlflow("latest_metrics", "best_val_miou", "run {run}: best_val_miou: says"),
    "metric history": in_metric_history,
    "hash of the model": in_mlflow("tags", "model_sha256", "run {run}: model_sha256: says"),
    "hash of the data": in_mlflow("tags", "data_manifest_sha256", "run {run}: data_manifest_sha256: says"),
    "Git commit": in_mlflow("tags", "git_commit", "run {run}: git_commit: says"),
    "path of the model": in_mlflow("params", "lakefs_model_path", "lakefs_model_path: says"),
    "hash of the export": in_mlflow("tags", "onnx_sha256", "run {run}: onnx_sha256: says"),
    "path of the export": in_mlflow("tags", "lakefs_onnx_path", "model.onny: not in lakeFS"),
    "metric of the version": in_mlflow(
        "model_version_tags", "metric.best_val_accuracy", f"version {NAME} v1: best_val_accuracy: says"
    ),
    "patch": in_patch,
    "settings": in_recorded("settings.json"),
    "environment": in_recorded("environment.json"),
    "packages": in_recorded("packages.txt"),
    "Git object": in_git_object,
    "lakeFS tag": in_lakefs_tag,
}
