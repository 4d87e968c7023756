"""A lakeFS server on the loopback interface that answers whatever a test wants, for every repository and reference."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

GOOD_ID = "a" * 64
API = "/api/v1"


@dataclass
class Answer:
    """One response; `body` is sent as it is, anything else as JSON."""

    content: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] | None = None  # an iterator: the connection is closed at its end


@dataclass
class Hostile:
    """What the server answers, and what it was asked.

    `answers` maps the beginning of a path, after /api/v1, to a function of the query or to an answer; the longest
    beginning wins. A field with the value `...` is left out. Without an entry, there is a repository with `objects` at
    the commit `commit_id`.
    """

    endpoint: str = ""
    commit_id: Any = GOOD_ID
    objects: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Answer | Callable[[dict[str, str]], Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)  # method, path with query, headers

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings that connect to this server."""
        keys = {"lakefs_access_key_id": "AKIAMARK", "lakefs_secret_access_key": "MARKSECRET"}
        return {"lakefs_endpoint": self.endpoint, "lakefs_repo": "hostile-repo", **keys, **changes}

    def commit(self, **changes: Any) -> dict[str, Any]:
        """Return a commit as lakeFS shows it."""
        return {
            "id": self.commit_id,
            "parents": [],
            "committer": "x",
            "message": "m",
            "creation_date": 1_700_000_000,
            "meta_range_id": "b" * 64,
            "metadata": {},
            "generation": 1,
            "version": 1,
            **changes,
        }

    def listed(self, _path: str, **changes: Any) -> dict[str, Any]:
        """Return an object as lakeFS shows it in a listing."""
        content = self.objects.get(_path, b"")
        return {
            "path": _path,
            "path_type": "object",
            "physical_address": "local://x",
            "checksum": hashlib.md5(content).hexdigest(),
            "size_bytes": len(content),
            "mtime": 1_700_000_000,
            "metadata": {"sha256": hashlib.sha256(content).hexdigest()},
            **changes,
        }


def page(results: list[Any], following: str = "") -> Answer:
    """Return a page of a listing."""
    pagination = {"has_more": bool(following), "next_offset": following, "results": len(results), "max_per_page": 1000}
    return Answer({"pagination": pagination, "results": results})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Print nothing: clients that refuse a response close the connection."""


@contextlib.contextmanager
def hostile_server() -> Iterator[Hostile]:
    """Run the server."""
    hostile = Hostile()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            hostile.requests.append((self.command, self.path, dict(self.headers)))
            _send(self, _answer(hostile, self.path))

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    hostile.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hostile
    finally:
        server.shutdown()
        server.server_close()


def _answer(hostile: Hostile, target: str) -> Answer:
    parts = urlsplit(target)
    path = parts.path.removeprefix(API)
    query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    known = max((start for start in hostile.answers if path.startswith(start)), key=len, default=None)
    if known is not None:
        found = hostile.answers[known]
        return found(query) if callable(found) else found
    return _default(hostile, path, query)


def _default(hostile: Hostile, path: str, query: dict[str, str]) -> Answer:
    rest = re.sub(r"^/repositories/[^/]+", "/r", path)
    found = next(answer for pattern, answer in ROUTES if re.fullmatch(pattern, rest))
    return found(hostile, query)


def _listing(hostile: Hostile, query: dict[str, str]) -> Answer:
    prefix = query.get("prefix", "")
    return page([hostile.listed(path) for path in sorted(hostile.objects) if path.startswith(prefix)])


def _differences(hostile: Hostile, _: dict[str, str]) -> Answer:
    return page([{"path": path, "type": "added", "path_type": "object"} for path in sorted(hostile.objects)])


def _merge(hostile: Hostile, _: dict[str, str]) -> Answer:
    keys = ("source_commit_id", "destination_commit_id", "base_commit_id", "reference")
    return Answer(dict.fromkeys(keys, hostile.commit_id))


def _repository(_: Hostile, __: dict[str, str]) -> Answer:
    facts = {"creation_date": 1, "default_branch": "main", "storage_namespace": "local://x"}
    return Answer({"id": "hostile-repo", **facts})


def _head(hostile: Hostile, _: dict[str, str]) -> Answer:
    return Answer({"id": "main", "commit_id": hostile.commit_id})


ROUTES: list[tuple[str, Callable[[Hostile, dict[str, str]], Answer]]] = [
    ("/healthcheck", lambda *_: Answer(status=204)),
    ("/config", lambda *_: Answer({"storage_config": config(), "version_config": {"version": "1.84.0"}})),
    ("/r", _repository),
    ("/r/branches", lambda hostile, _: page([{"id": "main", "commit_id": hostile.commit_id}])),
    ("/r/tags", lambda *_: page([])),
    ("/r/(branches|tags)/[^/]+", _head),
    ("/r/refs/[^/]+/objects/ls", _listing),
    ("/r/refs/[^/]+/objects", lambda hostile, query: Answer(body=hostile.objects[query["path"]])),
    ("/r/refs/[^/]+/commits", lambda hostile, _: page([hostile.commit()])),
    ("/r/refs/.*/diff/.*", _differences),
    ("/r/refs/.*/merge/.*", _merge),
    (".*", lambda hostile, _: Answer(hostile.commit())),
]


def config(**changes: Any) -> dict[str, Any]:
    """Return the storage configuration that the server answers."""
    return {
        "blockstore_type": "local",
        "blockstore_namespace_example": "local://x/",
        "blockstore_namespace_ValidityRegex": "^local://",
        "default_namespace_prefix": "local://",
        "pre_sign_support": False,
        "pre_sign_support_ui": False,
        "pre_sign_multipart_upload": False,
        "import_support": False,
        "import_validity_regex": "^local://",
        **changes,
    }


def _without_gaps(value: object) -> object:
    """Return JSON without the fields whose value is `...`."""
    if isinstance(value, dict):
        return {key: _without_gaps(inner) for key, inner in value.items() if inner is not ...}
    return [_without_gaps(inner) for inner in value] if isinstance(value, list) else value


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    with contextlib.suppress(OSError):  # the client has seen enough
        body = answer.body if answer.body is not None else json.dumps(_without_gaps(answer.content)).encode()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if answer.status == 204:
            handler.end_headers()
        elif isinstance(body, bytes):
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        else:
            handler.close_connection = True
            handler.send_header("Connection", "close")
            handler.end_headers()
            for chunk in body:
                handler.wfile.write(chunk)
