"""The model as MLflow's `python_function`: `mlflow.pyfunc.load_model` and `mlflow models serve` predict with it.

A file `MLmodel` beside model.pth names this module and the SHA-256 of the weights. The code is that of the project, not
a copy in the model's folder: `pip install --no-deps -e .` makes it importable from anywhere.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import UInt8

if TYPE_CHECKING:
    from segmentation.model_file import Model


def mlmodel(run_id: str, model_file: str, model_sha256: str) -> str:
    """Return the text of the MLmodel file beside a model; equal for equal models, so without a time."""
    from mlflow.version import VERSION

    content = {
        "flavors": {
            "python_function": {
                "loader_module": __name__,
                "data": model_file,
                "python_version": platform.python_version(),
            }
        },
        "mlflow_version": VERSION,
        "model_uuid": run_id,
        "run_id": run_id,
        "metadata": {"model_sha256": model_sha256},
    }
    return json.dumps(content, indent=1) + "\n"  # JSON is valid YAML


def _load_pyfunc(path: str) -> Segmenter:
    """Load the model; MLflow calls this with the path of model.pth. Raises AppError if its checksum differs from MLmodel."""
    from mlflow.models import Model as MLflowModel

    from config import load_settings
    from core.process import keep_freed_memory
    from segmentation.model_file import load_model
    from segmentation.preprocess import choose_device

    metadata = MLflowModel.load(str(Path(path).parent)).metadata or {}
    device = choose_device(load_settings().device)
    if device.type == "cpu":
        keep_freed_memory()
    return Segmenter(load_model(Path(path), str(metadata.get("model_sha256", "")), device), device)


class Segmenter:
    """Predictor of class ids for arrays, and for images as bytes or base64 text (JSON)."""

    def __init__(self, model: Model, device: Any) -> None:
        self.model, self.device = model, device

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Return class ids of images of any size.

        An array (H,W,C) or (N,H,W,C) of 0..255 gives an array (H,W) or (N,H,W) uint8 of class ids. A data frame or dict with
        a column `image` of encoded images gives a data frame with `mask` (base64 of a palette PNG), `height`, `width`.
        Raises UsageError for anything else.
        """
        import pandas as pd  # type: ignore[import-untyped]  # installed with MLflow

        if isinstance(data, np.ndarray) and data.dtype != object:
            return self._arrays(data)
        if isinstance(data, dict):
            data = pd.DataFrame({key: np.atleast_1d(value).tolist() for key, value in data.items()})
        if not isinstance(data, pd.DataFrame) or "image" not in data.columns:
            raise UsageError(
                tr(
                    "expected pixels (N,H,W,{channels}) or a column 'image' of base64, found {error_type}",
                    channels=self.model.reading.channels,
                    error_type=type(data).__name__,
                )
            )
        rows = [self._encoded(value) for value in data["image"]]
        return pd.DataFrame(rows, index=data.index)

    def _arrays(self, data: npt.NDArray[Any]) -> UInt8:
        batch = data[None] if data.ndim == 3 else data
        channels = self.model.reading.channels
        if batch.ndim != 4 or batch.shape[-1] != channels or not np.isin(batch, np.arange(256)).all():
            raise UsageError(
                tr(
                    "expected (N,H,W,{channels}) of whole numbers 0 to 255, found {shape} {dtype}",
                    channels=channels,
                    shape=data.shape,
                    dtype=data.dtype,
                )
            )
        ids = np.stack([self._ids(image) for image in batch.astype(np.uint8)])
        return ids if data.ndim == 4 else ids[0]

    def _ids(self, image: UInt8) -> UInt8:
        from segmentation.predictor import segment

        return self.model.classes.decode(segment(self.model, [image], self.device)[0])

    def _encoded(self, value: Any) -> dict[str, Any]:
        from dataset.decoding.image import read_image

        try:
            content = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        except (binascii.Error, TypeError) as error:
            raise UsageError(tr("not base64: {error}", error=error)) from error
        ids = self._ids(read_image(content, self.model.reading))
        palette_image = Image.fromarray(ids).convert("P")
        palette_image.putpalette(self.model.classes.palette())
        buffer = io.BytesIO()
        palette_image.save(buffer, "PNG")
        return {
            "mask": base64.b64encode(buffer.getvalue()).decode(),
            "height": int(ids.shape[0]),
            "width": int(ids.shape[1]),
        }
