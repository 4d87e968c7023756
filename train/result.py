"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from utils.lakefs_utils import LakePath


@dataclass(frozen=True)
class Result:
    """What a run left behind; `accuracy` and `miou` are those of the saved model on the validation split."""

    run_id: str
    data_path: LakePath
    data_manifest_sha256: str
    model_path: LakePath
    model_sha256: str
    accuracy: float
    miou: float
