"""What lake.py does with data versions."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core.console import SHOWN_ID, format_table
from core.errors import ExitCode, UsageError
from core.git import read_facts
from core.i18n import tr
from core.reporting import record, result
from core.safety.terminal import escape_line
from dataset.classes import CLASSES_FILE
from dataset.directory import data_files, is_image
from dataset.faults import DataFaults
from dataset.mask_diff import compare_masks
from dataset.samples import committed_layout
from utils.identifiers import MAX_TIME_S
from utils.lakefs_client.download import commit_directory, object_file
from utils.lakefs_client.responses import Commit
from utils.lakefs_utils import connect
from versioning import status, sync
from versioning.checkout import warn_of_unreachable_lock
from versioning.data_directory import of_last_training, require_data, require_directory, require_place
from versioning.lockfile import explained_by_lock
from versioning.push import push
from versioning.versions import find_data, find_renames

if TYPE_CHECKING:
    from dataset.layout.layout import Layout
    from utils.lakefs_utils import LakeFS, LakePath

# What real lakeFS and the embedded server both accept, without the characters that have a meaning in REF.
TAG_NAME = re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)")
MESSAGE_WIDTH = 48  # characters of a commit message in a table


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Run a command; return the exit code: 1 if status finds a disagreement or verify a broken file."""
    if options.command == "setup":
        from versioning.server_setup import setup

        setup(settings, options.require_passed)
        return ExitCode.DONE
    if options.command == "import":
        from versioning.bucket_import import import_prefix

        import_prefix(settings, options.uri, options.destination, options.replace)
        return ExitCode.DONE
    if options.command == "shards":
        from versioning.checkout import write_shards_of

        write_shards_of(settings, options.ref, options.branch, options.shard_mb * 1e6)
        return ExitCode.DONE
    if options.command == "push" and options.to:
        from versioning.migrate import copy_history

        copy_history(settings, options.to)
        return ExitCode.DONE
    if options.command in ("status", "push"):
        settings = of_last_training(settings, publishes=options.command == "push")
    _require_directory(settings, options.command)
    with explained_by_lock(settings), connect(settings, create=options.command == "push") as lake:
        return _run_connected(settings, lake, options)


def _require_directory(settings: Settings, command: str) -> None:
    """Raise UsageError for a data directory that the command cannot use, before any server or store is involved."""
    if command == "pull":
        require_place(settings)
    elif command == "push":
        require_data(settings)
        if not data_files(settings.data_dir):
            raise UsageError(tr("{data_dir}: no files to push", data_dir=settings.data_dir))
    elif command == "status":
        require_directory(settings)


def _run_connected(settings: Settings, lake: LakeFS, options: argparse.Namespace) -> int:
    match options.command:
        case "push":
            warn_of_unreachable_lock(lake)
            push(settings, lake, options.message, options.mode)
        case "pull" if options.merge:
            sync.merge(settings, lake, options.ref or lake.branch, options.prefer)
        case "pull":
            sync.pull(settings, lake, options.ref, options.force)
        case "status":
            return ExitCode.DONE if status.status(settings, lake) else ExitCode.FAILED
        case "verify":
            return ExitCode.DONE if status.verify(lake, options.ref or lake.branch) else ExitCode.FAILED
        case "diff":
            diff(lake, settings, options.left, options.right)
        case "log":
            log(lake, options.ref or lake.branch, options.n, options.long)
        case "tag":
            tag(lake, options)
        case "revert":
            revert(lake, options.ref)
        case _:
            branches(lake)
    return ExitCode.DONE


def diff(lake: LakeFS, settings: Settings, left_ref: str, right_ref: str) -> None:
    """Report the paths that differ; for changed masks the pixels and images of each class."""
    left, right = find_data(lake, left_ref), find_data(lake, right_ref)
    if left.repo != right.repo:
        raise UsageError(tr("different repositories: {left}, {right}", left=left, right=right))
    changes = [(str(change.path), str(change.type)) for change in lake.differences(left.ref, right.ref, repo=left.repo)]
    images = [path.removeprefix(left.path) for path, _ in changes if path.startswith(left.path) and is_image(path)]
    renamed = _renames(lake, left, right, changes)
    _report_changes(changes, renamed)
    listed = [{"path": path, "change": kind} for path, kind in changes]
    record({"left": str(left), "right": str(right), "changes": listed, "renamed": renamed})
    layouts = [_layout_of(lake, side) for side in (left, right)] if images else []
    masks = [name for name in images if any(layout.is_mask(name) for layout in layouts if layout)]
    if masks:
        files = [layout.class_file if layout else CLASSES_FILE for layout in layouts]
        trees = [_download(lake, settings, *side, masks) for side in zip((left, right), files, strict=True)]
        result("\n" + compare_masks(trees[0], trees[1], masks, (files[0], files[1])))


def _report_changes(changes: list[tuple[str, str]], renamed: dict[str, str]) -> None:
    """Report (path, type) of each change and their numbers; `renamed` maps added paths to removed ones."""
    kinds = {"added": tr("added"), "removed": tr("removed"), "changed": tr("changed")}
    counts, old = Counter(dict.fromkeys(kinds, 0)), set(renamed.values())
    for path, kind in changes:
        if path in renamed:
            result(escape_line(f"{tr('renamed'):8} {renamed[path]} -> {path}"))
        elif path not in old:
            counts[kind] += 1
            result(escape_line(f"{kinds[kind]:8} {path}"))
    shown = [f"{kinds[kind]} {count}" for kind, count in counts.items()]
    result(", ".join([*shown, *([f"{tr('renamed')} {len(renamed)}"] if renamed else [])]))


