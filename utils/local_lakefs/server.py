"""The embedded lakeFS over HTTP on 127.0.0.1: reading requests, who may ask, and writing answers."""

import base64
import hmac
import io
import json
import logging
import secrets
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

from .api import Call, Reply, answer
from .bodies import CHUNK_BYTES, BadBody, Body
from .database import publish
from .store import LakeFSError, Store

API = "/api/v1"
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
DRAIN_BYTES = 64 * 1024 * 1024  # an unread body up to this size is read before the answer, else the connection ends

log = logging.getLogger(__name__)


class Handler(BaseHTTPRequestHandler):
    """One connection: any number of requests, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = "lakeFS-embedded"
    sys_version = ""
    disable_nagle_algorithm = True  # else each small answer waits 40 ms for an acknowledgement
    wbufsize = CHUNK_BYTES  # headers and a small body leave in one packet
    timeout = 600.0  # seconds without a request
    server: "LocalServer"

    def handle_request(self) -> None:
        # Looked up once and for all: a Message goes through its whole list at each look.
        headers = {name.lower(): value for name, value in self.headers.raw_items()}
        body = Body(self.rfile, headers)  # type: ignore[arg-type]
        reply = self._reply(headers, body)
        self.close_connection |= not body.drain(DRAIN_BYTES)
        self._send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = handle_request

    def _reply(self, headers: dict[str, str], body: Body) -> Reply:
        try:
            return self._dispatch(headers, body)
        except LakeFSError as error:
            return Reply(error.status, {"message": error.message})
        except (BadBody, UnicodeDecodeError) as error:
            return Reply(400, {"message": str(error)})
        except ConnectionError:
            raise  # there is nobody to answer
        except Exception as error:
            log.exception("%s %s", self.command, self.path.partition("?")[0])
            return Reply(500, {"message": f"{type(error).__name__}: {error}"})

    def _dispatch(self, headers: dict[str, str], body: Body) -> Reply:
        if headers.get("host", "").rsplit(":", 1)[0].lower() not in LOOPBACK_HOSTS:
            raise LakeFSError(403, "the embedded lakeFS server answers to 127.0.0.1 and localhost only")
        path, _, query = self.path.partition("?")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        authorized = hmac.compare_digest(token.strip().encode(), self.server.token) and scheme.lower() == "basic"
        if not authorized and path != f"{API}/healthcheck":
            raise LakeFSError(401, "error authenticating request")
        fields = urllib.parse.parse_qs(query, keep_blank_values=True, errors="strict")
        call = Call(self.server.store, self.command, fields, headers, body)
        return answer(call, path.removeprefix(API) if path.startswith(API) else path)

    def handle_expect_100(self) -> bool:
        expected = super().handle_expect_100()
        self.wfile.flush()
        return expected

    def _send(self, reply: Reply) -> None:
        data, stop = reply.data or io.BytesIO(), reply.stop
        if reply.json is not None:
            plain = isinstance(reply.json, str)
            text = str(reply.json) if plain else json.dumps(reply.json, ensure_ascii=False) + "\n"
            data, stop = io.BytesIO(text.encode()), len(text.encode())
            reply.headers["Content-Type"] = "text/plain" if plain else "application/json"
        self.send_response(reply.status)
        if reply.status != 204:
            self.send_header("Content-Length", str(stop - reply.start))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with data:
            if isinstance(data, io.BytesIO):  # leaves in one packet with the headers
                self.wfile.write(b"" if self.command == "HEAD" else data.getvalue()[reply.start : stop])
            elif self.command != "HEAD":
                self.wfile.flush()
                sent = self.connection.sendfile(data, reply.start, stop - reply.start)
                self.close_connection |= sent != stop - reply.start  # a shorter file: a broken answer, seen as such

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s %s", self.command, format % args)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.touch(0o600)
    path.chmod(0o600)  # where it was there already
    path.write_text(text, encoding="utf-8")


def _credentials(folder: Path) -> tuple[str, str]:
    """The folder's key pair, made at the first call."""
    path = folder / "credentials.json"
    new = {"access_key_id": "AKIA" + secrets.token_hex(8).upper(), "secret_access_key": secrets.token_urlsafe(30)}
    publish(path, lambda part: write_private(part, json.dumps(new)))
    keys = json.loads(path.read_text(encoding="utf-8"))
    return keys["access_key_id"], keys["secret_access_key"]


class LocalServer(ThreadingHTTPServer):
    """A running embedded server; ends with `stop`, at the end of a `with`, or with the process."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.store = Store(directory)
        self.access_key_id, self.secret_access_key = _credentials(directory)
        self.token = base64.b64encode(f"{self.access_key_id}:{self.secret_access_key}".encode())
        super().__init__(("127.0.0.1", port), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="lakefs", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # not HTTPServer's: that one asks DNS for this machine's name
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def stop(self) -> None:
        """Stops listening; requests that are under way may still end."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.store.db.close()

    def __exit__(self, *args: object) -> None:
        self.stop()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("the connection of %s broke", client_address)
