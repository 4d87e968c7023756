"""models/model.pth: weights and all that is needed to rebuild and use a model with no flags."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.classes import ClassMap
from train.networks import build_network
from train.preprocess import Normalisation
from utils.console import AppError, t
from utils.files import file_sha256, write_atomically

FORMAT = 1  # raised when a reader of today could misunderstand a file of tomorrow


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with what it needs; `lineage` and `metrics` say where it comes from."""

    network: nn.Module
    architecture: str
    classes: ClassMap
    input_size: tuple[int, int]
    normalisation: Normalisation
    metrics: dict[str, float]
    lineage: dict[str, str]


def save_model(path: Path, model: Model) -> None:
    """Write plain tensors and values, so that the file loads with `weights_only=True`; a kill leaves the old or the new."""
    content = {
        "format": FORMAT,
        "architecture": model.architecture,
        "state_dict": {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()},
        "classes": model.classes.to_dict(),
        "input_size": list(model.input_size),
        "normalisation": {"mean": list(model.normalisation.mean), "std": list(model.normalisation.std)},
        "metrics": model.metrics,
        "lineage": model.lineage,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load_model(path: Path, sha256: str, device: torch.device) -> Model:
    """The model of a file whose SHA-256 (hex) is checked before anything of it is read.

    Raises AppError: another hash, not a model file of this project, or weights that do not fit their network.
    """
    found = file_sha256(path)
    if found != sha256:
        raise AppError(
            t(
                f"{path}: SHA-256 이 기록과 다릅니다 (기대 {sha256}, 실제 {found}): 열지 않았습니다",
                f"{path}: SHA-256 differs from its record (expected {sha256}, found {found}): not opened",
            )
        )
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, expected {FORMAT}")
        classes = ClassMap.from_dict(content["classes"])
        network = build_network(content["architecture"], classes.num_classes)
        network.load_state_dict(content["state_dict"])
        height, width = content["input_size"]
        return Model(
            network=network.to(memory_format=torch.channels_last).to(device).eval(),
            architecture=content["architecture"],
            classes=classes,
            input_size=(int(height), int(width)),
            normalisation=Normalisation(**{k: tuple(v) for k, v in content["normalisation"].items()}),
            metrics=content["metrics"],
            lineage=content["lineage"],
        )
    except Exception as error:  # torch raises many kinds for a file that it cannot read; all mean the same here
        reason = " ".join(str(error).split())[:200]
        raise AppError(
            t(
                f"{path}: 이 프로젝트의 모델 파일이 아닙니다 ({type(error).__name__}: {reason})",
                f"{path}: not a model file of this project ({type(error).__name__}: {reason})",
            )
        ) from error
