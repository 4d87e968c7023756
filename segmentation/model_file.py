"""Read and write model.pth, which rebuilds its network without any options."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import AppError, UsageError
from core.files import require_content, write_atomically
from core.i18n import tr
from dataset.classes import ClassMap
from dataset.decoding.options import MAX_CHANNELS, ReadOptions
from dataset.faults import parse_warnings, warning_records
from segmentation.archive.entries import shown
from segmentation.archive.origin import require_origin
from segmentation.archive.pickled import MODEL_LIMITS
from segmentation.archive.reader import read_archive, reason_of
from segmentation.archive.values import items, mapping, number, pair, text, whole
from segmentation.ensemble.joining import common_entries, join_models
from segmentation.loaded_network import build_from_weights
from segmentation.model import SCALES, Model
from segmentation.preprocess import Normalisation
from segmentation.reliability.stored import distribution_to_dict, parse_distribution
from utils.ensemble_file import is_ensemble, member_files, parse_ensemble

MODEL_FILE, METRICS_FILE = "model.pth", "metrics.json"  # names in models/, locally and in lakeFS
FORMAT = 1  # of models that read images by the default options
READING_FORMAT = 2  # of other ones, which older code would read wrongly
MAX_ARCHITECTURE = 200  # characters of its name
MAX_WARNINGS = 1000
# Of a normalisation, in units of 0..1: a training measures at least 0.01, and smaller ones would blow up every input.
MIN_STD, MAX_LEVEL = 1e-4, 100.0
TEMPERATURES = 0.01, 100.0


def save_model(path: Path, model: Model) -> None:
    """Write plain tensors and values, so that the file loads with `weights_only=True`; an interruption leaves the old or the new file."""
    reading = model.reading.to_dict()
    content = {
        "format": READING_FORMAT if reading else FORMAT,
        "architecture": model.architecture,
        "state_dict": {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()},
        "classes": model.classes.to_dict(),
        "input_size": list(model.input_size),
        "scale": list(model.scale),
        "reading": reading,
        "normalisation": {"mean": list(model.normalisation.mean), "std": list(model.normalisation.std)},
        "metrics": model.metrics,
        "lineage": {key: str(value) for key, value in model.lineage.items()},  # no class of this project
        "warnings": warning_records(model.warnings),
        "temperature": model.temperature,
    }
    if model.inputs is not None:
        content["inputs"] = distribution_to_dict(model.inputs)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class FileRecord:
    """What a model file states about itself; nobody vouches for it but the record that has the SHA-256."""

    sha256: str
    lineage: dict[str, str]  # as `Model.lineage`
    metrics: dict[str, float]


def read_record(path: Path) -> FileRecord:
    """Return the SHA-256 of a model file and its own record, for an ensemble what the records of all members state.

    Raises AppError for other files; nothing is executed.
    """
    require_content(path)
    data = path.read_bytes()
    if is_ensemble(path):
        return _ensemble_record(path, data)
    try:
        content = read_archive(io.BytesIO(data), MODEL_LIMITS)
        return FileRecord(hashlib.sha256(data).hexdigest(), _parse_lineage(content), _parse_metrics(content))
    except Exception as error:  # a damaged archive raises many types
        raise _not_a_model(path, error) from error


def _ensemble_record(path: Path, data: bytes) -> FileRecord:
    """Return the record of an ensemble; a member's metrics are not those of the ensemble."""
    records = []
    for member, file in member_files(path, parse_ensemble(data, path)):
        require_origin(file, file.read_bytes(), member.sha256)
        records.append(read_record(file))
    return FileRecord(hashlib.sha256(data).hexdigest(), common_entries([record.lineage for record in records]), {})


def _not_a_model(path: Path, error: Exception) -> AppError:
    return AppError(tr("{path}: not a model file of this project ({reason})", path=path, reason=reason_of(error)))


