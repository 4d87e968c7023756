"""Maintenance of a store: fsck finds damage, repair restores content from files, gc deletes what nothing refers to.

All of them can run beside servers.
"""

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import progress

from .http_server.requests import CHUNK_BYTES
from .store import Store
from .trees import range_id, tree_id

PART_SECONDS = 24 * 3600  # a part file not written to for this long belongs to an upload that died
# Branches, tags, the commits since a time, and those of MLflow runs except the listed ones: (repo, commit id, address)
ROOTS = """SELECT repo, commit_id, 'lakefs://' || repo || '/' || id FROM refs UNION ALL
           SELECT repo, id, 'lakefs://' || repo || '/' || id FROM
           (SELECT *, iif(json_valid(data), data, '{"creation_date": 1e99}') AS it FROM commits)
           WHERE json_extract(it, '$.creation_date')>=?
           OR coalesce(json_extract(it, '$.metadata.mlflow_run_id'), '') NOT IN (SELECT value FROM json_each(?))"""
COMMIT_URI = re.compile(r"lakefs://([^/]+)/([0-9a-f]{64})/")  # how a commit's metadata names its data or its code
Report = Callable[[str], None]


class Reachable(NamedTuple):
    """What references lead to."""

    commits: set[str]  # "<repository>/<id>"
    nodes: set[str]  # of trees
    content: dict[str, list[str]]  # SHA-256 -> addresses of objects that have it


def find_reachable(store: Store, since: float, report: Report, dropped_runs: Sequence[str] = ()) -> Reachable:
    """Return what staged changes, references, commits made `since`, and commits of MLflow runs lead to.

    `report` is called with each fault. A run's model, and the data that it was trained on, are kept even if its branch
    was deleted: MLflow and lakefs.lock name them. The commits themselves name their run, so that nothing is lost while
    MLflow is unreachable.
    """
    found = Reachable(set(), set(), {})
    queue = store.db(ROOTS, since, json.dumps(["", *dropped_runs])).fetchall()
    for repo, branch, path, sha256 in store.db("SELECT repo, branch, path, sha256 FROM staging WHERE sha256<>''"):
        found.content.setdefault(sha256, []).append(f"lakefs://{repo}/{branch}/{path}")
    while queue:
        repo, commit_id, name = queue.pop()
        if f"{repo}/{commit_id}" in found.commits:
            continue
        found.commits.add(f"{repo}/{commit_id}")
        row = store.db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()
        if not row or hashlib.sha256(row[0].encode()).hexdigest() != commit_id:
            facts = {"name": name, "commit": commit_id}
            if row:
                report(tr("{name}: commit {commit} does not match its hash", **facts))
            else:
                report(tr("{name}: commit {commit} is missing", **facts))
            continue
        commit, address = json.loads(row[0]), f"lakefs://{repo}/{commit_id}"
        _add_tree(store, commit["meta_range_id"], address, found, report)
        queue += [(repo, parent, address) for parent in commit["parents"]]
        for origin in COMMIT_URI.findall(" ".join(commit["metadata"].values())):
            if store.db("SELECT 1 FROM commits WHERE repo=? AND id=?", *origin).fetchone():  # else of another server
                queue.append((*origin, address))
    return found


def _add_tree(store: Store, tree: str, address: str, found: Reachable, report: Report) -> None:
    """Add a tree's nodes and content to `found`; nodes that are known already are not read again.

    A repository's first commit has no tree: "".
    """

    def read(key: str, read_node: Callable[[str], list[Any]], hash_node: Callable[[list[Any]], str]) -> list[Any]:
        if key in found.nodes:
            return []
        found.nodes.add(key)
        try:
            node = read_node(key)
            if hash_node(node) == key:
                return node
            report(tr("{address}: node {node} does not match its hash", address=address, node=key))
        except (LookupError, ValueError, TypeError, zlib.error) as error:
            report(f"{address}: {error}")
        return []

    for reference in read(tree, store.trees.ranges, tree_id) if tree else ():
        for path, entry in read(reference.id, store.trees.rows, range_id):
            found.content.setdefault(entry.sha256, []).append(f"{address}/{path}")


