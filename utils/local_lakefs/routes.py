"""The part of the lakeFS REST API that the embedded server answers: one function an endpoint, over the store."""

import datetime
import email.utils
import itertools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from .bodies import Body, Form
from .store import COMMITTER, INVALID, Change, Commit, LakeFSError, MergeConflict, Page, Store
from .trees import Entry

VERSION = "1.84.0-embedded"
MAX_PATH_BYTES = 1024
MAX_DELETE = 1000
META_HEADER = "x-lakefs-meta-"
BRANCH_RULE = ": branch id must consist of letters, digits, underscores and dashes, and cannot start with a dash"
_JSON_TYPES = {str: "string", int: "integer", bool: "boolean", dict: "object", list: "array"}


@dataclass
class Reply:
    """An answer: `json`, or the bytes from `start` to `stop` (excluded; None is the end) of `data`."""

    status: int = 200
    json: object = None
    data: bytes | Path = b""
    start: int = 0
    stop: int | None = None
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

    def flag(self, name: str, default: str = "") -> bool:
        return self.text(name, default).lower() in ("1", "t", "true")

    def namespace(self, repo: str) -> str:
        return str(self.store.repository(repo)["storage_namespace"]).rstrip("/")

    def path(self, name: str = "path") -> str:
        """An object path from the query: required, and 1,024 bytes at most."""
        if not self.text(name):
            problem = "empty value is not allowed" if name in self.query else "value is required but missing"
            raise LakeFSError(400, f'parameter "{name}" in query has an error: {problem}')
        return _path(self.text(name))

    def page(self) -> Page:
        text = self.text("amount", "100")
        if not re.fullmatch(r"-?\d{1,9}", text) or not -1 <= int(text) <= 1000:
            raise LakeFSError(400, 'parameter "amount" in query has an error: number must be between -1 and 1000')
        amount = int(text) if int(text) > 0 else 100
        return Page(self.text("prefix"), self.text("after"), amount, self.text("delimiter"))

    def fields(self, required: dict[str, type], optional: dict[str, type] | None = None) -> dict[str, Any]:
        """The JSON body's fields, checked; what is optional and missing comes as its type's empty value."""
        try:
            body = json.loads(b"".join(self.body) or b"{}")
        except ValueError as error:
            raise LakeFSError(400, f"request body has an error: failed to decode request body: {error}") from None
        result: dict[str, Any] = {}
        for name, kind in (required | (optional or {})).items():
            value = body.get(name) if isinstance(body, dict) else None
            if value is None and name in required:
                raise LakeFSError(400, f'request body has an error: property "{name}" is missing')
            if value is not None and type(value) is not kind:
                problem = f'Error at "/{name}": value must be a {_JSON_TYPES[kind]}'
                raise LakeFSError(400, f"request body has an error: {problem}")
            result[name] = kind() if value is None else value
        return result


def _strings(values: Any, name: str) -> Any:
    """`values` (an object or an array), if all it holds are strings."""
    for value in values.values() if isinstance(values, dict) else values:
        if not isinstance(value, str):
            raise LakeFSError(400, f'request body has an error: Error at "/{name}": value must be a string')
    return values


def _path(path: str) -> str:
    if not path:
        raise LakeFSError(400, "argument path: missing path: required value: validation error")
    if (size := len(path.encode())) > MAX_PATH_BYTES:
        raise LakeFSError(400, f"argument path: {INVALID}: {size} is above maximum length ({MAX_PATH_BYTES})")
    return path


def _name(kind: str, name: str, argument: str, rule: str = "") -> str:
    """A name of a branch, tag or reference that lakeFS would take."""
    if not name:
        raise LakeFSError(500, f"argument {argument}: required value: validation error")  # lakeFS's own status
    bad = {
        "branch id": not re.fullmatch(r"\w[-\w]*", name, re.ASCII),
        "tag id": name == "@" or re.search(r"[\x00-\x20^:?*\[\\/]|\.\.|@\{|\.$|\.lock$", name),
        "ref": re.search(r"\s", name),
    }
    if bad[kind]:
        raise LakeFSError(400, f"argument {argument}: {kind}: {INVALID}{rule}")
    return name


Handler = Callable[..., Reply]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []
REPO = "/repositories/{repo}"
BRANCH = REPO + "/branches/{branch}"
REF = REPO + "/refs/{ref}"


