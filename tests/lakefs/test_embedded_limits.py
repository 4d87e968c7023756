"""The embedded server against clients that are slow, idle or malicious: limits, and clear refusals."""

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lakefs.conftest import Repo, open_repo
from tests.lakefs.test_embedded_http import ROOT, make_head, open_connection, send_bytes, send_request
from tests.support import servers
from utils.local_lakefs.http_server.connections import MAX_CONNECTIONS, Connections

GOOD_REQUESTS = 20
HALF_REQUEST = b"GET /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.embedded(tmp_path_factory.mktemp("limits")) as server:
        yield server


@pytest.fixture
def repo(embedded: servers.Server) -> Repo:
    return open_repo(embedded)


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server", "requests"):
        monkeypatch.setattr(f"utils.local_lakefs.http_server.{module}.HEAD_SECONDS", 0.5)


def receive_all(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


# Connections


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="threads are counted in /proc")
def test_500_half_requests_leave_room_for_others_and_few_threads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "utils.local_lakefs", "--port", "0", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline()
        rows = (tmp_path / "lakectl.env").read_text().splitlines()
        url, access, secret = (row.partition("=")[2] for row in rows)
        server = servers.Server("embedded", url, access, secret, "local://tests")
        with contextlib.ExitStack() as stack:
            for _ in range(500):
                stack.enter_context(open_connection(server)).sendall(HALF_REQUEST)
            repo = open_repo(server)
            for number in range(GOOD_REQUESTS):
                assert repo.put(f"{number}", str(number)).size_bytes == len(str(number))
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            assert int(status["Threads"]) <= MAX_CONNECTIONS + 5
    finally:
        process.terminate()
        process.wait()


def test_head_that_does_not_end_is_timed_out(embedded: servers.Server, short_timeouts: None) -> None:
    for sent in (HALF_REQUEST, b"G", b"GET /api/v1/healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF_REQUEST):
        with open_connection(embedded) as connection:
            connection.sendall(sent)
            received = receive_all(connection)
            assert b"HTTP/1.1 408 " in received.split(b"\r\n\r\n")[sent.count(b"\r\n\r\n")], received
    for silent in (b"", b"\r\n\r\n"):
        with open_connection(embedded) as connection:
            connection.sendall(silent)
            assert receive_all(connection) == b""


def test_slow_head_does_not_extend_its_time(embedded: servers.Server, short_timeouts: None) -> None:
    with open_connection(embedded) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HALF_REQUEST)
        for _ in range(600):  # 30 seconds: far more than a head has
            time.sleep(0.05)
            connection.sendall(b"x")
        pytest.fail("the connection is still open")


def test_request_without_keys_is_refused_before_its_body(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a HTTP/1.1"
    for framing in (
        "Content-Length: 1000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 9\r\nExpect: 100-continue",
    ):
        with open_connection(repo.server) as connection:
            connection.sendall(f"{where}\r\nHost: 127.0.0.1\r\n{framing}\r\n\r\n".encode())
            received = receive_all(connection)
        assert received.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in received, received


def test_connections_without_valid_request_make_room_first() -> None:
    connections = Connections(limit=3)
    pairs = [socket.socketpair() for _ in range(6)]
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(a) for a, b in pairs if stack.enter_context(b)]
        trusted, *strangers = [connections.open(peer) or pytest.fail("no room") for peer in peers[:3]]
        connections.begin_request(trusted)
        connections.end_request(trusted)
        newer = connections.open(peers[3])
        assert newer and [c.evicted for c in (trusted, *strangers)] == [False, True, False], "the oldest stranger"
        connections.begin_request(newer)
        connections.begin_request(strangers[1])
        assert connections.open(peers[4]) and trusted.evicted, "before busy ones"
        assert connections.open(peers[5]) and not newer.evicted
        with pytest.raises(ConnectionError, match="make room"):
            connections.begin_request(trusted)


def test_server_whose_connections_are_all_busy_answers_503(
    embedded: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connections, "open", lambda *_: None)
    assert send_bytes(embedded, b"").startswith(b"HTTP/1.1 503 ")


def test_threads_of_closed_connections_end(repo: Repo, short_timeouts: None) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(open_connection(repo.server)).sendall(HALF_REQUEST)
        deadline = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= before, "while the clients keep their connections open"


