"""Export the network as ONNX or TorchScript, compare its logits with the original's, and commit it to lakeFS.

The file takes normalised images (N,channels,H,W) float32 of any N, H and W and returns logits (N,num_classes,H,W) float32,
divided by the model's temperature: their softmax gives calibrated probabilities. It is
committed as `exports/<SHA-256 of model.pth>/model.onnx`: below `models/`, each download of a model would include it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from config import ROOT, Settings
from core.errors import AppError, UsageError, describe_error
from core.git import read_facts
from core.hashing import file_sha256
from core.i18n import tr
from inference.formats import EXPORT_FILES, EXPORT_PREFIX, export_path_tag, export_sha256_tag
from segmentation.model import Model
from segmentation.tiles.tiling import Forward
from utils import mlflow_utils
from utils.identifiers import Sha256
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUIRED_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torchscript": ()}
MAX_DIFFERENCE = 1e-4  # of a logit, between the exported network and the original
TEMPERATURE_KEY = "temperature"  # of the ONNX file's metadata; earlier versions did not divide by it, nor write it


def require_packages(option: str, packages: tuple[str, ...]) -> None:
    """Raise UsageError if optional packages are missing; called before the work."""
    missing = " ".join(name for name in packages if importlib.util.find_spec(name) is None)
    if missing:
        raise UsageError(tr("{option} needs more packages: pip install {missing}", option=option, missing=missing))


def export(
    model: Model, kind: str, lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings
) -> tuple[Path, LakePath, float]:
    """Export, compare and commit a network; return the file, its lakeFS path and the largest difference of a logit.

    Raises AppError for a network that cannot be exported, or whose export returns other logits.
    """
    file = settings.model_path.parent / EXPORT_PREFIX / lineage.model_sha256 / EXPORT_FILES[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _suppress_output():
            exported = _write_and_load(model, kind, file)
        difference = largest_difference(model, exported)
    except AppError:
        raise
    except Exception as error:  # exporters, and the files they write, raise many types for unsupported networks
        raise AppError(
            tr(
                "{architecture} cannot be exported to {kind} ({error})",
                architecture=model.architecture,
                kind=kind,
                error=describe_error(error)[:300],
            )
        ) from error
    if not difference <= MAX_DIFFERENCE:
        raise AppError(
            tr(
                "{file}: logits differ from the original's by {difference:.2g} (limit "
                "{max_difference:g}): not committed",
                file=file,
                difference=difference,
                max_difference=MAX_DIFFERENCE,
            )
        )
    return file, publish(file, kind, lineage, lake, client, settings), difference


def _write_and_load(model: Model, kind: str, file: Path) -> Forward:
    """Write the export of a network and load it again; the returned function gives the logits of the network itself."""
    channels, temperature = model.reading.channels, model.temperature
    network = model.network if temperature == 1 else CalibratedNetwork(model.network, temperature).eval()
    if kind == "onnx":
        _to_onnx(network, file, channels, temperature)
        return onnx_forward(file.read_bytes())
    _to_torchscript(network, file, channels)
    exported = _load_torchscript(file.read_bytes())
    return lambda images: exported(images) * temperature


class CalibratedNetwork(nn.Module):
    """A network whose logits are divided by its temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits whose softmax gives calibrated probabilities."""
        logits: Tensor = self.network(images)
        return logits / self.temperature


def publish(
    file: Path, kind: str, lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings
) -> LakePath:
    """Commit an exported file with its origin, and set its lakeFS path and SHA-256 as tags of the model's run."""
    from mlflow.entities import RunTag

    name, sha256 = f"{lineage.model_sha256}/{file.name}", file_sha256(file)
    metadata = {
        **read_facts(ROOT).metadata(),
        "mlflow_run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "model_sha256": lineage.model_sha256,
        export_sha256_tag(kind): sha256,
    }
    message = f"export: {file.name} of {lineage.version or lineage.run_id}"
    done = lake.publish({name: LocalFile(file, sha256)}, EXPORT_PREFIX, message, metadata, mirror=False)
    path = LakePath(lake.repo, done.commit_id, EXPORT_PREFIX + name)
    with mlflow_utils.convert_errors(settings, tr("recording the run")):
        tags = [RunTag(export_path_tag(kind), str(path)), RunTag(export_sha256_tag(kind), sha256)]
        client.log_batch(lineage.run_id, tags=tags)  # one request: both tags or none
    return path


