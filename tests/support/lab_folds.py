"""Runs of train.py --folds in a lab: ensembles whose members have a chosen quality on the images that they held out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from mlflow.entities import Run

from core.hashing import file_sha256
from dataset.samples import Item, committed_items
from segmentation import evaluation
from segmentation.evaluation import EvaluationResult, metric_of_counts
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.networks.registry import build_network
from segmentation.preprocess import Normalisation
from tests.support.lab import CPU, QUALITY, SIDE, Lab, road_and_car
from utils import mlflow_utils
from utils.ensemble_file import ENSEMBLE_FILE, MODEL_FILE_KEY, Ensemble, Member
from utils.identifiers import Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakePath
from utils.lineage import INIT_KEYS, Lineage


def start_from(parent: Lineage) -> dict[str, str]:
    """Return what the metadata of a model's commit say if its training started from a model of the lab."""
    values = (str(parent.model_path), parent.model_sha256, parent.run_id, str(parent.data_path))
    return dict(zip(INIT_KEYS, values, strict=True))


def images_of_folds(lab: Lab, data: LakePath, folds: int) -> list[list[Item]]:
    """Return the images of train and val that each fold holds out: every n-th by its name, so that images stay in place."""
    items = [
        item for split in ("train", "val") for item in committed_items(lab.lake, data, split, lab.settings.cache_dir)[1]
    ]
    return [
        [item for item in items if int(item.name.strip("abcdefghijklmnopqrstuvwxyz/")) % folds == n]
        for n in range(folds)
    ]


def run_folds(
    lab: Lab,
    qualities: Sequence[float],
    data: LakePath,
    start: Mapping[str, str] | None = None,
    recorded: float | None = None,
) -> Run:
    """Record a finished run of as many folds as there are qualities, with the out-of-fold metrics that the gate measures.

    `recorded`: another mIoU than that.
    """
    classes, zero = road_and_car(), Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    files, members, measured = {}, [], list[EvaluationResult]()
    for number, (quality, items) in enumerate(
        zip(qualities, images_of_folds(lab, data, len(qualities)), strict=True), 1
    ):
        network = build_network("compact_unet", classes.num_classes).eval()
        model = Model(network, "compact_unet", classes, (SIDE, SIDE), zero, {QUALITY: quality}, {})
        path, name = lab.folder / secrets.token_hex(8), f"fold-{number}.pth"
        save_model(path, model)
        files[name] = LocalFile(path, file_sha256(path))
        held_out = tuple(Sha256(file_sha256(item.image)) for item in items)
        members.append(Member(name, file_sha256(path), held_out))
        measured.append(evaluation.measure(model, items, classes, CPU))
    path = lab.folder / secrets.token_hex(8)
    path.write_bytes(Ensemble(tuple(members)).to_json())
    files[ENSEMBLE_FILE] = LocalFile(path, file_sha256(path))
    run = lab.client.create_run(mlflow_utils.get_or_create_experiment(lab.client, lab.settings)).info.run_id
    origin = {"mlflow_run_id": run, "git_commit": "0" * 40, "lakefs_data_path": str(data)}
    metadata = {**origin, "model_sha256": files[ENSEMBLE_FILE].sha256, MODEL_FILE_KEY: ENSEMBLE_FILE, **(start or {})}
    commit = lab.lake.publish(files, "models/", "model", metadata, mirror=False).commit_id
    total = np.concatenate([part.counts for part in measured]).sum(0)
    lab.client.log_param(run, "folds", len(qualities))
    lab.client.log_param(run, "lakefs_model_path", str(LakePath(lab.lake.repo, commit, f"models/{ENSEMBLE_FILE}")))
    lab.client.log_param(run, "lakefs_data_path", str(data))
    tags = {"model_sha256": files[ENSEMBLE_FILE].sha256, "lakefs_model_commit": commit, "git_commit": "0" * 40}
    for key, value in {**tags, "lakefs_branch": "main", "lakefs_target_branch": "main"}.items():
        lab.client.set_tag(run, key, value)
    for name in ("miou", "accuracy"):
        measured_value = float(metric_of_counts(name, total))
        lab.client.log_metric(run, f"oof_{name}", measured_value if recorded is None else recorded)
    lab.client.set_terminated(run)
    return lab.client.get_run(run)
