"""Branches and tags, and which commit a reference such as `main~2` names."""

import re

from ..store import Commit, Json, LakeFSError, Store
from .listing import Page
from .repositories import get_repository

NAMES = {
    "repositories": re.compile("[a-z0-9][a-z0-9-]{2,62}"),
    "branches": re.compile(r"\w[-\w]*", re.ASCII),
    "tags": re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)"),
}
REF = re.compile(r"([^~^@$]+)((?:[~^]\d{0,9})*|[@$])")


def validate_name(kind: str, name: str) -> str:
    """Return a valid name. Raise LakeFSError (400) otherwise."""
    if not NAMES[kind].fullmatch(name):
        raise LakeFSError(400, f"{name!r} is not a valid name in {kind} (expected: {NAMES[kind].pattern})")
    return name


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
    if found := store.db("SELECT kind FROM refs WHERE repo=? AND id=?", repo, validate_name(kind, name)).fetchone():
        known, titles = {"branches": "branch", "tags": "tag"}, {"branches": "branch name", "tags": "tag ID"}
        same = found[0] == kind
        raise LakeFSError(
            409, f"{known[kind]} already exists: not unique" if same else f"{titles[found[0]]} {name}: conflict found"
        )
    if store.db("SELECT 1 FROM commits WHERE repo=? AND id=?", repo, name).fetchone():
        raise LakeFSError(409, f"commit ID {name}: conflict found")
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
    if kind == "branches" and name == get_repository(store, repo)["default_branch"]:
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
