"""The part of the lakeFS REST API that the embedded server answers: a table of endpoints over the store."""

import contextlib
import functools
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from .database import Kind
from .http_request import RequestBody, read_form_content
from .store import MAX_PAGE, Json, LakeFSError, Page, Store

MAX_PATH_BYTES = 1024
META_HEADER = "x-lakefs-meta-"
NOT_HERE = (
    "this is the embedded lakeFS server, which does not know this request:"
    " set LAKEFS_ENDPOINT to a real lakeFS server to use it"
)
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
class Reply:
    """An answer: `json` (a str goes as plain text), or the bytes of `data` from `start` to `stop` (excluded)."""

    status: int = 200
    json: object = None
    data: BinaryIO | None = None
    start: int = 0
    stop: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request, without the parts of its path."""

    store: Store
    method: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: RequestBody

    def text(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def path(self, name: str = "path") -> str:
        path = self.text(name)
        if not 0 < len(path.encode()) <= MAX_PATH_BYTES:
            raise LakeFSError(400, f"{name} is required, and {MAX_PATH_BYTES} bytes at most")
        return path

    def page(self) -> Page:
        text = self.text("amount", "100")
        if not re.fullmatch(r"-1|\d{1,4}", text) or int(text) > MAX_PAGE:
            raise LakeFSError(400, f"amount must be a number up to {MAX_PAGE}")
        amount = int(text) if int(text) > 0 else 100
        return Page(self.text("prefix"), self.text("after"), amount, self.text("delimiter"))

    def log_page(self) -> Page:
        if unknown := [name for name in ("objects", "since", "stop_at") if self.text(name)]:
            raise LakeFSError(501, f"the log's {unknown[0]}: {NOT_HERE}")
        return self.page()

    def arguments(self, wanted: Mapping[str, object]) -> Json:
        """What a handler takes. In `wanted` stands for each argument how to find it: a function of the call, or the
        default of a field of the JSON body, which is then of the same type, or TEXT: such a field without a default."""
        found = {name: source(self) for name, source in wanted.items() if callable(source)}
        defaults = {name: source for name, source in wanted.items() if name not in found}
        try:
            body = json.loads(b"".join(self.body) or b"{}") if defaults else {}
        except json.JSONDecodeError as error:
            raise LakeFSError(400, f"the request body is not JSON: {error}") from None
        for name, default in defaults.items():
            value = body.get(name) if isinstance(body, dict) else None
            value = default if value is None else value
            kind = str if default is TEXT else type(default)
            if type(value) is not kind or not (kind in (int, bool) or _is_text(value)):
                raise LakeFSError(400, f"request body: {name} is missing, or not a {kind.__name__} of text")
            found[name] = value
        return found


def _is_text(value: object) -> bool:
    """Whether a JSON value holds nothing but text."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return isinstance(value, str) if inner is None else all(map(_is_text, inner))


def upload_object(call: Call, repo: str, branch: str) -> object:
    store, headers, path = call.store, call.headers, call.path()
    store.ref(repo, "branches", branch)  # before the body comes
    content_type, content = headers.get("content-type", "application/octet-stream"), iter(call.body)
    if content_type.lower().startswith("multipart/form-data"):
        content_type, content = read_form_content(call.body, content_type)
    blob = store.files.receive(content)
    metadata = {
        name.removeprefix(META_HEADER): value for name, value in headers.items() if name.startswith(META_HEADER)
    }
    with store.db.transaction("write"):
        return store.put(repo, branch, path, blob, content_type, metadata, "if-none-match" in headers)


def get_object(call: Call, repo: str, ref: str) -> Reply:
    entry = call.store.entry(repo, ref, call.path())
    headers = {"ETag": f'"{entry.checksum}"', "Accept-Ranges": "bytes", "Content-Type": entry.content_type}
    # Several ranges at once, or ranges of something else, may be answered with the whole.
    match = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", call.headers.get("range", ""))
    first, last = match.groups() if match else ("0", "")
    start = int(first) if first else max(entry.size - int(last), 0)
    stop = min(int(last) + 1, entry.size) if first and last else entry.size
    if match and start >= stop:
        unsatisfied = {"Content-Range": f"bytes */{entry.size}"}
        return Reply(416, {"message": "Requested Range Not Satisfiable"}, headers=unsatisfied)
    if match:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
    return Reply(206 if match else 200, None, call.store.files.open(entry.sha256), start, stop, headers)


def flag(name: str) -> Callable[[Call], bool]:
    return lambda call: call.text(name).lower() in ("1", "t", "true")


