"""A proxy in front of a server that injects faults: error statuses, broken connections, lost or invalid responses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Faults:
    """The faults of the next requests whose first line contains `match`; each fault is used once."""

    endpoint: str = ""
    match: str = ""
    statuses: list[int] = field(default_factory=list)  # HTTP statuses to return instead of forwarding the request
    cut_uploads: list[int] = field(default_factory=list)  # break the connection after this many bytes of a request
    cut_downloads: list[int] = field(default_factory=list)  # ... of a response
    lost_responses: int = 0  # number of requests that reach the server and whose connection breaks before the response
    during_request: list[Callable[[], object]] = field(
        default_factory=list
    )  # called while the server handles a request
    invalid_responses: int = 0  # number of responses that are not HTTP
    unanswered: int = 0  # number of requests without a response
    retry_after: str = ""  # the Retry-After header of `statuses` (seconds)
    requests: list[str] = field(default_factory=list)  # the first lines of all requests


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[Faults]:
    """Yield the faults of a proxy on the loopback interface that forwards to `upstream` (http://host:port)."""
    faults = Faults()
    parts = urlsplit(upstream)
    listener = socket.create_server(("127.0.0.1", 0))
    faults.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(client, (parts.hostname, parts.port), faults), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield faults
    finally:
        listener.close()


def _serve(client: socket.socket, upstream: tuple[str | None, int | None], faults: Faults) -> None:
    """Serve the requests of one connection in order."""
    with client, contextlib.suppress(OSError, EOFError):
        while True:
            head = _read_until(client, b"\r\n\r\n")
            line = head.split(b"\r\n", 1)[0].decode("latin-1")
            faults.requests.append(line)
            hit = faults.match in line
            length = _content_length(head)
            if hit and faults.cut_uploads:
                _read_exactly(client, min(length, faults.cut_uploads.pop(0)))
                return
            body = _read_exactly(client, length)
            if hit and faults.statuses:
                status = faults.statuses.pop(0)
                text = b'{"message":"made up"}'
                wait = f"Retry-After: {faults.retry_after}\r\n".encode() if faults.retry_after else b""
                client.sendall(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, wait, len(text), text))
                continue
            if hit and faults.unanswered:
                faults.unanswered -= 1
                client.recv(1)  # until the client closes the connection
                return
            if hit and faults.invalid_responses:
                faults.invalid_responses -= 1
                client.sendall(b"this is not HTTP\r\n\r\n")
                return
            if not _forward(client, upstream, head, body, faults if hit else Faults()):
                return


def _forward(
    client: socket.socket, upstream: tuple[str | None, int | None], head: bytes, body: bytes, faults: Faults
) -> bool:
    """Forward the request and the response with the faults applied; return True if the connection stays open."""
    lines = [row for row in head.split(b"\r\n") if not row.lower().startswith((b"connection:", b"host:"))]
    host = f"\r\nHost: {upstream[0]}:{upstream[1] or 80}".encode()  # a presigned link is signed for this host
    request = b"\r\n".join(lines[:-2]) + host + b"\r\nConnection: close\r\n\r\n" + body
    with socket.create_connection((str(upstream[0]), int(upstream[1] or 80))) as server:
        server.sendall(request)
        if faults.during_request:
            faults.during_request.pop()()
        answer = b"".join(iter(lambda: server.recv(1 << 20), b""))
    if b"\r\n\r\n" not in answer:  # the server died
        return False
    if faults.lost_responses:
        faults.lost_responses -= 1
        return False
    start = answer.index(b"\r\n\r\n") + 4
    rows = [row for row in answer[:start].split(b"\r\n") if not row.lower().startswith(b"connection:")]
    answer_head, content = b"\r\n".join(rows), answer[start:]
    if faults.cut_downloads:
        client.sendall(answer_head + content[: faults.cut_downloads.pop(0)])
        return False
    client.sendall(answer_head + content)
    return b"content-length:" in answer_head.lower() or b"chunked" in answer_head.lower() or b" 204 " in answer_head


def _read_until(stream: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        piece = stream.recv(1)
        if not piece:
            raise EOFError
        got += piece
    return got


def _read_exactly(stream: socket.socket, count: int) -> bytes:
    pieces, left = [], count
    while left:
        piece = stream.recv(min(left, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _content_length(head: bytes) -> int:
    for row in head.split(b"\r\n"):
        if row.lower().startswith(b"content-length:"):
            return int(row.split(b":")[1])
    return 0
