"""Repositories, branches, staged changes, commits and merges, as lakeFS has them, over one folder."""

import hashlib
import heapq
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from . import content, trees
from .content import Blob, ContentFiles
from .database import Database
from .trees import GONE, Entry, Trees, identity, outer_join

T = TypeVar("T")
Json = dict[str, Any]
Metadata = dict[str, str]
Change = tuple[Entry | None, Entry | None, bool]  # before, after, whether it is a conflict
Commit = Json  # as lakeFS shows it: "meta_range_id" is the id of its tree, "creation_date" in seconds since 1970

SCHEMA_VERSION = 2
SCHEMA = f"""
CREATE TABLE repositories(id TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE refs(repo TEXT, id TEXT, kind TEXT NOT NULL, commit_id TEXT NOT NULL, hidden INTEGER,
    PRIMARY KEY(repo, id)) WITHOUT ROWID; -- kind is "branches" or "tags"; no name is both
CREATE TABLE commits(repo TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY(repo, id)) WITHOUT ROWID;
CREATE TABLE staging(repo TEXT, branch TEXT, path TEXT, sha256 TEXT, entry TEXT, PRIMARY KEY(repo, branch, path))
    WITHOUT ROWID;
{content.SCHEMA}{trees.SCHEMA}
"""
MAX_PAGE = MAX_DELETE = 1000
COMMON_PREFIX = {
    "path_type": "common_prefix", "type": "prefix_changed", "checksum": "", "mtime": 0, "physical_address": "",
}  # fmt: skip
STRATEGIES = {"": "default", "source-wins": "source-wins", "dest-wins": "dest-wins"}
NAMES = {
    "repositories": re.compile("[a-z0-9][a-z0-9-]{2,62}"),
    "branches": re.compile(r"\w[-\w]*", re.ASCII),
    "tags": re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)"),
}
REF = re.compile(r"([^~^@$]+)((?:[~^]\d{0,9})*|[@$])")


