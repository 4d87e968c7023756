"""Three-way merges: the best common ancestor, merging, reverting, and differences between references."""

import heapq
from collections.abc import Iterator

from ..store import Commit, Json, LakeFSError, Metadata, Store
from ..trees import DELETED, identity
from .commits import advance_branch, get_clean_head
from .listing import Change, Page, render_change, render_commit
from .refs import get_commit_at

NOTHING: Commit = {"meta_range_id": ""}
STRATEGIES = {"": "default", "source-wins": "source-wins", "dest-wins": "dest-wins"}


def find_merge_base(store: Store, repo: str, ref: str, branch: str) -> Json:
    """Return the ids of the source `ref`, the destination `branch` and their best common ancestor."""
    theirs, ours = get_commit_at(store, repo, ref), get_commit_at(store, repo, branch)
    base = _find_base(store, repo, theirs, ours)
    return {"source_commit_id": theirs["id"], "destination_commit_id": ours["id"], "base_commit_id": base["id"]}


def _find_base(store: Store, repo: str, theirs: Commit, ours: Commit) -> Commit:
    """Return the best common ancestor."""
    sides = {theirs["id"]: 1, ours["id"]: 2} if theirs["id"] != ours["id"] else {ours["id"]: 3}
    queue = [(-theirs["generation"], theirs["id"]), (-ours["generation"], ours["id"])]
    heapq.heapify(queue)
    while True:  # youngest generation first, until one is reached from both sides: the first commit at the latest
        found = store.get_commit(repo, heapq.heappop(queue)[1])
        if sides[found["id"]] == 3:
            return found
        for parent in found["parents"]:
            if parent not in sides:
                heapq.heappush(queue, (-store.get_commit(repo, parent)["generation"], parent))
            sides[parent] = sides.get(parent, 0) | sides[found["id"]]


def merge(
    store: Store, repo: str, ref: str, branch: str, *, message: str, metadata: Metadata, strategy: str,
    squash_merge: bool, allow_empty: bool, force: bool,
) -> Json:  # fmt: skip
    """Merge `ref` into `branch`.

    Raise LakeFSError for a conflict without a strategy (409), staged changes, and where nothing changed (400).
    """
    if strategy not in STRATEGIES:
        raise LakeFSError(400, f"unknown strategy {strategy!r} (available: source-wins, dest-wins or none)")
    ours, theirs = get_clean_head(store, repo, branch), get_commit_at(store, repo, ref)
    base = _find_base(store, repo, theirs, ours)
    if theirs["meta_range_id"] == base["meta_range_id"] and not (allow_empty or force):
        raise LakeFSError(400, f"update branch {branch}: no changes")
    tree = _merge_trees(store, ours, theirs, base, strategy)
    metadata = metadata | {".lakefs.merge.strategy": STRATEGIES[strategy]}
    message = message or f"Merge '{ref}' into '{branch}'"
    merged = store.add_commit(repo, [ours] if squash_merge else [ours, theirs], tree, message, metadata)
    return {"reference": advance_branch(store, repo, branch, merged)["id"]}


def _merge_trees(store: Store, ours: Commit, theirs: Commit, base: Commit, strategy: str = "") -> str:
    """Return the id of our tree with what changed from `base` to `theirs`. Raise LakeFSError (409) for a conflict."""
    our_id, their_id, base_id = (commit["meta_range_id"] for commit in (ours, theirs, base))
    if our_id == base_id:
        return str(their_id)
    changed_by_us = {path: after for path, _, after in store.trees.diff(base_id, our_id)}
    changes = []
    for path, _, wanted in store.trees.diff(base_id, their_id):
        conflict = path in changed_by_us and identity(changed_by_us[path]) != identity(wanted)
        if conflict and not strategy:
            raise LakeFSError(409, f"conflict found: {path}")
        if not conflict or strategy == "source-wins":
            changes.append((path, wanted or DELETED))
    return store.trees.apply(our_id, changes)


