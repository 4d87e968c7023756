"""Looks after a store: fsck finds what is broken, mend brings it back, gc frees what nothing refers to.

All may run beside servers."""

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.hashing import file_sha256

from .http_request import CHUNK_BYTES
from .store import Store
from .trees import range_id, tree_id

PART_SECONDS = 24 * 3600  # a part file not written to for this long belongs to an upload that died
ROOTS = """SELECT repo, commit_id, 'lakefs://' || repo || '/' || id FROM refs UNION ALL
           SELECT repo, id, 'lakefs://' || repo || '/' || id FROM
           (SELECT *, iif(json_valid(data), data, '{"creation_date": 1e99}') AS it FROM commits)
           WHERE json_extract(it, '$.creation_date')>=?
           OR coalesce(json_extract(it, '$.metadata.mlflow_run_id'), '') NOT IN (SELECT value FROM json_each(?))"""
NAMED = re.compile(r"lakefs://([^/]+)/([0-9a-f]{64})/")  # what a commit's metadata says of its origin
Broken = Callable[[str], None]


class Reached(NamedTuple):
    """What references lead to."""

    commits: set[str]  # "<repository>/<id>"
    nodes: set[str]  # of trees
    content: dict[str, list[str]]  # SHA-256 -> addresses of objects that have it


def reach(store: Store, since: float, broken: Broken, dropped_runs: Sequence[str] = ()) -> Reached:
    """What staged changes, references, commits made `since`, and those of MLflow runs lead to; tells what is broken.

    A run's model and the data that it was trained on stay, whatever becomes of its branch: MLflow and lakefs.lock name
    them. The commits say themselves whose they are, so that none is lost where MLflow is out of reach."""
    found, queue = Reached(set(), set(), {}), store.db(ROOTS, since, json.dumps(["", *dropped_runs])).fetchall()
    for repo, branch, path, sha256 in store.db("SELECT repo, branch, path, sha256 FROM staging WHERE sha256<>''"):
        found.content.setdefault(sha256, []).append(f"lakefs://{repo}/{branch}/{path}")
    while queue:
        repo, commit_id, name = queue.pop()
        if f"{repo}/{commit_id}" in found.commits:
            continue
        found.commits.add(f"{repo}/{commit_id}")
        row = store.db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()
        if not row or hashlib.sha256(row[0].encode()).hexdigest() != commit_id:
            broken(f"{name}: commit {commit_id} {'does not match its hash' if row else 'is missing'}")
            continue
        commit, address = json.loads(row[0]), f"lakefs://{repo}/{commit_id}"
        _reach_tree(store, commit["meta_range_id"], address, found, broken)
        queue += [(repo, parent, address) for parent in commit["parents"]]
        for named in NAMED.findall(" ".join(commit["metadata"].values())):
            if store.db("SELECT 1 FROM commits WHERE repo=? AND id=?", *named).fetchone():  # not another server's
                queue.append((*named, address))
    return found


def _reach_tree(store: Store, tree: str, address: str, found: Reached, broken: Broken) -> None:
    def read(key: str, known: Callable[[str], list[Any]], hashed: Callable[[list[Any]], str]) -> list[Any]:
        if key in found.nodes:
            return []
        found.nodes.add(key)
        try:
            node = known(key)
            if hashed(node) == key:
                return node
            broken(f"{address}: node {key} does not match its hash")
        except (LookupError, ValueError, TypeError, zlib.error) as error:
            broken(f"{address}: {error}")
        return []

    for reference in read(tree, store.trees.ranges, tree_id):
        for path, entry in read(reference.id, store.trees.rows, range_id):
            found.content.setdefault(entry.sha256, []).append(f"{address}/{path}")


def fsck(store: Store) -> list[str]:
    """Everything that is broken, a line each: hashes all content again, and follows all references."""
    faults: list[str] = []
    with store.db.transaction("read"):
        found = reach(store, 0, faults.append)
        stored = {sha256 for (sha256,) in store.db("SELECT sha256 FROM blobs")}
        for sha256 in sorted(stored | found.content.keys()):
            if problem := store.files.fault(sha256) or ("" if sha256 in stored else "is not recorded"):
                names = found.content.get(sha256, ["(nothing refers to it)"])
                faults += [f"{name}: content {sha256} {problem}" for name in names]
    return faults


def mend(store: Store, folders: Iterable[Path]) -> list[str]:
    """Takes broken content in again from the files below `folders` that have it, whatever their names; a line for each."""
    with store.db.transaction("read"):
        reached = reach(store, 0, lambda _: None).content
        recorded = [sha256 for (sha256,) in store.db("SELECT sha256 FROM blobs")]
    broken, lines = {sha256 for sha256 in {*recorded, *reached} if store.files.fault(sha256)}, []
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    for path in files if broken else ():
        if (sha256 := file_sha256(path)) in broken:
            with path.open("rb") as stream:
                blob = store.files.receive(iter(lambda: stream.read(CHUNK_BYTES), b""))
            with store.db.transaction("durable"):
                store.files.record(blob)
                store.files.sync([(blob.sha256, blob.size)] if blob.data is None else [])
            broken.discard(sha256)
            lines.append(f"content {sha256} came again from {path}")
    return lines


def gc(store: Store, grace_seconds: float, dropped_runs: Sequence[str] = ()) -> str:
    """Frees what no branch, no tag, no MLflow run but `dropped_runs` and nothing staged leads to, unless it came in the
    last `grace_seconds`; says what. Raises RuntimeError, and frees nothing, if the store is broken."""
    old, freed = time.time() - grace_seconds, 0

    def refuse(fault: str) -> None:
        raise RuntimeError(f"{fault}: run fsck; nothing was freed")

    with store.db.transaction("durable"):  # whole or not at all; writers wait
        found = reach(store, old, refuse, dropped_runs)
        counts = [
            _delete(store, "blobs", "sha256", f"used<{old}", found.content.keys()),
            _delete(store, "commits", "repo || '/' || id", "1", found.commits),
            _delete(store, "nodes", "id", "1", found.nodes),
        ]
    # Content first loses its record, then its file. An upload that counted on the file meanwhile is told so (`put`).
    with store.db.transaction("write"):
        for path in store.files.folder.rglob("*"):
            known = store.db("SELECT 1 FROM blobs WHERE sha256=?", path.name).fetchone()
            limit = min(old, time.time() - PART_SECONDS) if path.suffix else old
            if path.is_file() and not known and path.stat().st_mtime < limit:
                freed += path.stat().st_size
                path.unlink()
    store.db("PRAGMA incremental_vacuum").fetchall()
    store.db("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return "freed {} contents, {} commits, {} tree nodes; {:,} bytes of files".format(*counts, freed)


def _delete(store: Store, table: str, key: str, where: str, keep: Iterable[str]) -> int:
    """Deletes the rows whose `key` is not to be kept; says how many."""
    keys = json.dumps(list(keep))
    return store.db(
        f"DELETE FROM {table} WHERE {where} AND {key} NOT IN (SELECT value FROM json_each(?))", keys
    ).rowcount
