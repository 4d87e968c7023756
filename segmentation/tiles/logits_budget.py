"""Limit the logits at native size that the threads of a predictor hold at once: by far its largest tensors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from core.machine.limits import available_memory

MAX_LOGITS = 1 << 28  # in all threads together: 1 GiB of float32


class LogitsBudget:
    """How many logits may be held now; threads share it. `limit`: their number."""

    def __init__(self, device: torch.device) -> None:
        # A quarter of the memory, 4 bytes each; that of a GPU is measured by running out of it.
        self.limit = min(MAX_LOGITS, available_memory() // 16) if device.type == "cpu" else MAX_LOGITS
        self._held, self._released = 0, threading.Condition()

    @contextlib.contextmanager
    def reserved(self, wanted: int) -> Iterator[None]:
        """Wait until this many logits fit beside those of the other threads, or no others are held."""
        with self._released:
            self._released.wait_for(lambda: not self._held or self._held + wanted <= self.limit)
            self._held += wanted
        try:
            yield
        finally:
            with self._released:
                self._held -= wanted
                self._released.notify_all()
