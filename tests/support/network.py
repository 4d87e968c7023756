"""A TLS server in front of another server, and an HTTP proxy, both on the loopback interface."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import trustme

import config
from utils import minio_utils, mlflow_utils
from utils.lakefs_utils import connect

HOSTS = {"lakefs": "lakefs.internal", "s3": "store", "mlflow": "mlflow.internal"}  # names that only the proxy knows
NAMES = ("lakefs.internal", "store", "mlflow.internal", "proxy.internal", "localhost", "127.0.0.1")

HOST = re.compile(rb"(?i)\r\nhost: lakefs\.internal[^\r]*\r\n")


@dataclass
class Authority:
    """A certificate authority of its own: `file` is its certificate, `context` that of a server it vouches for."""

    file: Path
    context: ssl.SSLContext


def make_authority(folder: Path, name: str, hosts: tuple[str, ...] = NAMES) -> Authority:
    """Make an authority and a server's certificate for `hosts`."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / name))
    return Authority(folder / name, context)


@contextlib.contextmanager
def listen(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve connections on a free port of the loopback interface, each in a thread; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(serve, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


def _serve(serve: Callable[[socket.socket], None], client: socket.socket) -> None:
    with contextlib.suppress(OSError), client:
        serve(client)


def relay(left: socket.socket, right: socket.socket) -> None:
    """Copy bytes both ways until both sides have ended; embedded lakeFS gets a Host header that it accepts."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(HOST.sub(b"\r\nHost: localhost\r\n", piece))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    other = threading.Thread(target=copy, args=(right, left), daemon=True)
    other.start()
    copy(left, right)
    other.join()


@contextlib.contextmanager
def tls_front(upstream: str, authority: Authority) -> Iterator[int]:
    """Speak TLS in front of `upstream` (http://127.0.0.1:port); yield the port."""
    port = urlsplit(upstream).port or 80

    def serve(client: socket.socket) -> None:
        with (
            authority.context.wrap_socket(client, server_side=True) as plain,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            relay(plain, server)

    with listen(serve) as front:
        yield front


@dataclass
class ForwardProxy:
    """An HTTP proxy for every host name, which it takes for the loopback interface. `refuse`: status of all answers."""

    url: str = ""
    refuse: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        """Method and target of each request."""
        return [" ".join(head.split()[:2]) for head in self.heads]


@contextlib.contextmanager
def forward_proxy(refuse: int = 0, authority: Authority | None = None) -> Iterator[ForwardProxy]:
    """Run a proxy, which speaks TLS itself with an `authority`."""
    proxy = ForwardProxy(refuse=refuse)

    def serve(client: socket.socket) -> None:
        if authority is not None:
            client = authority.context.wrap_socket(client, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(1 << 16)
            if not piece:
                return
            head += piece
        proxy.heads.append(head.decode("latin-1"))
        if proxy.refuse:
            text = b"<html>blocked by the proxy</html>"
            answer = b"HTTP/1.1 %d No\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            client.sendall(answer % (proxy.refuse, len(text), text))
            return
        method, target, _ = head.split(b" ", 2)
        parts = urlsplit(target.decode() if b"://" in target else f"//{target.decode()}")
        with socket.create_connection(("127.0.0.1", parts.port or 80)) as server:
            if method == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                _, rest = head.split(b"\r\n", 1)
                path = target.split(b"/", 3)[3]
                lines = [b"%s /%s HTTP/1.1" % (method, path), b"Connection: close", rest]
                server.sendall(HOST.sub(b"\r\nHost: localhost\r\n", b"\r\n".join(lines)))
            relay(client, server)

    with listen(serve) as port:
        scheme = "https" if authority else "http"
        proxy.url = f"{scheme}://{'localhost' if authority else '127.0.0.1'}:{port}"
        yield proxy


class _TrackingServer(BaseHTTPRequestHandler):
    """The two calls by which a connection to MLflow begins."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"OK")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(b"{}")

    def _answer(self, text: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def tracking_server() -> Iterator[str]:
    """Run a server that answers MLflow's client as an empty tracking server does; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _TrackingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class NetworkLab:
    """The three servers on the loopback interface, their TLS fronts, and two authorities: theirs and another."""

    keys: dict[str, str]
    plain: dict[str, str]  # client -> URL
    ports: dict[str, int]  # of the TLS fronts
    right: Authority
    wrong: Authority

    def url(self, client: str, host: str | None = None) -> str:
        """Return the URL of a TLS front; by default under a name that only the proxy knows."""
        return f"https://{host or HOSTS[client]}:{self.ports[client]}"

    def plain_url(self, client: str) -> str:
        """Return the URL of a server without TLS, under a name that only the proxy knows."""
        return self.plain[client].replace("127.0.0.1", HOSTS[client])

    def call(self, client: str, url: str) -> None:
        """Let a client talk to a server."""
        if client == "lakefs":
            settings = config.load_settings(
                lakefs_endpoint=url, **{k: v for k, v in self.keys.items() if "lakefs" in k}
            )
            with connect(settings) as lake:
                assert not lake.has_repository()
        elif client == "s3":
            settings = config.load_settings(minio_endpoint=url, **{k: v for k, v in self.keys.items() if "minio" in k})
            minio_utils.list_buckets(settings)
        else:
            mlflow_utils.connect(config.load_settings(mlflow_tracking_uri=url))
