"""Cores and memory that this process may use: those of the machine, or less in a container or a batch job.

Linux limits both by cgroups, version 1 or 2, which Python and libraries do not look at: a container with two cores of a
64-core host would start 64 threads, and a batch size chosen by the host's memory would end with the process killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")  # of /proc and of the mount points
ASSUMED_MEMORY = 4 << 30  # bytes; where the system does not tell
UNLIMITED = 1 << 60  # bytes; version 1 writes a number of this order where no limit is set


def usable_cores() -> int:
    """Return how many cores this process may use: affinity, cpuset and CPU quota (rounded up); at least 1."""
    counts = [float(os.cpu_count() or 1)]
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        counts.append(len(os.sched_getaffinity(0)))
    counts += [count for folder in _cgroup_directories("cpuset") if (count := _cpuset_size(folder))]
    counts += [quota for folder in _cgroup_directories("cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, math.ceil(min(counts)))


def total_memory() -> int:
    """Return the bytes of memory that this process and its siblings may use: of the machine, or the limit of a cgroup."""
    limits = [limit for folder in _cgroup_directories("memory") if (limit := _memory_limit(folder)) is not None]
    return min([_meminfo("MemTotal") or _physical_memory(), *limits])


def available_memory() -> int:
    """Return the bytes of memory that can be allocated without swapping or exceeding the limit of a cgroup.

    Files in the page cache count as available, as they are dropped when memory is needed.
    """
    free = [_meminfo("MemAvailable") or _physical_memory() // 2]
    for folder in _cgroup_directories("memory"):
        limit = _memory_limit(folder)
        if limit is not None:
            free.append(max(0, limit - _used_memory(folder)))
    return min(free)


# --- values of one cgroup; version 2 and version 1 have different files ------------------------------------------------


def _cpu_quota(folder: Path) -> float | None:
    """Return the quota of a cgroup in cores; None: unlimited."""
    quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]  # version 2: "150000 100000" or "max 100000"
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None  # "max", or -1
    return int(quota) / int(period) or None


def _cpuset_size(folder: Path) -> int:
    """Return the number of cores of a cpuset; 0: not set."""
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        ranges = re.findall(r"(\d+)(?:-(\d+))?", _read(folder / name))
        if ranges:
            return sum(int(last or first) - int(first) + 1 for first, last in ranges)
    return 0


def _memory_limit(folder: Path) -> int | None:
    """Return the limit of a cgroup in bytes; None: unlimited. Beyond memory.high the kernel stalls the processes."""
    texts = (_read(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
    limits = [int(text) for text in texts if text.isdigit()]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def _used_memory(folder: Path) -> int:
    """Return the bytes that a cgroup uses, without files that the kernel can drop."""
    used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
    statistics = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
    droppable = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
    return max(0, int(used or 0) - int(droppable))


# --- where the files are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hierarchy:
    """Mounted cgroup hierarchy: `root` is the cgroup that appears at `mount_point`; `controllers` is empty in version 2."""

    root: str
    mount_point: Path
    controllers: frozenset[str]


def _cgroup_directories(controller: str) -> list[Path]:
    """Return the directories of this process's cgroup and its parents, in each hierarchy that may have the controller."""
    own = _own_cgroups()
    found: list[Path] = []
    for hierarchy in _hierarchies():
        if hierarchy.controllers and controller not in hierarchy.controllers:
            continue
        path = own.get(controller if hierarchy.controllers else "", "/")
        found += _with_parents(hierarchy, path)
    return found


def _with_parents(hierarchy: _Hierarchy, path: str) -> list[Path]:
    """Return the directories from a cgroup up to the mount point: a limit of any of them holds."""
    # In a container, the path may be one of the host, and the container's own cgroup is at the mount point.
    inside = path == hierarchy.root or path.startswith(hierarchy.root.rstrip("/") + "/")
    names = [name for name in path[len(hierarchy.root.rstrip("/")) :].split("/") if name] if inside else []
    if ".." in names:
        names = []
    folders = [hierarchy.mount_point.joinpath(*names[:count]) for count in range(len(names), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]


def _own_cgroups() -> dict[str, str]:
    """Return controller -> path of this process's cgroup; the key of version 2 is empty."""
    own: dict[str, str] = {}
    for line in _read(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        own.update(dict.fromkeys(controllers.split(","), path))
    return own


def _hierarchies() -> Iterator[_Hierarchy]:
    for line in _read(ROOT / "proc/self/mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        fields, kind = mount.split(), source.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        point = ROOT / _unescape(fields[4]).lstrip("/")
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset[str]()
        yield _Hierarchy(_unescape(fields[3]), point, controllers)


def _unescape(text: str) -> str:
    """Return a path of mountinfo, in which blanks are octal numbers after a backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    """Return the text of a small file; empty if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").strip()
    return ""


def _meminfo(name: str) -> int:
    """Return a row of /proc/meminfo in bytes; 0 if there is none."""
    match = re.search(rf"^{name}:\s+(\d+) kB", _read(ROOT / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return ASSUMED_MEMORY
