"""The part of the lakeFS REST API that the embedded server supports: a table of endpoints over the store."""

import contextlib
import functools
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

from .arguments import NUMBER, OPTIONAL_METADATA, OPTIONAL_NUMBER, TEXT, Field, Fields, read_fields
from .database import Transaction
from .http_server.forms import check_content_type, read_form_content
from .http_server.requests import RequestBody
from .operations import commits, merges, refs, repositories, staging
from .operations.listing import MAX_PAGE, Page
from .store import Json, LakeFSError, Store, UnsupportedError

MAX_PATH_BYTES = 1024
MAX_BODY_BYTES = 8 * 1024 * 1024  # of JSON
META_HEADER = "x-lakefs-meta-"
CONFIG = {
    "storage_config": {
        "blockstore_type": "local",
        "blockstore_namespace_example": "local://example/",
        "blockstore_namespace_ValidityRegex": "^local://",
        "default_namespace_prefix": "local://",
        **dict.fromkeys(("pre_sign_support", "pre_sign_support_ui", "pre_sign_multipart_upload"), False),
        "import_support": False,
        "import_validity_regex": "^local://",
    },
    "storage_config_list": [],
    "version_config": {"version": "1.84.0-embedded", "version_context": "lakeFS"},
}


@dataclass
class Response:
    """A response: `json` (a str is sent as plain text), or the bytes of `data` from `start` to `stop` (excluded)."""

    status: int = 200
    json: object = None
    data: BinaryIO | None = None
    start: int = 0
    stop: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request, without the parts of its path."""

    store: Store
    method: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: RequestBody

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, [default])[0]

    def path(self, name: str = "path") -> str:
        """Return a query parameter that is an object's path. Raise LakeFSError (400) for an invalid one."""
        path = self.text(name)
        if not 0 < len(path.encode()) <= MAX_PATH_BYTES or "\0" in path:
            raise LakeFSError(400, f"{name} is required, {MAX_PATH_BYTES} bytes at most, and without a NUL")
        return path

    def page(self) -> Page:
        """Return the requested part of a listing. Raise LakeFSError (400) for an invalid amount."""
        text = self.text("amount", "100")
        if not re.fullmatch(r"-1|\d{1,4}", text) or int(text) > MAX_PAGE:
            raise LakeFSError(400, f"amount must be a number up to {MAX_PAGE}")
        amount = int(text) if int(text) > 0 else 100
        return Page(self.text("prefix"), self.text("after"), amount, self.text("delimiter"))

    def log_page(self) -> Page:
        """Return the requested part of a log. Raise LakeFSError (501) for parameters that are not supported."""
        if unknown := [name for name in ("objects", "since", "stop_at") if self.text(name)]:
            raise UnsupportedError(f"the log's {unknown[0]}")
        return self.page()

    def arguments(self, wanted: Mapping[str, object]) -> Json:
        """Return a handler's arguments. Raise LakeFSError (400) for a missing or invalid one.

        `wanted` gives the source of each argument: a function of the request, or a field of the JSON body as
        `read_fields` wants it.
        """
        found = {name: source(self) for name, source in wanted.items() if callable(source)}
        fields = {name: source for name, source in wanted.items() if name not in found}
        return found | (read_fields(self.body.read_all(MAX_BODY_BYTES), fields) if fields else {})


def upload_object(request: Request, repo: str, branch: str) -> object:
    """Stage the request's body, or the `content` part of its multipart form."""
    store, headers, path = request.store, request.headers, request.path()
    refs.get_ref(store, repo, "branches", branch)  # before the body is read
    content_type = check_content_type(headers.get("content-type", "application/octet-stream"))
    content = iter(request.body)
    if content_type.lower().startswith("multipart/form-data"):
        content_type, content = read_form_content(request.body, content_type)
    blob = store.files.receive(content)
    metadata = {
        name.removeprefix(META_HEADER): _decode(value)
        for name, value in headers.items()
        if name.startswith(META_HEADER)
    }
    with store.db.transaction("write"):
        return staging.put_object(
            store, repo, branch, path, blob,
            content_type=content_type, metadata=metadata, only_new="if-none-match" in headers,
        )  # fmt: skip


