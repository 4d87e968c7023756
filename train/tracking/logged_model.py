"""The model of a run as MLflow's LoggedModel, which links run, metrics and registered version on its pages.

The weights stay in lakeFS: MLflow gets a file MLmodel with the signature, and an input example.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from core.i18n import tr
from segmentation.file_names import MLMODEL
from segmentation.pyfunc import mlmodel
from train.tracking.description import NOTE
from utils import mlflow_utils

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from config import Settings
    from utils.lakefs_utils import LakePath

OTHER_CHARACTERS = r"[^\w-]"  # MLflow refuses some of them in the name of a model: the dot of most of timm's encoders
EXAMPLE_FILE, EXAMPLE_SIZE = "input_example.json", 8  # pixels of its height and width


def log_model(client: MlflowClient, settings: Settings, run_id: str, path: LakePath, sha256: str, channels: int) -> str:
    """Record the model in MLflow, once per run; return its id.

    `channels` of the images. Raises AppError if MLflow refuses it.
    """
    from mlflow.entities import LoggedModelOutput

    with mlflow_utils.convert_errors(settings, tr("recording the model")):
        run = client.get_run(run_id)
        experiment = run.info.experiment_id
        found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'", max_results=1)
        note = f"Images (N,H,W,{channels}) uint8 to class IDs (N,H,W) uint8. The file is in lakeFS: `{path}`"
        tags = {NOTE: note, "lakefs_model_path": str(path), "lakefs_model_commit": path.ref, "model_sha256": sha256}
        model = (
            found[0]
            if found
            else client.create_logged_model(
                experiment,
                name=re.sub(OTHER_CHARACTERS, "-", settings.model),
                source_run_id=run_id,
                tags=tags,
                params={"model": settings.model},
                model_type="semantic segmentation",
            )
        )
        model_id = str(model.model_id)
        if str(model.status) != "READY":  # new, or of a process that was killed
            with tempfile.TemporaryDirectory() as folder:
                _write_files(Path(folder), run_id, model_id, path, sha256, channels)
                mlflow_utils.log_model_artifacts(client, settings, model_id, Path(folder))
            client.finalize_logged_model(model_id, "READY")
        outputs = run.outputs.model_outputs if run.outputs else []
        if all(output.model_id != model_id for output in outputs):
            client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    return model_id


def _write_files(folder: Path, run_id: str, model_id: str, path: LakePath, sha256: str, channels: int) -> None:
    """Write MLmodel and the input example; equal for equal models."""
    content = json.loads(mlmodel(run_id, PurePosixPath(path.path).name, sha256))
    content |= {
        "flavors": {},  # nothing to load here: the file is in lakeFS
        "model_id": model_id,
        "artifact_path": str(path),
        "signature": signature(channels),
        "saved_input_example_info": {
            "artifact_path": EXAMPLE_FILE,
            "type": "ndarray",
            "format": "tf-serving",
        },
    }
    (folder / MLMODEL).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    size = EXAMPLE_SIZE
    ramp = np.linspace(0, 255, size * size, dtype=np.uint8).reshape(size, size)
    pixels = np.repeat(ramp[None, :, :, None], channels, axis=3)
    (folder / EXAMPLE_FILE).write_text(json.dumps({"inputs": pixels.tolist()}) + "\n", encoding="utf-8")


def signature(channels: int) -> dict[str, str | None]:
    """Return MLflow's record of the signature: images (N,H,W,channels) uint8 to class ids (N,H,W) uint8."""

    def tensor(*shape: int) -> str:
        return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": list(shape)}}])

    return {"inputs": tensor(-1, -1, -1, channels), "outputs": tensor(-1, -1, -1), "params": None}