TEXT = object()
PAGE, PATH = {"page": Call.page}, {"path": Call.path}
CALL: Json = {"call": lambda call: call}
REPO = "/repositories/{repo}"
BRANCH, REF, KIND = REPO + "/branches/{branch}", REPO + "/refs/{ref}", REPO + "/(?P<kind>branches|tags)"
# An endpoint: methods; path; status of success; transaction ("" leaves that to the handler, which reads or writes files
# meanwhile); handler, which gets the store or the call, the parts of the path, and more arguments; these.
# fmt: off
ROUTES: list[tuple[str, str, int, Kind | Literal[""], Callable[..., object], Mapping[str, object]]] = [
    ("GET HEAD", REF + "/objects", 200, "read", get_object, CALL),
    ("POST", BRANCH + "/objects", 201, "", upload_object, CALL),
    ("GET", "/healthcheck", 204, "", lambda _: None, {}),
    ("GET", "/config", 200, "", lambda _: CONFIG, {}),
    ("GET", "/repositories", 200, "read", Store.repositories, PAGE),
    ("POST", "/repositories", 201, "durable", Store.create_repository,
     {"name": TEXT, "storage_namespace": TEXT, "default_branch": "main"}),
    ("GET", REPO, 200, "read", Store.repository, {}),
    ("DELETE", REPO, 204, "durable", Store.delete_repository, {}),
    ("GET", KIND, 200, "read", Store.refs, PAGE | {"hidden": flag("show_hidden")}),
    ("GET", KIND + "/{name}", 200, "read", Store.ref, {}),
    ("DELETE", KIND + "/{name}", 204, "durable", Store.delete_ref, {}),
    ("POST", REPO + "/branches", 201, "durable",
     lambda store, repo, **fields: store.create_ref(repo, "branches", **fields)["commit_id"],
     {"name": TEXT, "source": TEXT, "hidden": False}),
    ("POST", REPO + "/tags", 201, "durable", lambda store, repo, id, ref: store.create_ref(repo, "tags", id, ref),
     {"id": TEXT, "ref": TEXT}),
    ("PUT", BRANCH, 204, "write", Store.reset, {"type": TEXT, "path": ""}),
    ("POST", BRANCH + "/commits", 201, "", Store.commit,
     {"message": TEXT, "metadata": {}, "date": 0, "allow_empty": False}),
    ("GET", REPO + "/commits/{ref}", 200, "read", Store.commit_at, {}),
    ("GET", REF + "/commits", 200, "read", Store.log,
     {"page": Call.log_page, "first_parent": flag("first_parent"), "limit": flag("limit"),
      "prefixes": lambda call: call.query.get("prefixes", [])}),
    ("GET", REF + "/merge/{branch}", 200, "read", Store.merge_base, {}),
    ("POST", REF + "/merge/{branch}", 200, "durable", Store.merge,
     {"message": "", "metadata": {}, "strategy": "", "squash_merge": False, "allow_empty": False, "force": False}),
    ("POST", BRANCH + "/revert", 204, "durable", Store.revert,
     {"ref": TEXT, "parent_number": 0, "allow_empty": False, "commit_overrides": {}}),
    ("PUT", BRANCH + "/hard_reset", 204, "durable", Store.hard_reset, {"ref": lambda call: call.text("ref")}),
    ("GET", BRANCH + "/diff", 200, "read", Store.diff_branch, PAGE),
    ("GET", REPO + "/refs/{left}/diff/{right}", 200, "read", Store.diff_refs,
     PAGE | {"type": lambda call: call.text("type")}),
    ("DELETE", BRANCH + "/objects", 204, "write", Store.delete, {"paths": lambda call: [call.path()]}),
    ("POST", BRANCH + "/objects/delete", 200, "write", Store.delete, {"paths": []}),
    ("POST", BRANCH + "/objects/copy", 201, "write", Store.copy,
     {"path": lambda call: call.path("dest_path"), "src_path": TEXT, "src_ref": ""}),
    ("GET", REF + "/objects/stat", 200, "read", Store.stat, PATH),
    ("GET", REF + "/objects/ls", 200, "read", Store.entries, PAGE),
]
# fmt: on


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def answer(call: Call, path: str) -> Reply:
    """Finds the endpoint and calls it. Raises LakeFSError, BadRequest and UnicodeDecodeError."""
    for methods, pattern, status, transaction, handler, wanted in ROUTES:
        if call.method not in methods.split() or not (match := _pattern(pattern).fullmatch(path)):
            continue
        parts = {name: urllib.parse.unquote(part, errors="strict") for name, part in match.groupdict().items()}
        # All of a JSON body comes before the transaction: a slow client must not keep the others waiting.
        arguments = call.arguments(wanted)
        with call.store.db.transaction(transaction) if transaction else contextlib.nullcontext():
            if "repo" in parts:
                call.store.repository(parts["repo"])  # unknown: 404
            first: Any = arguments.pop("call", call.store)
            result = handler(first, **parts, **arguments)
        return result if isinstance(result, Reply) else Reply(status, None if status == 204 else result)
    raise LakeFSError(501, NOT_HERE)
