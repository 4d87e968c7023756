"""Read and write model.pth, which rebuilds its network without any options."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import AppError, one_line
from core.files import write_atomically
from core.i18n import tr
from dataset.classes import ClassMap
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.faults import DataWarning, parse_warnings, warning_records
from segmentation.networks import build_network
from segmentation.preprocess import Normalisation

MODEL_FILE, METRICS_FILE = "model.pth", "metrics.json"  # names in models/, locally and in lakeFS
FORMAT = 1  # of models that read images by the default options
READING_FORMAT = 2  # of other ones, which older code would read wrongly


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its settings; `lineage` and `metrics` record its origin."""

    network: nn.Module
    architecture: str
    classes: ClassMap
    input_size: tuple[int, int]
    normalisation: Normalisation
    metrics: dict[str, float]
    lineage: dict[str, str]
    # Input pixels per pixel of a typical training image: vertical, horizontal.
    scale: tuple[float, float] = (1.0, 1.0)
    reading: ReadOptions = DEFAULT_READING
    warnings: tuple[DataWarning, ...] = ()  # about the data that it was trained and validated on


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
        "lineage": model.lineage,
        "warnings": warning_records(model.warnings),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _checked_scale(values: Sequence[float]) -> tuple[float, float]:
    vertical, horizontal = map(float, values)
    if not all(1 / 64 <= value <= 64 for value in (vertical, horizontal)):
        raise ValueError(
            tr("scale {vertical} {horizontal}, expected 1/64 to 64", vertical=vertical, horizontal=horizontal)
        )
    return vertical, horizontal


def _checked_normalisation(content: dict[str, Sequence[float]], channels: int) -> Normalisation:
    mean, std = (tuple(map(float, content[key])) for key in ("mean", "std"))
    if not len(mean) == len(std) == channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(
            tr(
                "normalisation: mean {mean}, std {std}, expected {channels} values each, one per channel, and std above 0",
                mean=mean,
                std=std,
                channels=channels,
            )
        )
    return Normalisation(mean, std)


def _require_plain_archive(data: bytes) -> None:
    """Raise ValueError for archives that torch.save does not write: another format, compressed or overlapping entries.

    torch.load allocates the sizes that an archive declares before it reads: a small file could declare terabytes.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise ValueError(tr("not an archive of torch.save"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > len(data):
        declared = sum(entry.file_size for entry in entries)
        raise ValueError(
            tr(
                "entries declare {declared:,} bytes in a file of {count:,}, compressed: {packed}",
                declared=declared,
                count=len(data),
                packed=packed[:3],
            )
        )


def load_model(path: Path, sha256: str, device: torch.device) -> Model:
    """Load a model file, after checking its SHA-256 (hex).

    Raises AppError for another checksum, not a model file of this project, or weights that do not fit their network.
    """
    data = path.read_bytes()  # read once, so that the checked bytes are the ones that are loaded
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise AppError(
            tr(
                "{path}: SHA-256 differs from its record (expected {sha256}, found {found}): not opened",
                path=path,
                sha256=sha256,
                found=found,
            )
        )
    try:
        _require_plain_archive(data)
        content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["format"] not in (FORMAT, READING_FORMAT):
            raise ValueError(
                tr("format {found}, expected {format}", found=content["format"], format=f"{FORMAT}, {READING_FORMAT}")
            )
        classes = ClassMap.from_dict(content["classes"])
        reading = ReadOptions.from_dict(content.get("reading", {}))
        network = build_network(content["architecture"], classes.num_classes, channels=reading.channels)
        network.load_state_dict(content["state_dict"])
        height, width = content["input_size"]
        if not all(16 <= side <= 8192 for side in (height, width)):
            raise ValueError(
                tr("input_size {height}x{width}, expected sides of 16 to 8192 pixels", height=height, width=width)
            )
        return Model(
            network=network.to(memory_format=torch.channels_last).to(device).eval(),
            architecture=content["architecture"],
            classes=classes,
            input_size=(int(height), int(width)),
            normalisation=_checked_normalisation(content["normalisation"], reading.channels),
            metrics=content["metrics"],
            lineage=content["lineage"],
            scale=_checked_scale(content.get("scale", (1.0, 1.0))),  # missing in older files
            reading=reading,
            warnings=parse_warnings(content.get("warnings", [])),  # missing in older files
        )
    except Exception as error:  # torch raises many types for an unreadable file
        reason = one_line(error, 200)
        raise AppError(
            tr(
                "{path}: not a model file of this project ({error_type}: {reason})",
                path=path,
                error_type=type(error).__name__,
                reason=reason,
            )
        ) from error
