"""The embedded lakeFS over HTTP on 127.0.0.1: connections, authentication, and responses."""

import base64
import contextlib
import email.utils
import functools
import hmac
import io
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

from core.i18n import tr
from core.machine.storage import is_disk_full
from core.safety.json_object import JsonObject
from core.safety.private_files import write_private

from ..api import Request, Response, dispatch
from ..database import create_once
from ..store import LakeFSError, Store
from .connections import Connections
from .requests import (
    HEAD_SECONDS,
    IDLE_SECONDS,
    STALL_SECONDS,
    BadRequest,
    HeadTimeout,
    RequestBody,
    RequestHead,
    RequestReader,
)

API = "/api/v1"
READING_METHODS = ("GET", "HEAD")
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
# What is left of a body is read before the response, so that the next request can follow; a longer rest closes the
# connection.
DRAIN_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 2.0
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
UNSAFE = re.compile(r"[^\t\x20-\x7e]")  # in a header's value, stored by an older version

log = logging.getLogger(__name__)


class ConnectionHandler(BaseRequestHandler):
    """One connection: any number of requests, one after another."""

    request: socket.socket
    server: "LocalServer"

    def handle(self) -> None:
        """Answer requests until the connection ends."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # else small responses wait 40 ms
        self.connection = self.server.connections.get(self.request)
        self.reader = RequestReader(self.request)
        while self._handle_request():
            pass

    def _handle_request(self) -> bool:
        """Answer one request; return whether another one can follow."""
        try:
            head = self.reader.read_head(IDLE_SECONDS if self.connection.trusted else HEAD_SECONDS)
        except BadRequest as error:
            return self._close(Response(400, {"message": str(error)}))
        except HeadTimeout:
            return self._close(Response(408, {"message": f"the request's head took more than {HEAD_SECONDS:.0f} s"}))
        if not head:
            return False
        try:
            return self._answer(head)
        finally:
            if self.connection.busy:
                self.server.connections.end_request(self.connection)

    def _answer(self, head: RequestHead) -> bool:
        """Send the response to a request; return whether another one can follow."""
        body = RequestBody(self.reader)
        response = self._respond(head, body)
        # Nobody without keys makes the server wait for a body.
        if (self.connection.busy or self.reader.has_complete_body()) and body.drain(DRAIN_BYTES):
            return self._send(response, head.method == "HEAD", head.keep_alive)
        return self._close(response)

    def _close(self, response: Response) -> bool:
        """Send the last response of a connection, and wait a moment for the client to read it."""
        self._send(response, False, False)
        with contextlib.suppress(OSError):  # the client has closed the connection
            self.request.shutdown(socket.SHUT_WR)
            self.reader.discard(LINGER_SECONDS, DRAIN_BYTES)
        return False

    def _respond(self, head: RequestHead, body: RequestBody) -> Response:
        """Return the response, also for errors. Raise ConnectionError if the client is gone."""
        try:
            return self._dispatch(head, body)
        except LakeFSError as error:
            return Response(error.status, {"message": error.message})
        except (BadRequest, UnicodeDecodeError) as error:
            return Response(400, {"message": str(error)})
        except ConnectionError:
            raise  # nobody is left to answer
        except Exception as error:
            if is_disk_full(error):
                text = f"the disk of {self.server.store.folder} is full (No space left on device)"
                return Response(507, {"message": text})
            log.exception("%s %s", head.method, head.target.partition("?")[0])
            return Response(500, {"message": f"{type(error).__name__}: {error}"})

    def _dispatch(self, head: RequestHead, body: RequestBody) -> Response:
        """Check host and keys, and call the endpoint."""
        if head.headers.get("host", "").rsplit(":", 1)[0].lower() not in LOOPBACK_HOSTS:
            raise LakeFSError(403, "the embedded lakeFS server answers to 127.0.0.1 and localhost only")
        path, _, query = head.target.partition("?")
        scheme, _, token = head.headers.get("authorization", "").partition(" ")
        authorized = hmac.compare_digest(token.strip().encode(), self.server.token) and scheme.lower() == "basic"
        if not authorized and path != f"{API}/healthcheck":
            raise LakeFSError(401, "error authenticating request")
        if authorized:
            self.server.connections.begin_request(self.connection)
            if head.headers.get("expect", "").lower() == "100-continue" and not self.reader.has_complete_body():
                self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.server.store.read_only and head.method not in READING_METHODS:
            raise LakeFSError(
                403,
                f"{self.server.store.folder} cannot be written by this user: make it writable, or set LAKEFS_ENDPOINT",
            )
        fields = urllib.parse.parse_qs(query, keep_blank_values=True, errors="strict")
        request = Request(self.server.store, head.method, fields, head.headers, body)
        return dispatch(request, path.removeprefix(API) if path.startswith(API) else path)

    def _send(self, response: Response, head_only: bool, keep_alive: bool) -> bool:
        """Send a response; return whether another request can follow. Raise OSError if the client does not read it."""
        data, stop = response.data or io.BytesIO(), response.stop
        if response.json is not None:
            plain = isinstance(response.json, str)
            text = str(response.json) if plain else json.dumps(response.json, ensure_ascii=False) + "\n"
            data, stop = io.BytesIO(text.encode(errors="replace")), len(text.encode(errors="replace"))
            response.headers["Content-Type"] = "text/plain" if plain else "application/json"
        headers = response.headers | {"Date": _format_date(int(time.time())), "Server": "lakeFS-embedded"}
        if response.status != 204:
            headers["Content-Length"] = str(stop - response.start)
        if not keep_alive:
            headers["Connection"] = "close"
        lines = "".join(f"{name}: {UNSAFE.sub('?', value)}\r\n" for name, value in headers.items())
        message = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n{lines}\r\n".encode("ascii")
        self.request.settimeout(STALL_SECONDS)
        with data:
            if isinstance(data, io.BytesIO):  # sent in one packet with the headers
                message += b"" if head_only else data.getbuffer()[response.start : stop]
            self.request.sendall(message)
            if not isinstance(data, io.BytesIO) and not head_only:
                sent = self.request.sendfile(data, response.start, stop - response.start)
                keep_alive &= sent == stop - response.start  # a shorter file: the client sees a broken response
        return keep_alive


@functools.lru_cache(maxsize=1)
def _format_date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def _load_credentials(folder: Path, read_only: bool) -> tuple[str, str]:
    """Return the directory's key pair, created on the first call; of a read-only one, a pair for this process."""
    path = folder / "credentials.json"
    new = {"access_key_id": "AKIA" + secrets.token_hex(8).upper(), "secret_access_key": secrets.token_urlsafe(30)}
    if read_only:
        return new["access_key_id"], new["secret_access_key"]
    create_once(path, lambda part: write_private(part, json.dumps(new)))
    fix = tr("delete it: the next call makes a new key pair, which running clients of this server need again")
    keys = JsonObject.parse(path.read_bytes(), path, fix)
    return keys.text("access_key_id"), keys.text("secret_access_key")


class LocalServer(ThreadingTCPServer):
    """A running embedded server; it ends with `stop`, at the end of a `with` block, or with the process."""

    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # Windows would let two servers use one port

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.store = Store(directory)
        self.connections = Connections()
        self.access_key_id, self.secret_access_key = _load_credentials(directory, self.store.read_only)
        self.token = base64.b64encode(f"{self.access_key_id}:{self.secret_access_key}".encode())
        super().__init__(("127.0.0.1", port), ConnectionHandler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="lakefs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; running requests may still finish."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.store.db.close()

    def __exit__(self, *args: object) -> None:
        self.stop()

    def verify_request(self, request: object, client_address: object) -> bool:
        """Return whether there is room for a new connection; otherwise answer that the server is busy."""
        assert isinstance(request, socket.socket)  # a UDP server would have a pair
        if self.connections.open(request):
            return True
        with contextlib.suppress(OSError):
            request.send(BUSY)
        return False

    def close_request(self, request: object) -> None:
        """Close and forget a connection."""
        assert isinstance(request, socket.socket)
        self.connections.close(request)
        super().close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a broken connection; the base class would print a traceback."""
        log.debug("the connection to %s broke", client_address)
