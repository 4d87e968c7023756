"""The open connections of a server: how many there may be, and which ones make room for new ones."""

import contextlib
import socket
import threading
import time

MAX_CONNECTIONS = 256  # each has a thread


class Connection:
    """One open connection.

    `busy` while an authenticated request is answered; `trusted` from the first authenticated request on.
    """

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.busy = self.trusted = self.evicted = False
        self.since = time.monotonic()  # when it was opened, or became idle


class Connections:
    """All open connections, safe for threads.

    When there are too many, the one that is closed for a new one has sent no request with valid keys, and among those
    is the oldest; otherwise it is the one that has waited longest for its next request.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Connection] = {}

    def open(self, peer: socket.socket) -> Connection | None:
        """Add a connection; return None if all others are busy."""
        with self._lock:
            if len(self._open) >= self._limit and not self._evict():
                return None
            self._open[peer] = Connection(peer)
            return self._open[peer]

    def _evict(self) -> bool:
        idle = (connection for connection in self._open.values() if not connection.busy)
        victim = min(idle, key=lambda connection: (connection.trusted, connection.since), default=None)
        if victim is None:
            return False
        victim.evicted = True
        del self._open[victim.socket]
        with contextlib.suppress(OSError):  # the client has closed it
            victim.socket.shutdown(socket.SHUT_RDWR)  # wakes its thread
        return True

    def get(self, peer: socket.socket) -> Connection:
        """Return an open connection. Raise ConnectionError if it had to make room."""
        with self._lock:
            if (connection := self._open.get(peer)) is None:
                raise ConnectionError("closed to make room for another connection")
            return connection

    def close(self, peer: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.pop(peer, None)

    def begin_request(self, connection: Connection) -> None:
        """Mark a connection as trusted and busy. Raise ConnectionError if it had to make room."""
        with self._lock:
            if connection.evicted:
                raise ConnectionError("closed to make room for another connection")
            connection.busy = connection.trusted = True

    def end_request(self, connection: Connection) -> None:
        """Mark a connection as idle."""
        with self._lock:
            connection.busy, connection.since = False, time.monotonic()
