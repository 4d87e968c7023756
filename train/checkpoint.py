"""Read and write checkpoint.pth, from which a training is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.errors import AppError
from core.files import atomic_replace, require_content
from core.i18n import tr
from segmentation.archive.entries import shown
from segmentation.archive.pickled import CHECKPOINT_LIMITS
from segmentation.archive.reader import read_archive, reason_of

CHECKPOINT_FORMAT = 1  # raised when today's reader could misunderstand a future file


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors and values; a kill leaves the old checkpoint or the new one."""
    with atomic_replace(path) as part:
        torch.save({"kind": "checkpoint", "format": CHECKPOINT_FORMAT, **content}, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU. Raises AppError for any other file; no code in it is executed."""
    require_content(path)
    try:
        with path.open("rb") as stream:
            content = read_archive(stream, CHECKPOINT_LIMITS)
        kind, found = content.get("kind"), content.get("format")
        if (kind, found) != ("checkpoint", CHECKPOINT_FORMAT):
            raise ValueError(
                tr(
                    "{kind}, format {found}; expected checkpoint, {checkpoint_format}",
                    kind=shown(kind),
                    found=shown(found),
                    checkpoint_format=CHECKPOINT_FORMAT,
                )
            )
    except Exception as error:  # a damaged archive raises many types; all mean the same here
        raise AppError(
            tr("{path}: not a checkpoint of this project ({reason})", path=path, reason=reason_of(error))
        ) from error
    return content
