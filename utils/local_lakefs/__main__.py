"""Serves the embedded lakeFS until Ctrl-C: `python -m utils.local_lakefs --port 8000`.

`python -m utils.local_lakefs fsck` names every broken object and exits with 1 if there is one;
`python -m utils.local_lakefs gc` frees what no branch, tag, MLflow run or staged change needs."""

import argparse
import queue
import signal
import sys
from pathlib import Path

from config import load_settings

from . import start


def serve(folder: Path, port: int) -> int:
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put is safe inside a signal handler
    signal.signal(signal.SIGINT, lambda *_: ended.put(130))
    signal.signal(signal.SIGTERM, lambda *_: ended.put(0))
    try:
        server = start(folder, port)
    except OSError as error:
        print(f"cannot serve {folder} on 127.0.0.1:{port}: {error}", file=sys.stderr)
        return 1
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.local_lakefs", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "fsck", "gc"), default="serve")
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1; 0 takes a free one (default: 8000)")
    # The scripts' own default: from the environment, .env, or .lakefs in the project's folder.
    default = load_settings().lakefs_local_dir
    parser.add_argument("--dir", type=Path, default=default, help=f"folder of the data (default: {default})")
    parser.add_argument("--grace-hours", type=float, default=24, help="gc spares what is younger (default: 24)")
    parser.add_argument(
        "--drop-run", action="append", default=[], metavar="ID", help="gc frees the commits of this MLflow run too"
    )
    arguments = parser.parse_args()
    if arguments.command == "serve":
        return serve(arguments.dir, arguments.port)
    if not (arguments.dir / "lakefs.db").exists():
        parser.error(f"no store in {arguments.dir}")
    from . import upkeep
    from .store import Store

    try:
        store = Store(arguments.dir)
        collect = arguments.command == "gc"
        grace_seconds, dropped = arguments.grace_hours * 3600, arguments.drop_run
        lines = [upkeep.gc(store, grace_seconds, dropped)] if collect else upkeep.fsck(store)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines) or "no faults")
    return 1 if arguments.command == "fsck" and lines else 0


if __name__ == "__main__":
    sys.exit(main())
