"""Compare the working directory, lakefs.lock and the branch; verify stored objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from config import ROOT, Settings, cache_folder
from core.console import progress, say
from core.git import LOCK_NAME
from core.hashing import file_sha256
from core.i18n import t
from core.workers import parallel, succeeded
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.lockfile import Lock, read_lock, require_lock
from versioning.sync import require_whole
from versioning.versions import LOCK, _hashes, committed_files, compare, data_manifest, find_data, local_files


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
