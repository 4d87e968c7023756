"""`infer.py --export`: the network as ONNX or TorchScript, compared with the original before it is committed to lakeFS.

The file takes images (N,3,H,W) float32, normalised, of any N, H and W, and gives logits (N,num_classes,H,W) float32. It is
committed as `exports/<SHA-256 of model.pth>/model.onnx`: below `models/` each download of a model would bring it along.
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
from segmentation.model_file import Model
from segmentation.tiling import Forward
from utils import mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "exports/"
FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torchscript": ()}
LARGEST_DIFFERENCE = 1e-4  # of a logit, between the exported network and the original


def require(option: str, packages: tuple[str, ...]) -> None:
    """Raises UsageError where optional packages are missing: before the work, not after it."""
    missing = " ".join(name for name in packages if importlib.util.find_spec(name) is None)
    if missing:
        raise UsageError(tr("{option} needs more: pip install {missing}", option=option, missing=missing))


def export(
    model: Model, kind: str, lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings
) -> tuple[Path, LakePath, float]:
    """Write, compare and commit the file, and name it in the model's run; returns it, its place and the difference.

    Raises AppError for a network that cannot be exported, or whose export gives other logits.
    """
    file = settings.model_path.parent / PREFIX / lineage.model_sha256 / FILES[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            write, read = {"onnx": (_to_onnx, onnx_forward), "torchscript": (_to_torchscript, _torchscript)}[kind]
            write(model.network, file)
            exported = read(file.read_bytes())
    except Exception as error:  # both exporters raise many kinds for a network that they do not know
        raise AppError(
            tr(
                "{architecture} cannot be exported to {kind} ({error})",
                architecture=model.architecture,
                kind=kind,
                error=describe_error(error)[:300],
            )
        ) from error
    difference = largest_difference(model, exported)
    if not difference <= LARGEST_DIFFERENCE:
        raise AppError(
            tr(
                "{file}: logits differ from the original's by {difference:.2g} (limit "
                "{largest_difference:g}): not committed",
                file=file,
                difference=difference,
                largest_difference=LARGEST_DIFFERENCE,
            )
        )
    return file, publish(file, kind, lineage, lake, client, settings), difference


def publish(
    file: Path, kind: str, lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings
) -> LakePath:
    """Commit an exported file with its origin, and put its place and hash into the tags of the model's run."""
    from mlflow.entities import RunTag

    name, sha256 = f"{lineage.model_sha256}/{file.name}", file_sha256(file)
    metadata = {
        **read_facts(ROOT).metadata(),
        "mlflow_run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "model_sha256": lineage.model_sha256,
        f"{kind}_sha256": sha256,
    }
    message = f"export: {file.name} of {lineage.version or lineage.run_id}"
    done = lake.publish({name: LocalFile(file, sha256)}, PREFIX, message, metadata, mirror=False)
    place = LakePath(lake.repo, done.commit_id, PREFIX + name)
    with mlflow_utils.convert_errors(settings, tr("recording the run")):
        tags = [RunTag(f"lakefs_{kind}_path", str(place)), RunTag(f"{kind}_sha256", sha256)]
        client.log_batch(lineage.run_id, tags=tags)  # both or none
    return place


def _to_onnx(network: nn.Module, file: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    program: Any = torch.onnx.export(
        network,
        (torch.randn(2, 3, 96, 128),),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    for node in program.model.graph:  # where in this machine's files each operation was written
        node.metadata_props.clear()
    program.save(str(file))


def _to_torchscript(network: nn.Module, file: Path) -> None:
    torch.jit.trace(network, torch.randn(2, 3, 96, 128)).save(str(file))  # type: ignore[no-untyped-call]


def _torchscript(content: bytes) -> Forward:
    loaded: Forward = torch.jit.load(io.BytesIO(content), "cpu")  # type: ignore[no-untyped-call]
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Both exporters warn at length of what is compared afterwards."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        yield


@torch.inference_mode()
def largest_difference(model: Model, exported: Forward) -> float:
    """The largest difference between two networks' logits, over noise of the model's size and of odd ones."""
    height, width = model.input_size
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in ((2, 3, height, width), (1, 3, height + 37, width + 22), (3, 3, 64, 81)):
        images = torch.randn(shape, generator=generator)
        wanted, got = model.network(images), exported(images)
        if got.shape != wanted.shape:
            raise AppError(
                tr(
                    "the exported network's output is {shape}, the original's {shape2}",
                    shape=tuple(got.shape),
                    shape2=tuple(wanted.shape),
                )
            )
        found.append((got - wanted).abs().max())
    return torch.stack(found).max().item()  # NaN, if any is


# --- the other engine -------------------------------------------------------------------------------------------------


def fetch_onnx(lineage: Lineage, lake: LakeFS, client: MlflowClient, settings: Settings, cache: Path) -> Path:
    """The ONNX file of a model, its hash checked. Raises UsageError where the model was not exported."""
    tags = mlflow_utils.get_run(client, settings, lineage.run_id).data.tags
    place, sha256 = tags.get("lakefs_onnx_path"), tags.get("onnx_sha256")
    if not place or not sha256 or f"/{PREFIX}{lineage.model_sha256}/" not in place:
        raise UsageError(
            tr(
                "the model of run {run_id} has no ONNX file: infer.py --run-id {run_id} --export onnx",
                run_id=lineage.run_id,
            )
        )
    return lake.verified_file(LakePath.parse(place), sha256, cache)


def onnx_forward(content: bytes) -> Forward:
    """An ONNX file's network on the CPU, in as many threads as torch has where it is called. Raises AppError."""
    import onnxruntime

    @functools.cache
    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its errors are raised, too
        try:  # from bytes: nothing beside the file, which was hashed, is read
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes are made in C++, and share no other base
            raise AppError(f"ONNX Runtime: {describe_error(error)[:300]}") from error

    def forward(images: Tensor) -> Tensor:
        run = session(torch.get_num_threads()).run
        try:
            return torch.from_numpy(run(None, {"images": images.contiguous().numpy()})[0])
        except Exception:  # mostly of memory: a session keeps what it has got of it, so that less would not fit either
            session.cache_clear()
            raise

    return forward
