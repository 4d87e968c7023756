"""Serves the embedded lakeFS until Ctrl-C: `python -m utils.local_lakefs --port 8000`.

`python -m utils.local_lakefs fsck` lists every damaged object and exits with 1 if there is one; with `--repair data/`
it first restores damaged content from equal files below data/.
`python -m utils.local_lakefs gc` deletes what no branch, tag, MLflow run or staged change needs.
"""

from __future__ import annotations

import argparse
import queue
import signal
from pathlib import Path

from config import load_settings
from core.command_line.common import make_parser, parse_command_line
from core.command_line.values import number_from_zero, path, port
from core.console import print_result
from core.errors import AppError, ExitCode, UsageError
from core.i18n import tr
from core.process import run_script
from core.safety.private_files import write_private

from . import start
from .database import explain_store_errors


def serve(folder: Path, port: int) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put is safe inside a signal handler
    signal.signal(signal.SIGINT, lambda *_: ended.put(ExitCode.INTERRUPTED))
    signal.signal(signal.SIGTERM, lambda *_: ended.put(ExitCode.DONE))
    try:
        with explain_store_errors(folder):
            server = start(folder, port)
    except OSError as error:
        raise AppError(
            tr("cannot serve {folder} on 127.0.0.1:{port}: {error}", folder=folder, port=port, error=error)
        ) from error
    with server:
        env = folder.resolve() / "lakectl.env"
        values = {
            "LAKECTL_SERVER_ENDPOINT_URL": server.endpoint,
            "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": server.access_key_id,
            "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        write_private(env, "".join(f"export {name}={value}\n" for name, value in values.items()))
        print_result(f"source {env}")
        return ended.get()


def run_maintenance(folder: Path, options: argparse.Namespace) -> int:
    """Run `fsck` or `gc` on an existing store; return the exit code."""
    command = options.command
    if not (folder / "lakefs.db").exists():
        raise UsageError(tr("no embedded lakeFS in {folder} (expected {folder}/lakefs.db): check --dir", folder=folder))
    from . import maintenance
    from .store import Store

    with explain_store_errors(folder):
        store = Store(folder)
        if options.repair:  # reads everything, as fsck does again afterwards
            for line in maintenance.repair(store, options.repair):
                print_result(line)
        grace_seconds = options.grace_hours * 3600
        lines = [maintenance.gc(store, grace_seconds, options.drop_run)] if command == "gc" else maintenance.fsck(store)
    print_result("\n".join(lines) or tr("no faults"))
    return ExitCode.FAILED if command == "fsck" and lines else ExitCode.DONE


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; options take precedence over the environment and .env."""
    parser = make_parser("python -m utils.local_lakefs", __doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "fsck", "gc"), default="serve")
    parser.add_argument(
        "--port",
        type=port,
        default=8000,
        metavar="N",
        help=tr("port on 127.0.0.1; 0 takes a free one (default: 8000)"),
    )
    parser.add_argument(
        "--dir",
        type=path,
        metavar="DIR",
        help=tr("directory of the embedded lakeFS (default: LAKEFS_LOCAL_DIR)"),
    )
    parser.add_argument(
        "--grace-hours",
        type=number_from_zero,
        default=24,
        metavar="N",
        help=tr("gc keeps everything newer than N hours (default: 24)"),
    )
    parser.add_argument(
        "--drop-run",
        action="append",
        default=[],
        metavar="ID",
        help=tr("gc also deletes the commits of this MLflow run"),
    )
    parser.add_argument(
        "--repair",
        "--mend",  # its former name
        nargs="+",
        type=path,
        default=[],
        metavar="DIR",
        help=tr("fsck first restores damaged content from equal files below these directories"),
    )
    options = parse_command_line(parser, arguments)
    if options.repair and options.command != "fsck":
        raise UsageError(tr("--repair can only be used with fsck"))
    return options


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    options = parse(arguments)
    settings = load_settings()
    folder = options.dir or settings.lakefs_local_dir
    if options.command == "serve":
        return serve(folder, options.port)
    return run_maintenance(folder, options)


if __name__ == "__main__":
    run_script(main)
