"""The model as MLflow's `python_function`: `mlflow.pyfunc.load_model` and `mlflow models serve` predict with it.

A file `MLmodel` beside model.pth or ensemble.json names this module. The code is that of the project, not a copy in the model's directory:
`pip install --no-deps -e .` makes it importable from anywhere. utils/mlmodel.py says which MLmodel files are loaded.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import AppError, UsageError
from core.i18n import tr, trn
from core.safety.terminal import escape_line
from dataset.classes import InvalidFileError, UInt8
from utils.identifiers import Sha256
from utils.mlmodel import MLMODEL, parse_mlmodel, verified_sha256

if TYPE_CHECKING:
    from config import Settings
    from segmentation.model import Model


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
    """Load the model; MLflow calls this with the path of model.pth or ensemble.json.

    Its SHA-256 must be that of a record elsewhere: of the lakeFS commit that this process downloaded it from, or of the run
    that MLmodel names. Raises AppError for another file.
    """
    from config import load_settings
    from core.machine.heap import keep_freed_memory
    from segmentation.model_file import load_model
    from segmentation.preprocess import choose_device

    file, settings = Path(path), load_settings()
    sha256 = verified_sha256(file) or _sha256_of_run(file, settings)
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    return Segmenter(load_model(file, Sha256(sha256), device), device)


def _sha256_of_run(file: Path, settings: Settings) -> str:
    """Return the SHA-256 that the run and the lakeFS commit of a model record; MLmodel beside the file only names the run.

    Raises AppError if the servers do not know the run, or contradict each other.
    """
    from utils import mlflow_utils
    from utils.lakefs_utils import connect

    run_id = parse_mlmodel(file.with_name(MLMODEL), file.with_name(MLMODEL).read_bytes())["run_id"]
    try:
        run = mlflow_utils.get_run(mlflow_utils.connect(settings), settings, run_id)
        lineage = mlflow_utils.run_lineage(run)
        with connect(settings) as lake:
            committed = lake.commit_metadata(lineage.model_path.commit, lineage.model_path.repo).get("model_sha256")
    except AppError as error:
        raise AppError(
            tr(
                "{path}: nothing vouches for it ({error}): set MLFLOW_TRACKING_URI and LAKEFS_ENDPOINT to the servers of its run, "
                "or load it by its lakefs:// or models:/ URI",
                path=file,
                error=error,
            )
        ) from error
    if committed is not None and committed != lineage.model_sha256:
        raise AppError(
            tr(
                "{path}: run {run_id} says SHA-256 {found}, but the metadata of its lakeFS commit say {expected}: not opened",
                path=file,
                run_id=run_id,
                found=lineage.model_sha256,
                expected=committed,
            )
        )
    return lineage.model_sha256


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
        rows = [
            self._encoded(value, tr("row {row} of the column 'image'", row=row)) for row, value in data["image"].items()
        ]
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

    def _encoded(self, value: Any, place: str) -> dict[str, Any]:
        """Return the row of an encoded image; a truncated one is an error, as no answer could say what is missing."""
        from dataset.decoding.image import to_channels
        from dataset.decoding.samples import decode_raw

        try:
            content = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        except (binascii.Error, TypeError) as error:
            expected = tr("{place}: expected an image in base64, found other text: {error}", place=place, error=error)
            raise UsageError(expected) from error
        try:
            raw = decode_raw(content, replace(self.model.reading, allow_truncated=True))
            if raw.truncated:
                found = trn("a truncated one of {count:,} byte", "a truncated one of {count:,} bytes", len(content))
                raise InvalidFileError((tr("a complete JPEG"), found))
            pixels = to_channels(raw, self.model.reading)
        except InvalidFileError as error:
            raise UsageError(escape_line(f"{place}: {error}")) from None
        ids = self._ids(pixels)
        palette_image = Image.fromarray(ids).convert("P")
        palette_image.putpalette(self.model.classes.palette())
        buffer = io.BytesIO()
        palette_image.save(buffer, "PNG")
        return {
            "mask": base64.b64encode(buffer.getvalue()).decode(),
            "height": int(ids.shape[0]),
            "width": int(ids.shape[1]),
        }
