"""Request bodies as streams: of a known length, chunked, and the one file of a multipart form."""

import re
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
MAX_LINE_BYTES = 64 * 1024


class BadBody(ValueError):
    """The body breaks HTTP's or multipart's rules; what follows it on the connection cannot be read."""


class Body:
    """The body of one request. `begin` runs before the first read (it answers Expect: 100-continue)."""

    def __init__(self, stream: BinaryIO, headers: Message, begin: Callable[[], None]) -> None:
        self._stream = stream
        self._begin: Callable[[], None] | None = begin
        self._chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
        length = headers.get("Content-Length", "0")
        if not self._chunked and not length.isdecimal():
            raise BadBody(f"Content-Length: {length}")
        self._left = 0 if self._chunked else int(length)  # bytes of this chunk, or of the body
        self.finished = not self._chunked and self._left == 0

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Up to `size` bytes; none at the end. Raises BadBody, and ConnectionError when the client is gone."""
        if self.finished:
            return b""
        if self._begin:
            begin, self._begin = self._begin, None
            begin()
        if self._chunked and not self._left and not self._next_chunk():
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise ConnectionError("the client closed the connection inside a body")
        self._left -= len(data)
        if self._chunked and not self._left:
            self._line()  # the end of line behind a chunk
        self.finished = not self._chunked and not self._left
        return data

    @property
    def untouched(self) -> bool:
        return self._begin is not None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")

    def drain(self, limit: int) -> bool:
        """Reads what is left, up to `limit` bytes; False if that was not all."""
        while not self.finished and limit > 0:
            limit -= len(self.read())
        return self.finished

    def _next_chunk(self) -> bool:
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise BadBody("not a chunk size")
        self._left = int(size, 16)
        if not self._left:
            while self._line():  # trailers
                pass
            self.finished = True
        return not self.finished

    def _line(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise BadBody("line too long, or the connection ended")
        return line.rstrip(b"\r\n")


class Form:
    """Finds the part `content` of a multipart/form-data body; its bytes come from iterating, its type after that."""

    def __init__(self, body: Body, boundary: str) -> None:
        self._body = body
        self._mark = b"\r\n--" + boundary.encode()
        self._buffer = b"\r\n"  # the first boundary stands at the beginning of the body
        self.content_type = ""

    def __iter__(self) -> Iterator[bytes]:
        for _ in self._until_mark():  # what stands before the first part
            pass
        while self._take(2) != b"--":
            headers = self._headers()
            part = self._until_mark()
            if headers.get_param("name", header="Content-Disposition") == "content":
                self.content_type = headers.get("Content-Type", "")
                yield from part
                return
            for _ in part:
                pass
        raise BadBody("multipart upload missing key 'content': http: no such file")

    def _fill(self) -> None:
        data = self._body.read()
        if not data:
            raise BadBody("multipart: NextPart: EOF")
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _headers(self) -> Message:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES + CHUNK_BYTES:
                raise BadBody("multipart: headers too long")
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return BytesHeaderParser().parsebytes(head.lstrip(b"\r\n"))

    def _until_mark(self) -> Iterator[bytes]:
        while (end := self._buffer.find(self._mark)) < 0:
            keep = len(self._mark) - 1  # the mark may begin here
            if len(self._buffer) > keep:
                yield self._buffer[:-keep]
                self._buffer = self._buffer[-keep:]
            self._fill()
        if end:
            yield self._buffer[:end]
        self._buffer = self._buffer[end + len(self._mark) :]
