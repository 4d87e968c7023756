"""Repositories, branches, staged changes, commits and merges, as lakeFS has them, over one folder."""

import hashlib
import heapq
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from . import content, trees
from .content import Blob, ContentFiles
from .database import Database, Kind
from .trees import GONE, Entry, Trees, identity, outer_join

T = TypeVar("T")
Change = dict[str, object]  # how lakeFS tells of a difference
Found = tuple[list[tuple[str, T | None]], bool]  # a page of names and values, and whether more follow

SCHEMA_VERSION = 2
SCHEMA = f"""
CREATE TABLE repositories(id TEXT PRIMARY KEY, namespace TEXT NOT NULL, default_branch TEXT NOT NULL, created REAL);
CREATE TABLE refs(repo TEXT, id TEXT, kind TEXT NOT NULL, commit_id TEXT NOT NULL, hidden INTEGER,
    PRIMARY KEY(repo, id)) WITHOUT ROWID; -- kind is "branches" or "tags"; no name is both
CREATE TABLE commits(repo TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY(repo, id)) WITHOUT ROWID;
CREATE TABLE staging(repo TEXT, branch TEXT, path TEXT, sha256 TEXT, entry TEXT, PRIMARY KEY(repo, branch, path))
    WITHOUT ROWID;
{content.SCHEMA}{trees.SCHEMA}
"""
COMMITTER = "local"
STRATEGIES = {"": "default", "source-wins": "source-wins", "dest-wins": "dest-wins"}
KINDS = {"branches": "branch", "tags": "tag"}
_REF = re.compile(r"([^~^@$]+)((?:[~^]\d{0,9})*|[@$])")


