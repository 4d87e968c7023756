"""Commit and tag a result in Git and in lakeFS, with messages that describe the training; nothing is pushed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT
from core import git
from core.errors import AppError, UsageError, one_line
from core.figures import format_gain
from core.i18n import tr
from core.provenance.code_files import LOCK_NAME
from core.reporting import result as report_result
from segmentation.means import format_mean
from train.release import tags
from train.release.commit_message import commit_message, describe_split, percent
from train.tracking.result import OOF
from utils.identifiers import Tag
from versioning.naming.results import RESULT_TAG

if TYPE_CHECKING:
    from train.tracking.result import Result
    from utils.lakefs_utils import LakeFS

AUTO = "auto"  # the next name of the form v1.1-acc90
# Parameters of a run for the message; those that data and machine decided are prefixed with `resolved_`.
PARAMETERS = ("model", "folds", "epochs", "batch_size", "learning_rate", "image_size", "loss", "seed")
FIGURES = re.compile(r"accuracy (\d+)%.*?mIoU (\d\.\d+)", re.DOTALL)  # in the message of an earlier result's tag


def require_ready(
    lake: LakeFS, tag: str | None, folder: Path = ROOT, data: Path | None = None, branch: str | None = None
) -> None:
    """Raise UsageError if commit or tag could not be created; called before training, not after it.

    New files below `data`, the data directory, are not code. `branch` is that of --experiment-branch: lakeFS allows no
    tag of the name of a branch.
    """
    if (problem := git.find_problem(folder)) is not None:
        raise UsageError(problem)
    if git.read_facts(folder, data).commit == git.NONE:
        raise UsageError(tr("{folder}: this Git repository has no commit: git add, then git commit", folder=folder))
    changed = git.changed_code(folder, data)
    if changed or changed is None:
        raise UsageError(
            tr(
                "uncommitted changes of the code: {files}: commit them first, so that the tag names the code that trains",
                files=git.describe_changes(changed),
            )
        )
    _git(folder, "var", "GIT_COMMITTER_IDENT")  # fails without a name and an e-mail address, and says how to set them
    if tag is None or tag == AUTO:
        return
    valid = Tag.pattern.fullmatch(tag) and not set("@$") & set(tag)  # lakeFS reads both as parts of a reference
    if not valid or git.run(folder, "check-ref-format", f"refs/tags/{tag}") is None:
        raise UsageError(tr("--git-tag '{tag}': not a valid tag name", tag=tag))
    if tag in git.list_tags(folder):
        raise UsageError(tr("--git-tag '{tag}': already exists in {place}", tag=tag, place="Git"))
    if tag in dict(lake.list_refs("tags")):
        raise UsageError(tr("--git-tag '{tag}': already exists in {place}", tag=tag, place="lakeFS"))
    if tag in {branch, *dict(lake.list_refs("branches"))}:
        raise UsageError(tr("--git-tag '{tag}': lakeFS has a branch of this name: choose another one", tag=tag))


def release(lake: LakeFS, result: Result, tag: str | None, parameters: Mapping[str, str], folder: Path = ROOT) -> None:
    """Commit lakefs.lock, and with `tag` tag commit and model in Git and lakeFS; `parameters` are those of the run.

    The tag is created in lakeFS first, where a colleague may have taken the name; Git's part is local. Raises AppError
    with the message of the server or of Git.
    """
    name = _tag_in_lakefs(lake, result, tag, folder) if tag else None
    _git(folder, "add", "--", LOCK_NAME)
    if _git(folder, "status", "--porcelain", "--", LOCK_NAME):
        message = commit_message(result, name or next_tag(lake, result, folder))
        _git(folder, "commit", "--quiet", "-m", message, "--", LOCK_NAME)
    commit = _git(folder, "rev-parse", "HEAD")
    report_result(tr("Git commit: {commit}", commit=commit))
    if name is None:
        return
    _git(folder, "tag", "-a", name, "-m", tag_message(result, name, parameters, folder))
    report_result(
        tr(
            "tag {name}: Git {commit}, lakeFS {ref} (to push it: git push --follow-tags)",
            name=name,
            commit=commit[:12],
            ref=result.model_path.ref[:12],
        )
    )


def next_tag(lake: LakeFS, result: Result, folder: Path = ROOT) -> str:
    """Return the next name of the form v1.1-acc90 after the tags of Git and of lakeFS."""
    return tags.next_result_tag(folder, percent(result.val.accuracy), dict(lake.list_refs("tags")))


def _tag_in_lakefs(lake: LakeFS, result: Result, tag: str, folder: Path) -> str:
    """Tag the model's commit and return the name; an existing tag on this commit is kept.

    With `auto`, the next name is used if a colleague was faster. Raises AppError for a name that is taken.
    """
    commit, in_git = result.model_path.ref, git.list_tags(folder)
    for attempt in range(5):
        existing = dict(lake.list_refs("tags"))
        begun = [name for name, on in existing.items() if on == commit and RESULT_TAG.fullmatch(name)]
        begun = [name for name in begun if name not in in_git]  # from a call that was interrupted before Git's tag
        automatic = begun[0] if begun else next_tag(lake, result, folder)
        name = automatic if tag == AUTO else tag
        if existing.get(name) == commit:
            return name
        try:
            lake.set_tag(name, commit)
        except AppError:
            if tag != AUTO or attempt == 4:
                raise
        else:
            return name
    raise AssertionError("the last attempt returns or raises")


def tag_message(result: Result, name: str, parameters: Mapping[str, str], folder: Path = ROOT) -> str:
    """Return metrics, lakeFS commit, files, hyperparameters, and the gain over the last result's tag."""
    val = result.val
    chosen = {key: parameters.get(f"resolved_{key}", parameters.get(key)) for key in PARAMETERS}
    shown = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in chosen.items() if value not in (None, "None")
    )
    lines = [
        f"{name}: accuracy {percent(val.accuracy)}%, mIoU {format_mean(val.miou, val.coverage)}",
        "",
        *([describe_split(OOF, val)] if result.split == OOF else []),
        *([describe_split("test", result.test)] if result.test is not None else []),
        tr("LakeFS commit: {ref}", ref=result.model_path.ref),
        tr("uploaded file: {path}", path=result.model_path.path),
        f"SHA-256: {result.model_sha256}",
        tr("data: {data_path}", data_path=result.data_path),
        tr("MLflow run: {run_id}", run_id=result.run_id),
        tr("hyperparameters: {shown}", shown=shown),
    ]
    earlier = tags.last_result_tag(folder)
    figures = FIGURES.search(git.tag_message(folder, earlier)) if earlier else None
    if figures:
        points = percent(val.accuracy) - int(figures[1])
        gain = f"accuracy {points:+d}%p, mIoU {format_gain(val.miou - float(figures[2]))}"
        lines.append(tr("since {earlier}: {gain}", earlier=earlier, gain=gain))
    return "\n".join(lines)


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of Git. Raises AppError with its message."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace")
    if done.returncode:
        words = one_line(done.stderr or done.stdout)
        raise AppError(
            tr(
                "git {command}: {message} (train.py prints the commands for doing it by hand)",
                command=arguments[0],
                message=words,
            )
        )
    return done.stdout.strip()
