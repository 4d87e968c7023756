"""uvicorn's HTTP/1.1 protocol with limits for clients that are idle, slow or malicious.

uvicorn has a time limit only for idle connections after a response, and answers 503 to everybody when there are too
many connections. Here a head has a time limit and a maximum size however it arrives, a response must be read at a
minimum rate, and when there are too many connections the one that has waited longest makes room for the new one.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS = 256  # open at once
MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0  # from the connection, or from the previous response, to the end of the next head
CHECK_SECONDS = 5.0
READ_BYTES = 50_000  # of a response, which a client has to read between two checks


class LimitedProtocol(HttpToolsProtocol):
    """One connection; `idle_since` is the loop's time at which it began to wait for a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Start the time limits, and close a connection if there are too many."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._head_bytes = 0
        self._unread = 0  # bytes of responses at the last check
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limits."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data; refuse a head that does not end."""
        super().data_received(data)
        if self.is_idle() and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """Start the request."""
        super().on_headers_complete()
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """Start to wait for the next head."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        self._unread = 0  # the new response is not what was unread at the last check

    def is_idle(self) -> bool:
        """Return whether no request is being received or answered."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def is_receiving(self) -> bool:
        """Return whether the body of a request is still incomplete."""
        return not self.pipeline and not self.is_idle() and self.cycle.more_body

    def _check(self) -> None:
        """Close a connection whose client does not read, or has been idle for too long."""
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self._unread:
            if before and self._unread > before - READ_BYTES:
                self.transport.abort()
        elif self.is_idle() and self.loop.time() - self.idle_since >= HEAD_SECONDS:
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has sent no complete request for the longest time, if there are too many."""
        if len(self.connections) <= MAX_CONNECTIONS:
            return
        others = (peer for peer in self.connections if isinstance(peer, LimitedProtocol) and peer is not self)
        waiting = (peer for peer in others if peer.is_idle() or peer.is_receiving())
        victim = min(waiting, key=lambda peer: peer.idle_since, default=self)
        self.connections.discard(victim)  # now, because others may connect before it is closed
        victim.transport.abort()
