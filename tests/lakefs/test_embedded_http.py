"""What only the embedded server promises: who may ask, bodies it does not want, and requests it does not know."""

import base64
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.lakefs.conftest import Repo, open_repo

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


def talk(repo: Repo, request: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    """Asks with the right key and reads until the server closes or 0.5 seconds pass."""
    server = repo.server
    token = base64.b64encode(f"{server.access_key_id}:{server.secret_access_key}".encode()).decode()
    line, _, headers = request.partition("\n")
    head = [f"{line} HTTP/1.1", f"Host: {host}", f"Authorization: Basic {token}", *headers.splitlines(), "", ""]
    return exchange(server, "\r\n".join(head).encode() + body)


def exchange(server: servers.Server, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])), timeout=0.5) as connection:
        connection.sendall(sent)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except (TimeoutError, ConnectionResetError):  # the latter: it hung up with something unread
            pass
        return answer


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_foreign_hosts_are_refused(repo: Repo, host: str) -> None:
    assert b" 403 " in talk(repo, "GET /api/v1/config", host=host).splitlines()[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_loopback_hosts_are_served(repo: Repo, host: str) -> None:
    assert b" 200 " in talk(repo, "GET /api/v1/config", host=host).splitlines()[0]


def test_what_it_does_not_know_says_what_to_do(repo: Repo) -> None:
    for method, where in (("POST", "/branches/main/import"), ("GET", "/actions/runs"), ("PATCH", "/branches/main")):
        answer = repo.raw(method, where, b"{}")
        assert answer.status == 501
        assert "embedded" in answer.json()["message"]
        assert "LAKEFS_ENDPOINT" in answer.json()["message"]
    assert b" 501 " in talk(repo, "GET /").splitlines()[0]


def test_expect_continue(repo: Repo) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches"
    headers = "Expect: 100-continue\nContent-Length: 5"
    answer = talk(repo, f"{where}/main/objects?path=a\n{headers}", b"hello")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")


def test_a_refused_body_does_not_become_the_next_request(repo: Repo) -> None:
    where = f"/api/v1/repositories/{repo.name}/branches/no/objects?path=a"
    inner = b"GET /api/v1/config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for headers, body in (
        (f"Content-Length: {len(inner)}", inner),
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)),
    ):
        answer = talk(repo, f"POST {where}\n{headers}", body)
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
def test_broken_bodies(repo: Repo, headers: str, body: bytes) -> None:
    answer = talk(repo, f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a\n{headers}", body)
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
def test_broken_heads(embedded: servers.Server, head: bytes) -> None:
    answer = exchange(embedded, head)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"\r\n\r\n") == 1, "nothing behind it is taken for a request"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ("Content-Length: 5\nContent-Length: 6", b"Content-Length"),
        ("Content-Length: 5\nTransfer-Encoding: chunked", b"Content-Length"),
        ("Content-Length : 5", b"header"),
        ("Content Length: 5", b"header"),
        ("X-Note: a\0b", b"header"),
        ("Transfer-Encoding: gzip", b"Transfer-Encoding"),
    ],
)
def test_ambiguous_or_invalid_headers_are_refused(repo: Repo, headers: str, reason: bytes) -> None:
    """Two programs must not be able to read one request differently (request smuggling)."""
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    answer = talk(repo, f"{where}\n{headers}", b"hello")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1
    assert reason in answer
    assert repo.paths() == []


def test_an_offer_to_upgrade_is_ignored(repo: Repo) -> None:
    answer = talk(
        repo, "GET /api/v1/config\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_connections_stay_open_until_somebody_wants_otherwise(embedded: servers.Server) -> None:
    def ask(version: str, *headers: str) -> bytes:
        return "\r\n".join([f"GET /api/v1/healthcheck {version}", "Host: localhost", *headers, "", ""]).encode()

    plain = ask("HTTP/1.1")
    assert exchange(embedded, plain + b"\r\n" + plain).count(b"HTTP/1.1 204 ") == 2
    assert exchange(embedded, ask("HTTP/1.1", "Connection: Close") + plain).count(b"HTTP/1.1 204 ") == 1
    assert exchange(embedded, ask("HTTP/1.0") + plain).count(b"HTTP/1.1 204 ") == 1


def test_a_head_request_gets_no_body(repo: Repo) -> None:
    small, large = b"x" * 10, b"x" * 100_000  # of the database, of a file
    for content in (small, large):
        assert repo.raw("POST", "/branches/main/objects?path=a", content).status == 201
        answer = repo.raw("HEAD", "/refs/main/objects?path=a")
        assert answer.headers["Content-Length"] == str(len(content)) and answer.data == b""
        assert repo.raw("GET", "/refs/main/objects?path=a").data == content, "on the same connection"


def test_an_upload_cut_short_leaves_nothing(repo: Repo, embedded: servers.Server, folder: Path) -> None:
    where = f"POST /api/v1/repositories/{repo.name}/branches/main/objects?path=a"
    port = int(embedded.endpoint.rpartition(":")[2])
    token = base64.b64encode(f"{embedded.access_key_id}:{embedded.secret_access_key}".encode()).decode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"{where} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {token}\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 500_000)
    deadline = time.monotonic() + 5
    while list(folder.glob("content/*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.glob("content/*.part")) == []
    assert repo.paths() == []


def test_not_utf8(repo: Repo) -> None:
    assert repo.raw("GET", "/refs/main/objects?path=%FF").status == 400
    assert repo.raw("GET", "/refs/%FF/commits").status == 400


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    from utils import local_lakefs

    local_lakefs.start(tmp_path).stop()
    with sqlite3.connect(tmp_path / "lakefs.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RuntimeError, match="schema 99"):
        local_lakefs.start(tmp_path)


def test_importing_costs_nothing() -> None:
    program = (
        "import sys, time; before = set(sys.modules); start = time.process_time(); import utils.local_lakefs; "
        "print(time.process_time() - start < 0.05, 'sqlite3' in set(sys.modules) - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False"]
