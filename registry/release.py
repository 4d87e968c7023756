"""The release of a promoted version: its records collected from MLflow and lakeFS, published, and noted in the registry."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from config import SETTINGS
from core.errors import AppError, UsageError
from core.files import safe_join
from core.i18n import tr
from core.reporting import notify
from registry.records import LAKEFS_TAG, verdict_of, version_lineage
from registry.versions import Registry
from segmentation.file_names import METRICS_FILE, MLMODEL
from utils import mlflow_utils
from utils.ensemble_file import parts_of_model
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import RELEASE_TAG, Lineage
from versioning.provenance.ancestors import ancestors
from versioning.provenance.measurements import Measurements
from versioning.provenance.record import ModelRecord, utc
from versioning.provenance.release import SigningKey, publish_release
from versioning.versions import committed_files, data_manifest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

SIDE_FILES = (MLMODEL, METRICS_FILE)  # beside the model in its commit; older ones lack them
RESOLVED = "resolved_"  # prefix of parameters: what the training decided where a setting was open


def release(registry: Registry, lake: LakeFS, version: ModelVersion) -> None:
    """Publish the release of a version that has its lakeFS tag. Raises AppError."""
    settings, version = registry.settings, registry.reload(version)
    lineage = version_lineage(version)
    _require_recorded_origin(lake, lineage, settings.signing_key is not None)
    folder = _verified_commit(lake, lineage, settings.cache_dir)
    model = folder / PurePosixPath(lineage.model_path.path).name
    products = {part.name: part for part in parts_of_model(model, lineage.model_sha256)}
    products |= {name: folder / name for name in SIDE_FILES if (folder / name).is_file()}
    record = _record(registry, lake, version, lineage, _metrics(folder, lineage.model_path))
    key = SigningKey(settings.signing_key, settings.signing_key_password) if settings.signing_key else None
    work = settings.lakefs_local_dir / "release"
    path = publish_release(lake, record, version.tags[LAKEFS_TAG], products, key, work)
    registry.set_tag(version, RELEASE_TAG, str(path))
    if key is None:
        notify(tr("release: {path} (not signed; SIGNING_KEY signs it)", path=path))
    else:
        notify(tr("release: {path}, signed with {key}", path=path, key=key.path))


def _require_recorded_origin(lake: LakeFS, lineage: Lineage, signed: bool) -> None:
    """Raise AppError unless the metadata of the model's commit name the origin that the registry names.

    The registry is MLflow's, which others may change; a commit of lakeFS never changes. A commit that does not name its
    origin, as those of other programs, is released but not signed.
    """
    recorded = lake.commit_metadata(lineage.model_path.ref, lineage.model_path.repo)
    named = {
        "mlflow_run_id": lineage.run_id,
        "git_commit": lineage.git_commit,
        "lakefs_data_path": str(lineage.data_path),
        "model_sha256": lineage.model_sha256,
    }
    for key, value in named.items():
        if recorded.get(key, value) != value or (signed and key not in recorded):
            raise AppError(
                tr(
                    "{path}: the metadata of its commit say {key} {recorded}, the registry says {value}: not {done}",
                    path=lineage.model_path,
                    key=key,
                    recorded=recorded.get(key, tr("nothing")),
                    value=value,
                    done=tr("signed") if signed else tr("released"),
                )
            )


def _verified_commit(lake: LakeFS, lineage: Lineage, cache: Path) -> Path:
    """Download the model file and the records beside it in its commit, and return their directory."""
    path = lineage.model_path
    lake.verified_file(path, lineage.model_sha256, cache)
    prefix = path.path.rpartition("/")[0] + "/"
    wanted = {prefix + name for name in SIDE_FILES}  # other files are of earlier models
    return safe_join(lake.download(LakePath(path.repo, path.ref, prefix), cache, wanted.__contains__), prefix)


def _metrics(folder: Path, model: LakePath) -> Measurements:
    """Return the content of metrics.json; empty where an older version did not write it. Raises AppError."""
    file, place = folder / METRICS_FILE, f"{str(model).rpartition('/')[0]}/{METRICS_FILE}"
    return Measurements.parse(file.read_bytes(), place) if file.is_file() else Measurements({})


def _record(
    registry: Registry, lake: LakeFS, version: ModelVersion, lineage: Lineage, metrics: Measurements
) -> ModelRecord:
    run = _find_run(registry, lineage.run_id)
    tags = run.data.tags if run is not None else {}
    manifest = data_manifest(committed_files(lake, lineage.data_path, registry.settings.cache_dir))
    return ModelRecord(
        name=version.name,
        version=str(version.version),
        lineage=lineage,
        git={name: value for name, value in {**tags, **version.tags}.items() if name.startswith("git_")},
        data_manifest_sha256=manifest,
        parameters={} if run is None else _parameters(run.data.params),
        metrics=metrics,
        gate=verdict_of(version),
        started=utc(run.info.start_time) if run is not None else None,
        finished=utc(run.info.end_time) if run is not None else None,
        ancestors=tuple(ancestors(lake, lineage.model_path)),
    )


def _find_run(registry: Registry, run_id: str) -> Run | None:
    """Return the run, None if it was deleted for good: the version keeps what is needed."""
    try:
        return mlflow_utils.get_run(registry.client, registry.settings, run_id)
    except UsageError:
        return None


def _parameters(recorded: dict[str, str]) -> dict[str, str]:
    """Return the settings that decided the result, as decided where they were open."""
    names = [name for name, info in SETTINGS.items() if not info.runtime_only and name in recorded]
    return {name: recorded.get(RESOLVED + name, recorded[name]) for name in names}
