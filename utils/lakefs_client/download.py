"""Verified files of a commit, in a cache by their content, from which every later commit takes what it has already."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import urllib3

from core.errors import AppError
from core.files import link_or_copy, remove_stale_partial_files, safe_join, write_atomically
from core.hashing import file_sha256, stat_key
from core.i18n import tr
from core.reporting import progress, warn
from core.workers import is_unavailable, parallel, succeeded
from utils.lakefs_client.connection import LakePath
from utils.lakefs_client.content import Digests, RemoteFile
from utils.lakefs_client.queries import Reading


class Downloading(Reading):
    """Files out of the repository."""

    def verified_file(self, source: LakePath, sha256: str, cache: Path) -> Path:
        """One file of a commit, in the cache, whose content has this SHA-256. Raises AppError otherwise.

        It is read whole each time: a disk that loses bits leaves the stat, by which `download` goes, as it was.
        """
        file = safe_join(self.download(source, cache), source.path)
        found = file_sha256(file)
        if found != sha256:  # the cache is damaged, or the commit holds another file than the one that is wanted
            _drop(source, cache, [file])
            found = file_sha256(safe_join(self.download(source, cache), source.path))
            if found == sha256:
                _say_damaged([file])
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
        """Files of one commit at or below a path, verified, as read-only files in the cache; returns the commit's folder.

        `wanted` chooses among the paths. A commit that was fetched whole is not asked for again, unless a file of it
        was changed since. Raises AppError for missing, broken or foreign files.
        """
        tree = _tree(source, cache)
        if _is_whole(source, cache):
            return tree
        with self.explained(tr("the server's configuration")):
            links = self.transfer.presign()[0]
        listed = self.objects(source.ref, source.path, source.repo, links)
        remote = [file for file in listed if _at_or_below(file.path, source.path)]
        if not remote:
            raise AppError(tr("{source}: no such file on lakeFS {endpoint}", source=source, endpoint=self.endpoint))
        remove_stale_partial_files(cache / "sha256")
        chosen = [f for f in remote if wanted is None or wanted(f.path)]
        label = tr("download from lakeFS")
        results = parallel(lambda f: self._fetch(source, f, cache, safe_join(tree, f.path)), chosen, self.workers)
        fetched = list(
            succeeded(
                progress(results, len(chosen), label, tr("files")),
                lambda count: tr("{count} files could not be fetched; run again to go on", count=count),
                where=lambda file: file.path,
            )
        )
        if len(fetched) == len(remote):
            _note(source, cache, fetched)
        return tree

    def committed(self, source: LakePath, cache: Path) -> Iterable[RemoteFile]:
        """The objects of a commit at or below a path; the server is not asked for what was fetched whole."""
        noted = _noted(source, cache)
        return self.objects(source.ref, source.path, source.repo) if noted is None else [file for file, _, _ in noted]

    def _fetch(self, source: LakePath, remote: RemoteFile, cache: Path, out: Path) -> str:
        """One object, by way of a content-addressed cache: what any commit brought is not fetched again. Its stat."""
        if remote.sha256 is None:
            self.transfer.download(source.repo, source.ref, remote, out)
        else:
            blob = cache / "sha256" / remote.sha256
            if not blob.exists() or file_sha256(blob) != remote.sha256:
                self.transfer.download(source.repo, source.ref, remote, blob)
            link_or_copy(blob, out)
        return stat_key(os.stat(out))

    def broken(self, source: LakePath, remote: RemoteFile) -> str | None:
        """Read an object from the server again, past every cache; what is wrong with it, or None.

        Raises AppError where the server is gone.
        """
        digests = Digests()
        try:
            for chunk in self.transfer.read(source.repo, source.ref, remote):
                digests.update(chunk)
        except (AppError, urllib3.exceptions.HTTPError) as error:
            if is_unavailable(error):
                raise  # which says nothing about the object
            return str(error)
        checks = [(remote.sha256, digests.sha256.hexdigest()), (str(remote.size_bytes), str(digests.size))]
        if digests.md5 and re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
            checks.append((remote.checksum, digests.md5.hexdigest()))
        wrong = next(((expected, found) for expected, found in checks if expected and expected != found), None)
        return wrong and tr("expected {wrong}, found {wrong2}", wrong=wrong[0], wrong2=wrong[1])


def _at_or_below(path: str, wanted: str) -> bool:
    """Whether an object is the wanted one, or below it as a folder: `a` must not bring `ab`."""
    return path == wanted or not wanted or path.startswith(wanted.rstrip("/") + "/")


def _tree(source: LakePath, cache: Path) -> Path:
    """The folder of a commit's files."""
    return cache / "commits" / source.repo / source.ref


def _record(source: LakePath, cache: Path) -> Path:
    """What was fetched whole is noted here: a commit never changes."""
    return _tree(source, cache) / ".complete" / hashlib.sha256(source.path.encode()).hexdigest()


def _note(source: LakePath, cache: Path, files: list[tuple[RemoteFile, str]]) -> None:
    """Remember that these are all files of a path, and the stat that each had when its content was right."""
    record = _record(source, cache)
    record.parent.mkdir(parents=True, exist_ok=True)
    rows = [(file.path, file.size_bytes, file.sha256, file.checksum, stat) for file, stat in files]
    write_atomically(record, json.dumps(rows).encode())


def _noted(source: LakePath, cache: Path) -> list[tuple[RemoteFile, Path, str]] | None:
    """What `_note` wrote, and where each file lies; None where it wrote nothing, or what it wrote was damaged."""
    tree = _tree(source, cache)
    try:
        rows = json.loads(_record(source, cache).read_bytes())
        return [(RemoteFile(*row[:4]), safe_join(tree, row[0]), str(row[4])) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, LookupError, AppError):
        return None


def _is_whole(source: LakePath, cache: Path) -> bool:
    """Whether all files of a path were fetched and have their content still.

    A file whose stat is the one that was noted is not read again. One that a person or a power cut has changed is
    removed, so that it is fetched again.
    """
    noted = _noted(source, cache)
    if noted is None:
        return False
    changed, moved = list[Path](), False
    for file, path, stat in noted:
        try:
            if stat_key(os.stat(path)) == stat:
                continue
            moved = True  # a copy of the cache: all is there, and nothing has its stat
            same = _has_content(path, file)
        except FileNotFoundError:
            same = False
        if not same:
            changed.append(path)
    if changed:
        _say_damaged([path for path in changed if path.exists()])
        _drop(source, cache, changed)
    elif moved:
        _note(source, cache, [(file, stat_key(os.stat(path))) for file, path, _ in noted])
    return not changed


def _has_content(path: Path, file: RemoteFile) -> bool:
    """Whether a file is what its object's record says, by SHA-256 or, of another client's object, MD5."""
    if file.sha256:
        return file_sha256(path) == file.sha256
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == file.checksum


def _drop(source: LakePath, cache: Path, files: list[Path]) -> None:
    """Remove files of a commit from the cache, and the note that all of it is there."""
    _record(source, cache).unlink(missing_ok=True)
    for path in files:
        path.unlink(missing_ok=True)


def _say_damaged(files: list[Path]) -> None:
    if files:
        warn(
            tr(
                "{files}: changed in the cache ({count} such files): fetched from the server again",
                files=files[0],
                count=len(files),
            )
        )
