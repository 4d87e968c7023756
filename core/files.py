"""Local files: safe paths, atomic replacement, leftovers of killed processes, hard links."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import warn
from core.safety.private_files import make_directory, restrict_if_private

STALE_S = 7 * 86_400  # seconds after which the partial file of an interrupted download is not resumed
_DRIVE = re.compile("[A-Za-z]:")
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_LFS_MARKS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_LEAST_BYTES = 1 << 16  # of free space, below which a disk counts as full
_LFS_BYTES = 1024  # a pointer is smaller
T = TypeVar("T")
R = TypeVar("R")


def safe_join(folder: Path, relative: str) -> Path:
    """Return `folder`/`relative`. Raises AppError if the path, from a server or a listing, is outside the directory.

    It is outside, too, if a link below the directory leads there; the directory itself may be reached through links.
    """
    parts = PurePosixPath(relative).parts
    if (
        not parts
        or relative.startswith("/")
        or ".." in parts
        or "\\" in relative
        or "\0" in relative
        or any(_DRIVE.match(part) for part in parts)  # `a/C:b` would be on another drive
    ):
        raise AppError(tr("invalid path '{relative}': it is outside of '{folder}'", relative=relative, folder=folder))
    path = folder.joinpath(*parts)
    link = first_link(folder, relative)
    if link is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise AppError(
            tr(
                "invalid path '{relative}': the link {link} leads out of '{folder}'",
                relative=relative,
                link=link,
                folder=folder,
            )
        )
    return path


def first_link(folder: Path, relative: str) -> Path | None:
    """Return the first symbolic link on the way from a directory to a path below it; None if there is none."""
    place = str(folder)
    for part in PurePosixPath(relative).parts:
        place = os.path.join(place, part)
        if os.path.islink(place):
            return Path(place)
    return None


def broken_link(path: Path) -> Path | None:
    """Return the link to nothing that a path is, or leads through; None if there is none."""
    return next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)


def resolve(path: Path) -> Path:
    """Return the absolute path without links; with a broken link, the path as it is, so that nothing is made behind it."""
    return path.resolve() if broken_link(path) is None else path.absolute()


def absolute_paths(paths: Mapping[str, Path], given: Mapping[str, Any], root: Path) -> dict[str, Path]:
    """Return the paths by name, resolved: relative ones start at `root`, those that were `given` where the process is."""
    return {
        name: resolve(root / path if given.get(name) is None else Path(given[name])) for name, path in paths.items()
    }


def open_regular(path: Path) -> FileIO:
    """Open a regular file, or a link to one, for reading without a buffer.

    Raises OSError for anything else, without opening it: a named pipe would wait for its writer, a device may never end.
    """
    _require_regular(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    try:
        _require_regular(os.fstat(descriptor), path)  # replaced in between; O_NONBLOCK kept the opening from waiting
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, tr("a special file"), str(path))


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file, or of a link to one. Raises OSError for anything else, without opening it."""
    with open_regular(path) as stream:
        return stream.read()


def is_writable(path: Path) -> bool:
    """Return whether this process may write a file or directory, or create it where it does not exist."""
    existing = next((place for place in (path, *path.parents) if os.path.exists(place)), Path())
    return os.access(existing, os.W_OK | os.X_OK if existing.is_dir() else os.W_OK)


@functools.cache
def writable_cache(path: Path) -> Path:
    """Return the directory, or one for this process only, with a warning, if it is in a read-only place."""
    if is_writable(path):
        return path
    warn(tr("{path} cannot be written: the downloads of this command are not kept", path=path))
    folder = tempfile.mkdtemp(prefix="cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def is_lfs_pointer(data: bytes) -> bool:
    """Return whether the content of a file is the pointer that Git LFS has in its place until `git lfs pull`."""
    return len(data) <= _LFS_BYTES and data.startswith(_LFS_MARKS)


def find_lfs_pointers(paths: Iterable[Path]) -> list[Path]:
    """Return those of these files that are pointers of Git LFS. Only small regular files are opened."""

    def is_pointer(path: Path) -> bool:
        try:
            return path.stat().st_size <= _LFS_BYTES and is_lfs_pointer(read_regular(path))
        except OSError:  # unreadable: reported by whoever reads it
            return False

    return [path for path in paths if is_pointer(path)]


def require_content(path: Path) -> None:
    """Raise UsageError with the fix if the file is a pointer of Git LFS."""
    if find_lfs_pointers([path]):
        raise UsageError(tr("{path}: a Git LFS pointer, not the file itself: run git lfs pull", path=path))


def _shorten(name: str) -> str:
    """Return the first 100 bytes of a name: file systems allow 255 bytes, and a suffix must fit."""
    return os.fsencode(name)[:100].decode(errors="ignore")


@contextlib.contextmanager
def atomic_replace(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; after the block it replaces `path` (with `durable`, flushed to disk first)."""
    make_directory(path.parent)
    part = path.with_name(f".{_shorten(path.name)}.{secrets.token_hex(16)}.part")
    try:
        yield part
        restrict_if_private(part)
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException as error:
        full = _is_full(path.parent)  # before the part file makes room
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        elif isinstance(error, Exception) and not isinstance(error, AppError) and full:
            # Libraries that write files themselves report a full disk in many ways.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _is_full(folder: Path) -> bool:
    """Return whether a disk has no room for another small file."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < _LEAST_BYTES
    return False


def remove_stale_partial_files(folder: Path) -> None:
    """Remove temporary files directly in a directory that were not written to for `STALE_S`: leftovers of a kill."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                path = Path(entry.path)
                if path.stat().st_mtime < time.time() - STALE_S:
                    path.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove temporary files of `atomic_replace` in a directory and below: leftovers of a kill."""
    for part in folder.rglob(".*.part"):
        if re.search(r"\.[0-9a-f]{32}\.part$", part.name):
            part.unlink(missing_ok=True)


def require_writable(folder: Path, option: str) -> None:
    """Raise UsageError unless a directory is writable, or can be made; makes nothing that stays."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    try:
        Path(tempfile.mkdtemp(dir=existing, prefix=".write-test-")).rmdir()
    except OSError as error:
        raise UsageError(
            tr("{option} {folder}: cannot be written ({reason})", option=option, folder=folder, reason=error.strerror)
        ) from None


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file so that a kill at any moment leaves either the old or the new content.

    Without `durable` a power failure may lose it; that is enough for what can be written again.
    """
    with atomic_replace(path, durable) as part:
        part.write_bytes(content)


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link if the file system supports it, otherwise a copy; replace an existing target atomically."""
    with contextlib.suppress(OSError):
        return os.link(source, target)
    if target.exists() and target.samefile(source):
        return  # renaming a link over another link to the same file does nothing and would leave the temporary name
    with atomic_replace(target, durable=False) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