def load_model(path: Path, sha256: str, device: torch.device) -> Model:
    """Load a model file, or the members of an ensemble as one model, after checking its SHA-256 (hex).

    `sha256` must come from a record elsewhere, such as the run, the registry or a commit's metadata. Raises AppError for
    another checksum, not a model file of this project, or weights that do not fit their network. Nothing in the file is
    executed, nothing is downloaded, and nothing is allocated that the file only claims to have.
    """
    data = path.read_bytes()  # read once, so that the checked bytes are the ones that are loaded
    require_content(path)
    require_origin(path, data, sha256)
    if is_ensemble(path):
        ensemble = parse_ensemble(data, path)
        models = [load_model(file, member.sha256, device) for member, file in member_files(path, ensemble)]
        return join_models(path, ensemble, models)
    try:
        content = read_archive(io.BytesIO(data), MODEL_LIMITS)
        model = _parse_model(content, len(data))
        model.network.to(memory_format=torch.channels_last).to(device).eval()
        return model
    except UsageError as error:  # an architecture that is not registered, or that needs a package
        raise AppError(f"{path}: {error}") from error
    except Exception as error:  # a damaged archive, and torch for weights that do not fit, raise many types
        raise _not_a_model(path, error) from error


def _parse_model(content: dict[str, Any], file_size: int) -> Model:
    """Return the model of a file's content. Raises ValueError for a value that `save_model` does not write."""
    missing = sorted(
        {"format", "architecture", "state_dict", "classes", "input_size", "normalisation"} - content.keys()
    )
    found = content.get("format", FORMAT)
    if type(found) is not int or found not in (FORMAT, READING_FORMAT):
        raise ValueError(
            tr("format {found}, expected {format}", found=shown(found), format=f"{FORMAT}, {READING_FORMAT}")
        )
    if missing:
        raise ValueError(tr("missing: {names}", names=", ".join(missing)))
    classes = ClassMap.from_dict(content["classes"])
    reading = _parse_reading(content.get("reading", {}))
    architecture = text(content["architecture"], "architecture", MAX_ARCHITECTURE)
    # Older files lack these, `temperature` and `inputs`.
    scale = [number(value, "scale", *SCALES) for value in pair(content.get("scale", (1.0, 1.0)), "scale")]
    warnings = [mapping(row, "warnings") for row in items(content.get("warnings", []), "warnings", MAX_WARNINGS)]
    height, width = (whole(side, "input_size", 16, 8192) for side in pair(content["input_size"], "input_size"))
    weights = mapping(content["state_dict"], "state_dict")
    facts: dict[str, Any] = dict(
        architecture=architecture,
        classes=classes,
        input_size=(height, width),
        normalisation=_parse_normalisation(content["normalisation"], reading.channels),
        metrics=_parse_metrics(content),
        lineage=_parse_lineage(content),
        scale=(scale[0], scale[1]),
        reading=reading,
        warnings=parse_warnings([{k: text(v, "warnings") for k, v in row.items()} for row in warnings]),
        temperature=number(content.get("temperature", 1.0), "temperature", *TEMPERATURES),
    )
    network = build_from_weights(architecture, classes.num_classes, reading.channels, weights, file_size)
    return Model(network, **facts, inputs=parse_distribution(content.get("inputs"), reading.channels, network))


def _parse_metrics(content: dict[str, Any]) -> dict[str, float]:
    return {k: number(v, shown(k)) for k, v in mapping(content.get("metrics"), "metrics").items()}


def _parse_lineage(content: dict[str, Any]) -> dict[str, str]:
    return {k: text(v, shown(k)) for k, v in mapping(content.get("lineage"), "lineage").items()}


def _parse_reading(value: object) -> ReadOptions:
    values = dict(mapping(value, "reading"))
    if "value_ranges" in values:
        ranges = items(values["value_ranges"], "value_ranges", MAX_CHANNELS)
        values["value_ranges"] = [
            [number(bound, "value_ranges") for bound in pair(limits, "value_ranges")] for limits in ranges
        ]
    return ReadOptions.from_dict(values)


def _parse_normalisation(value: object, channels: int) -> Normalisation:
    content = mapping(value, "normalisation")
    mean, std = (items(content.get(key), f"normalisation '{key}'", MAX_CHANNELS) for key in ("mean", "std"))
    means = tuple(number(one, "mean", -MAX_LEVEL, MAX_LEVEL) for one in mean)
    stds = tuple(number(one, "std", MIN_STD, MAX_LEVEL) for one in std)
    if not len(means) == len(stds) == channels:
        raise ValueError(
            tr(
                "normalisation: expected one mean and one standard deviation per channel ({channels}), found "
                "{means} and {stds}",
                means=len(means),
                stds=len(stds),
                channels=channels,
            )
        )
    return Normalisation(means, stds)
