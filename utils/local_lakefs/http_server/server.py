"""The embedded lakeFS over HTTP on 127.0.0.1: connections, authentication, and responses."""

import base64
import email.utils
import functools
import hmac
import io
import json
import logging
import os
import secrets
import threading
import time
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import BinaryIO, cast

from ..api import Request, Response, dispatch
from ..database import create_once
from ..store import LakeFSError, Store
from .requests import CHUNK_BYTES, BadRequest, RequestBody, RequestHead, read_head

API = "/api/v1"
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
# What is left of a body is read before the response, so that the next request can follow; a longer rest closes the
# connection.
DRAIN_BYTES = 64 * 1024 * 1024

log = logging.getLogger(__name__)


class ConnectionHandler(StreamRequestHandler):
    """One connection: any number of requests, one after another."""

    disable_nagle_algorithm = True  # else each small response waits 40 ms for an acknowledgement
    wbufsize = CHUNK_BYTES  # headers and a small body are sent in one packet
    timeout = 600.0  # seconds without a request
    server: "LocalServer"

    def handle(self) -> None:
        """Answer requests until the connection ends."""
        while self._handle_request():
            pass

    def _handle_request(self) -> bool:
        """Answer one request; return whether another one can follow."""
        stream = cast(BinaryIO, self.rfile)
        try:
            if not (head := read_head(stream)):
                return False
        except BadRequest as error:
            self._send(Response(400, {"message": str(error)}), False, False)
            return False
        if head.headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        body = RequestBody(stream, head.headers)
        response = self._respond(head, body)
        return self._send(response, head.method == "HEAD", body.drain(DRAIN_BYTES) and head.keep_alive)

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
        fields = urllib.parse.parse_qs(query, keep_blank_values=True, errors="strict")
        request = Request(self.server.store, head.method, fields, head.headers, body)
        return dispatch(request, path.removeprefix(API) if path.startswith(API) else path)

    def _send(self, response: Response, head_only: bool, keep_alive: bool) -> bool:
        """Send a response; return whether another request can follow."""
        data, stop = response.data or io.BytesIO(), response.stop
        if response.json is not None:
            plain = isinstance(response.json, str)
            text = str(response.json) if plain else json.dumps(response.json, ensure_ascii=False) + "\n"
            data, stop = io.BytesIO(text.encode()), len(text.encode())
            response.headers["Content-Type"] = "text/plain" if plain else "application/json"
        headers = response.headers | {"Date": _format_date(int(time.time())), "Server": "lakeFS-embedded"}
        if response.status != 204:
            headers["Content-Length"] = str(stop - response.start)
        if not keep_alive:
            headers["Connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.wfile.write(
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n{lines}\r\n".encode("latin-1")
        )
        with data:
            if isinstance(data, io.BytesIO):  # sent in one packet with the headers
                self.wfile.write(b"" if head_only else data.getbuffer()[response.start : stop])
            self.wfile.flush()
            if not isinstance(data, io.BytesIO) and not head_only:
                sent = self.connection.sendfile(data, response.start, stop - response.start)
                keep_alive &= sent == stop - response.start  # a shorter file: the client sees a broken response
        return keep_alive


@functools.lru_cache(maxsize=1)
def _format_date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(0o600)
    path.chmod(0o600)  # in case it exists already
    path.write_text(text, encoding="utf-8")


def _load_credentials(folder: Path) -> tuple[str, str]:
    """Return the directory's key pair, created on the first call."""
    path = folder / "credentials.json"
    new = {"access_key_id": "AKIA" + secrets.token_hex(8).upper(), "secret_access_key": secrets.token_urlsafe(30)}
    create_once(path, lambda part: write_private(part, json.dumps(new)))
    keys = json.loads(path.read_text(encoding="utf-8"))
    return keys["access_key_id"], keys["secret_access_key"]


class LocalServer(ThreadingTCPServer):
    """A running embedded server; it ends with `stop`, at the end of a `with` block, or with the process."""

    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # Windows would let two servers use one port

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.store = Store(directory)
        self.access_key_id, self.secret_access_key = _load_credentials(directory)
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

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a broken connection; the base class would print a traceback."""
        log.debug("the connection to %s broke", client_address)
