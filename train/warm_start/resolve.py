"""From what a person names with --init to a reference that always means the same file, and its SHA-256."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.files import safe_join
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import warn
from core.settings import InvalidSetting
from segmentation.file_names import MODEL_FILE
from segmentation.model_file import FileRecord, read_record
from segmentation.networks.packages import LITE_FPN
from train.warm_start.initial import Initial, InitialEnsemble, InitialModel, InitialPackage
from train.warm_start.load import load_initial
from train.warm_start.network import require_encoder
from train.warm_start.packages import find_package
from utils import mlflow_utils
from utils.ensemble_file import ENSEMBLE_FILE
from utils.identifiers import RunId, Sha256
from utils.lakefs_client.connection import is_missing
from utils.lakefs_utils import LakeFS, LakePath
from utils.servers import Servers
from versioning.lockfile import explained_by_lock, read_lock
from versioning.naming.files import named_file, plain_file
from versioning.naming.results import Choice, resolve_model
from versioning.provenance.ancestors import LAKEFS
from versioning.versions import MODEL_PREFIX

MODEL_SUFFIXES = (".pth", ".json")
MODELS = "models:/"  # of MLflow's references: models:/NAME@ALIAS, models:/NAME/2


def resolve_initial(settings: Settings, lake: LakeFS) -> tuple[Settings, Initial | None]:
    """Return the settings of a new training with what INIT names, and that model, verified and loaded.

    INIT becomes a reference that does not move, INIT_SHA256 the hash of the file, and MODEL the network of the model
    unless somebody has set it. Raises UsageError for an unknown or ambiguous name, AppError for a damaged file.
    """
    if settings.init is None:
        settings = _pin_weights(settings, lake)
        return settings, load_initial(settings, lake)
    reference, sha256 = _locate(settings, lake, settings.init)
    if settings.init_sha256 not in (None, sha256):
        raise UsageError(
            tr(
                "INIT={init}: SHA-256 {found}, but INIT_SHA256 is {expected}",
                init=settings.init,
                found=sha256,
                expected=settings.init_sha256,
            )
        )
    settings = dataclasses.replace(settings, init=reference, init_sha256=str(sha256))
    initial = load_initial(settings, lake)
    first = initial.members[0] if isinstance(initial, InitialEnsemble) else initial
    model = first.architecture if isinstance(first, InitialModel) else LITE_FPN
    if "model" not in settings.explicit:
        settings = dataclasses.replace(settings, model=model)
    if isinstance(initial, InitialPackage):
        require_encoder(initial.reference, settings.model)
    elif settings.pretrained_sha256 is not None:
        problem = tr("has no effect on --init {reference}, a model: leave it out", reference=reference)
        raise InvalidSetting("PRETRAINED_SHA256", settings.pretrained_sha256, problem=problem)
    return settings, initial


def _pin_weights(settings: Settings, lake: LakeFS) -> Settings:
    """Return the settings with WEIGHTS as a path that does not move. Raises UsageError for an invalid one."""
    named = settings.weights
    if not settings.pretrained or named is None:
        return settings
    if not named.startswith(LAKEFS):
        return dataclasses.replace(settings, weights=str(Path(named).expanduser().resolve()))
    path = LakePath.parse(named)
    return dataclasses.replace(settings, weights=str(LakePath(path.repo, lake.resolve(path.ref, path.repo), path.path)))


def _locate(settings: Settings, lake: LakeFS, text: str) -> tuple[str, str]:
    """Return the reference and the SHA-256 of the file that a text names."""
    servers = Servers(settings, lake=lake)
    if text.startswith(LAKEFS):
        return _locate_in_lakefs(settings, lake, LakePath.parse(text))
    file = named_file(text)
    if file is not None:
        return _locate_file(servers, file)
    package = find_package(text)
    if package is not None:
        return package.reference, file_sha256(package.file)
    with explained_by_lock(settings, AppError):
        file = plain_file(servers, text)
        if file is not None:
            return _locate_file(servers, file)
        path, sha256 = _locate_choice(servers, resolve_model(servers, text.removeprefix(MODELS)))
        return str(path), sha256


def _locate_in_lakefs(settings: Settings, lake: LakeFS, path: LakePath) -> tuple[str, str]:
    """Return the path with its commit, and the SHA-256 that the commit states of its model, else that of the file."""
    path = LakePath(path.repo, lake.resolve(path.ref, path.repo), path.path)
    stated = lake.commit_metadata(path.ref, path.repo)
    if path.path in (f"{MODEL_PREFIX}{MODEL_FILE}", f"{MODEL_PREFIX}{ENSEMBLE_FILE}") and "model_sha256" in stated:
        return str(path), Sha256(stated["model_sha256"])
    file = safe_join(lake.download(path, settings.cache_dir), path.path)
    if file.is_dir():
        found = ", ".join(sorted(entry.name for entry in file.iterdir() if entry.suffix in MODEL_SUFFIXES)) or tr(
            "none"
        )
        raise UsageError(
            tr("--init {path}: a directory, expected a model file (there: {found})", path=path, found=found)
        )
    return str(path), file_sha256(file)


def _locate_choice(servers: Servers, choice: Choice) -> tuple[LakePath, str]:
    """Return the model of a lock, tag, version or run; that of a version outlives its run."""
    if choice.lineage is not None:
        return choice.lineage.model_path, choice.lineage.model_sha256
    if choice.version is not None and {"lakefs_model_path", "model_sha256"} <= choice.version.tags.keys():
        tags = choice.version.tags
        return LakePath.parse_recorded(tags["lakefs_model_path"]), Sha256(tags["model_sha256"])
    lineage = mlflow_utils.run_lineage(mlflow_utils.get_run(servers.client, servers.settings, choice.run_id))
    return lineage.model_path, lineage.model_sha256


def _locate_file(servers: Servers, file: Path) -> tuple[str, str]:
    """Return the model's place in lakeFS if lakefs.lock or a run names it, else that of the file, with a warning."""
    record = read_record(file)
    path = _recorded_path(servers, record)
    if path is not None and _has_file(servers, path, record):
        return str(path), record.sha256
    warn(
        tr(
            "--init {file}: no run here recorded this model (SHA-256 {sha256}): --resume and --reproduce need the file",
            file=file,
            sha256=record.sha256,
        )
    )
    return str(file.resolve()), record.sha256


def _has_file(servers: Servers, path: LakePath, record: FileRecord) -> bool:
    """Return whether lakeFS has the model there. Raises AppError if it does not answer, or has another file."""
    try:
        servers.lake.verified_file(path, record.sha256, servers.settings.cache_dir)
    except AppError as error:
        if not is_missing(error):
            raise
        return False
    return True


def _recorded_path(servers: Servers, record: FileRecord) -> LakePath | None:
    """Return the path in lakeFS of a model file by lakefs.lock, or by the run that it states; None if neither has it.

    Raises AppError if MLflow does not answer.
    """
    lock = read_lock(ROOT)
    if lock is not None and lock.model_sha256 == record.sha256:
        return lock.model
    run_id = record.lineage.get("run_id", "")
    if not RunId.accepts(run_id):
        return None
    try:
        run = mlflow_utils.get_run(servers.client, servers.settings, run_id)
    except UsageError:
        return None
    with contextlib.suppress(AppError):  # a run that committed no model
        lineage = mlflow_utils.run_lineage(run)
        return lineage.model_path if lineage.model_sha256 == record.sha256 else None
    return None
