"""Recognize that memory ran out, on every device."""

from __future__ import annotations

import torch

from core.errors import AppError
from core.i18n import tr

OUT_OF_MEMORY_TEXTS = (
    *("out of memory", "not enough memory", "can't allocate memory"),  # torch's, on MPS, Windows and Linux
    *("could not create a primitive", "failed to allocate memory", "bad_alloc"),  # oneDNN's, ONNX Runtime's, C++'s
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out: only CUDA has an exception type for it, the other backends only a message."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error).lower() for words in OUT_OF_MEMORY_TEXTS)


def memory_error(error: Exception, advice: str) -> Exception:
    """Return the error to raise: an AppError with this advice if memory ran out, else the error itself."""
    if not is_out_of_memory(error):
        return error
    return AppError(tr("out of memory: use {advice}", advice=advice))
