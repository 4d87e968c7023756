"""What one directory holds: the database, the content files, the trees and the commits that name them.

The operations of lakeFS's API on it are functions of a `Store`, in `operations`. Each answers what lakeFS's API answers
or raises LakeFSError, and is called inside a transaction of `Store.db`, except where its docstring says otherwise.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from core.files import is_writable
from core.safety.private_files import keep_private, make_directory

from . import content, trees
from .content import ContentFiles
from .database import Database
from .trees import Trees

Json = dict[str, Any]
Metadata = dict[str, str]
# As lakeFS shows it, and "creation_ns": "meta_range_id" is the id of its tree, "creation_date" in seconds since 1970.
Commit = Json

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


class LakeFSError(Exception):
    """An answer other than success: an HTTP status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class UnsupportedError(LakeFSError):
    """What only a real lakeFS server can do."""

    def __init__(self, what: str = "") -> None:
        advice = "set LAKEFS_ENDPOINT to a real lakeFS server to use it"
        prefix = f"{what}: " if what else ""
        super().__init__(501, f"{prefix}the embedded lakeFS server does not support this request: {advice}")


class Store:
    """The storage of all repositories in one directory, which threads and processes may share.

    It is `read_only` if this process may not write the directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, file = folder, folder / "lakefs.db"
        self.read_only = not is_writable(folder) or (file.exists() and not is_writable(file))
        if not self.read_only:
            make_directory(folder)
            keep_private(folder)
        self.db = Database(file, SCHEMA, SCHEMA_VERSION, self.read_only)
        self.files = ContentFiles(folder / "content", self.db, self.read_only)
        self.trees = Trees(self.db)

    def get_commit(self, repo: str, commit_id: str) -> Commit:
        """Return the commit with a full id. Raise LookupError if it is missing, which means a damaged store."""
        if not (row := self.db("SELECT data FROM commits WHERE repo=? AND id=?", repo, commit_id).fetchone()):
            raise LookupError(f"commit {commit_id} is missing")
        return {"id": commit_id, **json.loads(row[0])}

    def add_commit(
        self, repo: str, parents: list[Commit], tree: str, message: str, metadata: Metadata, date: int = 0
    ) -> Commit:
        """Insert a commit, whose id is a hash of its fields, and return it.

        `date` is in seconds since 1970; 0 means now.
        """
        now = time.time()
        commit = {
            "parents": [parent["id"] for parent in parents],
            "committer": "local" if parents else "",
            "message": message,
            "metadata": dict(sorted(metadata.items())),
            "creation_date": date or int(now),
            "creation_ns": 0 if date else int(now % 1 * 1e9),  # orders the log within a second; older commits have none
            "generation": 1 + max((parent["generation"] for parent in parents), default=0),
            "meta_range_id": tree,
            "version": 1,
        }
        data = json.dumps(commit, ensure_ascii=False)
        commit_id = hashlib.sha256(data.encode()).hexdigest()
        self.db("INSERT OR IGNORE INTO commits VALUES(?, ?, ?)", repo, commit_id, data)
        return {"id": commit_id, **commit}
