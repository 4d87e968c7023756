"""`infer.py --serve` next to clients that are idle, slow or malicious: others are answered meanwhile.

No test measures time: while the attackers' connections are open, every good request is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import uvicorn
from PIL import Image

from config import Settings
from core.i18n import LANGUAGES
from inference.origin import describe_origin
from inference.server import Service, configure
from inference.serving import connections, uploads
from inference.serving.pages import Page
from inference.serving.uploads import TooLargeError, Uploads
from segmentation.model import Model
from segmentation.predictor import Predictor
from tests.support.models import CPU, lineage, make_model

ATTACKERS = 64
GOOD_REQUESTS = 10
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Address = tuple[str, int]


@contextlib.contextmanager
def serving(
    example_data: Path | None = None,
    hosts: tuple[str, ...] = ("*",),
    model: Model | None = None,
    **settings: float,
) -> Iterator[tuple[Address, Service, uvicorn.Server]]:
    """Serve a small network in a thread of this process."""
    predictor = Predictor(model or make_model((32, 32)), CPU)
    origin = describe_origin(predictor, lineage())
    service = Service(predictor, origin, Settings(**settings), example_data)  # type: ignore[arg-type]
    running = uvicorn.Server(configure(service.app(list(hosts))))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname(), service, running
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serving() as (found, _, _):
        yield found


@pytest.fixture(scope="module")
def image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def count_answers(address: Address, image: bytes, requests: int = GOOD_REQUESTS) -> int:
    """Return how many of the requests are answered with success, each on a new connection."""
    url, found = "http://{}:{}".format(*address), []
    options: dict[str, Any] = {"headers": {"Connection": "close"}, "retries": False, "timeout": 60}
    for _ in range(requests // 2):
        found.append(urllib3.request("GET", url, **options).status)
        found.append(urllib3.request("POST", f"{url}/predict", body=image, **options).status)
    return found.count(200)


def send_nothing(_: socket.socket) -> None:
    pass


def send_half_head(attacker: socket.socket) -> None:
    attacker.sendall(HEAD + b"X-Half: ")


def send_half_body(attacker: socket.socket) -> None:
    attacker.sendall(HEAD + b"Content-Length: 100000\r\n\r\nhalf")


def send_half_chunks(attacker: socket.socket) -> None:
    attacker.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")


def send_garbage_after_request(attacker: socket.socket) -> None:
    attacker.sendall(PAGE + b"garbage\r\n\r\n" * 100)


def send_requests_without_reading(attacker: socket.socket) -> None:
    attacker.settimeout(0.01)
    with contextlib.suppress(OSError):
        attacker.sendall(PAGE * 100)


@pytest.mark.parametrize(
    "attack",
    [send_nothing, send_half_head, send_half_body, send_half_chunks, send_garbage_after_request,
     send_requests_without_reading],
)  # fmt: skip
def test_others_are_answered_next_to_64_slow_or_malicious_clients(
    address: Address, image: bytes, attack: Callable[[socket.socket], None]
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(ATTACKERS):
            attack(stack.enter_context(socket.create_connection(address)))
        assert count_answers(address, image) == GOOD_REQUESTS


def test_others_are_answered_while_heads_and_bodies_arrive_byte_by_byte(address: Address, image: bytes) -> None:
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(socket.create_connection(address)) for _ in range(ATTACKERS)]
        for number, attacker in enumerate(attackers):
            (send_half_head, send_half_body)[number % 2](attacker)

        def drip() -> None:
            while not stop.wait(0.05):
                for attacker in attackers:
                    with contextlib.suppress(OSError):
                        attacker.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert count_answers(address, image) == GOOD_REQUESTS
        finally:
            stop.set()
            dripping.join()


def test_more_connections_than_allowed_leave_room_for_others(
    address: Address, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 16)
    for attack in (send_nothing, send_half_head, send_half_body):
        with contextlib.ExitStack() as stack:
            attackers = [stack.enter_context(socket.create_connection(address)) for _ in range(ATTACKERS)]
            for attacker in attackers:
                with contextlib.suppress(OSError):
                    attack(attacker)
            assert count_answers(address, image) == GOOD_REQUESTS
            assert sum(map(is_closed, attackers)) >= ATTACKERS - 16 + 1


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def receive_all(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes the connection, in 60 seconds at most."""
    connection.settimeout(60)
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            found += data
    return found


