"""Compare the working directory, lakefs.lock and the branch; verify stored objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config import ROOT, Settings
from core.i18n import tr, trn
from core.provenance.code_files import LOCK_NAME
from core.reporting import progress, record, result
from core.safety.terminal import escape_line
from core.threads.workers import iterate_successes, parallel
from utils.ensemble_file import first_changed, working_copy
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.divergence import Divergence
from versioning.lockfile import Lock, is_reachable, read_lock, require_lock, unreachable_data
from versioning.push import divergence_of
from versioning.sync import require_complete
from versioning.versions import LOCK, Changes, compare, data_manifest, find_data, hashes_of, local_files


def status(settings: Settings, lake: LakeFS) -> bool:
    """Report how data directory, branch and lock differ; return whether they agree.

    With a lock they agree if its data and model are here and the branch contains both. Newer data on the branch is
    reported but is not a disagreement, as `git status` of a checkout that is only behind is clean: after `git checkout`
    of an old tag the three still fit together. Without a lock, data and branch must be equal.
    """
    require_complete(settings.data_dir)
    lock = read_lock(ROOT)
    if lock is not None and not lake.has_repository():
        raise unreachable_data(lock, lake)
    head = find_data(lake, lake.branch)
    files = local_files(settings)
    divergence = divergence_of(settings, lake, files, head.ref)
    changes = compare(divergence.local, divergence.branch)
    faults = [] if lock is None else [*_lock_against_files(settings, lock, files), *_lock_against_branch(lake, lock)]
    agree = not changes if lock is None else not faults
    record(
        {
            "repository": str(lake.repo),
            "branch": str(lake.branch),
            "commit": str(head.ref),
            "data_dir": str(settings.data_dir),
            "files": len(files),
            "added": changes.new,
            "changed": changes.changed,
            "removed": changes.removed,
            "renamed": changes.renamed,
            "lock": None if lock is None else {"data": str(lock.data), "model": str(lock.model), "faults": faults},
            "ok": agree,
        }
    )
    result(tr("branch {branch}, commit {ref} (repository {repo})", branch=lake.branch, ref=head.ref, repo=lake.repo))
    _report_data(lake, divergence, changes, lock is not None and not faults)
    _report_lock(lock, faults)
    return agree


def _report_data(lake: LakeFS, divergence: Divergence, changes: Changes, is_locked: bool) -> None:
    """Report how the data directory differs from the branch; `is_locked`: it has the data of the lock."""
    if changes:
        result(_difference(lake, is_locked, changes))
        result("\n".join(changes.lines(20)))
        if divergence.undone():
            moved = tr("branch {branch} has changes that are not here: lake.py pull --merge", branch=lake.branch)
            result(moved)
    else:
        result(
            trn(
                "data: same as on {branch}, {count} file",
                "data: same as on {branch}, {count} files",
                len(divergence.local),
                branch=lake.branch,
            )
        )


def _report_lock(lock: Lock | None, faults: Sequence[str]) -> None:
    if lock is None:
        result(tr("{lock_name}: none (train.py writes it)", lock_name=LOCK_NAME))
        return
    for fault in faults:
        result(f"{LOCK_NAME}: {fault}")
    if not faults:
        result(
            tr(
                "{lock_name}: data {data}, model {model}: same as the local files",
                lock_name=LOCK_NAME,
                data=lock.data.ref[:12],
                model=lock.model.ref[:12],
            )
        )


def _difference(lake: LakeFS, is_locked: bool, changes: Changes) -> str:
    """Say how the data differs from the branch; `is_locked`: it is the data of the lock, so that only the branch moved."""
    counts = changes.counts()
    if is_locked:
        return tr(
            "data: that of {lock_name}; branch {branch} has other data: {counts}",
            lock_name=LOCK_NAME,
            branch=lake.branch,
            counts=counts,
        )
    return tr("data: differs from {branch}: {counts}", branch=lake.branch, counts=counts)


def _lock_against_files(settings: Settings, lock: Lock, files: Mapping[str, LocalFile]) -> Iterator[str]:
    """Yield how the data directory and the model file differ from the lock."""
    if data_manifest(hashes_of(files), lock.data.path) != lock.data_manifest_sha256:
        yield tr(
            "data {ref} differs from {data_dir}: lake.py pull lock restores it, train.py uses {data_dir}",
            ref=lock.data.ref[:12],
            data_dir=settings.data_dir,
        )
    model = first_changed(working_copy(settings.model_path, lock.model.path), lock.model_sha256)
    if model is not None:
        how = tr("another file") if model.is_file() else tr("missing")
        yield tr(
            "model {ref} differs from {model} ({how}): lake.py pull lock restores it",
            ref=lock.model.ref[:12],
            model=model,
            how=how,
        )


def _lock_against_branch(lake: LakeFS, lock: Lock) -> Iterator[str]:
    """Yield the commits of the lock that the target branch does not contain, or where its data is if not here."""
    if not is_reachable(lake, lock):
        yield str(unreachable_data(lock, lake)).removeprefix(f"{LOCK_NAME}: ")
        return
    for kind, path in ((tr("data"), lock.data), (tr("model"), lock.model)):
        if path.repo != lake.repo or not lake.contains(lake.branch, path.ref):
            yield tr(
                "{kind} {path} is not on branch {branch} of {repo}",
                kind=kind,
                path=path,
                branch=lake.branch,
                repo=lake.repo,
            )


def verify(lake: LakeFS, ref: str) -> bool:
    """Read every object of REF from the server and verify its hash; for `lock`, of the model's commit too."""
    source = find_data(lake, ref)
    if ref != LOCK:
        return _report_verified([_verify(lake, source)])
    model = require_lock(ROOT).model
    pinned = LakePath(model.repo, lake.resolve(model.ref, model.repo), model.path)
    sources = {LakePath(path.repo, path.ref, ""): path for path in (source, pinned)}  # one commit may hold both
    return _report_verified([_verify(lake, path) for path in sources])


def _report_verified(commits: list[dict[str, Any]]) -> bool:
    """Report verified commits for a program; return whether none has a broken file."""
    intact = not any(commit["broken"] for commit in commits)
    record({"commits": commits, "ok": intact})
    return intact


def _verify(lake: LakeFS, source: LakePath) -> dict[str, Any]:
    """Verify one commit, report each broken object, and return the facts for a program."""
    remote = list(lake.objects(source.ref, "", source.repo))
    results = parallel(lambda file: lake.verify_object(source, file), remote)
    label, broken = tr("verifying"), dict[str, str]()
    for file, problem in iterate_successes(
        progress(results, len(remote), label, tr("files")),
        lambda count: trn(
            "{count} file could not be read and was not verified",
            "{count} files could not be read and were not verified",
            count,
        ),
        name_of=lambda file: file.path,
    ):
        if problem is not None:
            broken[str(file.path)] = str(problem)
    weak = sum(not file.sha256 and not re.fullmatch(r"[0-9a-f]{32}", file.checksum) for file in remote)
    if weak:
        result(tr("no checksum, compared by size only: {weak}", weak=weak))
    if broken:
        result("\n".join(escape_line(f"  {path}: {problem}") for path, problem in sorted(broken.items())))
    result(
        trn(
            "{ref}: {broken} of {count} file broken",
            "{ref}: {broken} of {count} files broken",
            len(remote),
            ref=source.ref,
            broken=len(broken),
        )
    )
    return {"commit": str(source.ref), "files": len(remote), "without_checksum": weak, "broken": broken}
