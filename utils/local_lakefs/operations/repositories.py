"""Repositories and their metadata."""

import json
import re
import time

from ..store import Json, LakeFSError, Metadata, Store, UnsupportedError
from .listing import Page

NAME = re.compile("[a-z0-9][a-z0-9-]{2,62}")
BRANCH_NAME = re.compile(r"\w[-\w]*", re.ASCII)


def create_repository(
    store: Store, name: str, storage_namespace: str, storage_id: str, default_branch: str, *, read_only: bool,
    sample_data: bool, bare: bool,
) -> Json:  # fmt: skip
    """Create a repository, its first commit and its default branch."""
    for found, pattern, what in ((name, NAME, "repository"), (default_branch, BRANCH_NAME, "branch")):
        if not pattern.fullmatch(found):
            raise LakeFSError(400, f"{found!r} is not a valid name of a {what} (expected: {pattern.pattern})")
    if _load(store, name) is not None:
        raise LakeFSError(409, "error creating repository: not unique")
    if sample_data or bare:
        raise UnsupportedError("sample data" if sample_data else "a bare repository")
    if storage_id:
        raise LakeFSError(400, "storage id: invalid value: validation error")
    if not storage_namespace.startswith("local://"):
        raise LakeFSError(400, "the storage namespace of the embedded server begins with local://")
    data = {
        "id": name, "storage_namespace": storage_namespace, "default_branch": default_branch,
        "creation_date": int(time.time()), "storage_id": "", "read_only": read_only,
    }  # fmt: skip
    store.db("INSERT INTO repositories VALUES(?, ?)", name, json.dumps(data))
    first = store.add_commit(name, [], "", "Repository created", {})
    store.db("INSERT INTO refs VALUES(?, ?, 'branches', ?, 0)", name, default_branch, first["id"])
    return data


def _load(store: Store, repo: str) -> Json | None:
    """Return what is stored about a repository, with its metadata; None for an unknown one."""
    row = store.db("SELECT data FROM repositories WHERE id=?", repo).fetchone()
    return dict(json.loads(row[0])) if row else None


def _render(data: Json) -> Json:
    """Return a repository as lakeFS shows it; older versions stored no `read_only`."""
    return {"read_only": False} | {name: value for name, value in data.items() if name != "metadata"}


def get_repository(store: Store, repo: str) -> Json:
    """Return a repository. Raise LakeFSError (404) for an unknown one."""
    if (data := _load(store, repo)) is None:
        raise LakeFSError(404, "repository not found")
    return _render(data)


def check_repository(store: Store, repo: str, change: bool) -> None:
    """Raise LakeFSError for an unknown repository (404), and before a `change` of a read-only one (403)."""
    if get_repository(store, repo)["read_only"] and change:
        raise LakeFSError(403, "read-only repository")


def list_repositories(store: Store, page: Page) -> Json:
    """Return a page of the repositories."""
    query = "SELECT id, data FROM repositories WHERE id>=? ORDER BY id"
    return page.select(lambda start: store.db(query, start), lambda _, data: _render(json.loads(data)))


def delete_repository(store: Store, repo: str) -> None:
    """Delete a repository; content and trees, which others may share, stay until gc."""
    store.db("DELETE FROM repositories WHERE id=?", repo)
    for table in ("refs", "commits", "staging"):
        store.db(f"DELETE FROM {table} WHERE repo=?", repo)


# Metadata, which read-only repositories can change too


def get_metadata(store: Store, repo: str) -> Metadata:
    """Return a repository's metadata."""
    return dict((_load(store, repo) or {}).get("metadata", {}))


def update_metadata(store: Store, repo: str, metadata: Metadata) -> None:
    """Set some keys of a repository's metadata; the others stay."""
    _save_metadata(store, repo, get_metadata(store, repo) | metadata)


def delete_metadata(store: Store, repo: str, keys: list[str]) -> None:
    """Delete keys of a repository's metadata; unknown keys are ignored."""
    _save_metadata(store, repo, {key: text for key, text in get_metadata(store, repo).items() if key not in keys})


def _save_metadata(store: Store, repo: str, metadata: Metadata) -> None:
    data = (_load(store, repo) or {}) | {"metadata": metadata}
    store.db("UPDATE repositories SET data=? WHERE id=?", json.dumps(data), repo)
