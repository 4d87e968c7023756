"""One SQLite file shared by threads and processes: connections, transactions, and their durability."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from core.errors import AppError
from core.files import is_writable
from core.i18n import tr
from core.locks import is_locked_database, locked_database_fix
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


@contextlib.contextmanager
def explain_store_errors(folder: Path) -> Iterator[None]:
    """Raise AppError, with a one-line message, for the errors of an unusable store."""
    try:
        yield
    except sqlite3.OperationalError as error:  # a full disk, a missing permission, a lock that is never released
        file = folder / "lakefs.db"
        if not is_writable(folder) and not os.access(file, os.R_OK):
            raise AppError(
                tr(
                    "{file}: missing or not readable, and {folder} cannot be written by this user: make the directory "
                    "writable, or set LAKEFS_ENDPOINT",
                    file=file,
                    folder=folder,
                )
            ) from error
        problem = locked_database_fix() if is_locked_database(error) else error
        raise AppError(f"{file}: {problem}") from error
    except sqlite3.DatabaseError as error:
        file = folder / "lakefs.db"
        raise AppError(
            tr("{file}: not a readable database ({error}): restore it from a backup", file=file, error=error)
        ) from error
    except RuntimeError as error:  # another schema version, or damage: the store's own message
        raise AppError(str(error)) from error


class Database:
    """The file at `path`, created with `schema` if missing. Raises RuntimeError for a file of another schema version.

    With `read_only` nothing is written, not even beside the file, as SQLite's readers otherwise do.
    """

    def __init__(self, path: Path, schema: str, version: int, read_only: bool = False) -> None:
        self._path, self._read_only = path, read_only
        self._local = threading.local()
        self._writing = threading.Lock()  # SQLite's own lock is waited for by sleeping, up to 0.1 s at a time

        def create(part: Path) -> None:
            create_private_file(part)
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as db:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # lets gc give space back
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")

        if not read_only:
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
            self._local.db = sqlite3.connect(self._address(), timeout=BUSY_SECONDS, isolation_level=None, uri=True)
        return self._local.db  # type: ignore[no-any-return]

    def _address(self) -> str:
        address = self._path.absolute().as_uri()
        if not self._read_only:
            return address
        # With a log, another process may be writing, or was killed: SQLite reads it. Without one nobody writes, and it
        # must not look for a log that it could not create.
        log = Path(f"{self._path}-wal")
        return f"{address}?mode=ro" if log.exists() and log.stat().st_size else f"{address}?mode=ro&immutable=1"

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
