"""Repositories, branches, staged changes, commits and merges, as lakeFS has them, over one folder."""

import contextlib
import hashlib
import heapq
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from . import content, trees
from .content import Blob, ContentFiles
from .database import Database
from .trees import Entry, Trees, identity, outer_join

T = TypeVar("T")
Change = tuple[str, Entry | None, Entry | None]  # path, before, after
Found = tuple[list[tuple[str, T | None]], bool]  # a page of names and values, and whether more follow

SCHEMA_VERSION = 1
SCHEMA = f"""
CREATE TABLE repositories(id TEXT PRIMARY KEY, namespace TEXT NOT NULL, default_branch TEXT NOT NULL, created REAL);
CREATE TABLE namespaces(namespace TEXT PRIMARY KEY);
CREATE TABLE branches(repo TEXT, id TEXT, commit_id TEXT NOT NULL, hidden INTEGER, PRIMARY KEY(repo, id)) WITHOUT ROWID;
CREATE TABLE tags(repo TEXT, id TEXT, commit_id TEXT NOT NULL, PRIMARY KEY(repo, id)) WITHOUT ROWID;
CREATE TABLE commits(repo TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY(repo, id)) WITHOUT ROWID;
CREATE TABLE staging(repo TEXT, branch TEXT, path TEXT, sha256 TEXT, entry TEXT, PRIMARY KEY(repo, branch, path))
    WITHOUT ROWID; -- entry is NULL where the path is deleted
{content.SCHEMA}{trees.SCHEMA}
"""
COMMITTER = "local"
STRATEGIES = {"": "default", "source-wins": "source-wins", "dest-wins": "dest-wins"}
INVALID = "invalid value: validation error"
_REF = re.compile(r"([^~^@$]+)((?:[~^]\d*|[@$])*)")