@pytest.mark.parametrize("sent", [b"", b"\r\n", HEAD, PAGE + HEAD, b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nha"])
def test_idle_connections_and_unfinished_heads_are_closed(
    address: Address, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.5)  # a request that is there is read before
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert receive_all(connection).count(b"HTTP/1.1 ") == (b"GET" in sent)


def test_head_that_does_not_end_is_refused(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1000)
    with socket.create_connection(address) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(HEAD + b"X: " + b"x" * 1_000_000)
        receive_all(connection)  # ends when the server closes the connection; its 400 may be lost


def test_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.2)
    with serving() as (address, service, running), socket.create_connection(address) as connection:
        service.page = Page(dict.fromkeys(LANGUAGES, "x" * 30_000_000), "")  # more than the buffers of both sockets
        connection.sendall(PAGE)
        deadline = time.monotonic() + 60
        while not running.server_state.total_requests or running.server_state.connections:
            assert time.monotonic() < deadline, "the connection is still open"
            time.sleep(0.05)
        assert len(receive_all(connection)) < 30_000_000


def test_slow_reader_that_keeps_reading_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 2)
    with serving() as (address, service, _), socket.create_connection(address) as connection:
        service.page = Page(dict.fromkeys(LANGUAGES, "x" * 20_000_000), "")
        connection.sendall(PAGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = 0
        while data := connection.recv(1 << 20):
            received += len(data)
            time.sleep(0.2)  # two checks in all
        assert received > 20_000_000


def test_slow_upload_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "START_SECONDS", 0.2)
    with serving() as (address, _, _), socket.create_connection(address) as connection:
        send_half_body(connection)
        assert receive_all(connection).startswith(b"HTTP/1.1 408 ")


# Uploads


async def pieces(*chunks: bytes, then_wait: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then_wait:
        await asyncio.sleep(60)


def test_upload_at_the_minimum_rate_is_received_in_more_than_the_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "START_SECONDS", 0.5)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0.1)
            yield b"x" * 50_000

    received = asyncio.run(Uploads(60, 10**7).receive(drip(), 10**6))
    assert len(received) == 500_000


def test_upload_has_a_maximum_size_and_time() -> None:
    with pytest.raises(TooLargeError):
        asyncio.run(Uploads(60, 100).receive(pieces(b"12345", b"678901"), 10))
    with pytest.raises(TimeoutError):
        asyncio.run(Uploads(0.1, 100).receive(pieces(b"12345", then_wait=True), 10))


def test_oldest_upload_makes_room_when_all_need_too_much_memory() -> None:
    async def run() -> tuple[object, bytes]:
        receiving = Uploads(60, 250)
        stalled = [
            asyncio.create_task(receiving.receive(pieces(b"x" * 99, then_wait=True), 100), name=f"{number}")
            for number in range(2)
        ]
        await asyncio.sleep(0)
        good = await receiving.receive(pieces(b"y" * 90), 100)
        await asyncio.sleep(0)
        (ended,) = await asyncio.wait_for(asyncio.gather(stalled[0], return_exceptions=True), 30)
        assert not stalled[1].done()
        stalled[1].cancel()
        await asyncio.gather(stalled[1], return_exceptions=True)
        assert receiving._total == 0 and receiving._open == []
        return ended, good

    ended, good = asyncio.run(run())
    assert isinstance(ended, TimeoutError) and good == b"y" * 90
