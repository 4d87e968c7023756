"""What --resume needs: a checkpoint, and the settings, data and code that its run was started with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Settings
from core.errors import AppError, UsageError
from core.git import GitFacts
from core.i18n import tr, trn
from core.reporting import notify, warn
from core.settings import defaults_of
from utils import run_names
from utils.identifiers import Branch, Repository, RunId
from utils.lakefs_utils import LakePath
from utils.lineage import require_repository

CHECKPOINT_FILE = "checkpoint.pth"  # in models/<run id>/
LAST = "last"
RESUMED_DEVICE = "resumed_device"  # tag of a run: 'cuda -> cpu' if it was last resumed on a device of another type


@dataclass(frozen=True)
class RunRecord:
    """What a checkpoint stores about its run, besides the training state; a resumed run must have the same values."""

    run_id: str
    settings: dict[str, Any]  # those that decide the result
    smoke: bool
    data_path: LakePath
    repo: str
    branch: str  # lakeFS branch that results are published to
    target_branch: str | None  # of an experiment
    git: GitFacts
    classes: dict[str, Any]
    processes: int  # of torchrun; 1 without it
    shards: str | None = None  # lakeFS path of those that the data is read from
    hashes: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # of the recorded files; empty in older checkpoints
    resume_command: str = ""  # of a run that is part of a larger job; empty: --resume
    device: str = ""  # type of the device that wrote the checkpoint; empty in older checkpoints

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **{name: str(value) if isinstance(value, str) else value for name, value in values.items()},
            "data_path": str(self.data_path),
            "git": dataclasses.asdict(self.git),
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> RunRecord:
        """Restore from `to_dict`. Raises KeyError, TypeError or ValueError for other content."""
        target = content["target_branch"]
        # Plain texts: the next checkpoint and the model file must hold no classes of this project.
        checked = {
            "run_id": str(RunId(content["run_id"])),
            "repo": str(Repository(content["repo"])),
            "branch": str(Branch(content["branch"])),
            "target_branch": None if target is None else str(Branch(target)),
            "data_path": LakePath.parse_recorded(content["data_path"]),
            "shards": None if (shards := content.get("shards")) is None else str(LakePath.parse_recorded(shards)),
            "git": GitFacts(**content["git"]),
        }
        return RunRecord(**{**content, **checked})


@dataclass(frozen=True)
class Interrupted:
    """A run that can be resumed: its folder, its record, and the state of its training."""

    folder: Path
    record: RunRecord
    state: dict[str, Any]
    tags: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # of the run: how its machine differs from the first one


def find(models: Path, which: str) -> Interrupted:
    """Return the checkpoint of the newest run (`last`), of a run id, or at a path. Raises UsageError if there is none."""
    file = _checkpoint_file(models, which)
    from train.checkpoint import load_checkpoint

    content = load_checkpoint(file)
    try:
        return Interrupted(file.parent, RunRecord.from_dict(content["run"]), content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise AppError(
            tr(
                "{file}: written by another version of the code ({error}): resume with that version",
                file=file,
                error=error,
            )
        ) from error


def _checkpoint_file(models: Path, which: str) -> Path:
    checkpoints = sorted(models.glob(f"*/{CHECKPOINT_FILE}"), key=_last_change)
    if which == LAST and checkpoints:
        return checkpoints[-1]
    places = [Path(which), Path(which, CHECKPOINT_FILE)]
    if Path(which).name == which:  # a run id: the last part of a mistyped path must not name another run
        places.append(models / which / CHECKPOINT_FILE)
        # The run of a fold: its directory is in that of the run of all folds, which is the one to resume.
        places += [file for file in checkpoints if (file.parent / which).is_dir()]
    for file in places:
        if which != LAST and file.is_file():
            return file
    begun = [
        file
        for file in checkpoints
        if run_names.RUN_PREFIX.fullmatch(which) and file.parent.name.startswith(which.lower())
    ]
    if len(begun) > 1:
        raise run_names.ambiguous(which, [file.parent.name for file in reversed(begun)])
    if begun:
        return begun[0]
    known = ", ".join(file.parent.name for file in reversed(checkpoints[-5:])) or tr("none")
    raise UsageError(
        tr(
            "--resume {which}: no checkpoint (available in {models}: {known}); those of finished runs are removed: retrain",
            which=which,
            models=models,
            known=known,
        )
    )


def _last_change(checkpoint: Path) -> float:
    """Return when a run was last trained, in seconds: with folds, each has a checkpoint of its own."""
    return max(file.stat().st_mtime for file in (checkpoint, *checkpoint.parent.glob(f"*/{CHECKPOINT_FILE}")))


def settings_of(record: RunRecord, now: Settings, given: dict[str, Any]) -> Settings:
    """Return the current settings with those of the run that decide the result.

    Raises UsageError if an option in `given` (command line) differs from the run: the result would belong to neither.
    More epochs are not an exception, as the learning-rate schedule spans all of them.
    """
    known = now.reproducible_settings()
    # Without settings that did not exist when the run was recorded: their defaults are what the code did then.
    recorded = {name: value for name, value in defaults_of(Settings).items() if name in known} | record.settings
    faults = [
        tr("{name}: run {recorded}, now {given}", name=name.upper(), recorded=recorded[name], given=given[name])
        for name in given.keys() & recorded.keys()
        if given[name] != recorded[name]
    ]
    faults += [tr("{name}: unknown setting", name=name.upper()) for name in record.settings.keys() - known.keys()]
    if faults:
        raise UsageError(
            tr(
                "run {run_id} was started with other settings: leave the options out, or retrain\n  ",
                run_id=record.run_id,
            )
            + "\n  ".join(sorted(faults))
        )
    kept = [f"{name.upper()}={value}" for name, value in recorded.items() if value != known[name]]
    if kept:
        notify(tr("settings of the run: {kept}", kept=" ".join(kept)))
    require_repository(now.lakefs_repo, record.run_id, record.repo)
    return dataclasses.replace(now, **recorded, lakefs_branch=record.target_branch or record.branch)


def warn_of_other_code(record: RunRecord, now: GitFacts, processes: int) -> None:
    """Warn if a run is resumed with other code (a fixed bug) or another number of processes."""
    if (record.git.commit, record.git.dirty) != (now.commit, now.dirty) or now.dirty == "true":
        state = {"true": tr(" + changes")}
        before = record.git.commit[:12] + state.get(record.git.dirty, "")
        after = now.commit[:12] + state.get(now.dirty, "")
        warn(
            tr(
                "the run was started with Git {before}, this is {after}: other code may change the result",
                before=before,
                after=after,
            )
        )
    if record.processes != processes:
        warn(
            trn(
                "the run was started with {count} process, now there are {after}: the result may differ slightly",
                "the run was started with {count} processes, now there are {after}: the result may differ slightly",
                record.processes,
                after=processes,
            )
        )


def on_device(interrupted: Interrupted, now: str) -> Interrupted:
    """Return the run with a tag for its record, and warn, if it is resumed on a device of another type than before.

    The number format of its steps stays the same: it is one of the settings of the checkpoint.
    """
    before = interrupted.record.device
    if before in ("", now):
        return interrupted
    warn(
        tr(
            "the run was trained on the device {before}, now it is {now}: the result may differ slightly",
            before=before,
            now=now,
        )
    )
    return dataclasses.replace(interrupted, tags={RESUMED_DEVICE: f"{before} -> {now}"})


def require_scaler(state: dict[str, Any], scaled: bool, precision: str) -> None:
    """Raise UsageError unless the state of a checkpoint's gradient scaler fits the precision: only float16 has one."""
    if bool(state) != scaled:
        raise UsageError(
            tr(
                "the checkpoint is of a training in {found}, expected {precision}: resume on a device of the type that it "
                "was started on, or train again",
                found="float16" if state else tr("another precision than float16"),
                precision=precision,
            )
        )
