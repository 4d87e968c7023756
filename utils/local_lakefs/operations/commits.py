"""Committing what is staged, moving branches, and the log."""

import heapq
import itertools
from collections.abc import Iterator, Sequence

from ..store import Commit, Json, LakeFSError, Metadata, Store, UnsupportedError
from .listing import Page, make_page, render_commit
from .refs import get_branch_head, get_commit_at
from .staging import scan_staged, scan_staged_changes, sync_staged, unstage


def get_clean_head(store: Store, repo: str, branch: str) -> Commit:
    """Return the commit a branch points to. Raise LakeFSError (400) if changes are staged on it."""
    head = get_branch_head(store, repo, branch)
    if next(scan_staged_changes(store, repo, branch, head["meta_range_id"]), None):
        raise LakeFSError(400, "uncommitted changes (dirty branch)")
    return head


def advance_branch(store: Store, repo: str, branch: str, commit: Commit) -> Commit:
    """Let a branch point to `commit` with nothing staged, and return the commit."""
    unstage(store, repo, branch)
    store.db("UPDATE refs SET commit_id=? WHERE repo=? AND id=?", commit["id"], repo, branch)
    return commit


def reset_branch_to(store: Store, repo: str, branch: str, ref: str) -> None:
    """Let a branch without staged changes point to another commit."""
    get_clean_head(store, repo, branch)
    advance_branch(store, repo, branch, get_commit_at(store, repo, ref))


def commit_staged(
    store: Store, repo: str, branch: str, *, message: str, metadata: Metadata, date: int, allow_empty: bool,
    source_metarange: str,
) -> Json:  # fmt: skip
    """Commit what is staged at one moment, durably: the content first, then the commit.

    To be called outside a transaction. Raise LakeFSError (400) if nothing changed, unless `allow_empty`.
    """
    if source_metarange:
        raise UnsupportedError("source_metarange")
    sync_staged(store, repo, branch)  # most of the content is synced before other writers have to wait
    with store.db.transaction("durable"):
        sync_staged(store, repo, branch)
        head = get_branch_head(store, repo, branch)
        tree = store.trees.apply(head["meta_range_id"], scan_staged(store, repo, branch))
        if tree == head["meta_range_id"] and not allow_empty:
            raise LakeFSError(400, "commit: no changes")
        made = store.add_commit(repo, [head], tree, message, metadata, date)
        return render_commit(advance_branch(store, repo, branch, made))


def get_commit(store: Store, repo: str, ref: str) -> Json:
    """Return the commit that a reference names, as lakeFS shows it."""
    return render_commit(get_commit_at(store, repo, ref))


def get_log(
    store: Store, repo: str, ref: str, page: Page, first_parent: bool, limit: bool, prefixes: Sequence[str] = ()
) -> Json:
    """Return a page of the commits from `ref` back, newest first.

    With `prefixes`, only commits that changed something below one of them; with `limit`, no further page is announced.
    """
    commits = _scan_history(store, repo, ref, first_parent)
    if prefixes:
        commits = (commit for commit in commits if _has_changes(store, repo, commit, prefixes))
    if page.after:
        next((commit for commit in commits if commit["id"] == page.after), None)
    found = list(itertools.islice(commits, page.amount + 1))
    more = len(found) > page.amount and not limit
    shown = [render_commit(commit) for commit in found[: page.amount]]
    return make_page(shown, found[page.amount - 1]["id"] if more else "")


def _has_changes(store: Store, repo: str, commit: Commit, prefixes: Sequence[str]) -> bool:
    """Return whether a commit changed something below a prefix; merge commits do not count, as in lakeFS."""
    if len(commit["parents"]) != 1:
        return False
    before, after = store.get_commit(repo, commit["parents"][0])["meta_range_id"], commit["meta_range_id"]
    firsts = (next(store.trees.diff(before, after, prefix), ("",))[0] for prefix in prefixes)
    return any(path.startswith(prefix) and path for path, prefix in zip(firsts, prefixes, strict=True))


def _scan_history(store: Store, repo: str, ref: str, first_parent: bool) -> Iterator[Commit]:
    """Yield commits from `ref` back, newest first."""
    queue: list[tuple[int, int, int, str]] = []
    due, seen = [get_commit_at(store, repo, ref)["id"]], set[str]()
    while due or queue:
        for commit in (store.get_commit(repo, commit_id) for commit_id in due):
            age = -commit["creation_date"], -commit.get("creation_ns", 0)
            heapq.heappush(queue, (*age, -commit["generation"], commit["id"]))
        seen.update(due)
        yield (commit := store.get_commit(repo, heapq.heappop(queue)[3]))
        due = [parent for parent in commit["parents"][: 1 if first_parent else None] if parent not in seen]
