"""What --resume goes on with: a checkpoint, and the settings, data and code that its run was started with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Settings
from core.console import say, warn
from core.errors import AppError, UsageError
from core.git import GitFacts
from core.i18n import t
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
            t(
                f"{file}: 다른 버전의 코드가 쓴 체크포인트입니다 ({error}): 그 버전에서 이어가세요",
                f"{file}: written by another version of the code ({error}): go on with that version",
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
    known = ", ".join(file.parent.name for file in reversed(there[-5:])) or t("없음", "none")
    raise UsageError(
        t(
            f"--resume {which}: 체크포인트가 없습니다 ({models} 에 있는 것: {known}). 끝난 실행의 것은 지워집니다: 새로 학습하세요",
            f"--resume {which}: no checkpoint (in {models}: {known}); those of finished runs are removed: train anew",
        )
    )


def settings_of(record: RunRecord, now: Settings, given: dict[str, Any]) -> Settings:
    """The settings that the run was started with, where they decide the result; else those of now.

    `given` stands on the command line: raises UsageError for what differs, as the result would be that of neither.
    More epochs are no exception, as the learning rate's schedule spans all of them.
    """
    known = now.of_the_result()
    faults = [
        f"{name.upper()}: {t('실행', 'run')} {record.settings[name]}, {t('지금', 'now')} {given[name]}"
        for name in given.keys() & record.settings.keys()
        if given[name] != record.settings[name]
    ]
    faults += [
        f"{name.upper()}: {t('모르는 설정', 'unknown setting')}" for name in record.settings.keys() - known.keys()
    ]
    if faults:
        raise UsageError(
            t(
                f"실행 {record.run_id} 은(는) 다른 설정으로 시작했습니다: 옵션을 빼거나 새로 학습하세요\n  ",
                f"run {record.run_id} was started with other settings: leave the options out, or train anew\n  ",
            )
            + "\n  ".join(sorted(faults))
        )
    kept = [f"{name.upper()}={value}" for name, value in record.settings.items() if value != known[name]]
    if kept:
        say(f"실행의 설정: {' '.join(kept)}", f"as the run was started: {' '.join(kept)}")
    if record.repo != now.lakefs_repo:
        raise UsageError(
            t(
                f"실행 {record.run_id} 의 lakeFS 저장소는 {record.repo} 입니다: LAKEFS_REPO={now.lakefs_repo} 를 바꾸세요",
                f"run {record.run_id} is of lakeFS repository {record.repo}: change LAKEFS_REPO={now.lakefs_repo}",
            )
        )
    return dataclasses.replace(now, **record.settings, lakefs_branch=record.target_branch or record.branch)


def warn_of_other_code(record: RunRecord, now: GitFacts, processes: int) -> None:
    """Going on with other code (a mended bug) or another number of processes is allowed, but not in silence."""
    if (record.git.commit, record.git.dirty) != (now.commit, now.dirty) or now.dirty == "true":
        state = {"true": t(" + 변경", " + changes")}
        before = record.git.commit[:12] + state.get(record.git.dirty, "")
        after = now.commit[:12] + state.get(now.dirty, "")
        warn(
            f"실행은 Git {before} 로 시작했고 지금은 {after} 입니다: 코드가 다르면 결과도 다를 수 있습니다",
            f"the run was started with Git {before}, this is {after}: with other code the result may differ",
        )
    if record.processes != processes:
        warn(
            f"실행은 프로세스 {record.processes}개로 시작했고 지금은 {processes}개입니다: 결과가 조금 다를 수 있습니다",
            f"the run was started with {record.processes} processes, now there are {processes}: the result may differ a little",
        )
