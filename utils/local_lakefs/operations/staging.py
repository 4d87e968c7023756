"""Objects of a reference: the committed tree with a branch's staged changes on top."""

import json
import time
from collections.abc import Iterator

from ..content import Blob
from ..store import Json, LakeFSError, Metadata, Store
from ..trees import DELETED, Entry, identity, outer_join
from .listing import Change, Page, render_change, render_entry
from .refs import get_branch_head, get_ref, resolve_ref
from .repositories import check_repository

MAX_DELETE = 1000

# The rows of staged changes


def scan_staged(store: Store, repo: str, branch: str | None, start: str = "") -> Iterator[tuple[str, Entry]]:
    """Yield what is staged on a branch from path `start` on; DELETED where the path is deleted."""
    query = "SELECT path, entry FROM staging WHERE repo=? AND branch=? AND path>=? ORDER BY path"
    for path, data in store.db(query, repo, branch, start):
        yield path, Entry(*json.loads(data))


def scan_staged_changes(
    store: Store, repo: str, branch: str, tree: str, start: str = ""
) -> Iterator[tuple[str, Change]]:
    """Yield the staged changes, from path `start` on, that differ from the branch's committed tree."""
    for path, entry in scan_staged(store, repo, branch, start):
        committed = store.trees.get(tree, path)
        if identity(committed) != identity(entry):
            yield path, (committed, entry, False)


def sync_staged(store: Store, repo: str, branch: str) -> None:
    """Make the staged content files durable. Raise OSError if a power cut lost one."""
    query = """SELECT DISTINCT blobs.sha256, size FROM staging JOIN blobs USING(sha256)
               WHERE repo=? AND branch=? AND synced=0"""
    store.files.sync(store.db(query, repo, branch).fetchall())


def unstage(store: Store, repo: str, branch: str, prefix: str = "", exact: bool = False) -> None:
    """Drop the staged changes below a prefix, or with `exact` of the one path."""
    matched = "path" if exact else "substr(path, 1, length(?3))"
    store.db(f"DELETE FROM staging WHERE repo=?1 AND branch=?2 AND {matched}=?3", repo, branch, prefix)


def _stage(store: Store, repo: str, branch: str, path: str, entry: Entry) -> Json:
    get_ref(store, repo, "branches", branch)  # unknown: 404
    data = json.dumps(entry, ensure_ascii=False)
    store.db("INSERT OR REPLACE INTO staging VALUES(?, ?, ?, ?, ?)", repo, branch, path, entry.sha256, data)
    return render_entry(path, entry)


# Changing objects


def put_object(
    store: Store,
    repo: str,
    branch: str,
    path: str,
    blob: Blob,
    *,
    content_type: str,
    metadata: Metadata,
    only_new: bool,
) -> Json:
    """Stage received content. With `only_new`, raise LakeFSError (412) if the path exists."""
    if only_new and _find_entry(store, repo, branch, path):
        raise LakeFSError(412, "path already exists")
    if not store.files.record(blob):
        raise LakeFSError(503, "gc deleted the content during its upload: upload it again")
    metadata = dict(sorted(metadata.items()))
    entry = Entry(blob.sha256, blob.md5, blob.size, int(time.time()), content_type, metadata)
    return _stage(store, repo, branch, path, entry)


def copy_object(store: Store, repo: str, branch: str, path: str, src_ref: str, src_path: str) -> Json:
    """Stage a copy of an object; `src_ref` "" is the branch itself."""
    entry = get_entry(store, repo, src_ref or branch, src_path)
    return _stage(store, repo, branch, path, entry._replace(mtime=int(time.time())))


def delete_object(store: Store, repo: str, branch: str, path: str) -> None:
    """Stage a deletion; a path that does not exist is ignored."""
    _delete(store, repo, branch, [path])


def delete_objects(store: Store, repo: str, branch: str, paths: list[str], force: bool) -> Json:
    """Stage deletions; paths that do not exist are ignored. Return the errors by path, as lakeFS does."""
    if len(paths) > MAX_DELETE:
        raise LakeFSError(400, f"request size exceeded, max paths is set to {MAX_DELETE}")
    try:
        check_repository(store, repo, change=not force)
    except LakeFSError as error:
        reason = {"status_code": error.status, "message": error.message}
        return {"errors": [{"path": path, **reason} for path in paths]}
    _delete(store, repo, branch, paths)
    return {"errors": []}


def _delete(store: Store, repo: str, branch: str, paths: list[str]) -> None:
    tree = get_branch_head(store, repo, branch)["meta_range_id"]
    for path in paths:
        unstage(store, repo, branch, path, exact=True)
        if store.trees.get(tree, path):
            _stage(store, repo, branch, path, DELETED)


def reset_branch(store: Store, repo: str, branch: str, type: str, path: str) -> None:
    """Drop what is staged: everything, one path, or what is below a prefix."""
    get_ref(store, repo, "branches", branch)
    if type not in ("reset", "object", "common_prefix"):
        raise LakeFSError(400, f"type {type!r} is not reset, object or common_prefix")
    unstage(store, repo, branch, "" if type == "reset" else path, exact=type == "object")


# Reading objects


def stat_object(store: Store, repo: str, ref: str, path: str) -> Json:
    """Return an object's metadata as lakeFS shows it."""
    return render_entry(path, get_entry(store, repo, ref, path))


def get_entry(store: Store, repo: str, ref: str, path: str) -> Entry:
    """Return an object's entry. Raise LakeFSError (404) if there is none."""
    if not (entry := _find_entry(store, repo, ref, path)):
        raise LakeFSError(404, f"not found: {path}")
    return entry


def _find_entry(store: Store, repo: str, ref: str, path: str) -> Entry | None:
    commit_id, branch = resolve_ref(store, repo, ref)
    staged_path, entry = next(scan_staged(store, repo, branch, path), ("", None))
    if staged_path != path:
        entry = store.trees.get(store.get_commit(repo, commit_id)["meta_range_id"], path)
    return entry if identity(entry) else None


def list_objects(store: Store, repo: str, ref: str, page: Page) -> Json:
    """Return a page of a reference's objects, with staged changes where it names a branch."""
    commit_id, branch = resolve_ref(store, repo, ref)
    tree = store.get_commit(repo, commit_id)["meta_range_id"]

    def scan(start: str) -> Iterator[tuple[str, Entry]]:
        sides = store.trees.scan(tree, start), scan_staged(store, repo, branch, start)
        for path, (committed, staged) in outer_join(*sides):
            if (entry := staged or committed) and entry.sha256:
                yield path, entry

    return page.select(scan, render_entry)


def diff_branch(store: Store, repo: str, branch: str, page: Page) -> Json:
    """Return a page of a branch's staged changes; in it, unlike in other differences, a removed object has no size."""
    tree = get_branch_head(store, repo, branch)["meta_range_id"]

    def render(path: str, change: Change) -> Json:
        shown = render_change(path, change)
        return shown | {"size_bytes": 0} if shown["type"] == "removed" else shown

    return page.select(lambda start: scan_staged_changes(store, repo, branch, tree, start), render)
