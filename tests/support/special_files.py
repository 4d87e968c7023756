"""Files that must not be opened, and a record of what was opened."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

LIMIT_S = 30.0  # after which a call that waits for a special file fails the test


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    server = socket.socket(socket.AF_UNIX)
    try:
        os.chdir(path.parent)  # the address of a socket has at most 107 bytes
        server.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)
        server.close()


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("only root makes devices")


def _outside(path: Path) -> Path:
    """Return a file beside the directory of the test, with the content of a good one."""
    secret = path.parent.parent.with_name("outside.txt")
    secret.write_bytes(b"secret")
    return secret


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.parent / ".pipe")  # hidden, so it is no fault itself
    path.symlink_to(".pipe")


# kind -> how to make it, and what it is reported as
SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a special file"),
    "socket": (_socket, "a special file"),
    "device": (_device, "a special file"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "a link to a file outside of it"),
    "link to a pipe": (_link_to_pipe, "a link to a special file"),
    "link out": (lambda path: path.symlink_to(_outside(path)), "a link to a file outside of it"),
    "relative link out": (
        lambda p: p.symlink_to(os.path.relpath(_outside(p), p.parent)),
        "a link to a file outside of it",
    ),
    "link to a directory": (lambda path: path.symlink_to("."), "a link to a directory"),
    "link to a directory outside": (lambda path: path.symlink_to("/etc"), "a link to a directory outside of it"),
    "link to itself": (lambda path: path.symlink_to(path.name), "a broken link"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "a broken link"),
}


@contextmanager
def limited_time() -> Iterator[None]:
    """Fail a block that waits for a special file."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still waiting after {LIMIT_S:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Opened:
    """Audit hook, which cannot be removed, that records the names of opened files while it is active."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.names is not None and isinstance(arguments[0], str | bytes | os.PathLike):
            self.names.append(os.fsdecode(arguments[0]))


_opened: list[_Opened] = []


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Yield the list of the files that are opened in the block."""
    if not _opened:
        _opened.append(_Opened())
    names: list[str] = []
    _opened[0].names = names
    try:
        yield names
    finally:
        _opened[0].names = None