def _decode(value: str) -> str:
    """Return a header's value, read as Latin-1, as the UTF-8 that it is in lakeFS, unless it cannot be that."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def get_object(request: Request, repo: str, ref: str) -> Response:
    """Return an object's content, or the requested range of it."""
    entry = staging.get_entry(request.store, repo, ref, request.path())
    headers = {"ETag": f'"{entry.checksum}"', "Accept-Ranges": "bytes", "Content-Type": entry.content_type}
    # Requests for several ranges, or in other units, may be answered with the complete content.
    match = re.fullmatch(r"bytes=(?=.*\d)(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    first, last = match.groups() if match else ("0", "")
    start = int(first) if first else max(entry.size - int(last), 0)
    stop = min(int(last) + 1, entry.size) if first and last else entry.size
    if match and start >= stop:
        unsatisfied = {"Content-Range": f"bytes */{entry.size}"}
        return Response(416, {"message": "Requested Range Not Satisfiable"}, headers=unsatisfied)
    if match:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
    return Response(206 if match else 200, None, request.store.files.open(entry.sha256), start, stop, headers)


def flag(name: str) -> Callable[[Request], bool]:
    """Return a function that reads a yes/no query parameter."""
    return lambda request: request.text(name).lower() in ("1", "t", "true")


class Route(NamedTuple):
    """One endpoint of the API.

    `transaction` "" leaves it to the handler, which reads or writes files meanwhile. The handler gets the store (or the
    request), the parts of the path, and the arguments named by `wanted`. `force` tells where the request may have the
    option that allows it on a read-only repository; "" is for requests that change nothing there.
    """

    methods: str
    path: str
    status: int  # of success
    transaction: Transaction | Literal[""]
    handler: Callable[..., object]
    wanted: Mapping[str, object] = {}
    force: Literal["", "query", "body"] = ""


PAGE, PATH = {"page": Request.page}, {"path": Request.path}
REQUEST: Json = {"request": lambda request: request}
OVERRIDES = Fields(message="", metadata=OPTIONAL_METADATA)
REPO = "/repositories/{repo}"
BRANCH, REF, KIND = REPO + "/branches/{branch}", REPO + "/refs/{ref}", REPO + "/(?P<kind>branches|tags)"
# fmt: off
ROUTES = [
    Route("GET HEAD", REF + "/objects", 200, "read", get_object, REQUEST),
    Route("POST", BRANCH + "/objects", 201, "", upload_object, REQUEST, "query"),
    Route("GET", "/healthcheck", 204, "", lambda _: None),
    Route("GET", "/config", 200, "", lambda _: CONFIG),
    Route("GET", "/repositories", 200, "read", repositories.list_repositories, PAGE),
    Route("POST", "/repositories", 201, "durable", repositories.create_repository,
          {"name": TEXT, "storage_namespace": TEXT, "storage_id": "", "default_branch": "main", "read_only": False,
           "sample_data": False, "bare": flag("bare")}),
    Route("GET", REPO, 200, "read", repositories.get_repository),
    Route("DELETE", REPO, 204, "durable", repositories.delete_repository, {}, "query"),
    Route("GET", REPO + "/metadata", 200, "read", repositories.get_metadata),
    Route("POST", REPO + "/metadata", 204, "durable", repositories.update_metadata, {"metadata": Field(dict)}),
    Route("DELETE", REPO + "/metadata", 204, "durable", repositories.delete_metadata, {"keys": Field(list)}),
    Route("GET", KIND, 200, "read", refs.list_refs, PAGE | {"hidden": flag("show_hidden")}),
    Route("GET", KIND + "/{name}", 200, "read", refs.get_ref),
    Route("DELETE", KIND + "/{name}", 204, "durable", refs.delete_ref, {}, "query"),
    Route("POST", REPO + "/branches", 201, "durable", refs.create_branch,
          {"name": TEXT, "source": TEXT, "hidden": False}, "body"),
    Route("POST", REPO + "/tags", 201, "durable", refs.create_tag, {"id": TEXT, "ref": TEXT}, "body"),
    Route("PUT", BRANCH, 204, "write", staging.reset_branch, {"type": TEXT, "path": ""}, "body"),
    Route("POST", BRANCH + "/commits", 201, "", commits.commit_staged,
          {"message": TEXT, "metadata": {}, "date": 0, "allow_empty": False,
           "source_metarange": lambda request: request.text("source_metarange")}, "body"),
    Route("GET", REPO + "/commits/{ref}", 200, "read", commits.get_commit),
    Route("GET", REF + "/commits", 200, "read", commits.get_log,
          {"page": Request.log_page, "first_parent": flag("first_parent"), "limit": flag("limit"),
           "prefixes": lambda request: request.query.get("prefixes", [])}),
    Route("GET", REF + "/merge/{branch}", 200, "read", merges.find_merge_base),
    Route("POST", REF + "/merge/{branch}", 200, "durable", merges.merge,
          {"message": "", "metadata": {}, "strategy": "", "squash_merge": False, "allow_empty": False, "force": False},
          "body"),
    Route("POST", BRANCH + "/revert", 204, "durable", merges.revert,
          {"ref": TEXT, "parent_number": NUMBER, "allow_empty": False, "commit_overrides": OVERRIDES}, "body"),
    Route("POST", BRANCH + "/cherry-pick", 201, "durable", merges.cherry_pick,
          {"ref": TEXT, "parent_number": OPTIONAL_NUMBER, "commit_overrides": OVERRIDES}, "body"),
    Route("PUT", BRANCH + "/hard_reset", 204, "durable", commits.reset_branch_to,
          {"ref": lambda request: request.text("ref")}, "query"),
    Route("GET", BRANCH + "/diff", 200, "read", staging.diff_branch, PAGE),
    Route("GET", REPO + "/refs/{left}/diff/{right}", 200, "read", merges.diff_refs,
          PAGE | {"type": lambda request: request.text("type")}),
    Route("DELETE", BRANCH + "/objects", 204, "write", staging.delete_object, PATH, "query"),
    Route("POST", BRANCH + "/objects/delete", 200, "write", staging.delete_objects,
          {"paths": [], "force": flag("force")}),
    Route("POST", BRANCH + "/objects/copy", 201, "write", staging.copy_object,
          {"path": lambda request: request.path("dest_path"), "src_path": TEXT, "src_ref": ""}, "body"),
    Route("GET", REF + "/objects/stat", 200, "read", staging.stat_object, PATH),
    Route("GET", REF + "/objects/ls", 200, "read", staging.list_objects, PAGE),
]
# fmt: on


@functools.cache
def _find_routes(method: str) -> list[tuple[re.Pattern[str], Route]]:
    """Return the routes of a method, with the patterns of their paths."""
    routes = [route for route in ROUTES if method in route.methods.split()]
    return [(re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in routes]


def dispatch(request: Request, path: str) -> Response:
    """Find the endpoint and call it. Raise LakeFSError, BadRequest and UnicodeDecodeError."""
    for pattern, route in _find_routes(request.method):
        if match := pattern.fullmatch(path):
            parts = {name: urllib.parse.unquote(part, errors="strict") for name, part in match.groupdict().items()}
            result = _call(route, request, parts)
            if isinstance(result, Response):
                return result
            return Response(route.status, None if route.status == 204 else result)
    raise UnsupportedError


def _call(route: Route, request: Request, parts: dict[str, str]) -> object:
    """Call a route's handler, in the route's transaction and if the repository may be changed."""
    force: dict[str, object] = {"force": flag("force") if route.force == "query" else False} if route.force else {}
    # A JSON body is read before the transaction, so that a slow client does not block the others.
    arguments = request.arguments({**force, **route.wanted})
    first: Any = arguments.pop("request", request.store)
    forced = arguments["force"] if "force" in route.wanted else arguments.pop("force", False)
    with request.store.db.transaction(route.transaction) if route.transaction else contextlib.nullcontext():
        if "repo" in parts:
            repositories.check_repository(request.store, parts["repo"], change=bool(route.force) and not forced)
        return route.handler(first, **parts, **arguments)
