"""The record of a run, checked: commits, settings, code changes and environment, and what vouches for each of them.

The record lies with MLflow, whose server often has no password. The metadata of the model's lakeFS commit name the same
commits and the SHA-256 of the recorded files; both must agree.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from core.git import resolve
from core.i18n import tr
from train.reproduction.record_files import irreproducible, parse_environment, parse_packages, parse_settings
from train.tracking import environment
from utils.identifiers import GitCommit, RunId
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import fold_of, require_repository

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COMPARED = ("train_loss", "val_loss", "val_accuracy", "val_miou", "learning_rate")
# Of the saved model; only data with a test split has some of them, and earlier versions had no calibration.
COMPARED_AT_END = ("test_miou", "test_accuracy", "temperature", "val_ece", "test_ece")
COMPARED_FOLDS = ("fold_miou", "fold_accuracy", "fold_train_loss")  # instead, of a run with folds: one value for each
COMPARED_OUT_OF_FOLD = ("oof_miou", "oof_accuracy", "oof_ece")
ALL_COMPARED = (*COMPARED, *COMPARED_AT_END, *COMPARED_FOLDS, *COMPARED_OUT_OF_FOLD)


@dataclass(frozen=True)
class Recipe:
    """What a run recorded for its reproduction; `figures`: metric -> value of each epoch."""

    run_id: str
    commit: str
    patch: bytes
    settings: dict[str, Any]
    smoke: bool
    data_path: LakePath
    environment: dict[str, Any]
    packages: list[str]
    figures: dict[str, list[float]]
    unvouched: tuple[str, ...] = field(default=())  # recorded files that only MLflow has a record of

    @property
    def steps(self) -> tuple[str, ...]:
        """The metrics that have several values: one for each epoch, or for each fold."""
        return COMPARED if self.settings.get("folds") is None else COMPARED_FOLDS

    @property
    def patch_sha256(self) -> str:
        """SHA-256 of the recorded code changes."""
        return hashlib.sha256(self.patch).hexdigest()


def read_recipe(client: MlflowClient, lake: LakeFS, settings: Settings, run_id: str) -> Recipe:
    """Read what the run recorded, and compare it with the metadata of its model's commit.

    Raises UsageError that names what is missing, what was changed since, or what is not a valid record.
    """
    from utils import mlflow_utils

    run = mlflow_utils.get_run(client, settings, run_id)
    commit, data_path, model_path = _require_places(run, run_id)
    require_repository(settings.lakefs_repo, run_id, model_path.repo)  # anybody may have one on the same server
    metadata = lake.commit_metadata(model_path.commit, model_path.repo)
    _require_same_places(run_id, metadata, {"git_commit": commit, "lakefs_data_path": str(data_path)})
    with tempfile.TemporaryDirectory() as folder, mlflow_utils.convert_errors(settings, tr("reading the run")):
        files = _download(client, settings, run, Path(folder))
        histories = {name: client.get_metric_history(run_id, name) for name in ALL_COMPARED}
    unvouched = _require_same_files(run_id, files, run.data.tags, metadata)
    recorded, smoke = parse_settings(run_id, files[environment.SETTINGS], settings)
    return Recipe(
        run_id=run_id,
        commit=commit,
        patch=files.get(environment.PATCH, b""),
        settings=recorded,
        smoke=smoke,
        data_path=data_path,
        environment=parse_environment(run_id, files[environment.ENVIRONMENT]),
        packages=parse_packages(run_id, files[environment.PACKAGES]),
        figures={name: [m.value for m in sorted(h, key=lambda m: m.step)] for name, h in histories.items()},
        unvouched=unvouched,
    )


def _require_places(run: Run, run_id: str) -> tuple[str, LakePath, LakePath]:
    """Return the Git commit, the data's and the model's path. Raises UsageError."""
    tags, params = run.data.tags, run.data.params
    RunId(run_id)
    if fold := fold_of(tags):
        raise irreproducible(
            run_id, tr("it is fold {fold} of run {parent}: reproduce that run", fold=fold[0], parent=fold[1])
        )
    commit, state = GitCommit(tags.get("git_commit", "none")), tags.get(environment.PATCH_TAG)
    if commit == "none":
        raise irreproducible(run_id, tr("it was trained without a Git commit"))
    if state is None:
        raise irreproducible(run_id, tr("it was trained by an older version, which did not record enough"))
    if state not in ("clean", "recorded"):
        raise irreproducible(run_id, tr("the changes of its code are missing ({state})", state=state[:100]))
    if resolve(ROOT, commit) is None:
        raise irreproducible(run_id, tr("this clone has no Git commit {commit}: git fetch may bring it", commit=commit))
    if "lakefs_data_path" not in params:
        raise irreproducible(run_id, tr("it ended before its data was committed"))
    if "lakefs_model_path" not in params:
        raise irreproducible(run_id, tr("it ended before its model was committed: nothing vouches for its record"))
    return commit, LakePath.parse(params["lakefs_data_path"]), LakePath.parse(params["lakefs_model_path"])


def _require_same_places(run_id: str, metadata: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise UsageError unless the model's commit is of this run, of this Git commit and of this data."""
    for key, value in {"mlflow_run_id": run_id, **found}.items():
        if metadata.get(key) != value:
            raise irreproducible(
                run_id,
                tr(
                    "{key}: MLflow says {found}, but the metadata of its model's lakeFS commit say {expected}: MLflow's "
                    "record was changed",
                    key=key,
                    found=value,
                    expected=metadata.get(key, tr("nothing"))[:200],
                ),
            )


def _download(client: MlflowClient, settings: Settings, run: Run, folder: Path) -> dict[str, bytes]:
    """Return the recorded files by name; each is asked for by name, so that a listing cannot place others."""
    from utils import mlflow_utils

    names = [environment.SETTINGS, environment.ENVIRONMENT, environment.PACKAGES]
    if run.data.tags[environment.PATCH_TAG] == "recorded":
        names.append(environment.PATCH)
    found = {}
    for name in names:
        wanted = f"{environment.FOLDER}/{name}"
        path = mlflow_utils.download_artifacts(client, settings, run.info.run_id, wanted, str(folder))
        if not path.is_file() or path.stat().st_size > environment.PATCH_LIMIT:
            raise irreproducible(run.info.run_id, tr("{name} is not a file of at most 5 MB", name=name))
        found[name] = path.read_bytes()
    return found


def _require_same_files(
    run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str], metadata: Mapping[str, str]
) -> tuple[str, ...]:
    """Compare the recorded files with their hashes; return those that lakeFS does not vouch for, of older runs.

    Raises UsageError for a file that was changed, added or taken away since.
    """
    vouched = any(key in metadata for key in environment.HASH_KEYS.values())
    unvouched = []
    for name, key in environment.HASH_KEYS.items():
        found = hashlib.sha256(files[name]).hexdigest() if name in files else None
        records = {"MLflow": tags.get(key), "lakeFS": metadata.get(key)}
        for server, recorded in records.items():
            required = vouched or (recorded is not None and found is not None)
            if required and recorded != found:
                raise irreproducible(
                    run_id,
                    tr(
                        "code/{name} was changed since: its SHA-256 is {found}, but {server} recorded {recorded}",
                        name=name,
                        found=found or tr("none"),
                        server=server,
                        recorded=str(recorded or tr("none"))[:64],
                    ),
                )
        if found is not None and records["lakeFS"] is None:
            unvouched.append(name)
    return tuple(unvouched)