# Requests


def test_requests_before_garbage_are_answered(repo: Repo) -> None:
    good = make_head(repo, "GET /api/v1/config")
    received = send_bytes(repo.server, good + good + b"garbage\r\n\r\n" + good)
    statuses = [line.split()[1] for line in received.splitlines() if line.startswith(b"HTTP/1.1 ")]
    assert statuses == [b"200", b"200", b"400"]


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length:\t5 5",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Host: localhost",
        "Authorization: Basic eDp5",
        "Content-Type: text/plain\nContent-Type: text/html",
        "Range: bytes=0-1\nRange: bytes=2-3",
        "X-Note: a\x01b",
        "X-Note: a\rb",
        "X-Note: a\x0b b",
        " X-Note: a",
        "X-Note\t: a",
        "X-Nöte: a",
        ": a",
        "Connection: Upgrade\nUpgrade: h2c\nContent-Length: 5",
        "\n".join(f"X-{number}: a" for number in range(101)),
        "X-Note: " + "a" * 66_000,
        "X" * 66_000 + ": a",
    ],
)
def test_ambiguous_or_oversized_heads_are_refused(repo: Repo, headers: str) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    line, _, rest = make_head(repo, where).partition(b"\r\n")
    sent = line + b"\r\n" + headers.replace("\n", "\r\n").encode("latin-1") + b"\r\n" + rest + b"hello"
    answer = send_bytes(repo.server, sent)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer[:200]
    assert repo.paths() == []


@pytest.mark.parametrize(
    "chunks",
    [b"5\r\nhelloXX0\r\n\r\n", b"5\nhello\n0\n\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
     b"5;a=\0\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"f" * 17 + b"\r\nhello", b"\r\nhello\r\n0\r\n\r\n",
     b"5\r\nhello\r\n0\r\n" + b"Trailer: x\r\n" * 200 + b"\r\n"],
)  # fmt: skip
def test_malformed_chunks_are_refused(repo: Repo, chunks: bytes) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a\nTransfer-Encoding: chunked"
    answer = send_request(repo, where, chunks)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
    assert repo.paths() == []


