"""Find the files that a pull would overwrite or remove although no commit holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.errors import UsageError
from core.hashing import file_md5, file_sha256
from core.i18n import Message, tr, trn
from core.safety.terminal import escape_line
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.lockfile import Lock
from versioning.versions import MODEL_PREFIX, cached_files


def hidden_files(root: Path, have: Mapping[str, object], fetch: Mapping[str, str]) -> dict[str, LocalFile]:
    """Return the files to be overwritten, with other content, that are not data here because they are ignored."""
    present = (name for name in fetch if name not in have and (root / name).is_file())
    files = {name: LocalFile(root / name, file_sha256(root / name)) for name in present}
    return {name: file for name, file in files.items() if file.sha256 != fetch[name]}


def find_uncommitted(
    lake: LakeFS, lock: Lock | None, files: Mapping[str, LocalFile], prefix: str, cache: Path
) -> list[str]:
    """Return the files whose content no known version holds, under any name; the newest versions are searched first.

    Cached commits are searched before the server: switching between two versions needs no request.
    """
    cached = {file.sha256 for version in _cached_versions(lake, prefix, cache) for file in version}
    left = {name: file for name, file in files.items() if file.sha256 not in cached}
    if not left:
        return []
    for version in _known_versions(lake, lock, prefix):
        if not left:
            return []
        remote = list(_objects_if_any(lake, version))
        known = {file.sha256 for file in remote}
        left = {name: file for name, file in left.items() if file.sha256 not in known}
        others = {file.checksum for file in remote if not file.sha256}
        if others:
            left = {name: file for name, file in left.items() if file_md5(file.path) not in others}
    return sorted(left)


def _cached_versions(lake: LakeFS, prefix: str, cache: Path) -> Iterator[list[RemoteFile]]:
    """Yield the files of each completely cached commit of this repository."""
    for folder in (cache / "commits" / lake.repo).glob("*"):
        yield cached_files(lake, LakePath(lake.repo, folder.name, prefix), cache) or []


def _known_versions(lake: LakeFS, lock: Lock | None, prefix: str) -> Iterator[LakePath]:
    """Yield the target branch and its history, the lock's version, every other branch and tag; each once."""

    def listed() -> Iterator[tuple[str, str]]:
        yield lake.repo, lake.head()
        if lock:
            path = lock.data if prefix != MODEL_PREFIX else lock.model
            yield path.repo, path.ref
        yield from ((lake.repo, str(commit.id)) for commit in lake.log(lake.branch, False, prefix))
        yield from ((lake.repo, commit) for kind in ("branches", "tags") for _, commit in lake.list_refs(kind))

    seen: set[tuple[str, str]] = set()
    for repo, commit in listed():
        if (repo, commit) not in seen:
            seen.add((repo, commit))
            yield LakePath(repo, commit, prefix)


def _objects_if_any(lake: LakeFS, version: LakePath) -> Iterable[RemoteFile]:
    """Return the objects of a version; none if the server does not know it (a lock of another server)."""
    try:
        lake.resolve(version.ref, version.repo)
    except UsageError:
        return []
    return lake.objects(version.ref, version.path, version.repo)


def refuse_data_loss(folder: Path, names: list[str]) -> None:
    """Raise UsageError for files that no commit holds."""
    if not names:
        return
    listed = Message("\n".join(f"  {escape_line(str(folder / name))}" for name in names[:10]))
    more = tr("\n  … and {count} more", count=len(names) - 10) if len(names) > 10 else ""
    raise UsageError(
        trn(
            "{count} file that is in no commit would be lost: commit it by lake.py push, or discard it by "
            "--force\n{listed}{more}",
            "{count} files that are in no commit would be lost: commit them by lake.py push, or discard "
            "them by --force\n{listed}{more}",
            len(names),
            listed=listed,
            more=Message(more),
        )
    )
