"""The model of one call of infer.py: downloaded, verified, and loaded for a device or engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from core.machine.heap import keep_freed_memory
from core.reporting import notify
from core.settings import InvalidSetting
from inference.job import Job

if TYPE_CHECKING:
    import torch

    from segmentation.predictor import Predictor


def find_model_file(job: Job) -> Path:
    """Return the model file, downloaded and verified unless it is local, and its signature verified if it is required.

    Raises AppError.
    """
    if job.options.require_signature is not None:
        return _signed_model_file(job, job.options.require_signature)
    if job.origin.file is not None:
        return job.origin.file
    lineage = job.lineage
    return job.servers.lake.verified_file(lineage.model_path, lineage.model_sha256, job.settings.cache_dir)


def _signed_model_file(job: Job, key: Path) -> Path:
    """Return the model file of the version's release. Raises AppError unless all its files are signed with this key.

    What the signed statement says of model, data, code, run and version must be what the registry says.
    """
    from utils import mlflow_utils
    from utils.lakefs_utils import LakePath
    from utils.lineage import RELEASE_TAG
    from versioning.provenance.release import verified_release

    lineage = job.lineage
    if lineage.version is None:
        raise UsageError(tr("run {run_id} is not registered: only promoted models are signed", run_id=lineage.run_id))
    name, _, number = lineage.version.rpartition(" v")
    with mlflow_utils.convert_errors(job.settings, tr("reading the version")):
        recorded = job.servers.client.get_model_version(name, number).tags.get(RELEASE_TAG)
    if recorded is None:
        raise UsageError(
            tr(
                "{version} has no release: run SIGNING_KEY=KEY register_model.py --rollback {number}",
                version=lineage.version,
                number=number,
            )
        )
    folder = verified_release(job.servers.lake, LakePath.parse(recorded), key, lineage, job.settings.cache_dir)
    notify(tr("signed with {key}: {version}", key=key, version=lineage.version))
    return folder / PurePosixPath(lineage.model_path.path).name


def load_predictor(job: Job) -> Predictor:
    """Download and verify the model and, with --engine onnxruntime, its export."""
    from segmentation.model_file import load_model
    from segmentation.predictor import Method, Predictor
    from segmentation.preprocess import choose_device

    options, settings, forward = job.options, job.settings, None
    engine = options.engine or "torch"
    device = choose_device(settings.device) if engine == "torch" else onnx_device(settings)
    if device.type == "cpu":
        keep_freed_memory()
    model_file = find_model_file(job)
    if engine == "onnxruntime":
        from inference.export import fetch_onnx, onnx_forward

        exported = fetch_onnx(job.lineage, job.servers.lake, job.servers.client, settings, settings.cache_dir)
        forward = onnx_forward(exported.read_bytes())
    model = load_model(model_file, job.origin.model_sha256, device)
    if settings.allow_truncated:
        model = replace(model, reading=replace(model.reading, allow_truncated=True))
    method = Method(
        options.tile,
        options.tta,
        probabilities="probabilities" in options.extra,
        uncertainty=options.select is not None,
        uncertainty_map="uncertainty" in options.extra,
        compare=True,
    )
    return Predictor(model, device, method, forward, engine)


def onnx_device(settings: Settings) -> torch.device:
    """Return the CPU. Raises UsageError if another device is set, or ONNX Runtime is missing."""
    from inference.export import require_packages
    from segmentation.preprocess import choose_device

    require_packages("--engine onnxruntime", ("onnxruntime",))
    if settings.device not in ("auto", "cpu"):
        raise InvalidSetting("DEVICE", settings.device, problem=tr("--engine onnxruntime uses the CPU only"))
    return choose_device("cpu")
