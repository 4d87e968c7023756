"""Two hosts on one machine: network namespaces that a pair of virtual interfaces connects.

Each host has a network of its own. A server of this machine is made reachable on the hosts' 127.0.0.1, as the embedded
lakeFS server answers to no other name, through a Unix socket: `python -m tests.support.hosts PORT SOCKET` on each host.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Host:
    """A namespace with its address in the network between the hosts."""

    namespace: str
    address: str
    interface: str
    relays: set[int] = field(default_factory=set)

    @contextlib.contextmanager
    def reaching(self, port: int, path: Path) -> Iterator[None]:
        """Serve what listens on a Unix socket at 127.0.0.1:port of this host."""
        command = [sys.executable, "-m", "tests.support.hosts", str(port), str(path)]
        process = self.start(command, SOURCE, os.environ, path.with_name(f"{self.namespace}.log"))
        self.relays.add(process.pid)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def start(self, command: list[str], folder: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on this host; its output goes to a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                cwd=folder,
                env=dict(env),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def power_off(self) -> None:
        """Kill every process of this host but the relays, at once: those of torchrun have sessions of their own."""
        while pids := {int(pid) for pid in _ip("netns", "pids", self.namespace).split()} - self.relays:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts; skip the test where namespaces cannot be made."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program ip")
    name = f"t{secrets.token_hex(3)}"
    one, two = hosts = [Host(f"{name}-{number}", f"10.231.1.{number}", f"{name}{number}") for number in (1, 2)]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            try:
                _ip("netns", "add", host.namespace)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "del", host.namespace], check=False)
            stack.callback(host.power_off)
        ends = [("name", host.interface, "netns", host.namespace) for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.namespace, "link", "set", interface, "up")
        yield one, two


@contextlib.contextmanager
def reachable(endpoint: str, hosts: Sequence[Host]) -> Iterator[None]:
    """Make a server of this machine's 127.0.0.1 reachable at the same address of the hosts."""
    port = int(endpoint.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))) / "socket"
        listener = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listener.bind(str(path))
        listener.listen()
        target = ("127.0.0.1", port)
        threading.Thread(target=_relay, args=(listener, lambda: socket.create_connection(target)), daemon=True).start()
        for host in hosts:
            stack.enter_context(host.reaching(port, path))
        yield


def _relay(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    while True:
        try:
            inside, _ = listener.accept()
        except OSError:  # closed
            return
        outside = connect()
        for source, target in ((inside, outside), (outside, inside)):
            threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main() -> None:
    """Relay connections to a port of this host to a Unix socket."""
    port, path = int(sys.argv[1]), sys.argv[2]

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(path)
        return made

    _relay(socket.create_server(("127.0.0.1", port)), connect)


if __name__ == "__main__":
    main()