def _renames(lake: LakeFS, left: LakePath, right: LakePath, changes: list[tuple[str, str]]) -> dict[str, str]:
    """Return added path -> removed path of the same content."""
    found: list[dict[str, str]] = []
    for kind, side in (("added", right), ("removed", left)):
        paths = {path for path, changed in changes if changed == kind}
        listed = lake.objects(side.ref, "", side.repo) if paths else ()
        found.append({file.path: file.sha256 or file.checksum for file in listed if file.path in paths})
    return find_renames(*found)


def _layout_of(lake: LakeFS, side: LakePath) -> Layout | None:
    """Return the layout of a version's data; None if it has no data, or more than one layout."""
    files = (file.path.removeprefix(side.path) for file in lake.objects(side.ref, side.path, side.repo))
    try:
        return committed_layout(side, files)
    except DataFaults:
        return None


def _download(lake: LakeFS, settings: Settings, side: LakePath, class_file: str, masks: list[str]) -> Path:
    """Download the masks of a version; return its directory, which lacks those that the version does not have."""
    wanted = {side.path + name for name in [*masks, class_file]}
    if any(True for _ in lake.objects(side.ref, side.path, side.repo)):
        lake.download(side, settings.cache_dir, wanted.__contains__)
    return object_file(commit_directory(side, settings.cache_dir), side.path)


def log(lake: LakeFS, ref: str, count: int, long: bool = False) -> None:
    """Report the newest commits; the commits of one publication are one line. `long`: full ids and messages."""
    source = find_data(lake, ref)
    rows, listed = [], []
    for commit in islice(lake.log(source.ref, repo=source.repo), count):
        metadata = commit.metadata
        seconds = _creation_time(commit)
        shown = None if long else SHOWN_ID
        git = metadata.get("git_commit", "none")[:shown] + ("+" if metadata.get("git_dirty") == "true" else "")
        message = _first_line(commit.message)
        short = message if long or len(message) <= MESSAGE_WIDTH else message[: MESSAGE_WIDTH - 1] + "…"
        date = datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
        rows.append((commit.id[:shown], date, short, git, metadata.get("mlflow_run_id", "")[:shown]))
        when = datetime.fromtimestamp(seconds).astimezone().isoformat()
        listed.append({"commit": commit.id, "date": when, "message": commit.message, "metadata": dict(metadata)})
    record({"ref": str(source.ref), "commits": listed})
    result(format_table((tr("commit"), tr("date"), tr("message"), "Git", tr("run")), rows))


def _creation_time(commit: Commit) -> int:
    """Return when a commit was made, in seconds since 1970; of a copied commit, if it says so, when its original was."""
    original = commit.metadata.get("embedded_creation_date", "")
    if re.fullmatch(r"[0-9]{1,12}", original) and int(original) <= MAX_TIME_S:
        return int(original)
    return commit.creation_date


def tag(lake: LakeFS, options: argparse.Namespace) -> None:
    """List, create or delete tags."""
    if options.name is None:
        tags = list(lake.list_refs("tags"))
        record({"tags": [{"name": name, "commit": commit_id} for name, commit_id in tags]})
        result(format_table((tr("tag"), tr("commit")), tags))
        return
    if options.delete:
        lake.delete_tag(options.name)
        result(tr("deleted the tag {name}", name=options.name))
        return
    if not TAG_NAME.fullmatch(options.name):
        raise UsageError(
            tr(
                "tag name '{name}': must not contain blanks, ~ ^ : ? * [ \\ / @ $ or '..', nor end with '.' or '.lock'",
                name=options.name,
            )
        )
    target = find_data(lake, options.ref or lake.branch)
    if target.repo != lake.repo:
        raise UsageError(tr("in another repository: {target}", target=target))
    existing = dict(lake.list_refs("tags")).get(options.name)
    if existing not in (None, target.ref):
        raise UsageError(
            tr(
                "tag {name} exists already, and names commit {commit}: choose another name, or lake.py tag -d {name}",
                name=options.name,
                commit=existing,
            )
        )
    lake.set_tag(options.name, target.ref)
    result(tr("tag {name}: {ref}", name=options.name, ref=target.ref))


def revert(lake: LakeFS, ref: str) -> None:
    """Revert one commit on the target branch; the data directory stays as it is."""
    commit_id = lake.resolve(ref)
    metadata = {**read_facts(ROOT).metadata(), "reverted_commit": commit_id}
    head = lake.revert(commit_id, f"revert {commit_id[:12]}", metadata)
    result(
        tr(
            "reverted {commit_id} on {branch}: {head} (to download it: lake.py pull {branch})",
            commit_id=commit_id[:12],
            branch=lake.branch,
            head=head,
        )
    )


def branches(lake: LakeFS) -> None:
    """List branches; the target has a star, and `sync-…` or `copy-…` is a push in progress or an interrupted one."""
    rows, listed = [], []
    for name, commit_id in lake.list_refs("branches"):
        star = "*" if name == lake.branch else ""
        message = _first_line(next(lake.log(commit_id)).message)
        rows.append((star + name, commit_id[:12], message))
        listed.append({"name": name, "commit": commit_id, "message": message, "target": name == lake.branch})
    record({"branches": listed})
    result(format_table((tr("branch"), tr("commit"), tr("message")), rows))


def _first_line(message: str) -> str:
    return (message.splitlines() or [""])[0]
