"""Ensembles of small networks, written as train.py --folds writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.hashing import file_sha256
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.preprocess import Normalisation
from tests.support.models import make_model
from utils.ensemble_file import ENSEMBLE_FILE, Ensemble, Member

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
