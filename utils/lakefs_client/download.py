"""Download and verify files of a commit, through a cache by content that all commits share."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import urllib3

from core.errors import AppError
from core.files import link_or_copy, read_regular, remove_stale_partial_files, safe_join, write_atomically
from core.hashing import file_md5, file_sha256, stat_key
from core.i18n import tr, trn
from core.reporting import progress, warn
from core.threads.workers import is_unavailable, iterate_successes, parallel
from utils.ensemble_file import is_ensemble, parse_ensemble
from utils.identifiers import Checksum, CommitId, ObjectPath, Sha256, parse_size, parse_time
from utils.lakefs_client.connection import Connection, LakePath, is_missing, missing_store_fix
from utils.lakefs_client.content import Digests, RemoteFile
from utils.lakefs_client.queries import Queries

RECORDS = ".complete"  # in the directory of a commit: records of the paths that are complete there


class Downloader:
    """Verified downloads, through a cache that all commits share."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self.connection = connection
        self.queries = queries

    def verified_file(self, source: LakePath, sha256: str, cache: Path) -> Path:
        """Return a file of a commit in the cache, for an ensemble with all its members beside it.

        Raises AppError if the SHA-256 is not this one, or that of a member is not the one that the ensemble names.
        """
        file = self._verified_file(source, sha256, cache)
        if is_ensemble(source.path):
            folder = source.path.rpartition("/")[0]
            for member in parse_ensemble(read_regular(file), source).members:
                place = LakePath(source.repo, source.ref, f"{folder}/{member.file}".lstrip("/"))
                self._verified_file(place, member.sha256, cache)
        return file

    def _verified_file(self, source: LakePath, sha256: str, cache: Path) -> Path:
        """Return a file of a commit in the cache. Raises AppError if its SHA-256 is not this one.

        It is hashed each time: bit rot does not change the stat that `download` relies on.
        """
        file = safe_join(self.download(source, cache), source.path)
        found = file_sha256(file)
        if found != sha256:  # the cache is damaged, or the commit holds another file
            _drop(source, cache, [file])
            found = file_sha256(safe_join(self.download(source, cache), source.path))
            if found == sha256:
                _warn_damaged([file])
        if found != sha256:
            raise AppError(
                tr(
                    "{source}: SHA-256 differs from its record (expected {sha256}, found {found}, cached as {file})",
                    source=source,
                    sha256=sha256,
                    found=found,
                    file=file,
                )
            )
        return file

    def download(self, source: LakePath, cache: Path, wanted: Callable[[str], bool] | None = None) -> Path:
        """Download and verify the files of a commit at or below a path into the cache; return the commit's directory.

        `wanted` selects paths. A complete commit in the cache is not requested again, unless one of its files was changed
        since. Raises AppError for missing or invalid files.
        """
        tree = commit_directory(source, cache)
        if _is_complete(source, cache):
            return tree
        with self.connection.convert_errors(tr("the server's configuration")):
            links = self.connection.transfer.presign_support()[0]
        remote = self.list_objects(source, links)
        remove_stale_partial_files(cache / "sha256")
        chosen = [f for f in remote if wanted is None or wanted(f.path)]
        label = tr("download from lakeFS")
        results = parallel(
            lambda f: self._download_object(source, f, cache, object_file(tree, f.path)),
            chosen,
            self.connection.workers,
        )
        fetched = list(
            iterate_successes(
                progress(results, len(chosen), label, tr("files"), self.connection.transfer.http.moved),
                lambda count: trn(
                    "{count} file could not be downloaded; run again to continue",
                    "{count} files could not be downloaded; run again to continue",
                    count,
                ),
                name_of=lambda file: file.path,
            )
        )
        if len(fetched) == len(remote):
            _record_complete(source, cache, fetched)
        return tree

    def list_objects(self, source: LakePath, links: bool) -> list[RemoteFile]:
        """Return the objects at or below a path, with presigned `links`.

        Raises AppError if there is none; it says where a commit that is not here may be.
        """
        try:
            listed = self.queries.objects(source.ref, source.path, source.repo, links)
            found = [file for file in listed if _at_or_below(file.path, source.path)]
        except AppError as error:
            if not is_missing(error) or not CommitId.accepts(source.ref):
                raise
            fix = missing_store_fix(recorded=True)
            message = tr("{source} is not in {store}: {fix}", source=source, store=self.connection.store, fix=fix)
            raise type(error)(message) from error
        if not found:
            raise AppError(
                tr("{source}: no such file on lakeFS {endpoint}", source=source, endpoint=self.connection.endpoint)
            )
        return found

    def committed_objects(self, source: LakePath, cache: Path) -> Iterable[RemoteFile]:
        """Return the objects of a commit at or below a path; from the cache if it is complete there (then a list)."""
        noted = _read_record(source, cache)
        return (
            self.queries.objects(source.ref, source.path, source.repo)
            if noted is None
            else [file for file, _, _ in noted]
        )

    def _download_object(self, source: LakePath, remote: RemoteFile, cache: Path, out: Path) -> str:
        """Download one object through the content-addressed cache, unless any commit brought it already; return its stat."""
        if remote.sha256 is None:
            self.connection.transfer.download(source.repo, source.ref, remote, out)
        else:
            blob = safe_join(cache / "sha256", remote.sha256)
            if not blob.exists() or file_sha256(blob) != remote.sha256:
                self.connection.transfer.download(source.repo, source.ref, remote, blob)
            link_or_copy(blob, out)
        return stat_key(os.stat(out))

    def verify_object(self, source: LakePath, remote: RemoteFile) -> str | None:
        """Read an object from the server, bypassing the cache; return what is wrong with it, or None.

        Raises AppError if the server is unavailable.
        """
        digests = Digests()
        try:
            for chunk in self.connection.transfer.read(source.repo, source.ref, remote):
                digests.update(chunk)
        except (AppError, urllib3.exceptions.HTTPError) as error:
            if is_unavailable(error):
                raise  # that says nothing about the object
            return str(error)
        checks = [(remote.sha256, digests.sha256.hexdigest()), (str(remote.size_bytes), str(digests.size))]
        if digests.md5 and re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
            checks.append((remote.checksum, digests.md5.hexdigest()))
        wrong = next(((expected, found) for expected, found in checks if expected and expected != found), None)
        return wrong and tr("expected {expected}, found {found}", expected=wrong[0], found=wrong[1])

    def read(self, source: LakePath, remote: RemoteFile) -> Iterator[bytes]:
        """Yield the content of an object from the server in chunks."""
        return self.connection.transfer.read(source.repo, source.ref, remote)


