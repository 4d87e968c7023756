"""Verified files of a commit, in a cache by their content, from which every later commit takes what it has already."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import urllib3

from utils.console import AppError, progress, t
from utils.files import file_sha256, inside, link_or_copy, parallel, succeeded, write_atomically
from utils.lakefs_client.connection import LakePath
from utils.lakefs_client.reading import Reading
from utils.transfer import RemoteFile


class Downloading(Reading):
    """Files out of the repository."""

    def verified_file(self, source: LakePath, sha256: str, cache: Path) -> Path:
        """One file of a commit, in the cache, whose content has this SHA-256. Raises AppError otherwise."""
        file = inside(self.download(source, cache), source.path)
        found = file_sha256(file)
        if found != sha256:
            raise AppError(
                t(
                    f"{source}: SHA-256 이 기록과 다릅니다 (기대 {sha256}, 실제 {found})",
                    f"{source}: SHA-256 differs from its record (expected {sha256}, found {found})",
                )
            )
        return file

    def download(self, source: LakePath, cache: Path, wanted: Callable[[str], bool] | None = None) -> Path:
        """Files of one commit at or below a path, verified, as read-only files in the cache; returns the commit's folder.

        `wanted` chooses among the paths. A commit that was fetched whole is not asked for again. Raises AppError for
        missing, broken or foreign files.
        """
        tree, record = _tree(source, cache), _record(source, cache)
        if _fetched(source, cache) is not None:
            return tree
        with self.explained(t("서버 설정", "the server's configuration")):
            links = self.transfer.presign()[0]
        listed = self.objects(source.ref, source.path, source.repo, links)
        remote = [file for file in listed if _at_or_below(file.path, source.path)]
        if not remote:
            raise AppError(
                t(
                    f"{source}: lakeFS {self.endpoint} 에 파일이 없습니다",
                    f"{source}: no such file on lakeFS {self.endpoint}",
                )
            )
        chosen = [f for f in remote if wanted is None or wanted(f.path)]
        label = t("lakeFS 다운로드", "download from lakeFS")
        results = parallel(lambda f: self._fetch(source, f, cache, inside(tree, f.path)), chosen, self.workers)
        for _ in succeeded(
            progress(results, len(chosen), label, "files"),
            lambda count: t(
                f"{count}개 파일을 받지 못했습니다. 다시 실행하면 이어서 받습니다",
                f"{count} files could not be fetched; run again to go on",
            ),
            where=lambda file: file.path,
        ):
            pass
        if len(chosen) == len(remote):
            record.parent.mkdir(parents=True, exist_ok=True)
            rows = [(file.path, file.size_bytes, file.sha256, file.checksum) for file in remote]
            write_atomically(record, json.dumps(rows).encode())
        return tree

    def committed(self, source: LakePath, cache: Path) -> Iterable[RemoteFile]:
        """The objects of a commit at or below a path; the server is not asked for what was fetched whole."""
        fetched = _fetched(source, cache)
        return self.objects(source.ref, source.path, source.repo) if fetched is None else fetched

    def _fetch(self, source: LakePath, remote: RemoteFile, cache: Path, out: Path) -> None:
        """One object, by way of a content-addressed cache: what any commit brought is not fetched again."""
        if remote.sha256 is None:
            return self.transfer.download(source.repo, source.ref, remote, out)
        blob = cache / "sha256" / remote.sha256
        if not blob.exists() or file_sha256(blob) != remote.sha256:
            self.transfer.download(source.repo, source.ref, remote, blob)
        link_or_copy(blob, out)

    def broken(self, source: LakePath, remote: RemoteFile) -> str | None:
        """Read an object from the server again, past every cache; what is wrong with it, or None."""
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            for chunk in self.transfer.read(source.repo, source.ref, remote):
                sha256.update(chunk)
                md5.update(chunk)
                size += len(chunk)
        except (AppError, urllib3.exceptions.HTTPError) as error:
            return str(error)
        checks = [(remote.sha256, sha256.hexdigest()), (str(remote.size_bytes), str(size))]
        if re.fullmatch(r"[0-9a-f]{32}", remote.checksum):
            checks.append((remote.checksum, md5.hexdigest()))
        wrong = next(((expected, found) for expected, found in checks if expected and expected != found), None)
        return wrong and t(f"기대 {wrong[0]}, 실제 {wrong[1]}", f"expected {wrong[0]}, found {wrong[1]}")


def _at_or_below(path: str, wanted: str) -> bool:
    """Whether an object is the wanted one, or below it as a folder: `a` must not bring `ab`."""
    return path == wanted or not wanted or path.startswith(wanted.rstrip("/") + "/")


def _tree(source: LakePath, cache: Path) -> Path:
    """The folder of a commit's files."""
    return cache / "commits" / source.repo / source.ref


def _record(source: LakePath, cache: Path) -> Path:
    """What was fetched whole is noted here: a commit never changes."""
    return _tree(source, cache) / ".complete" / hashlib.sha256(source.path.encode()).hexdigest()


def _fetched(source: LakePath, cache: Path) -> list[RemoteFile] | None:
    """What was fetched, if it was everything and is there at its length: a power cut, or a person, may have cut it."""
    tree, record = _tree(source, cache), _record(source, cache)
    try:
        files = [RemoteFile(*row) for row in json.loads(record.read_text())]
        whole = all(inside(tree, file.path).stat().st_size == file.size_bytes for file in files)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return files if whole else None