def test_trailers_are_not_headers(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a\nTransfer-Encoding: chunked"
    trailers = b"x-lakefs-meta-evil: yes\r\nAuthorization: Basic eDp5\r\n"
    assert send_request(repo, where, b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n").startswith(b"HTTP/1.1 201 ")
    assert repo.stats()[0].metadata == {}


def multipart(*lines: str, boundary: str = "x") -> bytes:
    return "\r\n".join([f"--{boundary}", *lines, "", "hello", f"--{boundary}--", ""]).encode("latin-1")


NAMED = 'Content-Disposition: form-data; name="content"'


@pytest.mark.parametrize(
    ("form_type", "body"),
    [
        ("multipart/form-data; boundary=é", multipart(NAMED, boundary="é")),
        ("multipart/form-data; boundary=x; charset=é", multipart(NAMED)),
        ("multipart/form-data", multipart(NAMED)),
        ("multipart/form-data; boundary=", multipart(NAMED, boundary="")),
        (f"multipart/form-data; boundary={'x' * 71}", multipart(NAMED, boundary="x" * 71)),
        ("multipart/form-data; boundary=x", multipart(NAMED, "Content-Type: text/a\rb")),
        ("multipart/form-data; boundary=x", multipart(NAMED, "Content-Type: text/é")),
        ("multipart/form-data; boundary=x", multipart(NAMED, "Content-Type: a\0b")),
        ("multipart/form-data; boundary=x", multipart(NAMED, "Content-Type: a", "Content-Type: b")),
        ("multipart/form-data; boundary=x", multipart(NAMED, " folded")),
        ("multipart/form-data; boundary=x", multipart(NAMED, "no colon")),
        ("multipart/form-data; boundary=x", multipart('Content-Disposition: form-data; name="other"')),
        ("multipart/form-data; boundary=x", multipart("Content-Disposition: form-data; name*=utf-9'x'%FF")),
        ("multipart/form-data; boundary=x", multipart()),
        ("multipart/form-data; boundary=x", b"preamble\r\n" + multipart(NAMED)),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000),
        ("multipart/form-data; boundary=x", multipart(NAMED)[:-6]),
        ("multipart/form-data; boundary=x", b""),
        ("text/é", b"hello"),
    ],
)
def test_invalid_forms_and_content_types_are_refused(repo: Repo, form_type: str, body: bytes) -> None:
    where = f"/branches/main/objects?path=a\nContent-Length: {len(body)}\nContent-Type: {form_type}"
    head = make_head(repo, f"POST /api/v1/repositories/{repo.name}{where}").decode()
    answer = send_bytes(repo.server, head.encode("latin-1") + body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert repo.paths() == []


def test_form_with_korean_file_name_is_stored(repo: Repo) -> None:
    disposition = 'Content-Disposition: form-data; name="content"; filename="사진.png"'
    body = f"--x\r\n{disposition}\r\nContent-Type: image/png\r\n\r\nhello\r\n--x--\r\n".encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert repo.raw("POST", "/branches/main/objects?path=a", body, headers).status == 201
    assert (repo.get("a"), repo.stats()[0].content_type) == (b"hello", "image/png")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"name": ' + b"[" * 100_000,
        b'{"name": %s}' % (b"9" * 5_000),
        b'{"name": "\\ud800", "source": "main"}',
        b'{"name": "a", "source": "\\udfff"}',
        b'{"name": "a\\u0000", "source": "main"}',
        b'{"name": "\xff", "source": "main"}',
        b'{"name": ["a"], "source": "main"}',
        b"[]", b"3", b"null", b'"text"', b"{", b"\x00", b"",
        b'{"name": "a", "source": "main", "hidden": "yes"}',
    ],
)  # fmt: skip
def test_invalid_json_is_refused(repo: Repo, body: bytes) -> None:
    answer = repo.raw("POST", "/branches", body, {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"message": "m", "metadata": {"a": ["b"]}},
        {"message": "m", "metadata": {"a": {"b": "c"}}},
        {"message": "m", "date": 10**30},
        {"message": "m", "date": True},
    ],
)
def test_commit_fields_that_cannot_be_stored_are_refused(repo: Repo, body: object) -> None:
    repo.put("a")
    assert repo.raw("POST", "/branches/main/commits", json.dumps(body).encode()).status == 400
    assert repo.staged() == [("a", "added")]


def test_json_body_has_a_limit(repo: Repo) -> None:
    body = b'{"name": "%s"}' % (b"x" * 9_000_000)
    answer = repo.raw("POST", "/branches", body)
    assert answer.status == 400 and "longer than" in answer.json()["message"]


def test_any_delimiter_and_range_is_answered(repo: Repo) -> None:
    for path in ("a\U0010ffffb", "a\U0010ffffc", "a\ud7ffb", "z"):
        repo.put(path)
    assert repo.paths(delimiter="\U0010ffff") == ["a\ud7ffb", "a\U0010ffff", "z"]
    assert repo.paths(delimiter="\ud7ff") == ["a\ud7ff", "a\U0010ffffb", "a\U0010ffffc", "z"]
    assert repo.paths(prefix="\U0010ffff", delimiter="\U0010ffff") == []
    assert repo.get("z", Range=f"bytes={'9' * 5000}-") == b"x", "an invalid range is ignored"
    assert repo.raw("GET", "/refs/main/objects?path=a%00b").status == 400


def test_metadata_headers_are_utf8(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a\nContent-Length: 0"
    head = make_head(repo, f"{where}\nx-lakefs-meta-note: 한글 é\nx-lakefs-meta-old: LATIN")
    assert send_bytes(repo.server, head.replace(b"LATIN", "é".encode("latin-1"))).startswith(b"HTTP/1.1 201 ")
    assert repo.stats()[0].metadata == {"note": "한글 é", "old": "é"}


def test_content_type_stored_by_older_version_cannot_add_headers(tmp_path: Path) -> None:
    with servers.embedded(tmp_path) as server:
        repo = open_repo(server)
        repo.put("a")
        with sqlite3.connect(tmp_path / "lakefs.db") as db:
            db.execute("""UPDATE staging SET entry=replace(entry, 'application/octet-stream', 'a\\r\\nX-Evil: é')""")
        answer = send_request(repo, f"GET /api/v1/repositories/{repo.name}/refs/main/objects?path=a")
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nContent-Type: a??X-Evil: ?\r\n" in answer, answer
