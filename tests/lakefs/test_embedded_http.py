"""HTTP behaviour of the embedded server: access, invalid requests, connections, and unsupported endpoints."""

import base64
import contextlib
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lakefs.conftest import Repo, open_repo
from tests.support import servers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http")


@pytest.fixture(scope="module")
def embedded(folder: Path) -> Iterator[servers.Server]:
    with servers.embedded(folder) as server:
        yield server


@pytest.fixture
def repo(embedded: servers.Server) -> Repo:
    return open_repo(embedded)


def make_head(repo: Repo, request: str, host: str = "127.0.0.1") -> bytes:
    """Return the head of a request with valid credentials."""
    server = repo.server
    token = base64.b64encode(f"{server.access_key_id}:{server.secret_access_key}".encode()).decode()
    line, _, headers = request.partition("\n")
    head = [f"{line} HTTP/1.1", f"Host: {host}", f"Authorization: Basic {token}", *headers.splitlines(), "", ""]
    return "\r\n".join(head).encode()


def send_request(repo: Repo, request: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    """Send a request with valid credentials, and return what `send_bytes` returns."""
    return send_bytes(repo.server, make_head(repo, request, host) + body)


def open_connection(server: servers.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])), timeout=60)


def send_bytes(server: servers.Server, sent: bytes) -> bytes:
    """Send bytes, end the sending side, and return what arrives until the server closes the connection."""
    with open_connection(server) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # the server has refused the rest
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
        return answer


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_requests_with_foreign_host_header_are_refused(repo: Repo, host: str) -> None:
    assert b" 403 " in send_request(repo, "GET /api/v1/config", host=host).splitlines()[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_requests_with_loopback_host_header_are_served(repo: Repo, host: str) -> None:
    assert b" 200 " in send_request(repo, "GET /api/v1/config", host=host).splitlines()[0]


def test_unsupported_request_explains_alternative(repo: Repo) -> None:
    for method, where in (("POST", "/branches/main/import"), ("GET", "/actions/runs"), ("PATCH", "/branches/main")):
        answer = repo.raw(method, where, b"{}")
        assert answer.status == 501
        assert "embedded" in answer.json()["message"]
        assert "LAKEFS_ENDPOINT" in answer.json()["message"]
    assert b" 501 " in send_request(repo, "GET /").splitlines()[0]


def test_expect_continue_is_answered_before_body(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches"
    headers = "Expect: 100-continue\nContent-Length: 5"
    with open_connection(repo.server) as connection:
        connection.sendall(make_head(repo, f"{where}/main/objects?path=a\n{headers}"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_body_of_refused_request_is_not_parsed_as_request(repo: Repo) -> None:
    where = f"/api/v1/repositories/{repo.name}/branches/no/objects?path=a"
    inner = b"GET /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for headers, body in (
        (f"Content-Length: {len(inner)}", inner),
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)),
    ):
        answer = send_request(repo, f"POST {where}\n{headers}", body)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b" 404 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: -5", b""),
        ("Content-Length: x", b""),
        ("Transfer-Encoding: chunked", b"zz\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"-5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_invalid_bodies_are_refused(repo: Repo, headers: str, body: bytes) -> None:
    answer = send_request(repo, f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a\n{headers}", body)
    assert answer.splitlines()[0].split()[1] in (b"400", b"500")
    assert b"Traceback" not in answer
    assert repo.paths() == []


@pytest.mark.parametrize(
    "head",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET /api/v1/config\r\n\r\n",
        b"GET /api/v1/config HTTP/2.0\r\n\r\n",
        b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 70_000),
        b"GET /api/v1/config HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
        b"GET /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\n folded: 1\r\n\r\n",
        b"GET /api/v1/config HTTP/1.1\r\n" + b"A: %s\r\n" % (b"x" * 9_000) * 8 + b"\r\n",
    ],
)
def test_invalid_request_heads_are_refused(embedded: servers.Server, head: bytes) -> None:
    answer = send_bytes(embedded, head)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"\r\n\r\n") == 1, "nothing after it is parsed as a request"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ("Content-Length: 5\nContent-Length: 6", b"Content-Length"),
        ("Content-Length: 5\nTransfer-Encoding: chunked", b"Content-Length"),
        ("Content-Length : 5", b"header"),
        ("Content Length: 5", b"header"),
        ("X-Note: a\0b", b"header"),
        ("Transfer-Encoding: gzip", b"Transfer-Encoding"),
        ("Transfer-Encoding: gzip, chunked", b"Transfer-Encoding"),
        ("Content-Length:", b"Content-Length"),
    ],
)
def test_ambiguous_or_invalid_headers_are_refused(repo: Repo, headers: str, reason: bytes) -> None:
    """Requests that two programs could parse differently allow request smuggling."""
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    answer = send_request(repo, f"{where}\n{headers}", b"hello")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1
    assert reason in answer
    assert repo.paths() == []


