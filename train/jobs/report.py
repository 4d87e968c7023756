"""Report a result: the block for the Git commit, lakefs.lock, and the commands that keep it in Git."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core.i18n import tr
from core.reporting import notify
from core.reporting import result as report_result

if TYPE_CHECKING:
    from train.tracking.result import Result
    from utils.lakefs_utils import LakeFS


def report(settings: Settings, lake: LakeFS, result: Result, smoke: bool) -> None:
    """Report the block for the Git commit; write it to a file and, except for two batches of a smoke run, lakefs.lock."""
    from core.files import write_atomically
    from train.release.commit_message import commit_message, report_block
    from train.release.publish import next_tag
    from utils.identifiers import RunId, Sha256
    from versioning.lockfile import EMBEDDED, Lock, write_lock

    block = report_block(result)
    message = commit_message(result, next_tag(lake, result))
    write_atomically(_message_file(settings), message.encode())
    report_result("\n" + block + "\n")
    if smoke:  # two batches make no result to return to
        return
    server = settings.lakefs_endpoint or EMBEDDED
    lock = Lock(
        result.data_path,
        Sha256(result.data_manifest_sha256),
        result.model_path,
        Sha256(result.model_sha256),
        RunId(result.run_id),
        server,
    )
    write_lock(ROOT, lock)


def suggest_release(settings: Settings, lake: LakeFS, result: Result, committed: bool = False) -> None:
    """Report the commands that commit lakefs.lock and tag it, in the order in which they work when they are pasted."""
    from core.provenance.code_files import LOCK_NAME
    from train.release.commit_message import tag_command
    from train.release.publish import next_tag

    tag = tag_command(result, next_tag(lake, result))
    message_file = shlex.quote(str(_message_file(settings)))
    commands = [] if committed else [f"git add {LOCK_NAME} && git commit -F {message_file}"]
    notify(tr("to keep this result in Git:") + "\n" + "\n".join([*commands, tag]))


def _message_file(settings: Settings) -> Path:
    return settings.model_path.parent / "git_commit_message.txt"
