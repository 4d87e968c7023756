"""Find data versions by reference, and compare them with local files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config import ROOT, Settings
from core.errors import UsageError
from core.files import safe_join
from core.hashing import HashCache, file_sha256
from core.i18n import tr, trn
from core.reporting import progress
from core.safety.terminal import escape_line
from core.threads.workers import iterate_successes, parallel
from dataset.directory import data_files
from dataset.samples import committed_data
from utils.identifiers import CommitId, InvalidValue, Ref
from utils.lakefs_client.content import LocalFile, RemoteFile
from utils.lakefs_utils import LakeFS, LakePath, manifest_sha256
from versioning.lockfile import is_reachable, require_lock, unreachable_data

DATA_PREFIX, MODEL_PREFIX = "data/", "models/"
LOCK = "lock"  # the REF that stands for the versions of lakefs.lock
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
WORKERS = 4  # files hashed or written at once


@dataclass(frozen=True)
class Changes:
    """Differences between a directory and a version; each list is sorted.

    `renamed` maps new paths to removed ones of the same content; both are in their lists, too.
    """

    new: list[str]
    changed: list[str]
    removed: list[str]
    renamed: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)

    def counts(self) -> str:
        """Return the number of differences as text."""
        renamed, changed = len(self.renamed), len(self.changed)
        new, removed = len(self.new) - renamed, len(self.removed) - renamed
        text = tr("{new} new, {changed} changed, {removed} removed", new=new, changed=changed, removed=removed)
        return text + (tr(", {renamed} renamed", renamed=renamed) if renamed else "")

    def lines(self, limit: int) -> list[str]:
        """Return one line per path, at most `limit`, and how many more there are."""
        old = set(self.renamed.values())
        marks = (
            (tr("new"), [name for name in self.new if name not in self.renamed]),
            (tr("changed"), self.changed),
            (tr("removed"), [name for name in self.removed if name not in old]),
            (tr("renamed"), [f"{before} -> {after}" for after, before in self.renamed.items()]),
        )
        lines = [escape_line(f"  {mark:8} {name}") for mark, names in marks for name in names]
        more = len(lines) - limit
        return lines[:limit] + ([tr("  … and {more} more", more=more)] if more > 0 else [])


# --- references and files --------------------------------------------------------------------------------------------------


def find_data(lake: LakeFS, ref: str, cache: Path | None = None) -> LakePath:
    """Return the data of REF with its full commit id: `lock`, branch, tag, commit, `main~1`, lakefs://repo/ref[/dir/].

    The server is not asked about a full commit id whose data is completely in `cache`. Raises UsageError for a REF that
    does not exist, and for a lock whose data is elsewhere.
    """
    lock = require_lock(ROOT) if ref == LOCK else None
    path = lock.data if lock else _parse_ref(lake, ref)
    if cache and CommitId.accepts(path.ref) and cached_files(lake, path, cache) is not None:
        return path
    if lock and not is_reachable(lake, lock):
        raise unreachable_data(lock, lake)
    return LakePath(path.repo, lake.resolve(path.ref, path.repo), path.path)


def cached_files(lake: LakeFS, source: LakePath, cache: Path) -> list[RemoteFile] | None:
    """Return the files of a completely cached commit; None if the server would have to be asked."""
    files = lake.committed_objects(source, cache)
    return files if isinstance(files, list) else None  # else it is a generator that asks the server


def _parse_ref(lake: LakeFS, ref: str) -> LakePath:
    """Parse REF without looking it up. Raises UsageError for an invalid one."""
    if "://" not in ref:
        if not Ref.accepts(ref):
            raise UsageError(str(InvalidValue(Ref.kind, tr(Ref.rule), ref)))
        return LakePath(lake.repo, ref, DATA_PREFIX)
    source = LakePath.parse(ref if ref.count("/") > 3 else f"{ref}/")
    return LakePath(source.repo, source.ref, f"{source.path.rstrip('/')}/" if source.path else DATA_PREFIX)


def local_files(settings: Settings) -> dict[str, LocalFile]:
    """Return path below the data directory -> file and hash. Raises UsageError naming the unreadable files."""
    root, hashes = settings.data_dir, HashCache(settings.cache_dir / "hashes.db")
    files = data_files(root)
    results = parallel(lambda name: hashes.sha256(files[name]), files, WORKERS)
    try:
        found = dict(
            iterate_successes(
                progress(results, len(files), tr("reading the data"), tr("files")),
                lambda count: trn("{count} file cannot be read", "{count} files cannot be read", count),
                UsageError,
                lambda name: root / name,
            )
        )
    finally:
        hashes.close()
    return {name: LocalFile(files[name], found[name]) for name in files}


def committed_files(lake: LakeFS, source: LakePath, cache: Path) -> dict[str, str]:
    """Return path below the data of a commit -> SHA-256; a file without one (of another client) is downloaded and hashed."""
    found: dict[str, str] = {}
    unhashed: list[str] = []
    for file in committed_data(lake, source, cache):
        name = file.path.removeprefix(source.path)
        found[name] = file.sha256 or ""
        if not file.sha256:
            unhashed.append(name)
    if unhashed:
        tree = lake.download(source, cache, {source.path + name for name in unhashed}.__contains__)
        found |= {name: file_sha256(safe_join(tree, source.path + name)) for name in unhashed}
    return found


def compare(have: Mapping[str, str], wanted: Mapping[str, str]) -> Changes:
    """Return how `have` differs from `wanted`; both map paths to hashes."""
    new, removed = sorted(have.keys() - wanted.keys()), sorted(wanted.keys() - have.keys())
    return Changes(
        new=new,
        changed=sorted(name for name in have.keys() & wanted.keys() if have[name] != wanted[name]),
        removed=removed,
        renamed=find_renames({name: have[name] for name in new}, {name: wanted[name] for name in removed}),
    )


def find_renames(new: Mapping[str, str], removed: Mapping[str, str]) -> dict[str, str]:
    """Return new path -> removed path of the same content, each used once; both map paths to hashes.

    Of several candidates, one of the same file name is taken first. Empty files have nothing to be recognized by.
    """
    renamed: dict[str, str] = {}
    for same_name in (True, False):
        old: dict[tuple[str, str], list[str]] = {}
        for name in sorted(removed.keys() - set(renamed.values()), reverse=True):
            if removed[name] != EMPTY_SHA256:
                old.setdefault(_content_key(name, removed[name], same_name), []).append(name)
        for name in sorted(new.keys() - renamed.keys()):
            if candidates := old.get(_content_key(name, new[name], same_name)):
                renamed[name] = candidates.pop()
    return dict(sorted(renamed.items()))


def _content_key(name: str, sha256: str, with_name: bool) -> tuple[str, str]:
    return sha256, name.rsplit("/", 1)[-1] if with_name else ""


def hashes_of(files: Mapping[str, LocalFile]) -> dict[str, str]:
    """Return path -> SHA-256."""
    return {name: file.sha256 for name, file in files.items()}


def data_manifest(files: Mapping[str, str], prefix: str = DATA_PREFIX) -> str:
    """Return the hash of a data set as it is in the lock; `files` maps paths below `prefix` to SHA-256."""
    return manifest_sha256({prefix + name: LocalFile(Path(), sha256) for name, sha256 in files.items()})
