"""Server processes of the tests."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


class ServerProcess:
    """A server of `command` in `folder`, which can be killed and started again with the same port and data."""

    def __init__(self, command: list[str], settings: dict[str, str], health_url: str, folder: Path) -> None:
        self.command, self.settings, self.health_url, self.folder = command, settings, health_url, folder
        self.log = folder / f"{Path(command[0]).name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it and wait until `health_url` answers, ten minutes at most."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.settings, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            )
        wait_until_up(self.process, self.health_url, self.log)

    def kill(self) -> None:
        """Kill it by SIGKILL, as a power cut or a lack of memory does."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and kill it after ten seconds."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def run_server(command: list[str], settings: dict[str, str], health_url: str, folder: Path) -> Iterator[ServerProcess]:
    """Run a server until the block ends; enter it once `health_url` answers."""
    server = ServerProcess(command, settings, health_url, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def wait_until_up(process: subprocess.Popen[bytes], health_url: str, log: Path) -> None:
    """Wait until `health_url` answers; raise RuntimeError with the end of the log if it does not within ten minutes."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        # An overloaded server accepts the connection and answers too late: TimeoutError is an OSError, as URLError is.
        with contextlib.suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(health_url, timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not answer at {health_url}:\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
