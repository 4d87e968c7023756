"""Server processes of the tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def run_server(command: list[str], settings: dict[str, str], health_url: str, folder: Path) -> Iterator[None]:
    """Run `command` in `folder` until the block ends; enter it once `health_url` answers (three minutes at most)."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | settings, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_up(process, health_url, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(process: subprocess.Popen[bytes], health_url: str, log: Path) -> None:
    """Wait until `health_url` answers; raise RuntimeError with the end of the log if it does not within three minutes."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(health_url, timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not answer at {health_url}:\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