class LakeFSError(Exception):
    """An answer other than success: an HTTP status and a text for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Page(NamedTuple):
    """Which part of a listing to answer."""

    prefix: str = ""
    after: str = ""
    amount: int = 100
    delimiter: str = ""

    def of(self, scan: Callable[[str], Iterable[tuple[str, T]]], render: Callable[[str, T], Json]) -> Json:
        """The part of a sorted listing, as JSON; `scan(start)` gives its (path, value) pairs from `start` on. Paths
        that are equal up to a delimiter behind the prefix become one common prefix."""
        results: list[Json] = []
        seek, name, more = max(self.prefix, self.after), "", True
        while more:
            more = False
            for path, value in scan(seek):
                if not path.startswith(self.prefix):
                    break
                cut = path.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
                group = path[: cut + len(self.delimiter)] if cut >= 0 else ""
                if (group or path) != self.after:
                    if len(results) == self.amount:
                        return listing(results, name)
                    name = group or path
                    results.append({"path": group, **COMMON_PREFIX} if group else render(path, value))
                if group:
                    seek, more = group[:-1] + chr(ord(group[-1]) + 1), True  # the first path behind the group
                    break
        return listing(results)


def listing(results: list[Json], next_offset: str = "") -> Json:
    """One page; what follows begins behind `next_offset`, if there is anything."""
    page = {"has_more": bool(next_offset), "next_offset": next_offset, "results": len(results)}
    return {"pagination": page | {"max_per_page": MAX_PAGE}, "results": results}


def show_entry(path: str, entry: Entry) -> Json:
    place = {"path": path, "path_type": "object", "physical_address": f"local://{entry.sha256}"}
    return {**place, **entry._asdict(), "size_bytes": entry.size}


def show_change(path: str, change: Change) -> Json:
    before, after, conflict = change
    kind = "conflict" if conflict else "removed" if not identity(after) else "changed" if before else "added"
    size = (after.size if after else 0) or (before.size if before and kind == "removed" else 0)
    return {"path": path, "path_type": "object", "type": kind, "size_bytes": size}


def _named(kind: str, name: str) -> str:
    if not NAMES[kind].fullmatch(name):
        raise LakeFSError(400, f"{name!r} is no name for {kind}: {NAMES[kind].pattern}")
    return name


class Store:
    """All repositories of one folder; threads and processes may share it. Methods answer what lakeFS's API answers, or
    raise LakeFSError; they are to be called inside a transaction of `db`, those that say so excepted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.db = Database(folder / "lakefs.db", SCHEMA, SCHEMA_VERSION)
        self.files = ContentFiles(folder / "content", self.db)
        self.trees = Trees(self.db)

    # Repositories

    def create_repository(self, name: str, storage_namespace: str, default_branch: str) -> Json:
        known = {"storage_namespace": storage_namespace, "default_branch": _named("branches", default_branch)}
        data = {"id": _named("repositories", name), **known, "creation_date": int(time.time()), "storage_id": ""}
        if not storage_namespace.startswith("local://"):
            raise LakeFSError(400, "the storage namespace of the embedded server begins with local://")
        if not self.db("INSERT OR IGNORE INTO repositories VALUES(?, ?)", name, json.dumps(data)).rowcount:
            raise LakeFSError(409, "error creating repository: not unique")
        first = self._add_commit(name, [], self.trees.apply("", []), "Repository created", {})
        self.db("INSERT INTO refs VALUES(?, ?, 'branches', ?, 0)", name, default_branch, first["id"])
        return data

    def repository(self, repo: str) -> Json:
        if not (row := self.db("SELECT data FROM repositories WHERE id=?", repo).fetchone()):
            raise LakeFSError(404, "repository not found")
        return dict(json.loads(row[0]))

    def repositories(self, page: Page) -> Json:
        query = "SELECT id, data FROM repositories WHERE id>=? ORDER BY id"
        return page.of(lambda start: self.db(query, start), lambda _, data: dict(json.loads(data)))

    def delete_repository(self, repo: str) -> None:
        """Forgets the repository; content and trees, which others may share, stay until gc."""
        self.db("DELETE FROM repositories WHERE id=?", repo)
        for table in ("refs", "commits", "staging"):
            self.db(f"DELETE FROM {table} WHERE repo=?", repo)

    # Branches, tags, references

    def ref(self, repo: str, kind: str, name: str) -> Json:
        """A branch or tag."""
        query = "SELECT commit_id FROM refs WHERE repo=? AND kind=? AND id=?"
        if not (row := self.db(query, repo, kind, name).fetchone()):
            raise LakeFSError(404, f"not found: {name} in {kind}")
        return {"id": name, "commit_id": row[0]}

    def refs(self, repo: str, kind: str, page: Page, hidden: bool) -> Json:
        query = "SELECT id, commit_id FROM refs WHERE repo=? AND kind=? AND id>=? AND hidden<=? ORDER BY id"
        return page.of(
            lambda start: self.db(query, repo, kind, start, hidden),
            lambda name, commit: {"id": name, "commit_id": commit},
        )

    def create_ref(self, repo: str, kind: str, name: str, source: str, hidden: bool = False) -> Json:
        commit_id = self.commit_at(repo, source)["id"]
        names = "SELECT repo, id FROM refs UNION ALL SELECT repo, id FROM commits"
        if self.db(f"SELECT 1 FROM ({names}) WHERE repo=? AND id=?", repo, _named(kind, name)).fetchone():
            raise LakeFSError(409, f"{name} already exists: not unique")
        self.db("INSERT INTO refs VALUES(?, ?, ?, ?, ?)", repo, name, kind, commit_id, hidden)
        return {"id": name, "commit_id": commit_id}

    def delete_ref(self, repo: str, kind: str, name: str) -> None:
        self.ref(repo, kind, name)
        if self.repository(repo)["default_branch"] == name:
            raise LakeFSError(403, "cannot delete repository default branch")
        self.db("DELETE FROM refs WHERE repo=? AND id=?", repo, name)
        self._unstage(repo, name)

    def _resolve(self, repo: str, ref: str) -> tuple[str, str | None]:
        """The commit that a reference names, and the branch whose staged changes belong on top of it."""
        match = REF.fullmatch(ref)
        commit_id, branch = self._resolve_name(repo, match[1]) if match else ("", None)
        if not match or (match[2] == "@" and not branch):
            raise LakeFSError(400, f"not a reference: {ref}")
        for kind, digits in re.findall(r"([~^])(\d*)", match[2]):
            number = int(digits or 1)
            for step in itertools.repeat(1, number) if kind == "~" else [number][:number]:  # ^0 is the commit itself
                parents = self._get_commit(repo, commit_id)["parents"]
                if step > len(parents):
                    raise LakeFSError(404, f"not found: {ref}")
                commit_id = parents[step - 1]
        return commit_id, branch if match[2] in ("", "$") else None

    def _resolve_name(self, repo: str, name: str) -> tuple[str, str | None]:
        """A full commit id, a branch, a tag, or the beginning of one commit id: the first of these that exists."""
        if self.db("SELECT 1 FROM commits WHERE repo=? AND id=?", repo, name).fetchone():
            return name, None
        if row := self.db("SELECT commit_id, kind FROM refs WHERE repo=? AND id=?", repo, name).fetchone():
            return row[0], name if row[1] == "branches" else None
        query = "SELECT id FROM commits WHERE repo=? AND id BETWEEN ? AND ? LIMIT 2"
        ids = self.db(query, repo, name, name + "g").fetchall()
        if len(ids) != 1:
            raise LakeFSError(404, f"not found: {name}")
        return ids[0][0], None

    # Commits

    def commit_at(self, repo: str, ref: str) -> Commit:
        """The commit that a reference names."""
        return self._get_commit(repo, self._resolve(repo, ref)[0])

    def _get_commit(self, repo: str, commit_id: str) -> Commit:
        if not (row := self.db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()):
            raise LookupError(f"commit {commit_id} is lost")
        return {"id": commit_id, **json.loads(row[0])}

    def _head(self, repo: str, branch: str, clean: bool = False) -> Commit:
        head = self._get_commit(repo, self.ref(repo, "branches", branch)["commit_id"])
        if clean and next(self._staged_changes(repo, branch, head["meta_range_id"]), None):
            raise LakeFSError(400, "uncommitted changes (dirty branch)")
        return head

    def _add_commit(
        self, repo: str, parents: list[Commit], tree: str, message: str, metadata: Metadata, date: int = 0
    ) -> Commit:
        """Enters a commit; its id is a hash of all it says. `date` 0 is now."""
        commit = {
            "parents": [parent["id"] for parent in parents],
            "committer": "local" if parents else "",
            "message": message,
            "metadata": dict(sorted(metadata.items())),
            "creation_date": date or int(time.time()),
            "generation": 1 + max((parent["generation"] for parent in parents), default=0),
            "meta_range_id": tree,
            "version": 1,
        }
        data = json.dumps(commit, ensure_ascii=False)
        commit_id = hashlib.sha256(data.encode()).hexdigest()
        self.db("INSERT OR IGNORE INTO commits VALUES(?, ?, ?)", repo, commit_id, data)
        return {"id": commit_id, **commit}

    def _advance(self, repo: str, branch: str, commit: Commit) -> Commit:
        self._unstage(repo, branch)
        self.db("UPDATE refs SET commit_id=? WHERE repo=? AND id=?", commit["id"], repo, branch)
        return commit

    def commit(self, repo: str, branch: str, message: str, metadata: Metadata, date: int, allow_empty: bool) -> Commit:
        """Commits what is staged at one moment, durably: content first, then the versions. To be called outside a
        transaction."""
        self._sync(repo, branch)  # most of it before the others have to wait
        with self.db.transaction("durable"):
            self._sync(repo, branch)
            head = self._head(repo, branch)
            tree = self.trees.apply(head["meta_range_id"], self._staged(repo, branch))
            if tree == head["meta_range_id"] and not allow_empty:
                raise LakeFSError(400, "commit: no changes")
            return self._advance(repo, branch, self._add_commit(repo, [head], tree, message, metadata, date))

    def _sync(self, repo: str, branch: str) -> None:
        query = """SELECT DISTINCT blobs.sha256, size FROM staging JOIN blobs USING(sha256)
                   WHERE repo=? AND branch=? AND synced=0"""
        self.files.sync(self.db(query, repo, branch).fetchall())

    def log(
        self, repo: str, ref: str, page: Page, first_parent: bool, limit: bool, prefixes: Sequence[str] = ()
    ) -> Json:
        commits = self._history(repo, ref, first_parent)
        if prefixes:
            commits = (commit for commit in commits if self._changed(repo, commit, prefixes))
        if page.after:
            next((commit for commit in commits if commit["id"] == page.after), None)
        found = list(itertools.islice(commits, page.amount + 1))
        more = len(found) > page.amount and not limit
        return listing(found[: page.amount], found[page.amount - 1]["id"] if more else "")

    def _changed(self, repo: str, commit: Commit, prefixes: Sequence[str]) -> bool:
        """Whether a commit changed something below a prefix; as in lakeFS, a merge is not asked."""
        if len(commit["parents"]) != 1:
            return False
        before, after = self._get_commit(repo, commit["parents"][0])["meta_range_id"], commit["meta_range_id"]
        firsts = (next(self.trees.diff(before, after, prefix), ("",))[0] for prefix in prefixes)
        return any(path.startswith(prefix) and path for path, prefix in zip(firsts, prefixes, strict=True))

    def _history(self, repo: str, ref: str, first_parent: bool) -> Iterator[Commit]:
        """Commits from `ref` back, newest first."""
        queue: list[tuple[int, int, str]] = []
        due, seen = [self.commit_at(repo, ref)["id"]], set[str]()
        while due or queue:
            for commit in (self._get_commit(repo, commit_id) for commit_id in due):
                heapq.heappush(queue, (-commit["creation_date"], -commit["generation"], commit["id"]))
            seen.update(due)
            yield (commit := self._get_commit(repo, heapq.heappop(queue)[2]))
            due = [parent for parent in commit["parents"][: 1 if first_parent else None] if parent not in seen]

    # Merges

    def merge_base(self, repo: str, ref: str, branch: str) -> Json:
        theirs, ours = self.commit_at(repo, ref), self.commit_at(repo, branch)
        base = self._merge_base(repo, theirs, ours)
        return {"source_commit_id": theirs["id"], "destination_commit_id": ours["id"], "base_commit_id": base["id"]}

    def _merge_base(self, repo: str, theirs: Commit, ours: Commit) -> Commit:
        """The best common ancestor."""
        sides = {theirs["id"]: 1, ours["id"]: 2} if theirs["id"] != ours["id"] else {ours["id"]: 3}
        queue = [(-theirs["generation"], theirs["id"]), (-ours["generation"], ours["id"])]
        heapq.heapify(queue)
        while True:  # youngest generation first, until one is reached from both sides: the first commit at the latest
            found = self._get_commit(repo, heapq.heappop(queue)[1])
            if sides[found["id"]] == 3:
                return found
            for parent in found["parents"]:
                if parent not in sides:
                    heapq.heappush(queue, (-self._get_commit(repo, parent)["generation"], parent))
                sides[parent] = sides.get(parent, 0) | sides[found["id"]]

    def merge(
        self, repo: str, ref: str, branch: str, message: str, metadata: Metadata, strategy: str, squash_merge: bool,
        allow_empty: bool, force: bool,
    ) -> Json:  # fmt: skip
        """Merges `ref` into `branch`."""
        if strategy not in STRATEGIES:
            raise LakeFSError(400, f"unknown strategy {strategy!r}: source-wins, dest-wins or none")
        ours, theirs = self._head(repo, branch, clean=True), self.commit_at(repo, ref)
        base = self._merge_base(repo, theirs, ours)
        if theirs["meta_range_id"] == base["meta_range_id"] and not (allow_empty or force):
            raise LakeFSError(400, f"update branch {branch}: no changes")
        tree = self._merge_trees(ours, theirs, base, strategy)
        metadata = metadata | {".lakefs.merge.strategy": STRATEGIES[strategy]}
        message = message or f"Merge '{ref}' into '{branch}'"
        made = self._add_commit(repo, [ours] if squash_merge else [ours, theirs], tree, message, metadata)
        return {"reference": self._advance(repo, branch, made)["id"]}

    def _merge_trees(self, ours: Commit, theirs: Commit, base: Commit, strategy: str = "") -> str:
        mine_id, their_id, base_id = (commit["meta_range_id"] for commit in (ours, theirs, base))
        mine = {path: after for path, _, after in self.trees.diff(base_id, mine_id)}
        changes = []
        for path, _, wanted in self.trees.diff(base_id, their_id):
            if path in mine and identity(mine[path]) != identity(wanted) and strategy != "source-wins":
                if not strategy:
                    raise LakeFSError(409, f"conflict found: {path}")
                continue
            changes.append((path, wanted or GONE))
        return self.trees.apply(mine_id, changes)

    def revert(
        self, repo: str, branch: str, ref: str, parent_number: int, allow_empty: bool, commit_overrides: Json
    ) -> None:
        """Takes back what a commit changed against one of its parents: counted from 1, 0 is the only one."""
        head, undone = self._head(repo, branch, clean=True), self.commit_at(repo, ref)
        if len(undone["parents"]) > 1 and not parent_number:
            raise LakeFSError(409, "must specify 1-based parent number for reverting merge commit")
        parent_id = next(iter(undone["parents"][max(parent_number, 1) - 1 :]), None)
        if not parent_id:
            raise LakeFSError(400, f"given commit does not have the given parent number: {parent_number}")
        tree = self._merge_trees(head, self._get_commit(repo, parent_id), undone)
        if tree == head["meta_range_id"] and not allow_empty:
            raise LakeFSError(400, f"update branch {branch}: no changes")
        message, metadata = commit_overrides.get("message"), commit_overrides.get("metadata")
        self._advance(repo, branch, self._add_commit(repo, [head], tree, message or f"Revert {ref}", metadata or {}))

    def hard_reset(self, repo: str, branch: str, ref: str) -> None:
        """Lets a branch on which nothing is staged point to another commit."""
        self._head(repo, branch, clean=True)
        self._advance(repo, branch, self.commit_at(repo, ref))

    # Objects

    def put(
        self, repo: str, branch: str, path: str, blob: Blob, content_type: str, metadata: Metadata, only_new: bool
    ) -> Json:
        """Stages received content; with `only_new`, refuses (412) where there is something already."""
        if only_new and self._find(repo, branch, path):
            raise LakeFSError(412, "path already exists")
        if not self.files.record(blob):
            raise LakeFSError(503, "the content was collected as garbage while it came: send it again")
        metadata = dict(sorted(metadata.items()))
        entry = Entry(blob.sha256, blob.md5, blob.size, int(time.time()), content_type, metadata)
        return self._stage(repo, branch, path, entry)

    def copy(self, repo: str, branch: str, path: str, src_ref: str, src_path: str) -> Json:
        entry = self.entry(repo, src_ref or branch, src_path)
        return self._stage(repo, branch, path, entry._replace(mtime=int(time.time())))

    def delete(self, repo: str, branch: str, paths: list[str]) -> Json:
        """Stages deletions; a path that does not exist is no error."""
        if len(paths) > MAX_DELETE:
            raise LakeFSError(400, f"request size exceeded, max paths is set to {MAX_DELETE}")
        tree = self._head(repo, branch)["meta_range_id"]
        for path in paths:
            self._unstage(repo, branch, path, exact=True)
            if self.trees.get(tree, path):
                self._stage(repo, branch, path, GONE)
        return {"errors": []}

    def reset(self, repo: str, branch: str, type: str, path: str) -> None:
        """Drops what is staged: everything, or at one path, or below a prefix."""
        self.ref(repo, "branches", branch)
        if type not in ("reset", "object", "common_prefix"):
            raise LakeFSError(400, f"type {type!r} is not reset, object or common_prefix")
        self._unstage(repo, branch, "" if type == "reset" else path, exact=type == "object")

    def _unstage(self, repo: str, branch: str, prefix: str = "", exact: bool = False) -> None:
        matched = "path" if exact else "substr(path, 1, length(?3))"
        self.db(f"DELETE FROM staging WHERE repo=?1 AND branch=?2 AND {matched}=?3", repo, branch, prefix)

    def stat(self, repo: str, ref: str, path: str) -> Json:
        return show_entry(path, self.entry(repo, ref, path))

    def entry(self, repo: str, ref: str, path: str) -> Entry:
        if not (entry := self._find(repo, ref, path)):
            raise LakeFSError(404, f"not found: {path}")
        return entry

    def _find(self, repo: str, ref: str, path: str) -> Entry | None:
        commit_id, branch = self._resolve(repo, ref)
        staged_path, entry = next(self._staged(repo, branch, path), ("", None))
        if staged_path != path:
            entry = self.trees.get(self._get_commit(repo, commit_id)["meta_range_id"], path)
        return entry if identity(entry) else None

    def _stage(self, repo: str, branch: str, path: str, entry: Entry) -> Json:
        self.ref(repo, "branches", branch)
        data = json.dumps(entry, ensure_ascii=False)
        self.db("INSERT OR REPLACE INTO staging VALUES(?, ?, ?, ?, ?)", repo, branch, path, entry.sha256, data)
        return show_entry(path, entry)

    def _staged(self, repo: str, branch: str | None, start: str = "") -> Iterator[tuple[str, Entry]]:
        """What is staged on the branch, from path `start` on; GONE where the path is deleted."""
        query = "SELECT path, entry FROM staging WHERE repo=? AND branch=? AND path>=? ORDER BY path"
        for path, data in self.db(query, repo, branch, start):
            yield path, Entry(*json.loads(data))

    # Listings and differences

    def entries(self, repo: str, ref: str, page: Page) -> Json:
        commit_id, branch = self._resolve(repo, ref)
        tree = self._get_commit(repo, commit_id)["meta_range_id"]

        def scan(start: str) -> Iterator[tuple[str, Entry]]:
            sides = self.trees.scan(tree, start), self._staged(repo, branch, start)
            for path, (committed, staged) in outer_join(*sides):
                if (entry := staged or committed) and entry.sha256:
                    yield path, entry

        return page.of(scan, show_entry)

    def _staged_changes(self, repo: str, branch: str, tree: str, start: str = "") -> Iterator[tuple[str, Change]]:
        for path, entry in self._staged(repo, branch, start):
            committed = self.trees.get(tree, path)
            if identity(committed) != identity(entry):
                yield path, (committed, entry, False)

    def diff_branch(self, repo: str, branch: str, page: Page) -> Json:
        """What is staged."""
        tree = self._head(repo, branch)["meta_range_id"]
        return page.of(lambda start: self._staged_changes(repo, branch, tree, start), show_change)

    def diff_refs(self, repo: str, left: str, right: str, page: Page, type: str) -> Json:
        """How `right` differs from `left`; unless type is two_dot, what merging it into `left` would change."""
        ours, theirs = self.commit_at(repo, left), self.commit_at(repo, right)
        base = ours if type == "two_dot" else self._merge_base(repo, theirs, ours)

        def scan(start: str) -> Iterator[tuple[str, Change]]:
            for path, mine, wanted in self.trees.diff(ours["meta_range_id"], theirs["meta_range_id"], start):
                old = identity(self.trees.get(base["meta_range_id"], path))
                if old != identity(wanted):  # else only `left` changed it
                    yield path, (mine, wanted, old != identity(mine))

        return page.of(scan, show_change)