def _get_chosen_parent(store: Store, repo: str, commit: Commit, number: int) -> Commit:
    """Return a commit's parent, counted from 1. Raise LakeFSError (400) if there are fewer."""
    if number > len(commit["parents"]):
        raise LakeFSError(400, f"parent {number}: given commit does not have the given parent number")
    return store.get_commit(repo, commit["parents"][number - 1])


def revert(
    store: Store, repo: str, branch: str, ref: str, parent_number: int, allow_empty: bool, commit_overrides: Json
) -> None:
    """Undo what a commit changed against one of its parents, counted from 1; 0 is the only parent.

    Raise LakeFSError for a conflict (409), staged changes, an invalid parent, and where nothing changes (400).
    """
    if parent_number < 0:
        raise LakeFSError(400, "argument parentNumber: invalid value: validation error")
    undone = get_commit_at(store, repo, ref)
    if len(undone["parents"]) > 1 and not parent_number:
        raise LakeFSError(409, "must specify 1-based parent number for reverting merge commit")
    first = not undone["parents"] and not parent_number  # before a repository's first commit there was nothing
    parent = NOTHING if first else _get_chosen_parent(store, repo, undone, max(parent_number, 1))
    head = get_clean_head(store, repo, branch)
    tree = _merge_trees(store, head, parent, undone)
    if tree == head["meta_range_id"] and not allow_empty:
        raise LakeFSError(400, "update branch: no changes")
    metadata = {} if commit_overrides["metadata"] is None else commit_overrides["metadata"]
    message = commit_overrides["message"] or f"Revert {ref}"
    advance_branch(store, repo, branch, store.add_commit(repo, [head], tree, message, metadata))


def cherry_pick(
    store: Store, repo: str, branch: str, ref: str, parent_number: int | None, commit_overrides: Json
) -> Json:
    """Commit to `branch` what the commit `ref` changed against one of its parents, counted from 1, and return the commit.

    Its message and metadata are those of `ref` unless `commit_overrides` has others. Raise LakeFSError for a conflict
    (409), staged changes, an invalid parent, and where the commit changed nothing (400).
    """
    if parent_number is not None and parent_number < 1:
        raise LakeFSError(400, "argument parentNumber: value should be greater than 0: invalid value: validation error")
    picked = get_commit_at(store, repo, ref)
    if len(picked["parents"]) > 1 and parent_number is None:
        raise LakeFSError(400, "must specify 1-based parent number for cherry-picking merge commit")
    parent = _get_chosen_parent(store, repo, picked, parent_number or 1)
    head = get_clean_head(store, repo, branch)
    if picked["meta_range_id"] == parent["meta_range_id"]:
        raise LakeFSError(400, "update branch: no changes")
    tree = _merge_trees(store, head, picked, parent)
    metadata = picked["metadata"] if commit_overrides["metadata"] is None else commit_overrides["metadata"]
    origin = {"cherry-pick-origin": picked["id"], "cherry-pick-committer": picked["committer"]}
    message = commit_overrides["message"] or picked["message"]
    made = store.add_commit(repo, [head], tree, message, metadata | origin)
    return render_commit(advance_branch(store, repo, branch, made))


def diff_refs(store: Store, repo: str, left: str, right: str, page: Page, type: str) -> Json:
    """Return a page of how `right` differs from `left`; unless `type` is two_dot, of what merging it would change."""
    ours, theirs = get_commit_at(store, repo, left), get_commit_at(store, repo, right)
    base = ours if type == "two_dot" else _find_base(store, repo, theirs, ours)

    def scan(start: str) -> Iterator[tuple[str, Change]]:
        for path, mine, wanted in store.trees.diff(ours["meta_range_id"], theirs["meta_range_id"], start):
            old = identity(store.trees.get(base["meta_range_id"], path))
            if old != identity(wanted):  # else only `left` changed it
                yield path, (mine, wanted, old != identity(mine))

    return page.select(scan, render_change)