def route(methods: str, path: str) -> Callable[[Handler], Handler]:
    """Enters a function for `methods` and a path; the parts in braces become its arguments."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))

    def register(handler: Handler) -> Handler:
        ROUTES.extend((method, pattern, handler) for method in methods.split())
        return handler

    return register


def _listing(results: list[Any], more: bool, key: str) -> Reply:
    offset = results[-1][key] if more else ""
    page = {"has_more": more, "max_per_page": 1000, "next_offset": offset, "results": len(results)}
    return Reply(json={"pagination": page, "results": results})


def _ref(name: str, commit_id: str) -> dict[str, str]:
    return {"id": name, "commit_id": commit_id}


def _commit(commit: Commit) -> dict[str, Any]:
    known = {
        name: getattr(commit, name) for name in ("id", "parents", "committer", "message", "metadata", "generation")
    }
    return known | {"creation_date": int(commit.created), "meta_range_id": commit.tree, "version": 1}


def _stats(namespace: str, path: str, entry: Entry) -> dict[str, Any]:
    known = {name: getattr(entry, name) for name in ("checksum", "mtime", "content_type", "metadata")}
    place = {"path": path, "path_type": "object", "physical_address": f"{namespace}/data/{entry.sha256}"}
    return place | known | {"size_bytes": entry.size}


# The server itself


@route("GET", "/healthcheck")
def healthcheck(call: Call) -> Reply:
    return Reply(204)


@route("GET", "/config")
def config(call: Call) -> Reply:
    storage = {
        "blockstore_type": "local",
        "blockstore_namespace_example": "local://example/",
        "blockstore_namespace_ValidityRegex": "^local://",
        "default_namespace_prefix": "local://",
        "pre_sign_support": False,
        "pre_sign_support_ui": False,
        "pre_sign_multipart_upload": False,
        "import_support": False,
        "import_validity_regex": "^local://",
    }
    version = {"version": VERSION, "version_context": "lakeFS"}
    return Reply(json={"storage_config": storage, "storage_config_list": [], "version_config": version})


@route("GET", "/user")
def user(call: Call) -> Reply:
    return Reply(json={"user": {"id": COMMITTER, "creation_date": 0, "friendly_name": COMMITTER}})


@route("POST", "/statistics")
def statistics(call: Call) -> Reply:
    return Reply(204)  # lakectl's usage counts: nobody collects them here


# Repositories


@route("GET", "/repositories")
def list_repositories(call: Call) -> Reply:
    return _listing(*call.store.repositories(call.page()), "id")


@route("POST", "/repositories")
def create_repository(call: Call) -> Reply:
    body = call.fields({"name": str, "storage_namespace": str}, {"default_branch": str})
    name, namespace = body["name"], body["storage_namespace"]
    if not re.fullmatch("[a-z0-9][a-z0-9-]{2,62}", name):
        problem = 'Error at "/name": string doesn\'t match the regular expression "^[a-z0-9][a-z0-9-]{2,62}$"'
        raise LakeFSError(400, f"request body has an error: {problem}")
    if not namespace.startswith("local://"):
        raise LakeFSError(400, "failed to match required regex ^local://: invalid namespace")
    return Reply(201, call.store.create_repository(name, namespace, body["default_branch"] or "main"))


@route("GET", REPO)
def get_repository(call: Call, repo: str) -> Reply:
    return Reply(json=call.store.repository(repo))


@route("GET", REPO + "/metadata")
def get_repository_metadata(call: Call, repo: str) -> Reply:
    call.store.repository(repo)
    return Reply(json={})  # there is no way to set any


@route("DELETE", REPO)
def delete_repository(call: Call, repo: str) -> Reply:
    call.store.delete_repository(repo)
    return Reply(204)


# Branches and tags


@route("GET", REPO + "/branches")
def list_branches(call: Call, repo: str) -> Reply:
    found, more = call.store.refs("branches", repo, call.page(), call.flag("show_hidden"))
    return _listing([_ref(name, commit_id or "") for name, commit_id in found], more, "id")


@route("POST", REPO + "/branches")
def create_branch(call: Call, repo: str) -> Reply:
    body = call.fields({"name": str, "source": str}, {"hidden": bool})
    name = _name("branch id", body["name"], "branch", BRANCH_RULE)
    commit_id = call.store.create_branch(repo, name, _name("ref", body["source"], "ref"), body["hidden"])
    return Reply(201, data=commit_id.encode())  # lakeFS answers it as plain text


@route("GET", BRANCH)
def get_branch(call: Call, repo: str, branch: str) -> Reply:
    return Reply(json=_ref(branch, call.store.branch(repo, _name("branch id", branch, "branch"))))


@route("DELETE", BRANCH)
def delete_branch(call: Call, repo: str, branch: str) -> Reply:
    call.store.delete_branch(repo, _name("branch id", branch, "name"))
    return Reply(204)


@route("PUT", BRANCH)
def reset_branch(call: Call, repo: str, branch: str) -> Reply:
    body = call.fields({"type": str}, {"path": str})
    if body["type"] == "object":
        call.store.reset(repo, branch, path=_path(body["path"]))
    elif body["type"] in ("common_prefix", "reset"):
        call.store.reset(repo, branch, prefix=body["path"] if body["type"] == "common_prefix" else "")
    else:
        raise LakeFSError(400, 'request body has an error: Error at "/type": value is not one of the allowed values')
    return Reply(204)


@route("PUT", BRANCH + "/hard_reset")
def hard_reset(call: Call, repo: str, branch: str) -> Reply:
    call.store.hard_reset(repo, branch, call.text("ref"))
    return Reply(204)


@route("GET", REPO + "/tags")
def list_tags(call: Call, repo: str) -> Reply:
    found, more = call.store.refs("tags", repo, call.page())
    return _listing([_ref(name, commit_id or "") for name, commit_id in found], more, "id")


@route("POST", REPO + "/tags")
def create_tag(call: Call, repo: str) -> Reply:
    body = call.fields({"id": str, "ref": str})
    tag = _name("tag id", body["id"], "tagID")
    return Reply(201, _ref(tag, call.store.create_tag(repo, tag, body["ref"])))


@route("GET", REPO + "/tags/{tag}")
def get_tag(call: Call, repo: str, tag: str) -> Reply:
    return Reply(json=_ref(tag, call.store.tag(repo, tag)))


@route("DELETE", REPO + "/tags/{tag}")
def delete_tag(call: Call, repo: str, tag: str) -> Reply:
    call.store.delete_tag(repo, tag)
    return Reply(204)


# Commits and merges


@route("POST", BRANCH + "/commits")
def create_commit(call: Call, repo: str, branch: str) -> Reply:
    body = call.fields({"message": str}, {"metadata": dict, "date": int, "allow_empty": bool})
    metadata, date = _strings(body["metadata"], "metadata"), body["date"] or None
    return Reply(201, _commit(call.store.commit(repo, branch, body["message"], metadata, date, body["allow_empty"])))


@route("GET", REPO + "/commits/{ref}")
def get_commit(call: Call, repo: str, ref: str) -> Reply:
    try:
        return Reply(json=_commit(call.store.commit_at(repo, ref)))
    except LakeFSError as error:
        raise LakeFSError(error.status, re.sub("^not found$", "commit not found", error.message)) from None


@route("GET", REF + "/commits")
def log_commits(call: Call, repo: str, ref: str) -> Reply:
    store, page = call.store, call.page()
    objects, prefixes = call.query.get("objects", []), call.query.get("prefixes", [])
    since = datetime.datetime.fromisoformat(call.text("since")).timestamp() if call.text("since") else 0.0
    stop_at = store.commit_at(repo, call.text("stop_at"), "stop_at").id if call.text("stop_at") else None
    after = store.commit_at(repo, page.after, "from ref").id if page.after else None
    found: list[dict[str, Any]] = []
    with store.reading(repo):
        commits: Iterable[Commit] = store.log(repo, ref, call.flag("first_parent"), since)
        if after:
            commits = itertools.islice(itertools.dropwhile(lambda commit: commit.id != after, commits), 1, None)
        for commit in commits:
            if len(found) > page.amount or (found and found[-1]["id"] == stop_at):
                break
            if not (objects or prefixes) or store.touches(repo, commit, objects, prefixes):
                found.append(_commit(commit))
    return _listing(found[: page.amount], len(found) > page.amount and not call.flag("limit"), "id")


@route("POST", REF + "/merge/{branch}")
def merge(call: Call, repo: str, ref: str, branch: str) -> Reply:
    optional: dict[str, type] = {"message": str, "metadata": dict, "strategy": str}
    body = call.fields({}, optional | {"squash_merge": bool, "allow_empty": bool, "force": bool})
    source, destination = _name("ref", ref, "source"), _name("branch id", branch, "destination")
    metadata, empty = _strings(body["metadata"], "metadata"), body["allow_empty"] or body["force"]
    options = body["message"], metadata, body["strategy"], body["squash_merge"], empty
    try:
        return Reply(json={"reference": call.store.merge(repo, source, destination, *options).id})
    except MergeConflict:
        return Reply(409, {"reference": ""})  # lakeFS answers this instead of its usual error


@route("GET", REF + "/merge/{destination}")
def find_merge_base(call: Call, repo: str, ref: str, destination: str) -> Reply:
    with call.store.reading(repo):  # lakeFS answers the two references the other way round
        commits = call.store.merge_base(repo, destination, ref)
    names = ("source_commit_id", "destination_commit_id", "base_commit_id")
    return Reply(json={name: commit.id for name, commit in zip(names, commits, strict=True)})


@route("POST", BRANCH + "/revert")
def revert(call: Call, repo: str, branch: str) -> Reply:
    body = call.fields({"ref": str, "parent_number": int}, {"allow_empty": bool, "commit_overrides": dict})
    call.store.revert(repo, branch, *body.values())
    return Reply(204)


@route("POST", BRANCH + "/cherry-pick")
def cherry_pick(call: Call, repo: str, branch: str) -> Reply:
    body = call.fields({"ref": str}, {"parent_number": int, "commit_overrides": dict})
    return Reply(201, _commit(call.store.cherry_pick(repo, branch, *body.values())))


# Differences


def _difference(path: str, change: Change | None, staged: bool, stats: bool, conflict: bool = False) -> dict[str, Any]:
    if change is None:
        return {"path": path, "path_type": "common_prefix", "type": "prefix_changed"}
    _, before, after = change
    kind = "conflict" if conflict else "added" if before is None else "removed" if after is None else "changed"
    shown = after if after or staged else before  # lakeFS gives a staged deletion no size
    result = {"path": path, "path_type": "object", "type": kind, "size_bytes": shown.size if shown else 0}
    if stats and after:
        result["right"] = {name: getattr(after, name) for name in ("checksum", "mtime", "content_type", "metadata")}
    return result


@route("GET", BRANCH + "/diff")
def diff_branch(call: Call, repo: str, branch: str) -> Reply:
    found, more = call.store.diff_branch(repo, branch, call.page())
    return _listing([_difference(path, change, True, False) for path, change in found], more, "path")


@route("GET", REPO + "/refs/{left}/diff/{right}")
def diff_refs(call: Call, repo: str, left: str, right: str) -> Reply:
    kind, stats = call.text("type", "three_dot"), call.flag("include_right_stats")
    if kind == "two_dot":
        found, more = call.store.diff_refs(repo, left, right, call.page())
        return _listing([_difference(path, change, False, stats) for path, change in found], more, "path")
    if kind == "three_dot":
        compared, more = call.store.compare(repo, left, right, call.page())
        pairs = [(path, *(pair or (None, False))) for path, pair in compared]
        return _listing([_difference(path, change, False, stats, bad) for path, change, bad in pairs], more, "path")
    raise LakeFSError(400, 'parameter "type" in query has an error: value is not one of the allowed values')


# Objects


@route("POST", BRANCH + "/objects")
def upload_object(call: Call, repo: str, branch: str) -> Reply:
    store, headers, path = call.store, call.headers, call.path()
    store.branch(repo, branch, f"branch '{branch}' not found")  # before the body comes
    if headers.get("If-None-Match", "*") != "*" or "If-Match" in headers:
        raise LakeFSError(501, "the embedded server knows no condition but If-None-Match: *")
    content_type = headers.get("Content-Type", "application/octet-stream")
    if content_type.lower().startswith("multipart/form-data"):
        boundary = headers.get_param("boundary", header="Content-Type")
        if not isinstance(boundary, str):
            raise LakeFSError(500, "no multipart boundary param in Content-Type")
        form = Form(call.body, boundary)
        blob = store.receive(form)
        content_type = form.content_type
    else:
        blob = store.receive(call.body)
    named = [(name.lower(), value) for name, value in headers.items()]
    metadata = {name.removeprefix(META_HEADER): value for name, value in named if name.startswith(META_HEADER)}
    entry = store.put(repo, branch, path, blob, content_type, metadata, "If-None-Match" in headers)
    return Reply(201, _stats(call.namespace(repo), path, entry))


@route("DELETE", BRANCH + "/objects")
def delete_object(call: Call, repo: str, branch: str) -> Reply:
    call.store.delete(repo, branch, [call.path()])
    return Reply(204)


@route("POST", BRANCH + "/objects/delete")
def delete_objects(call: Call, repo: str, branch: str) -> Reply:
    paths = _strings(call.fields({"paths": list})["paths"], "paths")
    if len(paths) > MAX_DELETE:
        raise LakeFSError(400, f"request size exceeded, max paths is set to {MAX_DELETE}")
    try:
        call.store.delete(repo, branch, paths)
    except LakeFSError as error:
        if error.status != 404:  # what is not there is no error here, the branch included
            raise
    return Reply(json={"errors": []})


@route("POST", BRANCH + "/objects/copy")
def copy_object(call: Call, repo: str, branch: str) -> Reply:
    body, path = call.fields({"src_path": str}, {"src_ref": str}), call.path("dest_path")
    entry = call.store.copy(repo, branch, path, body["src_ref"] or branch, body["src_path"])
    return Reply(201, _stats(call.namespace(repo), path, entry))


@route("PUT", BRANCH + "/objects/stat/user_metadata")
def set_metadata(call: Call, repo: str, branch: str) -> Reply:
    call.store.set_metadata(repo, branch, call.path(), _strings(call.fields({"set": dict})["set"], "set"))
    return Reply(204)


@route("GET", REF + "/objects/stat")
def stat_object(call: Call, repo: str, ref: str) -> Reply:
    path = call.path()
    stats = _stats(call.namespace(repo), path, call.store.entry(repo, ref, path))
    return Reply(json=stats if call.flag("user_metadata", "true") else stats | {"metadata": {}})


@route("GET", REF + "/objects/ls")
def list_objects(call: Call, repo: str, ref: str) -> Reply:
    found, more = call.store.entries(repo, ref, call.page())
    namespace, wanted, results = call.namespace(repo), call.flag("user_metadata", "true"), []
    for path, entry in found:
        stats = {"path": path, "path_type": "common_prefix", "physical_address": "", "checksum": "", "mtime": 0}
        if entry:
            stats = _stats(namespace, path, entry)
            if not (wanted and entry.metadata):
                del stats["metadata"]
        results.append(stats)
    return _listing(results, more, "path")


@route("GET HEAD", REF + "/objects")
def get_object(call: Call, repo: str, ref: str) -> Reply:
    entry, reading = call.store.entry(repo, ref, call.path()), call.method == "GET"
    etag = f'"{entry.checksum}"'
    if reading and call.headers.get("If-None-Match") == etag:
        return Reply(304)
    if reading and call.flag("presign"):
        raise LakeFSError(400, "operation not supported: the embedded server signs no links")
    headers = {
        "ETag": etag,
        "Last-Modified": email.utils.formatdate(entry.mtime, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": entry.content_type,
        "Cache-Control": "no-store, must-revalidate",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
    }
    data = call.store.open(entry.sha256)
    if "Range" not in call.headers:
        return Reply(200, data=data, stop=entry.size, headers=headers)
    wanted = _range(call.headers["Range"], entry.size)
    if not wanted:
        unsatisfied = {"Content-Range": f"bytes */{entry.size}", "ETag": etag}
        return Reply(416, {"message": "Requested Range Not Satisfiable"}, headers=unsatisfied)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{entry.size}"
    return Reply(206, data=data, start=wanted.start, stop=wanted.stop, headers=headers)


def _range(text: str, size: int) -> range:
    """The bytes that a Range header asks for, perhaps none. Several ranges at once are not answered, as in lakeFS."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)(,.*)?", text)
    if not match:
        raise LakeFSError(400, 'parameter "Range" in header has an error: string doesn\'t match "^bytes="')
    first, last, others = match.groups()
    if others or not (first or last):
        return range(0)
    if not first:
        return range(max(size - int(last), 0), size)
    return range(int(first), min(int(last) + 1, size) if last else size)