def test_chunked_encoding_is_recognized_in_any_case(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    answer = send_request(repo, f"{where}\nTransfer-Encoding: Chunked", b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert repo.get("a") == b"hello"


def test_upgrade_header_is_ignored(repo: Repo) -> None:
    answer = send_request(
        repo, "GET /api/v1/config\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_connection_is_kept_alive_unless_client_asks_to_close(embedded: servers.Server) -> None:
    def ask(version: str, *headers: str) -> bytes:
        return "\r\n".join([f"GET /api/v1/healthcheck {version}", "Host: localhost", *headers, "", ""]).encode()

    plain = ask("HTTP/1.1")
    assert send_bytes(embedded, plain + b"\r\n" + plain).count(b"HTTP/1.1 204 ") == 2
    assert send_bytes(embedded, ask("HTTP/1.1", "Connection: Close") + plain).count(b"HTTP/1.1 204 ") == 1
    assert send_bytes(embedded, ask("HTTP/1.0") + plain).count(b"HTTP/1.1 204 ") == 1


def test_head_request_returns_no_body(repo: Repo) -> None:
    small, large = b"x" * 10, b"x" * 100_000  # stored in the database, in a file
    for content in (small, large):
        assert repo.raw("POST", "/branches/main/objects?path=a", content).status == 201
        answer = repo.raw("HEAD", "/refs/main/objects?path=a")
        assert answer.headers["Content-Length"] == str(len(content)) and answer.data == b""
        assert repo.raw("GET", "/refs/main/objects?path=a").data == content, "on the same connection"


def test_interrupted_upload_leaves_no_files(repo: Repo, embedded: servers.Server, folder: Path) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    port = int(embedded.endpoint.rpartition(":")[2])
    token = base64.b64encode(f"{embedded.access_key_id}:{embedded.secret_access_key}".encode()).decode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"{where} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {token}\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 500_000)
    deadline = time.monotonic() + 60
    while list(folder.glob("content/*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.glob("content/*.part")) == []
    assert repo.paths() == []


def test_paths_that_are_not_utf8_are_refused(repo: Repo) -> None:
    assert repo.raw("GET", "/refs/main/objects?path=%FF").status == 400
    assert repo.raw("GET", "/refs/%FF/commits").status == 400


def test_store_with_unknown_schema_is_refused(tmp_path: Path) -> None:
    from utils import local_lakefs

    local_lakefs.start(tmp_path).stop()
    with sqlite3.connect(tmp_path / "lakefs.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RuntimeError, match="schema 99"):
        local_lakefs.start(tmp_path)


def test_import_is_fast_and_does_not_load_sqlite() -> None:
    program = (
        "import sys, time; before = set(sys.modules); start = time.process_time(); import utils.local_lakefs; "
        "print(time.process_time() - start < 0.05, 'sqlite3' in set(sys.modules) - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False"]
