"""What --resume goes on with: a checkpoint, and the settings, data and code that its run was started with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Settings
from core.errors import AppError, UsageError
from core.git import GitFacts
from core.i18n import tr
from core.reporting import notify, warn
from utils.lakefs_utils import LakePath

CHECKPOINT_FILE = "checkpoint.pth"  # in models/<run id>/
LAST = "last"


@dataclass(frozen=True)
class RunRecord:
    """What a checkpoint says of its run, besides where training stands: a resumed run must be the same in all of it."""

    run_id: str
    settings: dict[str, Any]  # those that decide the result
    smoke: bool
    data_path: LakePath
    repo: str
    branch: str  # of lakeFS; results go there
    target_branch: str | None  # of an experiment
    git: GitFacts
    classes: dict[str, Any]
    processes: int  # of torchrun; 1 without it

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "data_path": str(self.data_path),
            "git": dataclasses.asdict(self.git),
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> RunRecord:
        return RunRecord(
            **{**content, "data_path": LakePath.parse(content["data_path"]), "git": GitFacts(**content["git"])}
        )


@dataclass(frozen=True)
class Interrupted:
    """A run that can go on: its folder, its record, and the state of its training."""

    folder: Path
    record: RunRecord
    state: dict[str, Any]


def find(models: Path, which: str) -> Interrupted:
    """The checkpoint of the newest run (`last`), of a run id, or at a path. Raises UsageError where there is none."""
    file = _checkpoint_file(models, which)
    from train.checkpoint import load_checkpoint

    content = load_checkpoint(file)
    try:
        return Interrupted(file.parent, RunRecord.from_dict(content["run"]), content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise AppError(
            tr(
                "{file}: written by another version of the code ({error}): go on with that version",
                file=file,
                error=error,
            )
        ) from error


def _checkpoint_file(models: Path, which: str) -> Path:
    there = sorted(models.glob(f"*/{CHECKPOINT_FILE}"), key=lambda file: file.stat().st_mtime)
    if which == LAST and there:
        return there[-1]
    path = Path(which)
    for file in (path, path / CHECKPOINT_FILE, models / path.name / CHECKPOINT_FILE):
        if which != LAST and file.is_file():
            return file
    known = ", ".join(file.parent.name for file in reversed(there[-5:])) or tr("none")
    raise UsageError(
        tr(
            "--resume {which}: no checkpoint (in {models}: {known}); those of finished runs are removed: train anew",
            which=which,
            models=models,
            known=known,
        )
    )


def settings_of(record: RunRecord, now: Settings, given: dict[str, Any]) -> Settings:
    """The settings that the run was started with, where they decide the result; else those of now.

    `given` stands on the command line: raises UsageError for what differs, as the result would be that of neither.
    More epochs are no exception, as the learning rate's schedule spans all of them.
    """
    known = now.reproducible_settings()
    faults = [
        tr("{name}: run {settings}, now {given}", name=name.upper(), settings=record.settings[name], given=given[name])
        for name in given.keys() & record.settings.keys()
        if given[name] != record.settings[name]
    ]
    faults += [tr("{name}: unknown setting", name=name.upper()) for name in record.settings.keys() - known.keys()]
    if faults:
        raise UsageError(
            tr(
                "run {run_id} was started with other settings: leave the options out, or train anew\n  ",
                run_id=record.run_id,
            )
            + "\n  ".join(sorted(faults))
        )
    kept = [f"{name.upper()}={value}" for name, value in record.settings.items() if value != known[name]]
    if kept:
        notify(tr("as the run was started: {kept}", kept=" ".join(kept)))
    if record.repo != now.lakefs_repo:
        raise UsageError(
            tr(
                "run {run_id} is of lakeFS repository {repo}: change LAKEFS_REPO={lakefs_repo}",
                run_id=record.run_id,
                repo=record.repo,
                lakefs_repo=now.lakefs_repo,
            )
        )
    return dataclasses.replace(now, **record.settings, lakefs_branch=record.target_branch or record.branch)


def warn_of_other_code(record: RunRecord, now: GitFacts, processes: int) -> None:
    """Going on with other code (a mended bug) or another number of processes is allowed, but not in silence."""
    if (record.git.commit, record.git.dirty) != (now.commit, now.dirty) or now.dirty == "true":
        state = {"true": tr(" + changes")}
        before = record.git.commit[:12] + state.get(record.git.dirty, "")
        after = now.commit[:12] + state.get(now.dirty, "")
        warn(
            tr(
                "the run was started with Git {before}, this is {after}: with other code the result may differ",
                before=before,
                after=after,
            )
        )
    if record.processes != processes:
        warn(
            tr(
                "the run was started with {processes} processes, now there are {processes2}: the "
                "result may differ a little",
                processes=record.processes,
                processes2=processes,
            )
        )