def _at_or_below(path: str, wanted: str) -> bool:
    """Return whether an object is at or below a path: `a` must not select `ab`."""
    return path == wanted or not wanted or path.startswith(wanted.rstrip("/") + "/")


def commit_directory(source: LakePath, cache: Path) -> Path:
    """Return the directory in the cache of a commit's files. Raises InvalidValue for another reference, which may move."""
    return safe_join(cache / "commits", f"{source.repo}/{source.commit}")


def object_file(tree: Path, path: str) -> Path:
    """Return where the directory of a commit has an object. Raises AppError for a path that leads out of it."""
    if path.split("/", 1)[0] == RECORDS:
        raise AppError(tr("invalid path '{relative}': the cache uses this name", relative=path))
    return safe_join(tree, path)


def _record(source: LakePath, cache: Path) -> Path:
    """Return the file that records that a path of a commit is complete: a commit never changes."""
    return commit_directory(source, cache) / RECORDS / hashlib.sha256(source.path.encode()).hexdigest()


def _record_complete(source: LakePath, cache: Path, files: list[tuple[RemoteFile, str]]) -> None:
    """Record that these are all files of a path, with the stat of each when it was verified."""
    record = _record(source, cache)
    rows = [(file.path, file.size_bytes, file.sha256, file.checksum, stat, file.mtime) for file, stat in files]
    write_atomically(record, json.dumps(rows).encode())


def _read_record(source: LakePath, cache: Path) -> list[tuple[RemoteFile, Path, str]] | None:
    """Return what `_record_complete` wrote, with the path of each file; None if it is missing or damaged."""
    tree = commit_directory(source, cache)
    try:
        rows = json.loads(_record(source, cache).read_bytes())
        return [(_recorded_file(row), object_file(tree, row[0]), str(row[4])) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, LookupError, AppError):
        return None


def _recorded_file(row: list[Any]) -> RemoteFile:
    """Return the object of a row of a record; those of older versions have no time."""
    path, size_bytes, sha256, checksum, _stat, *rest = row
    return RemoteFile(
        ObjectPath(path),
        parse_size(size_bytes),
        None if sha256 is None else Sha256(sha256),
        Checksum(checksum),
        mtime=parse_time(rest[0] if rest else None),
    )


def _is_complete(source: LakePath, cache: Path) -> bool:
    """Return whether all files of a path are in the cache with their verified content.

    A file with its recorded stat is not hashed again. One that was changed is removed, so that it is downloaded again.
    """
    noted = _read_record(source, cache)
    if noted is None:
        return False
    changed, moved = list[Path](), False
    for file, path, stat in noted:
        try:
            if stat_key(os.stat(path)) == stat:
                continue
            moved = True  # a copy of the cache: same content, another stat
            same = _has_content(path, file)
        except FileNotFoundError:
            same = False
        if not same:
            changed.append(path)
    if changed:
        _warn_damaged([path for path in changed if path.exists()])
        _drop(source, cache, changed)
    elif moved:
        _record_complete(source, cache, [(file, stat_key(os.stat(path))) for file, path, _ in noted])
    return not changed


def _has_content(path: Path, file: RemoteFile) -> bool:
    """Return whether a file has the content of its object, by SHA-256 or, for an object of another client, MD5."""
    if file.sha256:
        return file_sha256(path) == file.sha256
    return file_md5(path) == file.checksum


def _drop(source: LakePath, cache: Path, files: list[Path]) -> None:
    """Remove files of a commit from the cache, and the record that it is complete."""
    _record(source, cache).unlink(missing_ok=True)
    for path in files:
        path.unlink(missing_ok=True)


def _warn_damaged(files: list[Path]) -> None:
    if files:
        warn(
            trn(
                "{file}: changed in the cache ({count} such file): downloading again",
                "{file}: changed in the cache ({count} such files): downloading again",
                len(files),
                file=files[0],
            )
        )