class LakeFSError(Exception):
    """An answer other than success: an HTTP status and a text for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Commit(NamedTuple):
    """A commit. `created` in seconds since 1970."""

    id: str
    parents: list[str]
    tree: str
    message: str
    metadata: dict[str, str]
    committer: str
    created: float
    generation: int


class Page(NamedTuple):
    """Which part of a listing to answer."""

    prefix: str = ""
    after: str = ""
    amount: int = 100
    delimiter: str = ""

    def take(self, scan: Callable[[str], Iterable[tuple[str, T]]]) -> Found[T]:
        """The (path, value) pairs of this page; `scan(start)` gives them all, sorted, from `start` on. Paths that are
        equal up to a delimiter behind the prefix become one pair without a value."""
        results: list[tuple[str, T | None]] = []
        seek: str | None = max(self.prefix, self.after)
        while seek is not None:
            start, seek = seek, None
            for path, value in scan(start):
                if not path.startswith(self.prefix):
                    break
                cut = path.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
                group = path[: cut + len(self.delimiter)] if cut >= 0 else ""
                name = group or path
                if name != self.after:
                    if len(results) == self.amount:
                        return results, True
                    results.append((name, None if group else value))
                if group:
                    seek = group[:-1] + chr(ord(group[-1]) + 1)  # the first path behind the group
                    break
        return results, False


class Store:
    """All repositories of one folder. Threads and processes may share it; its errors are LakeFSError.

    Methods are to be called inside `transaction`, those that say so excepted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.db = Database(folder / "lakefs.db", SCHEMA, SCHEMA_VERSION)
        self.files = ContentFiles(folder / "objects", self.db)
        self.trees = Trees(self.db)

    def transaction(self, kind: Kind) -> AbstractContextManager[None]:
        return self.db.transaction(kind)

    # Repositories

    def create_repository(self, repo: str, namespace: str, default_branch: str) -> dict[str, Any]:
        if self.db("SELECT 1 FROM repositories WHERE id=?", repo).fetchone():
            raise LakeFSError(409, "error creating repository: not unique")
        self.db("INSERT INTO repositories VALUES(?, ?, ?, ?)", repo, namespace, default_branch, time.time())
        first = self._add_commit(repo, [], self.trees.apply("", []), "Repository created", {}, committer="")
        self.db("INSERT INTO refs VALUES(?, ?, 'branches', ?, 0)", repo, default_branch, first.id)
        return self.repository(repo)

    def repository(self, repo: str) -> dict[str, Any]:
        name, found = next(self._repositories(repo), ("", {}))
        if name != repo:
            raise LakeFSError(404, "repository not found")
        return found

    def repositories(self, page: Page) -> Found[dict[str, Any]]:
        return page.take(self._repositories)

    def _repositories(self, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self.db("SELECT * FROM repositories WHERE id>=? ORDER BY id", start):
            known = dict(zip(("id", "storage_namespace", "default_branch"), row, strict=False))
            yield row[0], {**known, "creation_date": int(row[3]), "read_only": False, "storage_id": ""}

    def delete_repository(self, repo: str) -> None:
        """Forgets the repository; content and trees, which others may share, stay until gc."""
        self.db("DELETE FROM repositories WHERE id=?", repo)
        for table in ("refs", "commits", "staging"):
            self.db(f"DELETE FROM {table} WHERE repo=?", repo)

    # Branches, tags, references

    def ref(self, repo: str, kind: str, name: str) -> str:
        """The commit id of a branch or tag."""
        query = "SELECT commit_id FROM refs WHERE repo=? AND kind=? AND id=?"
        row: tuple[str] | None = self.db(query, repo, kind, name).fetchone()
        if not row:
            raise LakeFSError(404, f"{KINDS[kind]} not found")
        return row[0]

    def refs(self, repo: str, kind: str, page: Page, hidden: bool) -> Found[str]:
        """Names and commit ids."""
        query = "SELECT id, commit_id FROM refs WHERE repo=? AND kind=? AND id>=? AND hidden<=? ORDER BY id"
        return page.take(lambda start: self.db(query, repo, kind, start, hidden))

    def create_ref(self, repo: str, kind: str, name: str, source: str, hidden: bool) -> str:
        """The commit id of the new branch or tag."""
        commit_id = self.commit_at(repo, source).id
        names = "SELECT repo, id FROM refs UNION ALL SELECT repo, id FROM commits"
        taken = self.db(f"SELECT 1 FROM ({names}) WHERE repo=? AND id=?", repo, name).fetchone()
        if taken:
            raise LakeFSError(409, f"{KINDS[kind]} already exists: not unique")
        self.db("INSERT INTO refs VALUES(?, ?, ?, ?, ?)", repo, name, kind, commit_id, hidden)
        return commit_id

    def delete_ref(self, repo: str, kind: str, name: str) -> None:
        self.ref(repo, kind, name)
        if self.repository(repo)["default_branch"] == name:
            raise LakeFSError(403, "cannot delete repository default branch")
        self.db("DELETE FROM refs WHERE repo=? AND id=?", repo, name)
        self.reset(repo, name)

    def _resolve(self, repo: str, ref: str) -> tuple[str, str | None]:
        """The commit that a reference names, and the branch whose staged changes belong on top of it."""
        match = _REF.fullmatch(ref)
        if not match:
            raise LakeFSError(400, f"not a reference: {ref}")
        commit_id, branch = self._resolve_name(repo, match[1])
        if match[2] in ("", "$"):
            return commit_id, branch
        if match[2] == "@" and not branch:
            raise LakeFSError(400, f"not a reference: {ref}")
        for kind, digits in re.findall(r"([~^])(\d*)", match[2]):
            number = int(digits or 1)
            for step in itertools.repeat(1, number) if kind == "~" else [number][:number]:
                parents = self._get_commit(repo, commit_id).parents
                if step > len(parents):
                    raise LakeFSError(404, f"not found: {ref}")
                commit_id = parents[step - 1]
        return commit_id, None

    def _resolve_name(self, repo: str, name: str) -> tuple[str, str | None]:
        """A full commit id, a branch, a tag, or the beginning of one commit id: the first of these that exists."""
        if self.db("SELECT 1 FROM commits WHERE repo=? AND id=?", repo, name).fetchone():
            return name, None
        if row := self.db("SELECT commit_id, kind FROM refs WHERE repo=? AND id=?", repo, name).fetchone():
            return row[0], name if row[1] == "branches" else None
        if re.fullmatch("[0-9a-f]{1,64}", name):
            query = "SELECT id FROM commits WHERE repo=? AND id BETWEEN ? AND ? LIMIT 2"
            ids = self.db(query, repo, name, name + "g").fetchall()
            if len(ids) == 1:
                return ids[0][0], None
        raise LakeFSError(404, f"not found: {name}")

    # Commits

    def commit_at(self, repo: str, ref: str) -> Commit:
        """The commit that a reference names."""
        return self._get_commit(repo, self._resolve(repo, ref)[0])

    def _get_commit(self, repo: str, commit_id: str) -> Commit:
        row = self.db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()
        if not row:
            raise LookupError(f"commit {commit_id} is lost")
        return Commit(commit_id, *json.loads(row[0]))

    def _head(self, repo: str, branch: str) -> Commit:
        return self._get_commit(repo, self.ref(repo, "branches", branch))

    def _add_commit(
        self, repo: str, parents: list[Commit], tree: str, message: str, metadata: dict[str, str], **known: Any
    ) -> Commit:
        """Enters a commit; its id is a hash of all it says. `known` replaces fields that are made up otherwise."""
        generation = 1 + max((parent.generation for parent in parents), default=0)
        sorted_metadata = dict(sorted(metadata.items()))
        ids = [parent.id for parent in parents]
        commit = Commit("", ids, tree, message, sorted_metadata, COMMITTER, time.time(), generation)._replace(**known)
        data = json.dumps(commit[1:], ensure_ascii=False)
        commit = commit._replace(id=hashlib.sha256(data.encode()).hexdigest())
        self.db("INSERT OR IGNORE INTO commits VALUES(?, ?, ?)", repo, commit.id, data)
        return commit

    def _advance(self, repo: str, branch: str, commit: Commit) -> Commit:
        self.reset(repo, branch)
        self.db("UPDATE refs SET commit_id=? WHERE repo=? AND id=?", commit.id, repo, branch)
        return commit

    def commit(
        self, repo: str, branch: str, message: str, metadata: dict[str, str], date: int, allow_empty: bool
    ) -> Commit:
        """Commits what is staged at one moment, durably: content first, then the versions. `date` in seconds; 0 is now.
        To be called outside a transaction."""
        self._sync(repo, branch)  # most of it before the others have to wait
        with self.transaction("durable"):
            self._sync(repo, branch)
            head = self._head(repo, branch)
            tree = self.trees.apply(head.tree, self._staged(repo, branch))
            if tree == head.tree and not allow_empty:
                raise LakeFSError(400, "commit: no changes")
            made = self._add_commit(repo, [head], tree, message, metadata, created=date or time.time())
            return self._advance(repo, branch, made)

    def _sync(self, repo: str, branch: str) -> None:
        query = """SELECT DISTINCT blobs.sha256, size FROM staging JOIN blobs USING(sha256)
                   WHERE repo=? AND branch=? AND synced=0"""
        self.files.sync(self.db(query, repo, branch).fetchall())

    def log(self, repo: str, ref: str, first_parent: bool) -> Iterator[Commit]:
        """Commits from `ref` back, newest first."""
        start = self.commit_at(repo, ref)
        queue, seen = [(-start.created, -start.generation, start)], {start.id}
        while queue:
            commit = heapq.heappop(queue)[2]
            yield commit
            for parent_id in commit.parents[: 1 if first_parent else None]:
                if parent_id not in seen:
                    seen.add(parent_id)
                    parent = self._get_commit(repo, parent_id)
                    heapq.heappush(queue, (-parent.created, -parent.generation, parent))

    # Merges

    def _merge_base(self, repo: str, theirs: Commit, ours: Commit) -> Commit:
        """The best common ancestor."""
        sides = {theirs.id: 1, ours.id: 2} if theirs.id != ours.id else {ours.id: 3}
        queue = [(-theirs.generation, theirs.id), (-ours.generation, ours.id)]
        heapq.heapify(queue)
        while True:  # youngest generation first, until one is reached from both sides: the first commit at the latest
            found = self._get_commit(repo, heapq.heappop(queue)[1])
            if sides[found.id] == 3:
                return found
            for parent in found.parents:
                if parent not in sides:
                    heapq.heappush(queue, (-self._get_commit(repo, parent).generation, parent))
                sides[parent] = sides.get(parent, 0) | sides[found.id]

    def merge(
        self, repo: str, source: str, branch: str, message: str, metadata: dict[str, str], strategy: str,
        squash_merge: bool, allow_empty: bool,
    ) -> Commit:  # fmt: skip
        """Merges `source` into `branch`."""
        if strategy not in STRATEGIES:
            raise LakeFSError(400, f"unknown strategy {strategy!r}: source-wins, dest-wins or none")
        ours, theirs = self._clean_head(repo, branch), self.commit_at(repo, source)
        base = self._merge_base(repo, theirs, ours)
        if theirs.tree == base.tree and not allow_empty:
            raise LakeFSError(400, f"update branch {branch}: no changes")
        tree = self._merge_trees(ours.tree, theirs.tree, base.tree, strategy)
        metadata = metadata | {".lakefs.merge.strategy": STRATEGIES[strategy]}
        message = message or f"Merge '{source}' into '{branch}'"
        made = self._add_commit(repo, [ours] if squash_merge else [ours, theirs], tree, message, metadata)
        return self._advance(repo, branch, made)

    def _clean_head(self, repo: str, branch: str) -> Commit:
        head = self._head(repo, branch)
        if next(self._staged_changes(repo, branch, head.tree), None):
            raise LakeFSError(400, "uncommitted changes (dirty branch)")
        return head

    def _merge_trees(self, ours: str, theirs: str, base: str, strategy: str = "") -> str:
        if ours == base:
            return theirs
        mine = {path: after for path, _, after in self.trees.diff(base, ours)}
        changes = []
        for path, _, wanted in self.trees.diff(base, theirs):
            if path in mine and identity(mine[path]) != identity(wanted) and strategy != "source-wins":
                if not strategy:
                    raise LakeFSError(409, f"conflict found: {path}")
                continue
            changes.append((path, wanted or GONE))
        return self.trees.apply(ours, changes)

    def replay(
        self, repo: str, branch: str, ref: str, parent_number: int, undo: bool = False, allow_empty: bool = False
    ) -> Commit:
        """Makes on `branch` what a commit changed against one of its parents (counted from 1; 0 takes the only one),
        or with `undo` takes it back."""
        commit, head = self.commit_at(repo, ref), self._clean_head(repo, branch)
        if len(commit.parents) > 1 and not parent_number:
            raise LakeFSError(409 if undo else 400, "must specify 1-based parent number for a merge commit")
        if max(parent_number, 1) > len(commit.parents):
            raise LakeFSError(400, f"given commit does not have the given parent number: {parent_number}")
        parent = self._get_commit(repo, commit.parents[max(parent_number, 1) - 1])
        old, new = (commit, parent) if undo else (parent, commit)
        tree = self._merge_trees(head.tree, new.tree, old.tree)
        if tree == head.tree and not allow_empty:
            raise LakeFSError(400, f"update branch {branch}: no changes")
        origin = {"cherry-pick-origin": commit.id, "cherry-pick-committer": commit.committer}
        message, metadata = (f"Revert {ref}", {}) if undo else (commit.message, commit.metadata | origin)
        return self._advance(repo, branch, self._add_commit(repo, [head], tree, message, metadata))

    # Objects

    def put(
        self, repo: str, branch: str, path: str, blob: Blob, content_type: str, metadata: dict[str, str], only_new: bool
    ) -> Entry:
        """Stages received content; with `only_new`, refuses (412) where there is something already."""
        if only_new and self._find(repo, branch, path):
            raise LakeFSError(412, "path already exists")
        if not self.files.record(blob):
            raise LakeFSError(503, "the content was collected as garbage while it came: send it again")
        metadata = dict(sorted(metadata.items()))
        entry = Entry(blob.sha256, blob.md5, blob.size, int(time.time()), content_type, metadata)
        return self._stage(repo, branch, path, entry)

    def copy(self, repo: str, branch: str, path: str, src_ref: str, src_path: str) -> Entry:
        entry = self.entry(repo, src_ref or branch, src_path)._replace(mtime=int(time.time()))
        return self._stage(repo, branch, path, entry)

    def delete(self, repo: str, branch: str, paths: list[str]) -> None:
        """Stages deletions; a path that does not exist is no error."""
        tree = self._head(repo, branch).tree
        for path in paths:
            if self.trees.get(tree, path):
                self._stage(repo, branch, path, GONE)
            else:
                self.db("DELETE FROM staging WHERE repo=? AND branch=? AND path=?", repo, branch, path)

    def reset(self, repo: str, branch: str, prefix: str = "", exact: bool = False) -> None:
        """Drops what is staged at or below a prefix; with `exact`, at that path only."""
        matched = "path" if exact else "substr(path, 1, length(?3))"
        self.db(f"DELETE FROM staging WHERE repo=?1 AND branch=?2 AND {matched}=?3", repo, branch, prefix)

    def entry(self, repo: str, ref: str, path: str) -> Entry:
        if not (entry := self._find(repo, ref, path)):
            raise LakeFSError(404, f"not found: {path}")
        return entry

    def _find(self, repo: str, ref: str, path: str) -> Entry | None:
        commit_id, branch = self._resolve(repo, ref)
        staged_path, entry = next(self._staged(repo, branch, path), ("", None))
        if staged_path != path:
            entry = self.trees.get(self._get_commit(repo, commit_id).tree, path)
        return entry if entry and entry.sha256 else None

    def _stage(self, repo: str, branch: str, path: str, entry: Entry) -> Entry:
        self.ref(repo, "branches", branch)
        data = json.dumps(entry, ensure_ascii=False)
        self.db("INSERT OR REPLACE INTO staging VALUES(?, ?, ?, ?, ?)", repo, branch, path, entry.sha256, data)
        return entry

    def _staged(self, repo: str, branch: str | None, start: str = "") -> Iterator[tuple[str, Entry]]:
        """What is staged on the branch, from path `start` on; GONE where the path is deleted."""
        query = "SELECT path, entry FROM staging WHERE repo=? AND branch=? AND path>=? ORDER BY path"
        for path, data in self.db(query, repo, branch, start):
            yield path, Entry(*json.loads(data))

    # Listings and differences

    def _scan(self, repo: str, ref: str, start: str) -> Iterator[tuple[str, Entry]]:
        commit_id, branch = self._resolve(repo, ref)
        tree = self._get_commit(repo, commit_id).tree
        for path, (committed, staged) in outer_join(self.trees.scan(tree, start), self._staged(repo, branch, start)):
            entry = staged or committed
            if entry and entry.sha256:
                yield path, entry

    def entries(self, repo: str, ref: str, page: Page) -> Found[Entry]:
        """A page of paths and entries; a common prefix has no entry."""
        return page.take(lambda start: self._scan(repo, ref, start))

    def _staged_changes(self, repo: str, branch: str, tree: str, start: str = "") -> Iterator[tuple[str, Change]]:
        for path, entry in self._staged(repo, branch, start):
            committed = self.trees.get(tree, path)
            if identity(committed) != identity(entry):
                yield path, _change(committed, entry)

    def diff_branch(self, repo: str, branch: str, page: Page) -> Found[Change]:
        """A page of what is staged."""
        tree = self._head(repo, branch).tree
        return page.take(lambda start: self._staged_changes(repo, branch, tree, start))

    def diff_refs(self, repo: str, left: str, right: str, page: Page, three_dot: bool) -> Found[Change]:
        """A page of how `right` differs from `left`; with three dots, of what merging it into `left` would change."""
        ours, theirs = self.commit_at(repo, left), self.commit_at(repo, right)
        base = self._merge_base(repo, theirs, ours) if three_dot else ours

        def scan(start: str) -> Iterator[tuple[str, Change]]:
            for path, mine, wanted in self.trees.diff(ours.tree, theirs.tree, start):
                old = identity(self.trees.get(base.tree, path))
                if old != identity(wanted):  # else only `left` changed it
                    yield path, _change(mine, wanted, conflict=old != identity(mine))

        return page.take(scan)


def _change(before: Entry | None, after: Entry | None, conflict: bool = False) -> Change:
    old, new = identity(before), identity(after)
    kind = "conflict" if conflict else "removed" if not new else "changed" if old else "added"
    shown = after if new else before
    return {"type": kind, "size_bytes": shown.size if shown else 0}
