"""Serves the embedded lakeFS until Ctrl-C: `python -m utils.local_lakefs --port 8000`."""

import argparse
import os
import queue
import signal
import sys
from pathlib import Path

from . import start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.local_lakefs", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1; 0 takes a free one (default: 8000)")
    default = os.environ.get("LAKEFS_LOCAL_DIR") or ".lakefs"
    parser.add_argument("--dir", type=Path, default=Path(default), help=f"folder of the data (default: {default})")
    arguments = parser.parse_args()
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put is safe inside a signal handler
    signal.signal(signal.SIGINT, lambda *_: ended.put(130))
    signal.signal(signal.SIGTERM, lambda *_: ended.put(0))
    try:
        server = start(arguments.dir, arguments.port)
    except OSError as error:
        print(f"cannot serve {arguments.dir} on 127.0.0.1:{arguments.port}: {error}", file=sys.stderr)
        return 1
    with server:
        from .server import write_private

        env = arguments.dir.resolve() / "lakectl.env"
        values = {
            "LAKECTL_SERVER_ENDPOINT_URL": server.endpoint,
            "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": server.access_key_id,
            "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        write_private(env, "".join(f"export {name}={value}\n" for name, value in values.items()))
        print(f"source {env}", flush=True)
        return ended.get()


if __name__ == "__main__":
    sys.exit(main())
