"""HTTP/1.1 requests of one connection, parsed by httptools as they arrive from the socket.

httptools (llhttp) parses heads and bodies, and refuses what attacks on HTTP servers use: ambiguous lengths, spaces in
header names, folded headers, malformed chunks. One parser serves all requests of a connection.
"""

import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import httptools

CHUNK_BYTES = 256 * 1024
HEAD_RECEIVE_BYTES = 16 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
HTTP_VERSIONS = ("1.1", "1.0")
HEAD_SECONDS = 10.0  # from the first byte of a head, or from a new connection, to the end of the head
IDLE_SECONDS = 600.0  # without a request, after an authenticated one
STALL_SECONDS = 60.0  # without progress inside a body or a response
# A second one of these makes a request ambiguous; httptools refuses a second Content-Length or Transfer-Encoding.
SINGLE_HEADERS = {"authorization", "content-type", "expect", "host", "if-none-match", "range"}
HEAD_TOO_LONG = f"the head is longer than {MAX_HEAD_BYTES} bytes"


class BadRequest(ValueError):
    """A request that breaks the rules of HTTP or of multipart forms; the rest of the connection cannot be read."""


class HeadTimeout(Exception):
    """A head that did not arrive in time."""


class RequestHead(NamedTuple):
    """The request line and the headers (names in lower case)."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool


class _Message:
    """One request as far as it has arrived."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.head: RequestHead | None = None
        self.header_count = self.head_bytes = 0
        self.pieces: deque[bytes] = deque()  # of the body, not read yet
        self.complete = False