class LakeFSError(Exception):
    """An answer other than success: an HTTP status and lakeFS's text for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class MergeConflict(LakeFSError):
    """Both sides changed a path, differently, and no strategy decides."""

    def __init__(self) -> None:
        super().__init__(409, "conflict found")


@contextlib.contextmanager
def _context(text: str) -> Iterator[None]:
    """Puts `text` before the message of an error, as lakeFS wraps its own."""
    try:
        yield
    except MergeConflict:
        raise
    except LakeFSError as error:
        raise LakeFSError(error.status, f"{text}: {error.message}") from None


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


class Ref(NamedTuple):
    """What a reference means: a commit, and the branch whose staged changes belong on top of it."""

    commit_id: str
    branch: str | None = None
    modifier: str = ""


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
    """All repositories of one folder. Threads and processes may share it; its errors are LakeFSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = Database(folder / "lakefs.db", SCHEMA, SCHEMA_VERSION)
        self._files = ContentFiles(folder / "objects", self._db)
        self._trees = Trees(self._db)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def reading(self, repo: str) -> Iterator[None]:
        """Everything read in the block is of one moment."""
        self.repository(repo)
        with self._db.reading():
            yield

    # Repositories

    def create_repository(self, repo: str, namespace: str, default_branch: str) -> dict[str, Any]:
        with self._db.writing_durably():
            if self._db("SELECT 1 FROM repositories WHERE id=?", repo).fetchone():
                raise LakeFSError(409, "error creating repository: not unique")
            if self._db("SELECT 1 FROM namespaces WHERE namespace=?", namespace).fetchone():
                where = f"found lakeFS objects in the storage (:{namespace}) key(_lakefs/dummy)"
                raise LakeFSError(400, f"failed to create repository: {where}: storage namespace already in use")
            self._db("INSERT INTO namespaces VALUES(?)", namespace)
            self._db("INSERT INTO repositories VALUES(?, ?, ?, ?)", repo, namespace, default_branch, time.time())
            first = self._add_commit(repo, [], self._trees.apply("", []), "Repository created", {}, committer="")
            self._db("INSERT INTO branches VALUES(?, ?, ?, 0)", repo, default_branch, first.id)
            return self.repository(repo)

    def repository(self, repo: str) -> dict[str, Any]:
        row = self._db("SELECT * FROM repositories WHERE id=?", repo).fetchone()
        if not row:
            raise LakeFSError(404, "repository not found")
        return _repository(row)

    def repositories(self, page: Page) -> tuple[list[dict[str, Any]], bool]:
        query = "SELECT * FROM repositories WHERE id>=? ORDER BY id"
        found, more = page.take(lambda start: ((row[0], _repository(row)) for row in self._db(query, start)))
        return [repository for _, repository in found if repository], more

    def delete_repository(self, repo: str) -> None:
        """Forgets the repository; content and trees, which others may share, stay."""
        self.repository(repo)
        with self._db.writing_durably():
            self._db("DELETE FROM repositories WHERE id=?", repo)
            for table in ("branches", "tags", "commits", "staging"):
                self._db(f"DELETE FROM {table} WHERE repo=?", repo)

    # Branches, tags, references

    def branch(self, repo: str, branch: str, missing: str = "branch not found") -> str:
        """The commit id of a branch."""
        return self._head("branches", repo, branch) or self._missing(repo, missing)

    def tag(self, repo: str, tag: str) -> str:
        """The commit id of a tag."""
        return self._head("tags", repo, tag) or self._missing(repo, "tag not found")

    def _head(self, table: str, repo: str, name: str) -> str | None:
        row = self._db(f"SELECT commit_id FROM {table} WHERE repo=? AND id=?", repo, name).fetchone()
        return row[0] if row else None

    def _missing(self, repo: str, message: str) -> str:
        self.repository(repo)
        raise LakeFSError(404, message)

    def refs(self, table: str, repo: str, page: Page, hidden: bool = False) -> Found[str]:
        """Names and commit ids of `branches` or `tags`."""
        self.repository(repo)
        shown = "AND NOT hidden" if table == "branches" and not hidden else ""
        query = f"SELECT id, commit_id FROM {table} WHERE repo=? AND id>=? {shown} ORDER BY id"
        return page.take(lambda start: self._db(query, repo, start))

    def create_branch(self, repo: str, branch: str, source: str, hidden: bool = False) -> str:
        """The commit id of the new branch."""
        self.repository(repo)
        with self._db.writing_durably():
            if self._find_commit(repo, branch):
                raise LakeFSError(409, f"commit ID {branch}: conflict found")
            if self._head("tags", repo, branch):
                raise LakeFSError(409, f"tag ID {branch}: conflict found")
            with _context(f"source reference '{source}'"):
                commit_id = self._commit_at(repo, source).id
            if self._head("branches", repo, branch):
                raise LakeFSError(409, "branch already exists: not unique")
            self._db("INSERT INTO branches VALUES(?, ?, ?, ?)", repo, branch, commit_id, hidden)
            return commit_id

    def create_tag(self, repo: str, tag: str, ref: str) -> str:
        """The commit id that the new tag names."""
        self.repository(repo)
        with self._db.writing_durably():
            if self._head("branches", repo, tag):
                raise LakeFSError(409, f"branch name {tag}: conflict found")
            if self._find_commit(repo, tag):
                raise LakeFSError(409, f"commit ID {tag}: conflict found")
            commit_id = self._commit_at(repo, ref).id
            if self._head("tags", repo, tag):
                raise LakeFSError(409, "tag already exists: not unique")
            self._db("INSERT INTO tags VALUES(?, ?, ?)", repo, tag, commit_id)
            return commit_id

    def delete_branch(self, repo: str, branch: str) -> None:
        if self.repository(repo)["default_branch"] == branch:
            raise LakeFSError(403, "cannot delete repository default branch")
        with self._db.writing_durably():
            self.branch(repo, branch)
            self._db("DELETE FROM branches WHERE repo=? AND id=?", repo, branch)
            self._db("DELETE FROM staging WHERE repo=? AND branch=?", repo, branch)

    def delete_tag(self, repo: str, tag: str) -> None:
        with self._db.writing_durably():
            self.tag(repo, tag)
            self._db("DELETE FROM tags WHERE repo=? AND id=?", repo, tag)

    def hard_reset(self, repo: str, branch: str, ref: str) -> None:
        self.branch(repo, branch)
        with self._db.writing_durably(), _context(f"hard-reset {branch} to {ref}"):
            self._move(repo, branch, self._commit_at(repo, ref))

    def _move(self, repo: str, branch: str, commit: Commit) -> None:
        self._db("UPDATE branches SET commit_id=? WHERE repo=? AND id=?", commit.id, repo, branch)

    def _resolve(self, repo: str, ref: str) -> Ref:
        match = _REF.fullmatch(ref)
        if not match:
            raise LakeFSError(400, f"ref: {INVALID}")
        base = self._resolve_base(repo, match[1])
        modifiers = re.findall(r"([~^@$])(\d*)", match[2])
        if modifiers and modifiers[0][0] in "@$":
            if len(modifiers) > 1 or not base.branch:
                raise LakeFSError(400, f"ref: {INVALID}")
            return Ref(base.commit_id, base.branch if match[2] == "$" else None, match[2])
        commit_id = base.commit_id
        for kind, digits in modifiers:
            number = int(digits or 1)
            for _ in range(number if kind == "~" else min(number, 1)):
                parents = self._get_commit(repo, commit_id).parents
                if kind == "~" and not parents:
                    raise LakeFSError(404, "not found")
                if kind != "~" and (kind != "^" or number > len(parents)):
                    raise LakeFSError(400, f"ref: {INVALID}")
                commit_id = parents[0 if kind == "~" else number - 1]
        return Ref(commit_id) if modifiers else base

    def _resolve_base(self, repo: str, name: str) -> Ref:
        """A full commit id, a branch, a tag, or the beginning of one commit id: the first of these that exists."""
        if self._find_commit(repo, name):
            return Ref(name)
        if found := self._head("branches", repo, name):
            return Ref(found, name)
        if found := self._head("tags", repo, name):
            return Ref(found)
        if re.fullmatch("[0-9a-f]{1,64}", name):
            query = "SELECT id FROM commits WHERE repo=? AND id BETWEEN ? AND ? LIMIT 2"
            ids = self._db(query, repo, name, name + "g").fetchall()
            if len(ids) == 1:
                return Ref(ids[0][0])
        raise LakeFSError(404, "not found")

    # Commits

    def commit_at(self, repo: str, ref: str, context: str = "") -> Commit:
        """The commit that a reference names; `context` begins the text of an error."""
        with self.reading(repo), _context(context) if context else contextlib.nullcontext():
            return self._commit_at(repo, ref)

    def _commit_at(self, repo: str, ref: str) -> Commit:
        found = self._resolve(repo, ref)
        if found.modifier == "$":
            raise LakeFSError(400, f"ref: {INVALID}: should point to a commit")
        return self._get_commit(repo, found.commit_id)

    def _find_commit(self, repo: str, commit_id: str) -> Commit | None:
        row = self._db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()
        return Commit(commit_id, *json.loads(row[0])) if row else None

    def _get_commit(self, repo: str, commit_id: str) -> Commit:
        found = self._find_commit(repo, commit_id)
        if not found:
            raise LakeFSError(404, "commit not found")
        return found

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
        self._db("INSERT OR IGNORE INTO commits VALUES(?, ?, ?)", repo, commit.id, data)
        return commit

    def commit(
        self, repo: str, branch: str, message: str, metadata: dict[str, str], date: int | None, allow_empty: bool
    ) -> Commit:
        """Commits what is staged at one moment, durably: content first, then the versions. `date` in seconds."""
        self.branch(repo, branch)
        self._sync(repo, branch)  # most of it before the others have to wait
        with self._db.writing_durably():
            head = self._get_commit(repo, self.branch(repo, branch))
            self._sync(repo, branch)
            tree = self._trees.apply(head.tree, self._staged(repo, branch))
            if tree == head.tree and not allow_empty:
                raise LakeFSError(400, "commit: no changes")
            dated = {} if date is None else {"created": date}
            made = self._add_commit(repo, [head], tree, message, metadata, **dated)
            self._advance(repo, branch, made)
            return made

    def _sync(self, repo: str, branch: str) -> None:
        query = """SELECT DISTINCT blobs.sha256, size FROM staging JOIN blobs USING(sha256)
                   WHERE repo=? AND branch=? AND synced=0"""
        self._files.sync(self._db(query, repo, branch).fetchall())

    def _advance(self, repo: str, branch: str, commit: Commit) -> None:
        self._db("DELETE FROM staging WHERE repo=? AND branch=?", repo, branch)
        self._move(repo, branch, commit)

    def log(self, repo: str, ref: str, first_parent: bool = False, since: float = 0.0) -> Iterator[Commit]:
        """Commits from `ref` back, newest first. To be read inside `reading`."""
        with _context("ref"):
            start = self._commit_at(repo, ref)
        queue, seen = [(-start.created, -start.generation, start)], {start.id}
        while queue:
            commit = heapq.heappop(queue)[2]
            if commit.created < since:
                continue
            yield commit
            for parent_id in commit.parents[: 1 if first_parent else None]:
                if parent_id not in seen:
                    seen.add(parent_id)
                    parent = self._get_commit(repo, parent_id)
                    heapq.heappush(queue, (-parent.created, -parent.generation, parent))

    def touches(self, repo: str, commit: Commit, objects: list[str], prefixes: list[str]) -> bool:
        """Whether a commit changed one of the objects, or one below the prefixes; merges count for nothing."""
        if len(commit.parents) != 1:
            return False
        before = self._get_commit(repo, commit.parents[0]).tree
        for wanted in [*objects, *prefixes]:
            path = next((path for path, _, _ in self._trees.diff(before, commit.tree, wanted)), None)
            if path == wanted or (path and wanted in prefixes and path.startswith(wanted)):
                return True
        return False

    # Merges

    def merge_base(self, repo: str, source: str, destination: str) -> tuple[Commit, Commit, Commit]:
        """The commits of both references and their best common ancestor. To be called inside a transaction."""
        with _context(f"get commit by ref {source}"):
            theirs = self._commit_at(repo, source)
        with _context(f"get commit by branch {destination}"):
            ours = self._commit_at(repo, destination)
        sides = {theirs.id: 1, ours.id: 2} if theirs.id != ours.id else {ours.id: 3}
        queue = [(-theirs.generation, theirs.id), (-ours.generation, ours.id)]
        heapq.heapify(queue)
        while queue:  # youngest generation first, until one is reached from both sides
            found = self._get_commit(repo, heapq.heappop(queue)[1])
            if sides[found.id] == 3:
                return theirs, ours, found
            for parent in found.parents:
                if parent not in sides:
                    heapq.heappush(queue, (-self._get_commit(repo, parent).generation, parent))
                sides[parent] = sides.get(parent, 0) | sides[found.id]
        raise LakeFSError(500, "no merge base")

    def merge(
        self, repo: str, source: str, branch: str, message: str, metadata: dict[str, str], strategy: str,
        squash: bool, allow_empty: bool,
    ) -> Commit:  # fmt: skip
        """Merges `source` into `branch`; raises MergeConflict."""
        if strategy not in STRATEGIES:
            raise LakeFSError(400, f"argument strategy: {INVALID}")
        with self._db.writing_durably():
            self._clean_head(repo, branch)
            with _context(f"update branch {branch}"):
                theirs, ours, base = self.merge_base(repo, source, branch)
                if theirs.tree == base.tree and not allow_empty:
                    raise LakeFSError(400, "no changes")
                tree = self._merge_trees(ours.tree, theirs.tree, base.tree, strategy)
            metadata = metadata | {".lakefs.merge.strategy": STRATEGIES[strategy]}
            message = message or f"Merge '{source}' into '{branch}'"
            made = self._add_commit(repo, [ours] if squash else [ours, theirs], tree, message, metadata)
            self._advance(repo, branch, made)
            return made

    def _clean_head(self, repo: str, branch: str) -> Commit:
        head = self._get_commit(repo, self.branch(repo, branch))
        if next(self._staged_changes(repo, branch, head.tree), None):
            raise LakeFSError(400, "uncommitted changes (dirty branch)")
        return head

    def _merge_trees(self, ours: str, theirs: str, base: str, strategy: str = "") -> str:
        if ours == base:
            return theirs
        mine = {path: after for path, _, after in self._trees.diff(base, ours)}
        changes = []
        for path, _, wanted in self._trees.diff(base, theirs):
            if path in mine and identity(mine[path]) != identity(wanted) and strategy != "source-wins":
                if not strategy:
                    raise MergeConflict
                continue
            changes.append((path, (wanted,)))
        return self._trees.apply(ours, changes)

    def revert(
        self, repo: str, branch: str, ref: str, number: int, allow_empty: bool, overrides: dict[str, Any]
    ) -> None:
        """Undoes what a commit changed against its parent `number` (from 1; 0 takes the only one)."""
        self.repository(repo)
        with self._db.writing_durably():
            with _context(f"get commit from ref {ref}"):
                undone = self._commit_at(repo, ref)
            if len(undone.parents) > 1 and not number:
                raise LakeFSError(409, "must specify 1-based parent number for reverting merge commit")
            if max(number, 1) > len(undone.parents):
                raise LakeFSError(400, f"given commit does not have the given parent number: parent {number}")
            head = self._clean_head(repo, branch)
            before = self._get_commit(repo, undone.parents[max(number, 1) - 1])
            tree = self._merge_trees(head.tree, before.tree, undone.tree)
            if tree == head.tree and not allow_empty:
                raise LakeFSError(400, "update branch: no changes")
            made = self._add_commit(
                repo, [head], tree, overrides.get("message") or f"Revert {ref}", overrides.get("metadata") or {}
            )
            self._advance(repo, branch, made)

    def cherry_pick(self, repo: str, branch: str, ref: str, number: int, overrides: dict[str, Any]) -> Commit:
        """Makes on `branch` what a commit changed against its parent `number` (from 1; 0 takes the only one)."""
        self.repository(repo)
        with self._db.writing_durably():
            with _context(f"get commit from ref {ref}"):
                picked = self._commit_at(repo, ref)
            if len(picked.parents) > 1 and not number:
                raise LakeFSError(400, "must specify 1-based parent number for cherry-picking merge commit")
            if max(number, 1) > len(picked.parents):
                raise LakeFSError(400, f"parent {max(number, 1)}: given commit does not have the given parent number")
            head = self._clean_head(repo, branch)
            before = self._get_commit(repo, picked.parents[max(number, 1) - 1])
            tree = self._merge_trees(head.tree, picked.tree, before.tree)
            origin = {"cherry-pick-origin": picked.id, "cherry-pick-committer": picked.committer}
            metadata = (overrides.get("metadata") or picked.metadata) | origin
            made = self._add_commit(repo, [head], tree, overrides.get("message") or picked.message, metadata)
            self._advance(repo, branch, made)
            return made

    # Objects

    def receive(self, chunks: Iterable[bytes]) -> Blob:
        """Takes in content that `put` can then give a path."""
        return self._files.receive(chunks)

    def open(self, sha256: str) -> bytes | Path:
        """The content itself, or the file that holds it."""
        return self._files.open(sha256)

    def put(
        self, repo: str, branch: str, path: str, blob: Blob, content_type: str, metadata: dict[str, str], only_new: bool
    ) -> Entry:
        """Stages content; with `only_new`, refuses (412) where there is something already."""
        metadata = dict(sorted(metadata.items()))
        entry = Entry(blob.sha256, blob.md5, blob.size, int(time.time()), content_type, metadata)
        with self._db.writing():
            self.branch(repo, branch, f"branch '{branch}' not found")
            if only_new and self._find(repo, branch, path):
                raise LakeFSError(412, "path already exists")
            self._files.record(blob)
            self._stage(repo, branch, path, entry)
        return entry

    def copy(self, repo: str, branch: str, path: str, source_ref: str, source_path: str) -> Entry:
        with self._db.writing():
            self.branch(repo, branch, f"branch '{branch}' not found")
            entry = self._get(repo, source_ref, source_path)._replace(mtime=int(time.time()))
            self._stage(repo, branch, path, entry)
        return entry

    def set_metadata(self, repo: str, branch: str, path: str, metadata: dict[str, str]) -> None:
        with self._db.writing():
            self.branch(repo, branch)
            entry = self._get(repo, branch, path)._replace(metadata=dict(sorted(metadata.items())))
            self._stage(repo, branch, path, entry)

    def delete(self, repo: str, branch: str, paths: list[str]) -> None:
        """Stages deletions; a path that does not exist is no error."""
        with self._db.writing():
            tree = self._get_commit(repo, self.branch(repo, branch)).tree
            for path in paths:
                if self._trees.get(tree, path):
                    self._stage(repo, branch, path, None)
                else:
                    self._db("DELETE FROM staging WHERE repo=? AND branch=? AND path=?", repo, branch, path)

    def reset(self, repo: str, branch: str, path: str | None = None, prefix: str = "") -> None:
        """Drops staged changes: of one path, or of all below a prefix."""
        where, values = ("path=?", (path,)) if path is not None else ("substr(path, 1, ?)=?", (len(prefix), prefix))
        with self._db.writing():
            self.branch(repo, branch)
            self._db(f"DELETE FROM staging WHERE repo=? AND branch=? AND {where}", repo, branch, *values)

    def entry(self, repo: str, ref: str, path: str) -> Entry:
        with self.reading(repo):
            return self._get(repo, ref, path)

    def _get(self, repo: str, ref: str, path: str) -> Entry:
        entry = self._find(repo, ref, path)
        if entry is None:
            raise LakeFSError(404, "not found")
        return entry

    def _find(self, repo: str, ref: str, path: str) -> Entry | None:
        found = self._resolve(repo, ref)
        staged_path, staged = next(self._staged(repo, found.branch, path), ("", (None,)))
        return staged[0] if staged_path == path else self._trees.get(self._get_commit(repo, found.commit_id).tree, path)

    def _stage(self, repo: str, branch: str, path: str, entry: Entry | None) -> None:
        data = json.dumps(entry, ensure_ascii=False) if entry else None
        sha256 = entry.sha256 if entry else None
        self._db("INSERT OR REPLACE INTO staging VALUES(?, ?, ?, ?, ?)", repo, branch, path, sha256, data)

    def _staged(self, repo: str, branch: str | None, start: str = "") -> Iterator[tuple[str, tuple[Entry | None]]]:
        """(path, (entry,)) staged on the branch, from path `start` on; (None,) where the path is deleted."""
        query = "SELECT path, entry FROM staging WHERE repo=? AND branch=? AND path>=? ORDER BY path"
        for path, data in self._db(query, repo, branch, start):
            yield path, (Entry(*json.loads(data)) if data else None,)

    # Listings and differences

    def entries(self, repo: str, ref: str, page: Page) -> Found[Entry]:
        """A page of paths and entries; a common prefix has no entry."""
        with self.reading(repo):
            found = self._resolve(repo, ref)
            tree = self._get_commit(repo, found.commit_id).tree

            def scan(start: str) -> Iterator[tuple[str, Entry]]:
                staged = self._staged(repo, found.branch, start)
                for path, committed, change in outer_join(self._trees.scan(tree, start), staged):
                    if entry := change[0] if change else committed:
                        yield path, entry

            return page.take(scan)

    def _staged_changes(self, repo: str, branch: str, tree: str, start: str = "") -> Iterator[tuple[str, Change]]:
        for path, (entry,) in self._staged(repo, branch, start):
            committed = self._trees.get(tree, path)
            if identity(committed) != identity(entry):
                yield path, (path, committed, entry)

    def diff_branch(self, repo: str, branch: str, page: Page) -> Found[Change]:
        """A page of what is staged."""
        with self.reading(repo):
            tree = self._get_commit(repo, self.branch(repo, branch)).tree
            return page.take(lambda start: self._staged_changes(repo, branch, tree, start))

    def diff_refs(self, repo: str, left: str, right: str, page: Page) -> Found[Change]:
        """A page of how `right` differs from `left` (two dots)."""
        with self.reading(repo):
            a, b = (self._commit_at(repo, ref).tree for ref in (left, right))
            return page.take(lambda start: ((change[0], change) for change in self._trees.diff(a, b, start)))

    def compare(self, repo: str, left: str, right: str, page: Page) -> Found[tuple[Change, bool]]:
        """A page of what merging `right` into `left` would change (three dots), and whether each is a conflict."""
        with self.reading(repo):
            theirs, ours, base = self.merge_base(repo, right, left)

            def scan(start: str) -> Iterator[tuple[str, tuple[Change, bool]]]:
                for change in self._trees.diff(ours.tree, theirs.tree, start):
                    before = identity(self._trees.get(base.tree, change[0]))
                    if before != identity(change[2]):  # else only `left` changed it
                        yield change[0], (change, before != identity(change[1]))

            return page.take(scan)


def _repository(row: tuple[Any, ...]) -> dict[str, Any]:
    repo, namespace, default_branch, created = row
    fixed = {"read_only": False, "storage_id": ""}
    known = {"id": repo, "storage_namespace": namespace, "default_branch": default_branch}
    return known | {"creation_date": int(created)} | fixed