def fsck(store: Store) -> list[str]:
    """Read all content and follow all references; return a line for each fault."""
    faults: list[str] = []
    with store.db.transaction("read"):
        found = find_reachable(store, 0, faults.append)
        stored = {sha256 for (sha256,) in store.db("SELECT sha256 FROM blobs")}
        wanted = sorted(stored | found.content.keys())
        for sha256 in progress(wanted, len(wanted), tr("verifying"), tr("files")):
            fault = store.files.find_fault(sha256)
            if not fault and sha256 not in stored:
                fault = tr("is not recorded")
            if fault:
                addresses = found.content.get(sha256, [tr("(nothing refers to it)")])
                faults += [
                    tr("{address}: content {sha256} {fault}", address=address, sha256=sha256, fault=fault)
                    for address in addresses
                ]
    return faults


def repair(store: Store, folders: Iterable[Path]) -> list[str]:
    """Restore damaged content from files below `folders` with the same SHA-256; return a line for each file used."""
    damaged, lines = _find_damaged_content(store), []
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    for path in progress(files if damaged else (), None, tr("looking for intact copies"), tr("files")):
        if (sha256 := file_sha256(path)) in damaged:
            with path.open("rb") as stream:
                blob = store.files.receive(iter(lambda: stream.read(CHUNK_BYTES), b""))
            with store.db.transaction("durable"):
                store.files.record(blob)
                store.files.sync([(blob.sha256, blob.size)] if blob.data is None else [])
            damaged.discard(sha256)
            lines.append(tr("content {sha256} restored from {path}", sha256=sha256, path=path))
    return lines


def _find_damaged_content(store: Store) -> set[str]:
    """Return the SHA-256 of recorded or referenced content that is missing or does not match its hash."""
    with store.db.transaction("read"):
        reachable = find_reachable(store, 0, lambda _: None).content
        recorded = [sha256 for (sha256,) in store.db("SELECT sha256 FROM blobs")]
    known = {*recorded, *reachable}
    return {sha for sha in progress(known, len(known), tr("verifying"), tr("files")) if store.files.find_fault(sha)}


def gc(store: Store, grace_seconds: float, dropped_runs: Sequence[str] = ()) -> str:
    """Delete what is unreachable and older than `grace_seconds`; return a summary.

    Branches, tags, staged changes and MLflow runs except `dropped_runs` are kept, with all they lead to. Raise
    RuntimeError, and delete nothing, if the store is damaged.
    """
    old = time.time() - grace_seconds

    def refuse(fault: str) -> None:
        raise RuntimeError(tr("{fault}: run fsck; nothing was freed", fault=fault))

    with store.db.transaction("durable"):  # all or nothing; writers wait
        found = find_reachable(store, old, refuse, dropped_runs)
        counts = {
            "contents": _delete_rows(store, "blobs", "sha256", f"used<{old}", found.content.keys()),
            "commits": _delete_rows(store, "commits", "repo || '/' || id", "1", found.commits),
            "nodes": _delete_rows(store, "nodes", "id", "1", found.nodes),
        }
    freed_bytes = _delete_files(store, old)
    store.db("PRAGMA incremental_vacuum").fetchall()
    store.db("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return tr(
        "freed contents: {contents}, commits: {commits}, tree nodes: {nodes}, bytes of files: {size:,}",
        size=freed_bytes,
        **counts,
    )


def _delete_files(store: Store, old: float) -> int:
    """Delete content files without a record that are older than `old`; return their bytes.

    Content first loses its record, then its file: `record` tells an upload that relied on the file meanwhile.
    """
    freed = 0
    with store.db.transaction("write"):
        for path in store.files.folder.rglob("*"):
            known = store.db("SELECT 1 FROM blobs WHERE sha256=?", path.name).fetchone()
            limit = min(old, time.time() - PART_SECONDS) if path.suffix else old
            if path.is_file() and not known and path.stat().st_mtime < limit:
                freed += path.stat().st_size
                path.unlink()
    return freed


def _delete_rows(store: Store, table: str, key: str, where: str, keep: Iterable[str]) -> int:
    """Delete the rows whose `key` is not in `keep`; return their number."""
    keys = json.dumps(list(keep))
    return store.db(
        f"DELETE FROM {table} WHERE {where} AND {key} NOT IN (SELECT value FROM json_each(?))", keys
    ).rowcount
