"""The part of the lakeFS REST API that the embedded server answers: a table of endpoints over the store."""

import contextlib
import functools
import io
import json
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, BinaryIO, Literal, NamedTuple

from .bodies import Body, form_content
from .database import Kind
from .store import Commit, Found, LakeFSError, Page, Store
from .trees import GONE, Entry

MAX_PAGE = MAX_DELETE = 1000
MAX_PATH_BYTES = 1024
META_HEADER = "x-lakefs-meta-"
NAMES = {
    "repositories": re.compile("[a-z0-9][a-z0-9-]{2,62}"),
    "branches": re.compile(r"\w[-\w]*", re.ASCII),
    "tags": re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)"),
}
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
    """An answer: `json`, or the bytes of `data` from `start` to `stop` (excluded)."""

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
    headers: Message
    body: Body

    def text(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("1", "t", "true")

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

    def fields(self, wanted: dict[str, object]) -> dict[str, Any]:
        """Fields of the JSON body: a required text where `wanted` has `str`, else of the type of the default there."""
        try:
            body = json.loads(b"".join(self.body) or b"{}")
        except json.JSONDecodeError as error:
            raise LakeFSError(400, f"the request body is not JSON: {error}") from None
        result = {}
        for name, default in wanted.items():
            value = body.get(name) if isinstance(body, dict) else None
            value = default if value is None else value
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            kind = str if default is str else type(default)
            if type(value) is not kind or not all(isinstance(item, str) for item in inner):
                raise LakeFSError(400, f"request body: {name} is missing, or not a {kind.__name__} of text")
            result[name] = value
        return result


# How answers are written


def _listing(found: Found[Any], render: Callable[[str, Any], object]) -> object:
    rows, more = found
    offset = rows[-1][0] if more else ""
    page = {"has_more": more, "max_per_page": MAX_PAGE, "next_offset": offset, "results": len(rows)}
    return {"pagination": page, "results": [render(name, value) for name, value in rows]}


def _ref(name: str, commit_id: str) -> object:
    return {"id": name, "commit_id": commit_id}


def _commit(commit: Commit) -> object:
    return {**commit._asdict(), "creation_date": int(commit.created), "meta_range_id": commit.tree, "version": 1}


def _stats(path: str, entry: Entry | None) -> object:
    known = {"path": path, "path_type": "object" if entry else "common_prefix"}
    shown = entry or GONE
    return {**known, **shown._asdict(), "physical_address": f"local://{shown.sha256}", "size_bytes": shown.size}


def _change(path: str, change: dict[str, object] | None) -> object:
    known = {"path": path, "path_type": "object" if change else "common_prefix"}
    return known | (change or {"type": "prefix_changed"})


# Endpoints that take more than a line of the table


def _name(kind: str, name: str) -> str:
    if not NAMES[kind].fullmatch(name):
        raise LakeFSError(400, f"{name!r} is no name for {kind}: {NAMES[kind].pattern}")
    return name


def create_repository(call: Call, name: str, storage_namespace: str, default_branch: str) -> object:
    if not storage_namespace.startswith("local://"):
        raise LakeFSError(400, "the storage namespace of the embedded server begins with local://")
    _name("repositories", name)
    return call.store.create_repository(name, storage_namespace, _name("branches", default_branch or "main"))


def create_branch(call: Call, repo: str, name: str, source: str, hidden: bool) -> Reply:
    commit_id = call.store.create_ref(repo, "branches", _name("branches", name), source, hidden)
    return Reply(201, data=io.BytesIO(commit_id.encode()), stop=len(commit_id))  # lakeFS answers it as plain text


def reset_branch(call: Call, repo: str, branch: str, type: str, path: str) -> None:
    if type not in ("object", "common_prefix", "reset"):
        raise LakeFSError(400, f"type {type!r} is not object, common_prefix or reset")
    call.store.ref(repo, "branches", branch)
    call.store.reset(repo, branch, "" if type == "reset" else path, exact=type == "object")


def log_commits(call: Call, repo: str, ref: str) -> object:
    if unknown := [name for name in ("objects", "prefixes", "since", "stop_at") if call.text(name)]:
        raise LakeFSError(501, f"the log's {unknown[0]}: {NOT_HERE}")
    page, commits = call.page(), call.store.log(repo, ref, call.flag("first_parent"))
    if page.after:
        next((commit for commit in commits if commit.id == page.after), None)
    found: list[tuple[str, Commit | None]] = [
        (commit.id, commit) for commit, _ in zip(commits, range(page.amount + 1), strict=False)
    ]
    more = len(found) > page.amount and not call.flag("limit")
    return _listing((found[: page.amount], more), lambda _, commit: _commit(commit))


def merge(call: Call, repo: str, ref: str, branch: str, force: bool, **options: Any) -> object:
    options["allow_empty"] |= force
    return {"reference": call.store.merge(repo, ref, branch, **options).id}


def upload_object(call: Call, repo: str, branch: str) -> object:
    store, headers, path = call.store, call.headers, call.path()
    store.ref(repo, "branches", branch)  # before the body comes
    content_type, content = headers.get("Content-Type", "application/octet-stream"), iter(call.body)
    if content_type.lower().startswith("multipart/form-data"):
        content_type, content = form_content(call.body, headers.get_boundary(""))
    blob = store.files.receive(content)
    named = [(name.lower(), value) for name, value in headers.items()]
    metadata = {name.removeprefix(META_HEADER): value for name, value in named if name.startswith(META_HEADER)}
    with store.transaction("write"):
        return _stats(path, store.put(repo, branch, path, blob, content_type, metadata, "If-None-Match" in headers))


def delete_objects(call: Call, repo: str, branch: str, paths: list[str]) -> object:
    if len(paths) > MAX_DELETE:
        raise LakeFSError(400, f"request size exceeded, max paths is set to {MAX_DELETE}")
    call.store.delete(repo, branch, paths)
    return {"errors": []}


def get_object(call: Call, repo: str, ref: str) -> Reply:
    entry = call.store.entry(repo, ref, call.path())
    headers = {"ETag": f'"{entry.checksum}"', "Accept-Ranges": "bytes", "Content-Type": entry.content_type}
    # Several ranges at once, or ranges of something else, may be answered with the whole.
    match = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", call.headers.get("Range", ""))
    first, last = match.groups() if match else ("0", "")
    start = int(first) if first else max(entry.size - int(last), 0)
    stop = min(int(last) + 1, entry.size) if first and last else entry.size
    if match and start >= stop:
        unsatisfied = {"Content-Range": f"bytes */{entry.size}"}
        return Reply(416, {"message": "Requested Range Not Satisfiable"}, headers=unsatisfied)
    if match:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
    return Reply(206 if match else 200, None, call.store.files.open(entry.sha256), start, stop, headers)


# The endpoints


class Route(NamedTuple):
    """An endpoint. `handler` is called with the call, the parts of the path in braces and the `fields` of the body;
    it returns a Reply, or the JSON that goes with `status`. `transaction` "" leaves that to the handler, because it
    reads or writes files meanwhile."""

    methods: str
    path: str
    status: int
    transaction: Kind | Literal[""]
    handler: Callable[..., object]
    fields: dict[str, object] = {}  # noqa: RUF012


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


REPO = "/repositories/{repo}"
BRANCH = REPO + "/branches/{branch}"
REF = REPO + "/refs/{ref}"
REFS = REPO + "/(?P<kind>branches|tags)"
# fmt: off
ROUTES = [
    Route("GET", "/healthcheck", 204, "", lambda call: None),
    Route("GET", "/config", 200, "", lambda call: CONFIG),
    Route("GET", "/repositories", 200, "read",
          lambda call: _listing(call.store.repositories(call.page()), lambda _, repository: repository)),
    Route("POST", "/repositories", 201, "durable", create_repository,
          {"name": str, "storage_namespace": str, "default_branch": "main"}),
    Route("GET", REPO, 200, "read", lambda call, repo: call.store.repository(repo)),
    Route("DELETE", REPO, 204, "durable", lambda call, repo: call.store.delete_repository(repo)),

    Route("GET", REFS, 200, "read",
          lambda call, repo, kind: _listing(call.store.refs(repo, kind, call.page(), call.flag("show_hidden")), _ref)),
    Route("GET", REFS + "/{name}", 200, "read",
          lambda call, repo, kind, name: _ref(name, call.store.ref(repo, kind, name))),
    Route("DELETE", REFS + "/{name}", 204, "durable",
          lambda call, repo, kind, name: call.store.delete_ref(repo, kind, name)),
    Route("POST", REPO + "/branches", 201, "durable", create_branch, {"name": str, "source": str, "hidden": False}),
    Route("POST", REPO + "/tags", 201, "durable",
          lambda call, repo, id, ref: _ref(id, call.store.create_ref(repo, "tags", _name("tags", id), ref, False)),
          {"id": str, "ref": str}),
    Route("PUT", BRANCH, 204, "write", reset_branch, {"type": str, "path": ""}),

    Route("POST", BRANCH + "/commits", 201, "",
          lambda call, repo, branch, **fields: _commit(call.store.commit(repo, branch, **fields)),
          {"message": str, "metadata": {}, "date": 0, "allow_empty": False}),
    Route("GET", REPO + "/commits/{ref}", 200, "read",
          lambda call, repo, ref: _commit(call.store.commit_at(repo, ref))),
    Route("GET", REF + "/commits", 200, "read", log_commits),
    Route("POST", REF + "/merge/{branch}", 200, "durable", merge,
          {"message": "", "metadata": {}, "strategy": "", "squash_merge": False, "allow_empty": False, "force": False}),
    Route("POST", BRANCH + "/revert", 204, "durable",
          lambda call, repo, branch, **fields: call.store.replay(repo, branch, **fields, undo=True) and None,
          {"ref": str, "parent_number": 0, "allow_empty": False}),
    Route("POST", BRANCH + "/cherry-pick", 201, "durable",
          lambda call, repo, branch, **fields: _commit(call.store.replay(repo, branch, **fields)),
          {"ref": str, "parent_number": 0}),
    Route("GET", BRANCH + "/diff", 200, "read",
          lambda call, repo, branch: _listing(call.store.diff_branch(repo, branch, call.page()), _change)),
    Route("GET", REPO + "/refs/{left}/diff/{right}", 200, "read",
          lambda call, **sides: _listing(
              call.store.diff_refs(**sides, page=call.page(), three_dot=call.text("type") != "two_dot"), _change)),

    Route("POST", BRANCH + "/objects", 201, "", upload_object),
    Route("DELETE", BRANCH + "/objects", 204, "write",
          lambda call, repo, branch: call.store.delete(repo, branch, [call.path()])),
    Route("POST", BRANCH + "/objects/delete", 200, "write", delete_objects, {"paths": []}),
    Route("POST", BRANCH + "/objects/copy", 201, "write",
          lambda call, **fields: _stats(call.path("dest_path"), call.store.copy(path=call.path("dest_path"), **fields)),
          {"src_path": str, "src_ref": ""}),
    Route("GET", REF + "/objects/stat", 200, "read",
          lambda call, repo, ref: _stats(call.path(), call.store.entry(repo, ref, call.path()))),
    Route("GET", REF + "/objects/ls", 200, "read",
          lambda call, repo, ref: _listing(call.store.entries(repo, ref, call.page()), _stats)),
    Route("GET HEAD", REF + "/objects", 200, "read", get_object),
]
# fmt: on


def answer(call: Call, path: str) -> Reply:
    """Finds the endpoint and calls it. Raises LakeFSError, BadBody and UnicodeDecodeError."""
    for route in ROUTES:
        found = call.method in route.methods.split() and _pattern(route.path).fullmatch(path)
        if not found:
            continue
        parts = {name: urllib.parse.unquote(part, errors="strict") for name, part in found.groupdict().items()}
        # All of a JSON body comes before the transaction: a slow client must not keep the others waiting.
        fields = call.fields(route.fields) if route.fields else {}
        with call.store.transaction(route.transaction) if route.transaction else contextlib.nullcontext():
            if "repo" in parts:
                call.store.repository(parts["repo"])  # unknown: 404
            result = route.handler(call, **parts, **fields)
        return result if isinstance(result, Reply) else Reply(route.status, result)
    raise LakeFSError(501, NOT_HERE)
