"""Serves the embedded lakeFS until Ctrl-C: `python -m utils.local_lakefs --port 8000`.

`python -m utils.local_lakefs fsck` names every broken object and exits with 1 if there is one; with `--mend data/` it
brings back first what a file there still holds;
`python -m utils.local_lakefs gc` frees what no branch, tag, MLflow run or staged change needs."""

from __future__ import annotations

import argparse
import contextlib
import queue
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from config import load_settings
from core.console import add_common_options
from core.errors import AppError, UsageError
from core.i18n import tr
from core.process import run_script

from . import start


@contextlib.contextmanager
def convert_errors(folder: Path) -> Iterator[None]:
    """Turn what a store that cannot be used raises into one line."""
    try:
        yield
    except sqlite3.OperationalError as error:  # a full disk, a missing right, a lock that is never given back
        raise AppError(f"{folder / 'lakefs.db'}: {error}") from error
    except sqlite3.DatabaseError as error:
        file = folder / "lakefs.db"
        raise AppError(
            tr("{file}: not a readable database ({error}): bring it back from a backup", file=file, error=error)
        ) from error
    except RuntimeError as error:  # of another version, or broken: said by the store itself
        raise AppError(str(error)) from error


def serve(folder: Path, port: int) -> int:
    """Returns the exit code, when a signal ends it."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put is safe inside a signal handler
    signal.signal(signal.SIGINT, lambda *_: ended.put(130))
    signal.signal(signal.SIGTERM, lambda *_: ended.put(0))
    try:
        with convert_errors(folder):
            server = start(folder, port)
    except OSError as error:
        raise AppError(
            tr("cannot serve {folder} on 127.0.0.1:{port}: {error}", folder=folder, port=port, error=error)
        ) from error
    with server:
        from .server import write_private

        env = folder.resolve() / "lakectl.env"
        values = {
            "LAKECTL_SERVER_ENDPOINT_URL": server.endpoint,
            "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": server.access_key_id,
            "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        write_private(env, "".join(f"export {name}={value}\n" for name, value in values.items()))
        print(f"source {env}", flush=True)
        return ended.get()


def run_maintenance(folder: Path, options: argparse.Namespace) -> int:
    """`fsck` or `gc` on a store that is there; returns the exit code."""
    command = options.command
    if not (folder / "lakefs.db").exists():
        raise UsageError(tr("no store in {folder}", folder=folder))
    from . import upkeep
    from .store import Store

    with convert_errors(folder):
        store = Store(folder)
        if options.mend:  # it reads everything, as fsck does once more behind it
            for line in upkeep.mend(store, options.mend):
                print(line)
        grace_seconds = options.grace_hours * 3600
        lines = [upkeep.gc(store, grace_seconds, options.drop_run)] if command == "gc" else upkeep.fsck(store)
    print("\n".join(lines) or tr("no faults"))
    return 1 if command == "fsck" and lines else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env."""
    parser = argparse.ArgumentParser(prog="python -m utils.local_lakefs", description=__doc__)
    add_common_options(parser)
    parser.add_argument("command", nargs="?", choices=("serve", "fsck", "gc"), default="serve")
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help=tr("port on 127.0.0.1; 0 takes a free one (default: 8000)"),
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help=tr("folder of the data (default: LAKEFS_LOCAL_DIR)"),
    )
    parser.add_argument(
        "--grace-hours",
        type=float,
        default=24,
        metavar="N",
        help=tr("gc spares what is younger (default: 24)"),
    )
    parser.add_argument(
        "--drop-run",
        action="append",
        default=[],
        metavar="ID",
        help=tr("gc frees the commits of this MLflow run too"),
    )
    parser.add_argument(
        "--mend",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help=tr("fsck brings broken content back from equal files below these folders"),
    )
    options = parser.parse_args(arguments)
    if options.mend and options.command != "fsck":
        parser.error(tr("--mend goes with fsck"))
    if not 0 <= options.port <= 65535:
        parser.error(tr("--port {port}: 0 to 65535", port=options.port))
    return options


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    settings = load_settings()
    folder = options.dir or settings.lakefs_local_dir
    if options.command == "serve":
        return serve(folder, options.port)
    return run_maintenance(folder, options)


if __name__ == "__main__":
    run_script(main)
