"""Repositories, branches and tags, and which commit a reference such as `main~2` names."""

import json
import re
import time

from ..store import Commit, Json, LakeFSError, Store
from .listing import Page

NAMES = {
    "repositories": re.compile("[a-z0-9][a-z0-9-]{2,62}"),
    "branches": re.compile(r"\w[-\w]*", re.ASCII),
    "tags": re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)"),
}
REF = re.compile(r"([^~^@$]+)((?:[~^]\d{0,9})*|[@$])")


def _validate_name(kind: str, name: str) -> str:
    """Return a valid name. Raise LakeFSError (400) otherwise."""
    if not NAMES[kind].fullmatch(name):
        raise LakeFSError(400, f"{name!r} is not a valid name in {kind} (expected: {NAMES[kind].pattern})")
    return name


# Repositories


def create_repository(store: Store, name: str, storage_namespace: str, default_branch: str) -> Json:
    """Create a repository, its first commit and its default branch."""
    known = {"storage_namespace": storage_namespace, "default_branch": _validate_name("branches", default_branch)}
    data = {"id": _validate_name("repositories", name), **known, "creation_date": int(time.time()), "storage_id": ""}
    if not storage_namespace.startswith("local://"):
        raise LakeFSError(400, "the storage namespace of the embedded server begins with local://")
    if not store.db("INSERT OR IGNORE INTO repositories VALUES(?, ?)", name, json.dumps(data)).rowcount:
        raise LakeFSError(409, "error creating repository: not unique")
    first = store.add_commit(name, [], store.trees.apply("", []), "Repository created", {})
    store.db("INSERT INTO refs VALUES(?, ?, 'branches', ?, 0)", name, default_branch, first["id"])
    return data


def get_repository(store: Store, repo: str) -> Json:
    """Return a repository. Raise LakeFSError (404) for an unknown one."""
    if not (row := store.db("SELECT data FROM repositories WHERE id=?", repo).fetchone()):
        raise LakeFSError(404, "repository not found")
    return dict(json.loads(row[0]))


def list_repositories(store: Store, page: Page) -> Json:
    """Return a page of the repositories."""
    query = "SELECT id, data FROM repositories WHERE id>=? ORDER BY id"
    return page.select(lambda start: store.db(query, start), lambda _, data: dict(json.loads(data)))


def delete_repository(store: Store, repo: str) -> None:
    """Delete a repository; content and trees, which others may share, stay until gc."""
    store.db("DELETE FROM repositories WHERE id=?", repo)
    for table in ("refs", "commits", "staging"):
        store.db(f"DELETE FROM {table} WHERE repo=?", repo)


# Branches and tags; `kind` is "branches" or "tags"


def get_ref(store: Store, repo: str, kind: str, name: str) -> Json:
    """Return a branch or tag. Raise LakeFSError (404) for an unknown one."""
    query = "SELECT commit_id FROM refs WHERE repo=? AND kind=? AND id=?"
    if not (row := store.db(query, repo, kind, name).fetchone()):
        raise LakeFSError(404, f"not found: {name} in {kind}")
    return {"id": name, "commit_id": row[0]}


def list_refs(store: Store, repo: str, kind: str, page: Page, hidden: bool) -> Json:
    """Return a page of the branches or tags, with `hidden` of the hidden ones too."""
    query = "SELECT id, commit_id FROM refs WHERE repo=? AND kind=? AND id>=? AND hidden<=? ORDER BY id"
    return page.select(
        lambda start: store.db(query, repo, kind, start, hidden),
        lambda name, commit: {"id": name, "commit_id": commit},
    )


def create_ref(store: Store, repo: str, kind: str, name: str, source: str, hidden: bool = False) -> Json:
    """Create a branch or tag at the commit that `source` names. Raise LakeFSError (409) if the name is in use."""
    commit_id = get_commit_at(store, repo, source)["id"]
    names = "SELECT repo, id FROM refs UNION ALL SELECT repo, id FROM commits"
    if store.db(f"SELECT 1 FROM ({names}) WHERE repo=? AND id=?", repo, _validate_name(kind, name)).fetchone():
        raise LakeFSError(409, f"{name} already exists: not unique")
    store.db("INSERT INTO refs VALUES(?, ?, ?, ?, ?)", repo, name, kind, commit_id, hidden)
    return {"id": name, "commit_id": commit_id}


def create_branch(store: Store, repo: str, name: str, source: str, hidden: bool) -> str:
    """Create a branch and return its commit id."""
    return str(create_ref(store, repo, "branches", name, source, hidden)["commit_id"])


def create_tag(store: Store, repo: str, id: str, ref: str) -> Json:
    """Create a tag."""
    return create_ref(store, repo, "tags", id, ref)


def delete_ref(store: Store, repo: str, kind: str, name: str) -> None:
    """Delete a branch, with its staged changes, or a tag. Raise LakeFSError (403) for the default branch."""
    get_ref(store, repo, kind, name)
    if get_repository(store, repo)["default_branch"] == name:
        raise LakeFSError(403, "cannot delete repository default branch")
    store.db("DELETE FROM refs WHERE repo=? AND id=?", repo, name)
    store.db("DELETE FROM staging WHERE repo=? AND branch=?", repo, name)


# References


def get_branch_head(store: Store, repo: str, branch: str) -> Commit:
    """Return the commit that a branch points to."""
    return store.get_commit(repo, get_ref(store, repo, "branches", branch)["commit_id"])


def get_commit_at(store: Store, repo: str, ref: str) -> Commit:
    """Return the commit that a reference names."""
    return store.get_commit(repo, resolve_ref(store, repo, ref)[0])


def resolve_ref(store: Store, repo: str, ref: str) -> tuple[str, str | None]:
    """Return the id of the commit that a reference names, and the branch whose staged changes apply on top, if any."""
    match = REF.fullmatch(ref)
    commit_id, branch = _resolve_name(store, repo, match[1]) if match else ("", None)
    if not match or (match[2] == "@" and not branch):
        raise LakeFSError(400, f"not a reference: {ref}")
    for kind, digits in re.findall(r"([~^])(\d*)", match[2]):
        number = int(digits or 1)
        if kind == "~":
            for _ in range(number):
                commit_id = _get_parent(store, repo, commit_id, 1)
        elif number:  # ^0 is the commit itself
            commit_id = _get_parent(store, repo, commit_id, number)
    return commit_id, branch if match[2] in ("", "$") else None


def _get_parent(store: Store, repo: str, commit_id: str, number: int) -> str:
    """Return the id of a parent, counted from 1. Raise LakeFSError (404) if there are fewer."""
    parents = store.get_commit(repo, commit_id)["parents"]
    if number > len(parents):
        raise LakeFSError(404, f"not found: parent {number} of commit {commit_id}")
    return str(parents[number - 1])


def _resolve_name(store: Store, repo: str, name: str) -> tuple[str, str | None]:
    """Resolve a name without suffix, as `resolve_ref` does.

    A full commit id comes before a branch or tag, and that before a unique prefix of a commit id.
    """
    if store.db("SELECT 1 FROM commits WHERE repo=? AND id=?", repo, name).fetchone():
        return name, None
    if row := store.db("SELECT commit_id, kind FROM refs WHERE repo=? AND id=?", repo, name).fetchone():
        return row[0], name if row[1] == "branches" else None
    query = "SELECT id FROM commits WHERE repo=? AND id BETWEEN ? AND ? LIMIT 2"
    ids = store.db(query, repo, name, name + "g").fetchall()
    if len(ids) != 1:
        raise LakeFSError(404, f"not found: {name}")
    return ids[0][0], None
