"""Read and write checkpoint.pth, from which a training is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.errors import AppError, one_line
from core.files import atomic_replace
from core.i18n import tr

CHECKPOINT_FORMAT = 1  # raised when today's reader could misunderstand a future file


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors and values; a kill leaves the old checkpoint or the new one."""
    with atomic_replace(path) as part:
        torch.save({"kind": "checkpoint", "format": CHECKPOINT_FORMAT, **content}, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU. Raises AppError for any other file; no code in it is executed."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if (content["kind"], content["format"]) != ("checkpoint", CHECKPOINT_FORMAT):
            kind, found = content["kind"], content["format"]
            raise ValueError(
                tr(
                    "{kind}, format {found}; expected checkpoint, {checkpoint_format}",
                    kind=kind,
                    found=found,
                    checkpoint_format=CHECKPOINT_FORMAT,
                )
            )
    except Exception as error:  # torch raises many types for a file that it cannot read; all mean the same here
        reason = one_line(error, 200)
        raise AppError(
            tr(
                "{path}: not a checkpoint of this project ({error_type}: {reason})",
                path=path,
                error_type=type(error).__name__,
                reason=reason,
            )
        ) from error
    return content
