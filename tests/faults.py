"""A server between client and server that answers wrongly, cuts connections at a byte, or is slow, as a test asks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Faults:
    """What happens to the next requests whose first line contains `match`; each fault is used up once."""

    endpoint: str = ""
    match: str = ""
    answers: list[int] = field(default_factory=list)  # HTTP statuses that are given instead of asking the server
    cut_up: list[int] = field(default_factory=list)  # break the connection after so many bytes of a request
    cut_down: list[int] = field(default_factory=list)  # ... of an answer
    lose_answer: int = 0  # so many requests reach the server, and the connection breaks before the answer
    deadly: list[Callable[[], object]] = field(default_factory=list)  # called while the server works at a request
    rubbish: int = 0  # so many answers are not HTTP
    silent: int = 0  # so many requests are read and never answered
    retry_after: str = ""  # what `answers` ask for (seconds)
    seen: list[str] = field(default_factory=list)  # the first lines of all requests


@contextlib.contextmanager
def between(upstream: str) -> Iterator[Faults]:
    """A listener on loopback that passes on to `upstream` (http://host:port), with the faults that the test puts in."""
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
    """One connection, one request after the other."""
    with client, contextlib.suppress(OSError, EOFError):
        while True:
            head = _until(client, b"\r\n\r\n")
            line = head.split(b"\r\n", 1)[0].decode("latin-1")
            faults.seen.append(line)
            hit = faults.match in line
            length = _length(head)
            if hit and faults.cut_up:
                _exactly(client, min(length, faults.cut_up.pop(0)))
                return
            body = _exactly(client, length)
            if hit and faults.answers:
                status = faults.answers.pop(0)
                text = b'{"message":"made up"}'
                wait = f"Retry-After: {faults.retry_after}\r\n".encode() if faults.retry_after else b""
                client.sendall(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, wait, len(text), text))
                continue
            if hit and faults.silent:
                faults.silent -= 1
                client.recv(1)  # until the client has had enough
                return
            if hit and faults.rubbish:
                faults.rubbish -= 1
                client.sendall(b"this is no HTTP at all\r\n\r\n")
                return
            if not _pass_on(client, upstream, head, body, faults if hit else Faults()):
                return


def _pass_on(
    client: socket.socket, upstream: tuple[str | None, int | None], head: bytes, body: bytes, faults: Faults
) -> bool:
    """Ask the server and give its answer back, as far as the faults let it; True if the connection goes on."""
    lines = [row for row in head.split(b"\r\n") if not row.lower().startswith((b"connection:", b"host:"))]
    host = f"\r\nHost: {upstream[0]}:{upstream[1] or 80}".encode()  # which a presigned link is signed for
    request = b"\r\n".join(lines[:-2]) + host + b"\r\nConnection: close\r\n\r\n" + body
    with socket.create_connection((str(upstream[0]), int(upstream[1] or 80))) as server:
        server.sendall(request)
        if faults.deadly:
            faults.deadly.pop()()
        answer = b"".join(iter(lambda: server.recv(1 << 20), b""))
    if b"\r\n\r\n" not in answer:  # the server died
        return False
    if faults.lose_answer:
        faults.lose_answer -= 1
        return False
    start = answer.index(b"\r\n\r\n") + 4
    rows = [row for row in answer[:start].split(b"\r\n") if not row.lower().startswith(b"connection:")]
    answer_head, content = b"\r\n".join(rows), answer[start:]
    if faults.cut_down:
        client.sendall(answer_head + content[: faults.cut_down.pop(0)])
        return False
    client.sendall(answer_head + content)
    return b"content-length:" in answer_head.lower() or b"chunked" in answer_head.lower() or b" 204 " in answer_head


def _until(stream: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        piece = stream.recv(1)
        if not piece:
            raise EOFError
        got += piece
    return got


def _exactly(stream: socket.socket, count: int) -> bytes:
    pieces, left = [], count
    while left:
        piece = stream.recv(min(left, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _length(head: bytes) -> int:
    for row in head.split(b"\r\n"):
        if row.lower().startswith(b"content-length:"):
            return int(row.split(b":")[1])
    return 0