def _to_onnx(network: nn.Module, file: Path, channels: int = 3, temperature: float = 1.0) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    program: Any = torch.onnx.export(
        network,
        (torch.randn(2, channels, 96, 128),),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    for node in program.model.graph:  # source paths on this machine
        node.metadata_props.clear()
    program.model.metadata_props[TEMPERATURE_KEY] = repr(temperature)
    program.save(str(file))


def _to_torchscript(network: nn.Module, file: Path, channels: int = 3) -> None:
    torch.jit.trace(network, torch.randn(2, channels, 96, 128)).save(str(file))  # type: ignore[no-untyped-call]


def _load_torchscript(content: bytes) -> Forward:
    loaded: Forward = torch.jit.load(io.BytesIO(content), "cpu")  # type: ignore[no-untyped-call]
    return loaded


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Suppress the exporters' warnings and output in this process: the result is compared afterwards."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        yield


@torch.inference_mode()
def largest_difference(model: Model, exported: Forward) -> float:
    """Return the largest absolute difference of logits, on noise of the model's input size and of other sizes.

    Raises AppError for an output of another shape. NaN in either output makes the result NaN.
    """
    (height, width), c = model.input_size, model.reading.channels
    generator = torch.Generator().manual_seed(0)
    differences = []
    for shape in ((2, c, height, width), (1, c, height + 37, width + 22), (3, c, 64, 81)):
        images = torch.randn(shape, generator=generator)
        expected, found = model.network(images), exported(images)
        if found.shape != expected.shape:
            raise AppError(
                tr(
                    "the exported network's output has shape {found}, expected {expected}",
                    found=tuple(found.shape),
                    expected=tuple(expected.shape),
                )
            )
        differences.append((found - expected).abs().max())
    return torch.stack(differences).max().item()


# --- ONNX Runtime ---


def fetch_onnx(lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings, cache: Path) -> Path:
    """Download and verify the ONNX file of a model. Raises UsageError if the model was not exported."""
    tags = mlflow_utils.get_run(client, settings, lineage.run_id).data.tags
    path, sha256 = tags.get(export_path_tag("onnx")), tags.get(export_sha256_tag("onnx"))
    if not path or not sha256 or f"/{EXPORT_PREFIX}{lineage.model_sha256}/" not in path:
        raise UsageError(
            tr(
                "the model of run {run_id} has no ONNX file: run infer.py --run-id {run_id} --export onnx",
                run_id=lineage.run_id,
            )
        )
    return lake.verified_file(LakePath.parse_recorded(path), Sha256(sha256), cache)


def onnx_forward(content: bytes) -> Forward:
    """Return the network of an ONNX file, which runs on the CPU with the calling thread's number of torch threads.

    Its logits are those of the network itself, before they were divided by the temperature.
    The returned function raises AppError for a file that ONNX Runtime cannot load.
    """
    import onnxruntime

    @functools.cache
    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal only: errors are raised as exceptions
        try:  # from bytes, so that no external data file, which was not verified, is read
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes have no other common base
            raise AppError(f"ONNX Runtime: {describe_error(error)[:300]}") from error

    @functools.cache
    def temperature() -> float:
        recorded = session(torch.get_num_threads()).get_modelmeta().custom_metadata_map
        return float(recorded.get(TEMPERATURE_KEY, 1))

    def forward(images: Tensor) -> Tensor:
        run = session(torch.get_num_threads()).run
        try:
            logits = torch.from_numpy(run(None, {"images": images.contiguous().numpy()})[0])
            return logits if temperature() == 1 else logits * temperature()
        except (
            Exception
        ):  # mostly out of memory: a session keeps what it allocated, so that a smaller input would fail too
            session.cache_clear()
            raise

    return forward
