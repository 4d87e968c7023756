"""SQLite files that hold what can be made again: fast, checked when they are opened, readable by their user only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from core.safety.private_files import create_private_file, is_private


def open_cache_database(path: Path, timeout: float, schema: str) -> sqlite3.Connection:
    """Open or create a database for several threads, which see one statement as one transaction.

    It may lose what was written before a power failure. `timeout` in seconds is how long a statement waits for another
    process. Raises sqlite3.DatabaseError for a damaged file.
    """
    if is_private(path):
        create_private_file(path)
    db = sqlite3.connect(path, timeout=timeout, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(schema)
        # Reads every page (0.02 s for 100,000 rows), so that damage is found here and not in the middle of a work.
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
    except BaseException:
        db.close()
        raise
    return db
