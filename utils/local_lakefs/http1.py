"""HTTP/1.1 requests: their heads, and bodies as streams: of a known length, chunked, the one part of a multipart form.

http.server reads a head in a quarter of the time that a request for a small object takes, as it goes through email's
parser; hence one of our own.
"""

from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import BytesHeaderParser
from typing import BinaryIO, NamedTuple

CHUNK_BYTES = 256 * 1024
MAX_HEADER_BYTES = 64 * 1024


class BadRequest(ValueError):
    """It breaks HTTP's or multipart's rules; what follows it on the connection cannot be read."""


class Head(NamedTuple):
    """The start of a request; names of `headers` in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool


def read_head(stream: BinaryIO) -> Head | None:
    """The next request's head, None at the end of the connection. Raises BadRequest."""
    line = stream.readline(MAX_HEADER_BYTES)
    if line in (b"\r\n", b"\n"):  # some clients send one behind a body
        line = stream.readline(MAX_HEADER_BYTES)
    if not line:
        return None
    words = line.decode("latin-1").split()
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest("not a request of HTTP/1.1 (or its line is too long)")
    headers: dict[str, str] = {}
    left = MAX_HEADER_BYTES
    while line := _line(stream, left):
        left -= len(line)
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name.strip() != name:
            raise BadRequest("not a header")
        headers[name.lower()] = value.strip()
    keep_alive = words[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Head(words[0], words[1], headers, keep_alive)


def _line(stream: BinaryIO, limit: int = MAX_HEADER_BYTES) -> bytes:
    line = stream.readline(max(limit, 1))
    if not line.endswith(b"\n"):
        raise BadRequest("line too long, or the connection ended")
    return line.rstrip(b"\r\n")


class Body:
    """The body of one request, in pieces, to be read once. Raises BadRequest, and ConnectionError if the client is gone."""

    def __init__(self, stream: BinaryIO, headers: Mapping[str, str]) -> None:
        self._stream, self._headers = stream, headers
        self._pieces = self._read()
        self.finished = False

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def drain(self, limit: int) -> bool:
        """Reads what is left, up to `limit` bytes; False if that was not all."""
        try:
            while limit > 0 and (piece := next(self._pieces, b"")):
                limit -= len(piece)
        except (BadRequest, ConnectionError):
            pass
        return self.finished

    def _read(self) -> Iterator[bytes]:
        if self._headers.get("transfer-encoding", "").strip().lower() == "chunked":
            while size := _number(_line(self._stream).partition(b";")[0].decode("latin-1"), 16):
                yield from self._exactly(size)
                _line(self._stream)  # the end of line behind a chunk
            while _line(self._stream):  # trailers
                pass
        else:
            yield from self._exactly(_number(self._headers.get("content-length", "0"), 10))
        self.finished = True

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            data = self._stream.read(min(size, CHUNK_BYTES))
            if not data:
                raise ConnectionError("the client closed the connection inside a body")
            size -= len(data)
            yield data


def _number(text: str, base: int) -> int:
    try:
        if text.strip().isalnum():  # int() alone would take signs and underscores
            return int(text, base)
    except ValueError:
        pass
    raise BadRequest(f"not a length: {text!r}")


def form_content(body: Body, form_type: str) -> tuple[str, Iterator[bytes]]:
    """The content type and the bytes of a multipart/form-data body's first part, which has to be `content`."""
    form = Message()
    form["Content-Type"] = form_type
    pieces, buffer, mark = iter(body), b"", b"\r\n--" + form.get_boundary("").encode()

    def more() -> bytes:
        if not (data := next(pieces, b"")):
            raise BadRequest("the multipart form ends too early")
        return data

    def content(buffer: bytes) -> Iterator[bytes]:
        while (end := buffer.find(mark)) < 0:
            cut = max(len(buffer) - len(mark), 0)  # the mark may begin behind it
            yield buffer[:cut]
            buffer = buffer[cut:] + more()
        yield buffer[:end]

    while b"\r\n\r\n" not in buffer and len(buffer) < MAX_HEADER_BYTES:
        buffer += more()
    head, _, rest = buffer.partition(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(head.partition(b"\r\n")[2])
    if headers.get_param("name", header="Content-Disposition") != "content":
        raise BadRequest("the multipart form's first part is not 'content'")
    return headers.get("Content-Type", ""), content(rest)
