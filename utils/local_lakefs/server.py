"""The embedded lakeFS over HTTP on 127.0.0.1: reading requests, who may ask, and writing answers."""

import base64
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from .bodies import CHUNK_BYTES, BadBody, Body
from .database import publish
from .routes import ROUTES, Call, Reply
from .store import LakeFSError, Store

API = "/api/v1"
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
DRAIN_BYTES = 64 * 1024 * 1024  # an unread body up to this size is read before the answer, else the connection ends
IDLE_SECONDS = 600.0
NOT_HERE = (
    "this is the embedded lakeFS server, which does not know this request:"
    " set LAKEFS_ENDPOINT to a real lakeFS server to use it"
)

log = logging.getLogger(__name__)


class Handler(BaseHTTPRequestHandler):
    """One connection: any number of requests, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = "lakeFS-embedded"
    sys_version = ""
    disable_nagle_algorithm = True  # else each small answer waits 40 ms for an acknowledgement
    wbufsize = CHUNK_BYTES  # headers and a small body leave in one packet
    timeout = IDLE_SECONDS
    server: "Server"

    def handle_request(self) -> None:
        expects = self.headers.get("Expect", "").lower() == "100-continue"
        try:
            body = Body(self.rfile, self.headers, self._continue if expects else lambda: None)  # type: ignore[arg-type]
        except BadBody as error:
            self.close_connection = True
            self._send(Reply(400, {"message": str(error)}))
            return
        reply = self._reply(body)
        unwanted = expects and body.untouched  # the client has not sent it, and now need not
        if unwanted or not self._drained(body):
            self.close_connection = True
        self._send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = handle_request

    def _reply(self, body: Body) -> Reply:
        try:
            return self._dispatch(body)
        except LakeFSError as error:
            return Reply(error.status, {"message": error.message})
        except BadBody as error:
            return Reply(500, {"message": str(error)})  # lakeFS's own status for a broken form
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("%s %s", self.command, self.path.partition("?")[0])
            return Reply(500, {"message": f"{type(error).__name__}: {error}"})

    def _dispatch(self, body: Body) -> Reply:
        if self.headers.get("Host", "").rsplit(":", 1)[0].lower() not in LOOPBACK_HOSTS:
            raise LakeFSError(403, "the embedded lakeFS server answers to 127.0.0.1 and localhost only")
        raw_path, _, raw_query = self.path.partition("?")
        if raw_path == "/_health":
            return Reply(data=b"alive!")
        path = raw_path.removeprefix(API)
        if path != "/healthcheck" and not self._authorized():
            raise LakeFSError(401, "error authenticating request")
        try:
            query = urllib.parse.parse_qs(raw_query, keep_blank_values=True, errors="strict", max_num_fields=1000)
            for method, pattern, handler in ROUTES:
                if method == self.command and raw_path.startswith(API) and (match := pattern.fullmatch(path)):
                    args = {
                        name: urllib.parse.unquote(part, errors="strict") for name, part in match.groupdict().items()
                    }
                    return handler(Call(self.server.store, method, query, self.headers, body), **args)
        except UnicodeDecodeError:
            raise LakeFSError(400, "the address is not UTF-8") from None
        raise LakeFSError(501, NOT_HERE)

    def _authorized(self) -> bool:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(token.strip().encode(), self.server.token)

    def _drained(self, body: Body) -> bool:
        try:
            return body.drain(DRAIN_BYTES)
        except (BadBody, ConnectionError):
            return False

    def handle_expect_100(self) -> bool:
        return True  # the body answers it when it is read: nothing is sent for a request that is refused

    def _continue(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()

    def _send(self, reply: Reply) -> None:
        data, start = reply.data, reply.start
        if reply.json is not None:
            data = json.dumps(reply.json, ensure_ascii=False).encode() + b"\n"
            reply.headers["Content-Type"] = "application/json"
        stop = len(data) if reply.stop is None and isinstance(data, bytes) else reply.stop or 0
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status not in (204, 304):
            self.send_header("Content-Length", str(stop - start))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or reply.status in (204, 304):
            return
        if isinstance(data, bytes):
            self.wfile.write(data[start:stop])
        else:
            self._send_file(data, start, stop - start)

    def _send_file(self, path: Path, start: int, count: int) -> None:
        self.wfile.flush()
        with path.open("rb") as file:
            if self.connection.sendfile(file, start, count) != count:
                self.close_connection = True  # the file is shorter than it was: the client sees a broken answer

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s %s", self.command, format % args)


class Server(ThreadingHTTPServer):
    """The listening socket, and what its connections share."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, store: Store, port: int, token: bytes) -> None:
        self.store = store
        self.token = token
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that one asks DNS for this machine's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("the connection of %s broke", client_address)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.chmod(path, 0o600)
        file.write(text)


def _credentials(folder: Path) -> tuple[str, str]:
    """The folder's key pair, made at the first call."""
    path = folder / "credentials.json"
    new = {"access_key_id": "AKIA" + secrets.token_hex(8).upper(), "secret_access_key": secrets.token_urlsafe(30)}
    publish(path, lambda part: write_private(part, json.dumps(new)))
    keys = json.loads(path.read_text(encoding="utf-8"))
    return keys["access_key_id"], keys["secret_access_key"]


class LocalServer:
    """A running embedded server; ends with `stop`, or with the process."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self._store = Store(directory)
        self.access_key_id, self.secret_access_key = _credentials(directory)
        token = base64.b64encode(f"{self.access_key_id}:{self.secret_access_key}".encode())
        self._server = Server(self._store, port, token)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="lakefs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops listening; requests that are under way may still end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