class RequestReader:
    """The requests of one connection, one after another: first `read_head`, then the `body` of that request."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._messages: deque[_Message] = deque()  # the last one may be incomplete
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: BadRequest | None = None
        self._unfinished_head_bytes = 0

    def read_head(self, idle_seconds: float) -> RequestHead | None:
        """Wait for the next request's head; return None if the connection ends or `idle_seconds` pass before it begins.

        Raise BadRequest, and HeadTimeout if the head began and does not end in time.
        """
        begun = self._unfinished_head_bytes > 0
        deadline = time.monotonic() + (HEAD_SECONDS if begun else idle_seconds)
        while not (self._messages and self._messages[0].head):
            try:
                connected = self._receive(HEAD_RECEIVE_BYTES, deadline - time.monotonic())
            except TimeoutError:
                connected = False
                if self._messages:
                    raise HeadTimeout from None
            if not connected:
                if self._messages:
                    raise BadRequest("the connection ended inside the head")
                return None
            if not begun and self._unfinished_head_bytes:
                begun, deadline = True, time.monotonic() + HEAD_SECONDS
        return self._messages[0].head

    def read_body(self) -> Iterator[bytes]:
        """Yield the pieces of the current request's body and then forget the request.

        Raise BadRequest, and ConnectionError if the client has closed the connection or sends nothing for a minute.
        """
        message = self._messages[0]
        while message.pieces or not message.complete:
            if message.pieces:
                yield message.pieces.popleft()
            elif not self._receive_body():
                raise ConnectionError("the client closed the connection inside a body")
        self._messages.popleft()

    def has_complete_body(self) -> bool:
        """Return whether the current request has arrived to its end."""
        return self._messages[0].complete

    def discard(self, seconds: float, limit: int) -> None:
        """Read and forget what the client still sends, so that it can read the response before the connection closes."""
        deadline = time.monotonic() + seconds
        try:
            while limit > 0 and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not (data := self._socket.recv(CHUNK_BYTES)):
                    return
                limit -= len(data)
        except OSError:
            pass  # a closed connection, or the time is over

    def _receive_body(self) -> bool:
        try:
            return self._receive(CHUNK_BYTES, STALL_SECONDS)
        except TimeoutError:
            raise ConnectionError(f"the client sent nothing for {STALL_SECONDS:.0f} s inside a body") from None

    def _receive(self, size: int, seconds: float) -> bool:
        """Receive and parse once; return False at the end of the connection. Raise BadRequest and TimeoutError."""
        if self._refusal:
            raise self._refusal
        if seconds <= 0:
            raise TimeoutError
        self._socket.settimeout(seconds)
        data = self._socket.recv(size)
        self._feed(data)
        return bool(data)

    def _feed(self, data: bytes) -> None:
        """Parse `data`; what is refused is raised when everything before it has been read."""
        rest = data
        try:
            while rest:
                try:
                    self._parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:  # a server may ignore Upgrade (RFC 9110 7.8)
                    self._parser = httptools.HttpRequestParser(self)
                    rest = rest[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self._refusal:  # of a callback
                self._refusal = BadRequest(f"invalid HTTP request: {error}")
        if self._messages and self._messages[-1].head:
            self._unfinished_head_bytes = 0
            return
        # The parser collects a header without a callback until the header ends, and skips empty lines before a head.
        self._unfinished_head_bytes += len(data) if self._unfinished_head_bytes else 1
        if self._unfinished_head_bytes > MAX_HEAD_BYTES:
            self._refusal = self._refusal or BadRequest(HEAD_TOO_LONG)

    # What httptools calls

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._messages.append(_Message())

    def on_url(self, part: bytes) -> None:
        """Add to the request's target."""
        self._messages[-1].target += part
        self._count_head_bytes(self._messages[-1], len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers after a body are dropped."""
        message = self._messages[-1]
        message.header_count += 1
        self._count_head_bytes(message, len(name) + len(value))
        if message.header_count > MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} headers")
        if message.head:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if key in message.headers and key in SINGLE_HEADERS:
            self._refuse(f"the header {key} is repeated")
        if key == "connection" and key in message.headers:
            message.headers[key] += f",{text}"
        else:
            message.headers.setdefault(key, text)

    def on_headers_complete(self) -> None:
        """Check the head."""
        message, version = self._messages[-1], self._parser.get_http_version()
        if version not in HTTP_VERSIONS:
            self._refuse(f"HTTP/{version} is not supported (available: HTTP/1.1, HTTP/1.0)")
        encoding = message.headers.get("transfer-encoding", "chunked")
        if encoding.lower() != "chunked":
            self._refuse(f"Transfer-Encoding {encoding!r} is not supported (available: chunked)")
        if self._parser.should_upgrade() and (
            message.headers.get("content-length", "0") != "0"
            or "transfer-encoding" in message.headers
            or self._parser.get_method() == b"CONNECT"
        ):
            self._refuse("CONNECT, or an Upgrade of a request with a body, is not supported")
        # `should_keep_alive` answers for the next message where this one has no body.
        options = message.headers.get("connection", "").lower().replace(" ", "").split(",")
        keep_alive = version == "1.1" and "close" not in options
        method, target = self._parser.get_method().decode(), message.target.decode("latin-1")
        message.head = RequestHead(method, target, message.headers, keep_alive)

    def on_body(self, piece: bytes) -> None:
        """Add to the request's body."""
        self._messages[-1].pieces.append(piece)

    def on_message_complete(self) -> None:
        """End the request."""
        self._messages[-1].complete = True

    def _count_head_bytes(self, message: _Message, count: int) -> None:
        message.head_bytes += count
        if message.head_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LONG)

    def _refuse(self, reason: str) -> None:
        self._refusal = BadRequest(reason)
        raise self._refusal


class RequestBody:
    """The body of one request, in pieces, read once."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader, self._pieces = reader, self._read()
        self.finished = False

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _read(self) -> Iterator[bytes]:
        yield from self._reader.read_body()
        self.finished = True

    def read_all(self, limit: int) -> bytes:
        """Return the complete body. Raise BadRequest if it has more than `limit` bytes."""
        data = bytearray()
        for piece in self._pieces:
            data += piece
            if len(data) > limit:
                raise BadRequest(f"the request body is longer than {limit} bytes")
        return bytes(data)

    def drain(self, limit: int) -> bool:
        """Read up to `limit` remaining bytes; return whether the body has ended."""
        try:
            while limit > 0 and (piece := next(self._pieces, b"")):
                limit -= len(piece)
        except (BadRequest, ConnectionError):
            pass
        return self.finished
