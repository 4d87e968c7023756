"""One SQLite file shared by threads and processes: connections, transactions, and their durability."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from core.safety.private_files import create_private_file

BUSY_SECONDS = 120.0  # how long a writer waits for the others
Transaction = Literal["read", "write", "durable"]


def create_once(path: Path, write: Callable[[Path], None]) -> None:
    """Create a file atomically unless it exists; of several processes that try at once, the first one wins."""
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        write(part)
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)


class Database:
    """The file at `path`, created with `schema` if missing. Raises RuntimeError for a file of another schema version."""

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self._path = path
        self._local = threading.local()
        self._writing = threading.Lock()  # SQLite's own lock is waited for by sleeping, up to 0.1 s at a time

        def create(part: Path) -> None:
            create_private_file(part)
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as db:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # lets gc give space back
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")

        create_once(path, create)
        (found,) = self("PRAGMA user_version").fetchone()
        if found != version:
            raise RuntimeError(f"{path}: expected schema {version}, found schema {found}")

    def __call__(self, query: str, *values: object) -> sqlite3.Cursor:
        """Run a query on this thread's connection."""
        return self._connection.execute(query, values)

    @property
    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "db"):
            self._local.db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        return self._local.db  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close this thread's connection; other threads close theirs when they end."""
        self._connection.close()
        del self._local.db

    @contextlib.contextmanager
    def transaction(self, kind: Transaction) -> Iterator[None]:
        """Run the block as one transaction, which is rolled back if the block raises.

        All kinds read one snapshot. "write" excludes other writers and survives a crash of the process; a power cut may
        undo the last few. "durable" is on disk when the block ends.
        """
        with contextlib.nullcontext() if kind == "read" else self._writing:
            if kind != "read":
                self(f"PRAGMA synchronous={'FULL' if kind == 'durable' else 'NORMAL'}")
            self("BEGIN" if kind == "read" else "BEGIN IMMEDIATE")
            try:
                yield
                self("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self("ROLLBACK")
                raise
