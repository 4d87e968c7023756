"""The version that a data directory comes from, recorded in it as `lakectl local` does.

`.lakefs_ref.yaml` is hidden, so it is never part of the data. lakectl reads it, and finds local changes by size and
modification time: on a server that lakectl can reach, files get the time of their object, as lakectl itself sets it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from config import Settings
from core.errors import AppError, UsageError
from core.files import read_regular, write_atomically
from core.i18n import tr
from core.reporting import warn
from utils.identifiers import CommitId
from utils.lakefs_utils import LakeFS, LakePath
from versioning.versions import committed_files

REF_FILE = ".lakefs_ref.yaml"
_OURS = "# of lake.py and train.py; lakectl local reads it too\n"


def recorded_base(root: Path) -> LakePath | None:
    """Return the data commit that the directory comes from; None if it is not recorded, or lakectl was interrupted."""
    fields = _fields(_read(root))
    if fields.get("active_operation"):
        return None
    try:
        source, head = LakePath.parse(fields.get("src", "")), CommitId(fields.get("at_head", ""))
    except AppError:
        return None
    return LakePath(source.repo, head, source.path.rstrip("/") + "/") if source.path else None


def base_files(lake: LakeFS, root: Path, cache: Path, head: str) -> dict[str, str] | None:
    """Return path -> SHA-256 of the version that the directory and a commit have in common; None if unknown.

    If the directory comes from another branch, it is that of the branches' merge base, as for Git.
    """
    base = recorded_base(root)
    if base is None:
        return None
    try:
        commit: str | None = lake.resolve(base.ref, base.repo)  # an old id of a migrated commit is a tag
    except UsageError:
        return None
    if commit is not None and base.repo == lake.repo:
        commit = lake.merge_base(commit, head)
    if commit is None:
        return None
    return committed_files(lake, LakePath(base.repo, commit, base.path), cache)


def record_version(settings: Settings, lake: LakeFS, source: LakePath, files: Mapping[str, Path]) -> None:
    """Record the commit that the data directory now is; `files` maps its paths to its files."""
    record_base(settings.data_dir, lake, source)
    if settings.lakefs_endpoint:  # a server that lakectl can reach
        match_times(lake, source, settings.cache_dir, files)


def record_base(root: Path, lake: LakeFS, source: LakePath) -> None:
    """Record the data commit that the directory now comes from; warn if it cannot be recorded.

    A record by which lakectl's user works with another repository or path stays as it is.
    """
    file, now = root / REF_FILE, _read(root)
    src = _fields(now).get("src", "")
    same = re.fullmatch(rf"lakefs://{re.escape(source.repo)}/[^/]+/{re.escape(source.path.rstrip('/'))}/?", src)
    if src and not same and not now.startswith(_OURS):
        warn(
            tr(
                "{file} connects this directory with {src} and is left as it is: which version of {source} the directory "
                "comes from is not recorded",
                file=file,
                src=src,
                source=source,
            )
        )
        return
    text = f'src: lakefs://{source.repo}/{lake.branch}/{source.path}\nat_head: {source.ref}\nactive_operation: ""\n'
    try:
        if now != _OURS + text:
            write_atomically(file, (_OURS + text).encode())
    except OSError as error:
        warn(tr("{file}: cannot be written ({reason})", file=file, reason=error.strerror))


def match_times(lake: LakeFS, source: LakePath, cache: Path, files: Mapping[str, Path]) -> None:
    """Give files the time of their objects in a commit, as lakectl expects; `files` maps paths below it to files.

    Links, and files of another user, keep theirs.
    """
    for remote in lake.committed_objects(source, cache):
        file = files.get(remote.path.removeprefix(source.path))
        if file is None or remote.mtime is None:
            continue
        with contextlib.suppress(OSError):
            if not file.is_symlink() and int(file.stat().st_mtime) != remote.mtime:
                os.utime(file, (remote.mtime, remote.mtime))


def _read(root: Path) -> str:
    """Return the text of the record; empty if it is missing or not readable."""
    try:
        return read_regular(root / REF_FILE).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _fields(text: str) -> dict[str, str]:
    rows = re.findall(r"^(\w+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return {key: value.strip("\"'") for key, value in rows}
