"""Which process on which machine: tells whether a process that was recorded earlier still runs.

A host name says little: laptops and containers share names. A process id says less: in a container every main process
is 1, and the process ids of another container cannot be seen at all.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of a machine since its boot; empty texts where the system (not Linux) does not tell them."""

    boot_id: str  # of the kernel: shared by the containers of a machine, new after each boot
    pid_namespace: str  # in which `pid` is valid: that of a container or of the machine
    pid: int
    start: str  # in ticks since the boot: another process that gets the same id has started later

    @staticmethod
    def of_this_process() -> ProcessIdentity:
        """Return the identity of this process."""
        pid = os.getpid()
        return ProcessIdentity(_boot_id(), _pid_namespace(), pid, _start_of(pid) or "")

    @staticmethod
    def parse(text: str) -> ProcessIdentity | None:
        """Return the identity of `str(identity)`; None for other text."""
        parts = text.split(" ")
        if len(parts) != 4 or not re.fullmatch("[0-9]{1,10}", parts[2]):
            return None
        return ProcessIdentity(parts[0], parts[1], int(parts[2]), parts[3])

    def __str__(self) -> str:
        return f"{self.boot_id} {self.pid_namespace} {self.pid} {self.start}"

    def is_alive(self) -> bool | None:
        """Return whether the process runs; None if this process cannot see it: other boot, machine or container."""
        here = (_boot_id(), _pid_namespace())
        if not all(here) or not self.start or (self.boot_id, self.pid_namespace) != here:
            return None
        return _start_of(self.pid) == self.start


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """Return when a process started; None if there is none, or if it has ended and its parent has not noticed yet."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may contain blanks and parentheses
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else None
