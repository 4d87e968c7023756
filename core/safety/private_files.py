"""Files that only their owner may read, whatever the umask is: the embedded store, caches, databases and keys."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_DIRECTORY, _FILE = 0o700, 0o600
_OTHERS = 0o077
# What the project keeps in LAKEFS_LOCAL_DIR. Anything else there belongs to somebody else and stays as it is.
_OWN_NAMES = ("cache", "content", "objects", "credentials.json", "lakectl.env", "locks")
_OWN_PREFIXES, _OWN_SUFFIXES = ("lakefs.db", "credentials.json."), (".lock", ".part")

_private: set[Path] = set()


def keep_private(folder: Path) -> None:
    """Make a directory of the project private: what is in it already, and what this process writes to it from now on.

    It may not exist yet. A directory of another user is theirs to protect; so is a directory that has other content,
    of which only the project's own entries become private.
    """
    folder = folder.absolute()
    if os.name == "nt" or (folder.exists() and not _is_mine(folder)):
        return
    _private.add(folder)
    with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
        entries = list(folder.iterdir())
        for entry in filter(_is_own, entries):
            _close_to_others(entry)
        if all(map(_is_own, entries)):
            _restrict(folder)


def is_private(path: Path) -> bool:
    """Return whether a path belongs to a directory of `keep_private`."""
    for parent in (path := path.absolute(), *path.parents):
        if parent in _private:
            return parent == path or _is_own(parent / path.relative_to(parent).parts[0])
    return False


def make_directory(folder: Path) -> None:
    """Create a directory and its parents; those that belong to a private directory are private."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_directory(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # another process was faster
    if is_private(folder):
        folder.chmod(_DIRECTORY)


def restrict_if_private(path: Path) -> None:
    """Take the rights of others from a file, if it belongs to a private directory."""
    if is_private(path):
        _restrict(path)


def restrict(*paths: Path) -> None:
    """Take the rights of others from these files and directories, but not from what is in them; missing ones are skipped."""
    if os.name != "nt":
        for path in paths:
            _restrict(path)


def create_private_file(path: Path) -> None:
    """Create an empty file that only its owner may read, unless it exists; SQLite gives its other files the same mode."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, _FILE))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, also if it existed with other rights."""
    create_private_file(path)
    path.chmod(_FILE)
    path.write_text(text, encoding="utf-8")


def _is_mine(path: Path) -> bool:
    return path.lstat().st_uid == os.getuid()


def _is_own(entry: Path) -> bool:
    name = entry.name
    return name in _OWN_NAMES or name.startswith(_OWN_PREFIXES) or name.endswith(_OWN_SUFFIXES)


def _close_to_others(entry: Path) -> None:
    """Make an entry and all below private. The entry itself comes last: its mode says that all below is done."""
    if entry.is_symlink() or not entry.lstat().st_mode & _OTHERS:
        return
    if entry.is_dir():
        for folder, folders, files in os.walk(entry, topdown=False):
            for name in (*folders, *files):
                _restrict(Path(folder, name))
    _restrict(entry)


def _restrict(path: Path) -> None:
    """Take the rights of others; a link is not followed, and what cannot be changed (another user's, read-only) stays."""
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & _OTHERS:
            path.chmod(stat.S_IMODE(mode) & _DIRECTORY)
