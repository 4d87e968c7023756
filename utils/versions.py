"""Data versions as a person knows them from Git: find, push, pull, status, verify; the work behind lake.py."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config import ROOT, Settings
from train.dataset import CLUTTER, OUTPUT_FOLDER, data_files
from train.prepare_data import cache_folder
from utils.console import AppError, UsageError, progress, say, t
from utils.files import HashCache, file_sha256, inside, parallel, remove_parts, replacing, succeeded, write_atomically
from utils.git_utils import LOCK_NAME, read_facts
from utils.lakefs_client.reading import COMMIT_ID
from utils.lakefs_utils import LakeFS, LakePath, Published, manifest_sha256
from utils.lock import Lock, read_lock, require_lock
from utils.transfer import LocalFile, RemoteFile

DATA_PREFIX, MODEL_PREFIX = "data/", "models/"
LOCK = "lock"  # the word that stands for the versions of lakefs.lock
UNFINISHED = ".pull-unfinished"  # hidden, in the data folder, while a pull changes it
WORKERS = 4  # files hashed or written at once


@dataclass(frozen=True)
class Changes:
    """Paths of a folder against those of a version, each list sorted."""

    new: list[str]
    changed: list[str]
    removed: list[str]

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)

    def counts(self) -> str:
        new, changed, removed = len(self.new), len(self.changed), len(self.removed)
        return t(f"추가 {new}, 변경 {changed}, 삭제 {removed}", f"{new} new, {changed} changed, {removed} removed")

    def lines(self, limit: int) -> list[str]:
        """One line a path, and how many more there are."""
        marks = (
            (t("추가", "new"), self.new),
            (t("변경", "changed"), self.changed),
            (t("삭제", "removed"), self.removed),
        )
        lines = [f"  {mark:8} {name}" for mark, names in marks for name in names]
        more = len(lines) - limit
        return lines[:limit] + ([t(f"  … 외 {more}개", f"  … and {more} more")] if more > 0 else [])


# --- what there is --------------------------------------------------------------------------------------------------


def find_data(lake: LakeFS, ref: str, cache: Path | None = None) -> LakePath:
    """The data of REF, pinned to its full commit id: `lock`, branch, tag, commit, `main~1`, lakefs://repo/ref[/folder/].

    The server is not asked for a full commit id whose data were fetched whole into `cache`: it never means anything
    else. Raises UsageError for what is not there.
    """
    path = _named(lake, ref)
    if cache and COMMIT_ID.fullmatch(path.ref) and _fetched(lake, path, cache) is not None:
        return path
    return LakePath(path.repo, lake.resolve(path.ref, path.repo), path.path)


def _fetched(lake: LakeFS, source: LakePath, cache: Path) -> list[RemoteFile] | None:
    """What a commit holds that was fetched whole; None where the server would have to be asked."""
    files = lake.committed(source, cache)
    return files if isinstance(files, list) else None  # else it asks when it is read


def _named(lake: LakeFS, ref: str) -> LakePath:
    """What REF says, not looked up yet. Raises UsageError for what cannot be a version."""
    if ref == LOCK:
        return require_lock(ROOT).data
    if "://" not in ref:
        return LakePath(lake.repo, ref, DATA_PREFIX)
    match = re.fullmatch(r"lakefs://([^/]+)/([^/]+)/?(.*)", ref)
    if not match:
        LakePath.parse(ref)  # says what it should look like
    assert match is not None
    folder = match[3].rstrip("/") + "/" if match[3] else DATA_PREFIX
    return LakePath(match[1], match[2], folder)


def local_files(settings: Settings) -> dict[str, LocalFile]:
    """Path below the data folder -> file and hash. Raises UsageError naming the files that cannot be read."""
    root, hashes = settings.data_dir, HashCache(cache_folder(settings) / "hashes.db")
    files = data_files(root)
    results = parallel(lambda name: hashes.sha256(files[name]), files, WORKERS)
    try:
        found = dict(
            succeeded(
                progress(results, len(files), t("데이터 읽기", "reading the data"), "files"),
                lambda count: t(f"파일 {count}개를 읽을 수 없습니다", f"{count} files cannot be read"),
                UsageError,
                lambda name: root / name,
            )
        )
    finally:
        hashes.close()
    return {name: LocalFile(files[name], found[name]) for name in files}


def committed_files(lake: LakeFS, source: LakePath, cache: Path) -> dict[str, str]:
    """Path below the data of a commit -> SHA-256; a file without one (another client's) is fetched and hashed."""
    found: dict[str, str] = {}
    unhashed: list[str] = []
    for file in lake.committed(source, cache):
        name = file.path.removeprefix(source.path)
        if not _is_data(name):
            continue
        found[name] = file.sha256 or ""
        if not file.sha256:
            unhashed.append(name)
    if unhashed:
        tree = lake.download(source, cache, {source.path + name for name in unhashed}.__contains__)
        found |= {name: file_sha256(inside(tree, source.path + name)) for name in unhashed}
    return found


def _is_data(name: str) -> bool:
    """Whether a path of a commit would count as data in a folder too: see `train.dataset.data_files`."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part.lower() in CLUTTER for part in parts)
    return bool(name) and not hidden and parts[0] != OUTPUT_FOLDER


def compare(have: Mapping[str, str], wanted: Mapping[str, str]) -> Changes:
    """What makes `have` differ from `wanted`; both map paths to hashes."""
    return Changes(
        new=sorted(have.keys() - wanted.keys()),
        changed=sorted(name for name in have.keys() & wanted.keys() if have[name] != wanted[name]),
        removed=sorted(wanted.keys() - have.keys()),
    )


def _hashes(files: Mapping[str, LocalFile]) -> dict[str, str]:
    return {name: file.sha256 for name, file in files.items()}


def data_manifest(files: Mapping[str, str], prefix: str = DATA_PREFIX) -> str:
    """The hash of a data set that the lock holds; `files` map paths below `prefix` to SHA-256."""
    return manifest_sha256({prefix + name: LocalFile(Path(), sha256) for name, sha256 in files.items()})


# --- push -----------------------------------------------------------------------------------------------------------


def push(settings: Settings, lake: LakeFS, message: str | None, keep_remote: bool) -> None:
    """Commit the data folder to the target branch, unchecked, and say the commit."""
    require_whole(settings.data_dir)
    files = local_files(settings)
    if not files:
        raise UsageError(t(f"{settings.data_dir}: 올릴 파일이 없습니다", f"{settings.data_dir}: no files to push"))
    facts = read_facts(ROOT).metadata()
    done = lake.publish(files, DATA_PREFIX, message or f"data: {len(files)} files", facts, mirror=not keep_remote)
    say_published(done, len(files))


def say_published(done: Published, count: int) -> None:
    """Say which commit holds the `count` files of a data folder, and what was sent for it."""
    if not done.uploaded and not done.removed:
        say(f"데이터 변경 없음: 기존 커밋 {done.commit_id}", f"data unchanged: existing commit {done.commit_id}")
        return
    say(
        f"데이터 커밋: {done.commit_id} (올림 {done.uploaded}, 삭제 {done.removed}, 전체 {count}개 파일)",
        f"data commit: {done.commit_id} ({done.uploaded} sent, {done.removed} removed, {count} files in all)",
    )


# --- pull -----------------------------------------------------------------------------------------------------------


def pull(settings: Settings, lake: LakeFS, ref: str, force: bool) -> None:
    """Make the data folder that of REF, for `lock` the model too. Raises UsageError where files would be lost."""
    root, cache = settings.data_dir, cache_folder(settings)
    lock = read_lock(ROOT)
    source = find_data(lake, ref, cache)
    wanted, have = committed_files(lake, source, cache), local_files(settings)
    if not wanted:
        raise UsageError(t(f"{source}: 데이터가 없습니다", f"{source}: no data there"))
    if lock and ref == LOCK and data_manifest(wanted, source.path) != lock.data_manifest_sha256:
        raise AppError(
            t(f"{source}: {LOCK_NAME} 의 해시와 다릅니다", f"{source}: not the files whose hash {LOCK_NAME} holds")
        )
    changes = compare(_hashes(have), wanted)
    if not force:
        at_risk = {name: have[name] for name in changes.changed + changes.new}
        _refuse_loss(root, _unknown(lake, lock, at_risk, source.path, cache))
        if lock and ref == LOCK:
            _refuse_loss(settings.model_path.parent, _model_at_risk(settings, lake, lock))
    fetch = changes.changed + changes.removed
    if fetch:
        tree = lake.download(source, cache, {source.path + name for name in fetch}.__contains__)
    model = lake.verified_file(lock.model, lock.model_sha256, cache) if lock and ref == LOCK else None
    if changes or (root / UNFINISHED).exists():
        with _unfinished(root, source):
            _remove(root, changes.new)
            if fetch:
                _write(inside(tree, source.path), root, {name: wanted[name] for name in fetch})
    say(
        f"{root}: {source} 의 {len(wanted)}개 파일 (받음 {len(fetch)}, 삭제 {len(changes.new)})",
        f"{root}: {len(wanted)} files of {source} ({len(fetch)} written, {len(changes.new)} removed)",
    )
    if model is not None and lock is not None:
        _place(model, settings.model_path, lock.model_sha256)
        say(f"{settings.model_path}: {lock.model}", f"{settings.model_path}: {lock.model}")


def fill(settings: Settings, lake: LakeFS, source: LakePath) -> None:
    """Bring the data of a commit into a folder that has none; interrupted, it is marked as `pull` marks it."""
    cache = cache_folder(settings)
    tree = lake.download(source, cache)
    wanted = committed_files(lake, source, cache)
    with _unfinished(settings.data_dir, source):
        _write(inside(tree, source.path), settings.data_dir, wanted)


def _model_at_risk(settings: Settings, lake: LakeFS, lock: Lock) -> list[str]:
    """The model file's name when it holds what no commit does."""
    path = settings.model_path
    if not path.is_file() or (sha256 := file_sha256(path)) == lock.model_sha256:
        return []
    return _unknown(lake, lock, {path.name: LocalFile(path, sha256)}, MODEL_PREFIX, cache_folder(settings))


def _unknown(lake: LakeFS, lock: Lock | None, files: Mapping[str, LocalFile], prefix: str, cache: Path) -> list[str]:
    """Those of the files whose content no known version holds, under whatever name; looked up newest version first.

    Before the server is asked, what was fetched whole is looked at: who goes to and fro between two versions needs none.
    """
    here = {file.sha256 for version in _fetched_versions(lake, prefix, cache) for file in version}
    left = {name: file for name, file in files.items() if file.sha256 not in here}
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
            left = {name: file for name, file in left.items() if _file_md5(file.path) not in others}
    return sorted(left)


def _fetched_versions(lake: LakeFS, prefix: str, cache: Path) -> Iterator[list[RemoteFile]]:
    """What the commits of this repository hold that were fetched whole."""
    for folder in (cache / "commits" / lake.repo).glob("*"):
        yield _fetched(lake, LakePath(lake.repo, folder.name, prefix), cache) or []


def _known_versions(lake: LakeFS, lock: Lock | None, prefix: str) -> Iterator[LakePath]:
    """The target branch and all that changed it, the lock's version, every other branch and tag; each once."""

    def listed() -> Iterator[tuple[str, str]]:
        yield lake.repo, lake.head()
        if lock:
            path = lock.data if prefix != MODEL_PREFIX else lock.model
            yield path.repo, path.ref
        yield from ((lake.repo, str(commit.id)) for commit in lake.log(lake.branch, False, prefix))
        yield from ((lake.repo, commit) for kind in ("branches", "tags") for _, commit in lake.named(kind))

    seen: set[tuple[str, str]] = set()
    for repo, commit in listed():
        if (repo, commit) not in seen:
            seen.add((repo, commit))
            yield LakePath(repo, commit, prefix)


def _objects_if_any(lake: LakeFS, version: LakePath) -> Iterable[RemoteFile]:
    """The objects of a version; none where the server does not know it (a lock of another server)."""
    try:
        lake.resolve(version.ref, version.repo)
    except UsageError:
        return []
    return lake.objects(version.ref, version.path, version.repo)


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _refuse_loss(folder: Path, names: list[str]) -> None:
    """Raises UsageError for files that exist nowhere else."""
    if not names:
        return
    listed = "\n".join(f"  {folder / name}" for name in names[:10])
    more = t(f"\n  … 외 {len(names) - 10}개", f"\n  … and {len(names) - 10} more") if len(names) > 10 else ""
    raise UsageError(
        t(
            f"어떤 커밋에도 없는 파일 {len(names)}개가 사라집니다: lake.py push 로 올리거나 --force 로 버리세요\n{listed}{more}",
            f"{len(names)} files that no commit holds would be lost: keep them by lake.py push, or drop them by --force\n{listed}{more}",
        )
    )


@contextlib.contextmanager
def _unfinished(root: Path, source: LakePath) -> Iterator[None]:
    """A mark in the data folder while it is neither the old version nor the new one."""
    root.mkdir(parents=True, exist_ok=True)
    if (root / UNFINISHED).exists():
        remove_parts(root)
    write_atomically(root / UNFINISHED, f"{source}\n".encode())
    yield
    (root / UNFINISHED).unlink()


def require_whole(root: Path) -> None:
    """Raises UsageError for a data folder in which a pull was cut off: it is no version that anybody meant."""
    mark = root / UNFINISHED
    if mark.exists():
        source = mark.read_text(encoding="utf-8").strip()
        raise UsageError(
            t(
                f"{root}: {source} 를 받다가 끊겼습니다: python lake.py pull {source} 를 다시 실행하세요",
                f"{root}: a pull of {source} was cut off: run python lake.py pull {source} again",
            )
        )


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files, and folders that this leaves empty."""
    for name in names:
        path = root / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or a link
            for folder in path.parents:
                if folder == root:
                    break
                os.rmdir(folder)


def _write(tree: Path, root: Path, files: Mapping[str, str]) -> None:
    """Copy files of the cache into the data folder, each at once; every one that failed is named."""
    results = parallel(lambda name: _place(inside(tree, name), inside(root, name), files[name]), files, WORKERS)
    label = t("데이터 쓰기", "writing the data")
    for _ in succeeded(
        progress(results, len(files), label, "files"),
        lambda count: t(
            f"{count}개 파일을 쓰지 못했습니다. 다시 실행하면 이어서 합니다",
            f"{count} files could not be written; run again to go on",
        ),
        where=lambda name: root / name,
    ):
        pass


def _place(source: Path, target: Path, sha256: str) -> None:
    """A file of one's own, not a link into the cache: it may be edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        shutil.copyfile(source, part)
        if file_sha256(part) != sha256:
            raise AppError(
                t(
                    f"{source}: 캐시가 손상되었습니다 (기대 SHA-256 {sha256}): 이 파일을 지우고 다시 실행하세요",
                    f"{source}: damaged in the cache (expected SHA-256 {sha256}): remove the cache folder and run again",
                )
            )


# --- status ---------------------------------------------------------------------------------------------------------


def status(settings: Settings, lake: LakeFS) -> bool:
    """Print how data folder, branch and lock stand to each other; whether they agree.

    With a lock: its data and model lie here, and the branch holds both. Newer data on the branch are said, and are no
    disagreement: after `git checkout` of an old tag the three still fit together.
    """
    require_whole(settings.data_dir)
    head = find_data(lake, lake.branch)
    files = local_files(settings)
    changes = compare(_hashes(files), committed_files(lake, head, cache_folder(settings)))
    say(
        f"{lake.branch} 브랜치, 커밋 {head.ref} (저장소 {lake.repo})",
        f"branch {lake.branch}, commit {head.ref} (repository {lake.repo})",
    )
    if changes:
        say(
            f"데이터: {lake.branch} 와 다름: {changes.counts()}",
            f"data: differs from {lake.branch}: {changes.counts()}",
        )
        print("\n".join(changes.lines(20)))
    else:
        say(f"데이터: {lake.branch} 와 같음, {len(files)}개 파일", f"data: as on {lake.branch}, {len(files)} files")
    lock = read_lock(ROOT)
    if lock is None:
        say(f"{LOCK_NAME}: 없음 (train.py 가 만듭니다)", f"{LOCK_NAME}: none (train.py writes it)")
        return not changes
    faults = [*_lock_against_files(settings, lock, files), *_lock_against_branch(lake, lock)]
    for korean, english in faults:
        say(f"{LOCK_NAME}: {korean}", f"{LOCK_NAME}: {english}")
    if not faults:
        say(
            f"{LOCK_NAME}: 데이터 {lock.data.ref[:12]}, 모델 {lock.model.ref[:12]}: 이곳의 파일과 맞음",
            f"{LOCK_NAME}: data {lock.data.ref[:12]}, model {lock.model.ref[:12]}: fits the files here",
        )
    return not faults


def _lock_against_files(settings: Settings, lock: Lock, files: Mapping[str, LocalFile]) -> Iterator[tuple[str, str]]:
    """What the data folder and the model file lack of the lock, in both languages."""
    if data_manifest(_hashes(files), lock.data.path) != lock.data_manifest_sha256:
        yield (
            f"데이터 {lock.data.ref[:12]} 이(가) {settings.data_dir} 와 다름: lake.py pull lock 으로 되돌리거나 다시 학습하세요",
            f"data {lock.data.ref[:12]} is not what lies in {settings.data_dir}: lake.py pull lock brings it back, train.py uses yours",
        )
    model = settings.model_path
    if not model.is_file() or file_sha256(model) != lock.model_sha256:
        how = (t("없음", "missing")) if not model.is_file() else t("다른 파일", "another file")
        yield (
            f"모델 {lock.model.ref[:12]} 이(가) {model} 와 다름 ({how}): lake.py pull lock 으로 되돌리세요",
            f"model {lock.model.ref[:12]} is not what lies in {model} ({how}): lake.py pull lock brings it back",
        )


def _lock_against_branch(lake: LakeFS, lock: Lock) -> Iterator[tuple[str, str]]:
    """Commits of the lock that the target branch does not hold, in both languages."""
    for korean, english, path in (("데이터", "data", lock.data), ("모델", "model", lock.model)):
        if path.repo != lake.repo or not lake.contains(lake.branch, path.ref):
            yield (
                f"{korean} {path} 이(가) {lake.repo} 의 {lake.branch} 브랜치에 없음",
                f"{english} {path} is not on branch {lake.branch} of {lake.repo}",
            )


# --- verify ---------------------------------------------------------------------------------------------------------


def verify(lake: LakeFS, ref: str) -> bool:
    """Read every object of REF from the server again and compare the hashes; of `lock` those of the model's commit too."""
    source = find_data(lake, ref)
    if ref != LOCK:
        return _verify(lake, source)
    model = require_lock(ROOT).model
    pinned = LakePath(model.repo, lake.resolve(model.ref, model.repo), model.path)
    sources = {LakePath(path.repo, path.ref, ""): path for path in (source, pinned)}  # one commit may hold both
    return all([_verify(lake, path) for path in sources])


def _verify(lake: LakeFS, source: LakePath) -> bool:
    """All of one commit; names each broken object."""
    remote = list(lake.objects(source.ref, "", source.repo))
    results = parallel(lambda file: lake.broken(source, file), remote)
    label, broken = t("검증", "verifying"), list[str]()
    for file, result in succeeded(
        progress(results, len(remote), label, "files"),
        lambda count: t(
            f"{count}개 파일을 읽지 못해 검증하지 못했습니다", f"{count} files could not be read and were not verified"
        ),
        where=lambda file: file.path,
    ):
        if result is not None:
            broken.append(f"  {file.path}: {result}")
    weak = sum(not file.sha256 and not re.fullmatch(r"[0-9a-f]{32}", file.checksum) for file in remote)
    if weak:
        say(f"해시가 없어 크기만 비교: {weak}개", f"no hash, compared by size alone: {weak}")
    if broken:
        print("\n".join(sorted(broken)))
    say(
        f"{source.ref}: {len(remote)}개 중 {len(broken)}개 손상",
        f"{source.ref}: {len(broken)} of {len(remote)} files broken",
    )
    return not broken
