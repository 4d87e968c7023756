"""HTTP connections for the thousands of small requests of a sync: kept open, bounded in time, tried again.

They are http.client's: urllib3's pool takes 1.1 ms of CPU for a GET of 8 KB, http.client 0.2, and where client and
server share a machine, that is most of the time of a sync. What is tried again, and when, is still urllib3's `Retry`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ssl
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, ProtocolError
from urllib3.util import wait_for_read

from core.workers import ServerUnavailable, raise_if_cancelled

BLOCK = 1 << 20  # bytes of a body that are read, or sent, at once
CONNECTION_ERRORS = (
    OSError,
    http.client.HTTPException,
)  # what a connection that breaks raises, or a server that speaks no HTTP
Origin = tuple[str, str]  # scheme, host:port


class RetriesExhausted(MaxRetryError, ServerUnavailable):
    """No answer after all tries: trying again is of no use."""


class Response:
    """A status, and a body that is read once."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response, self.status, self.headers = response, response.status, response.headers

    def read(self) -> bytes:
        """All of the body. Raises ProtocolError when the connection breaks before its end."""
        return b"".join(self.stream())

    def stream(self) -> Iterator[bytes]:
        """The body in pieces of at most `BLOCK` bytes. Raises ProtocolError when the connection breaks before its end."""
        try:
            while piece := self._response.read(BLOCK):
                yield piece
        except CONNECTION_ERRORS as error:
            raise ProtocolError(str(error)) from error
        if self._response.length:  # http.client takes the end of the connection for the end of the body
            raise ProtocolError(f"{self._response.length} bytes are missing")


class HttpClient:
    """Connections to any number of servers; threads may share it."""

    def __init__(self, retries: urllib3.Retry, connect_s: float, read_s: float) -> None:
        self.retries, self.connect_s, self.read_s = retries, connect_s, read_s
        self._idle: defaultdict[Origin, deque[http.client.HTTPConnection]] = defaultdict(deque)
        self._tls = ssl.create_default_context()

    def close(self) -> None:
        """Let go of the connections."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: dict[str, str], body: Any = None, retries: urllib3.Retry | None = None
    ) -> Iterator[Response]:
        """Ask, and give the answer while the block lasts. `body` is bytes, or a file that is sent from where it stands.

        A connection that breaks before the answer, and the statuses of `Retry`, are tried again; the last such status is
        the answer. Raises Unanswered when there is none. No error shows the query, where presigned links have their
        signature, nor a password before the host.
        """
        parts = urlsplit(url)
        origin = parts.scheme, parts.netloc.rpartition("@")[2]
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        retries, start = retries or self.retries, body.tell() if hasattr(body, "tell") else None
        while True:
            try:
                connection, response = self._send(origin, method, target, body, headers)
            except HTTPError as error:
                try:
                    retries = retries.increment(method, parts.path, error=error, _pool=cast(Any, origin[1]))
                except MaxRetryError as last:
                    raise RetriesExhausted(last.pool, last.url or "", last.reason) from error
                retries.sleep()
            else:
                if not retries.is_retry(method, response.status) or not retries.total:
                    break
                retries = retries.increment(method, parts.path)
                connection.close()
                retries.sleep(cast(Any, response))
            if start is not None:
                body.seek(start)
        try:
            yield Response(response)
        finally:
            if response.isclosed():  # read to its end: the connection can serve another request
                self._idle[origin].append(connection)
            else:
                connection.close()

    def _send(
        self, origin: Origin, method: str, target: str, body: Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """One request on an idle connection or a new one. Raises ConnectTimeoutError for no connection, ProtocolError."""
        connection = self._idle_connection(origin) or self._new_connection(origin)
        try:
            # The server may answer before it has read all of a body, and hang up.
            with contextlib.suppress(BrokenPipeError):
                connection.request(method, target, _chunks(body) if hasattr(body, "read") else body, headers)
            return connection, connection.getresponse()
        except CONNECTION_ERRORS as error:
            connection.close()
            raise ProtocolError(f"{type(error).__name__}: {error}") from error
        except BaseException:  # nobody waits for it any more, or there is no more to send
            connection.close()
            raise

    def _idle_connection(self, origin: Origin) -> http.client.HTTPConnection | None:
        """The one that was used last, unless its server has closed it."""
        with contextlib.suppress(IndexError):
            while connection := self._idle[origin].pop():
                if connection.sock is not None and not wait_for_read(connection.sock, timeout=0):
                    return connection
                connection.close()
        return None

    def _new_connection(self, origin: Origin) -> http.client.HTTPConnection:
        scheme, host = origin
        make = (
            functools.partial(http.client.HTTPSConnection, context=self._tls)
            if scheme == "https"
            else http.client.HTTPConnection
        )
        connection = make(host, timeout=self.connect_s, blocksize=BLOCK)
        try:
            connection.connect()
        except OSError as error:
            raise ConnectTimeoutError(f"{type(error).__name__}: {error}") from error
        connection.sock.settimeout(self.read_s)
        return connection


def _chunks(body: Any) -> Iterator[bytes]:
    """A file as it is sent, as long as somebody waits for it."""
    while piece := body.read(BLOCK):
        raise_if_cancelled()
        yield piece
