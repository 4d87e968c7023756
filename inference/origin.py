"""Which model, data, code and settings made a prediction."""

from __future__ import annotations

from typing import Any

from inference.formats import ENSEMBLE
from segmentation.predictor import Predictor
from utils.identifiers import NONE
from utils.lineage import Origin

SELECTED_BY = "model_selected_by"  # key of a record: the name by which the model was chosen


def describe_origin(predictor: Predictor, lineage: Origin) -> dict[str, Any]:
    """Return which model, data, code and settings make the predictions, as stored in each record."""
    members = [{"file": member.file, "sha256": member.sha256} for member in predictor.model.members]
    return {
        "model_version": lineage.version,
        SELECTED_BY: lineage.selected_by,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path or NONE),
        "model_sha256": lineage.model_sha256,
        "lakefs_data_path": str(lineage.data_path or NONE),
        "git_commit": lineage.git_commit,
        "git_dirty": predictor.model.lineage.get("git_dirty", "none"),
        "device": predictor.device.type,
        "engine": predictor.engine,
        "tile": predictor.method.tile,
        "tta": predictor.method.flip,
        **({ENSEMBLE: members} if members else {}),
    }
