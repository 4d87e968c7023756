"""Ensembles of small networks, written as train.py --folds writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlflow.entities import Run

from core.hashing import file_sha256
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.preprocess import Normalisation
from segmentation.pyfunc import mlmodel
from tests.support.lab import Lab
from tests.support.models import make_model
from utils import mlflow_utils
from utils.ensemble_file import ENSEMBLE_FILE, MODEL_FILE_KEY, Ensemble, Member, read_ensemble
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath

NORMALISATIONS = (
    Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)


def make_members(count: int = 3, size: tuple[int, int] = (64, 96)) -> list[Model]:
    """Return models with different weights and normalisations, as folds of other training images have."""
    return [
        replace(make_model(size, seed), normalisation=NORMALISATIONS[seed % 3], lineage={"git_commit": "none"})
        for seed in range(count)
    ]


def write_ensemble(folder: Path, models: Sequence[Model]) -> Path:
    """Write `fold-1.pth`, ... and ensemble.json; return the path of the latter."""
    members = []
    for number, model in enumerate(models, 1):
        file = folder / f"fold-{number}.pth"
        save_model(file, model)
        members.append(Member(file.name, file_sha256(file)))
    path = folder / ENSEMBLE_FILE
    path.write_bytes(Ensemble(tuple(members)).to_json())
    return path


def publish_ensemble(lab: Lab, data: LakePath, path: Path) -> Run:
    """Record a finished run whose model is the ensemble in a directory, as train.py --folds does; return the run."""
    ensemble, sha256 = read_ensemble(path), file_sha256(path)
    run = lab.client.create_run(mlflow_utils.get_or_create_experiment(lab.client, lab.settings)).info.run_id
    origin = {"mlflow_run_id": run, "git_commit": "none", "lakefs_data_path": str(data), "model_sha256": sha256}
    path.with_name("MLmodel").write_text(mlmodel(run, ENSEMBLE_FILE, sha256))
    path.with_name("metrics.json").write_text(json.dumps({"mlflow_run_id": run, "model_sha256": sha256}))
    names = [ENSEMBLE_FILE, "MLmodel", "metrics.json", *(member.file for member in ensemble.members)]
    files = {name: LocalFile(path.with_name(name), file_sha256(path.with_name(name))) for name in names}
    metadata = {**origin, MODEL_FILE_KEY: ENSEMBLE_FILE}
    commit = lab.lake.publish(files, "models/", "model", metadata, mirror=False).commit_id
    model_path = LakePath(lab.lake.repo, commit, f"models/{ENSEMBLE_FILE}")
    lab.client.log_param(run, "lakefs_model_path", str(model_path))
    lab.client.log_param(run, "lakefs_data_path", str(data))
    for key, value in (("model_sha256", sha256), ("lakefs_model_commit", commit), ("git_commit", "none")):
        lab.client.set_tag(run, key, value)
    lab.client.set_tag(run, "lakefs_branch", "main")
    lab.client.set_tag(run, "lakefs_target_branch", "main")
    lab.client.log_text(run, "<html>", "report.html")
    lab.client.set_terminated(run)
    return lab.client.get_run(run)
