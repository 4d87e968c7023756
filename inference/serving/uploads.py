"""The request bodies that are being received: a minimum rate for each, and a limit on their memory together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

START_SECONDS = 5.0  # for a body, in addition to what its bytes need at the minimum rate
MIN_BYTES_PER_SECOND = 10_000


class TooLargeError(Exception):
    """A body with too many bytes."""


class Uploads:
    """Bodies that take at most `timeout_s`; `max_total` bytes of all of them are in memory.

    When they have more, the oldest one is given up.
    """

    def __init__(self, timeout_s: float, max_total: int) -> None:
        self._timeout_s, self._max_total = timeout_s, max_total
        self._open: list[asyncio.Timeout] = []  # oldest first
        self._total = 0  # bytes in memory

    async def receive(self, chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
        """Return a body of at most `max_bytes`. Raise TooLargeError, and TimeoutError for a body that is too slow or had to make room."""
        loop, data = asyncio.get_running_loop(), bytearray()
        started = loop.time()
        try:
            async with asyncio.timeout(min(START_SECONDS, self._timeout_s)) as limit:
                self._open.append(limit)
                async for chunk in chunks:
                    data += chunk
                    self._total += len(chunk)
                    if len(data) > max_bytes:
                        raise TooLargeError
                    allowed = min(START_SECONDS + len(data) / MIN_BYTES_PER_SECOND, self._timeout_s)
                    self._reschedule(limit, started + allowed)
                    if self._total > self._max_total:
                        self._reschedule(self._open.pop(0), started)
        finally:
            self._total -= len(data)
            if limit in self._open:
                self._open.remove(limit)
        return bytes(data)

    @staticmethod
    def _reschedule(limit: asyncio.Timeout, when: float) -> None:
        """Move a time limit, unless it is over."""
        if not limit.expired():
            limit.reschedule(when)
