"""The model registry in MLflow: versions hold metadata only; the file that they name stays in lakeFS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from config import Settings
from utils import mlflow_utils
from utils.console import AppError, BelowThreshold, UsageError, say, t
from utils.lakefs_utils import LakeFS, LakePath
from utils.mlflow_utils import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"  # the alias of the version in use


def version_lineage(version: ModelVersion) -> Lineage:
    """The lakeFS paths of a registered version; they stand in its tags, so that they outlive its run."""
    tags = version.tags
    missing = [key for key in ("lakefs_model_path", "lakefs_data_path", "model_sha256") if key not in tags]
    if missing:
        raise AppError(
            t(
                f"{version.name} v{version.version} 에 {', '.join(missing)} 태그가 없습니다: register_model.py 로 등록한 버전이 아닙니다",
                f"{version.name} v{version.version} has no tag {', '.join(missing)}: not registered by register_model.py",
            )
        )
    return Lineage(
        run_id=version.run_id or tags.get("run_id", "none"),
        version=f"{version.name} v{version.version}",
        model_path=LakePath.parse(tags["lakefs_model_path"]),
        model_sha256=tags["model_sha256"],
        data_path=LakePath.parse(tags["lakefs_data_path"]),
        git_commit=tags.get("git_commit", "none"),
        metrics={key.removeprefix("metric."): float(value) for key, value in tags.items() if key.startswith("metric.")},
    )


def versions(client: MlflowClient, settings: Settings, name: str) -> list[ModelVersion]:
    """All versions of a registered model, newest first; an unknown name has none."""
    found: list[ModelVersion] = []
    token: str | None = None
    quoted = name.replace("'", "\\'")
    with mlflow_utils.explained(settings, t(f"등록 모델 '{name}'", f"registered model '{name}'")):
        while True:
            page: Any = client.search_model_versions(f"name = '{quoted}'", max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda version: -int(version.version))


def model_names(client: MlflowClient, settings: Settings) -> list[str]:
    """Names of all registered models."""
    with mlflow_utils.explained(settings, t("등록 모델 목록", "listing registered models")):
        return [model.name for model in client.search_registered_models(max_results=1000)]


def aliases(client: MlflowClient, settings: Settings, name: str) -> dict[str, str]:
    """alias -> version of a registered model; listings of versions may leave aliases out."""
    from mlflow.exceptions import MlflowException

    with mlflow_utils.explained(settings, t(f"등록 모델 '{name}'", f"registered model '{name}'")):
        try:
            return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}


def find_version(client: MlflowClient, settings: Settings, spec: str) -> ModelVersion:
    """The version of NAME (its champion), NAME@ALIAS or NAME/VERSION. Raises UsageError that lists what there is."""
    match = re.fullmatch(r"([^@/]+)(?:@([^@/]+)|/v?(\d+))?", spec)
    if not match:
        raise UsageError(
            t(
                f"모델 이름이 아닙니다: '{spec}' (NAME, NAME@ALIAS, NAME/VERSION)",
                f"not a model: '{spec}' (NAME, NAME@ALIAS or NAME/VERSION)",
            )
        )
    name, alias, number = match[1], match[2], match[3]
    known, named = versions(client, settings, name), aliases(client, settings, name)
    if number is None:
        number = named.get(alias or CHAMPION)
    found = next((version for version in known if str(version.version) == number), None)
    if found is None:
        there = ", ".join([f"{name}/{v.version}" for v in known[:10]] + [f"{name}@{a}" for a in named])
        there = there or t(
            "등록된 버전 없음: register_model.py 를 실행하세요", "no version registered: run register_model.py"
        )
        raise UsageError(
            t(
                f"'{spec}' 이(가) 등록되어 있지 않습니다 (있는 것: {there})",
                f"'{spec}' is not registered (there is: {there})",
            )
        )
    return found


def registered(client: MlflowClient, settings: Settings) -> dict[str, ModelVersion]:
    """run id -> newest version of the settings' model that was made from it."""
    return {str(v.run_id): v for v in reversed(versions(client, settings, settings.registered_model)) if v.run_id}


def require_registrable(run: Run, settings: Settings) -> None:
    """Raises UsageError for a run that is not finished or lacks the metric, BelowThreshold for one not good enough."""
    metric, threshold, value = (
        settings.register_metric,
        settings.register_threshold,
        run.data.metrics.get(settings.register_metric),
    )
    if run.info.status != "FINISHED" or run.data.tags.get("smoke") == "true":
        state = "--smoke" if run.data.tags.get("smoke") == "true" else run.info.status
        raise UsageError(
            t(
                f"실행 {run.info.run_id} 은(는) {state} 입니다: FINISHED 인 학습만 등록할 수 있습니다",
                f"run {run.info.run_id} is {state}: only a FINISHED training can be registered",
            )
        )
    if value is None:
        known = ", ".join(sorted(run.data.metrics)) or t("없음", "none")
        raise UsageError(
            t(
                f"실행 {run.info.run_id} 에 지표 '{metric}' 이(가) 없습니다 (있는 것: {known})",
                f"run {run.info.run_id} has no metric '{metric}' (there is: {known})",
            )
        )
    if not value >= threshold:  # NaN is not good enough either
        raise BelowThreshold(
            t(
                f"실행 {run.info.run_id}: {metric} {value:.4f} < 기준 {threshold:.4f}: 등록하지 않았습니다",
                f"run {run.info.run_id}: {metric} {value:.4f} < threshold {threshold:.4f}: not registered",
            )
        )


def _experiment(lake: LakeFS, run: Run) -> str | None:
    """The branch of its own that a run published to; None for one that published to its target."""
    tags = run.data.tags
    branch = tags.get("lakefs_branch")
    return branch if "lakefs_target_branch" in tags and branch != lake.branch else None


def merge_experiment(lake: LakeFS, run: Run) -> None:
    """Bring an experiment's commit into the target branch: what is registered must not hang on a branch that may go.

    The run's own commit is merged, not what its branch has become since. Raises AppError, after a conflict too.
    """
    branch = _experiment(lake, run)
    if branch is None:
        return
    lineage = mlflow_utils.run_lineage(run)
    source = lineage.model_path
    if source.repo != lake.repo:
        raise UsageError(
            t(
                f"실행 {lineage.run_id} 의 저장소는 {source.repo} 입니다: LAKEFS_REPO={source.repo} 로 실행하세요",
                f"run {lineage.run_id} is of repository {source.repo}: run with LAKEFS_REPO={source.repo}",
            )
        )
    if not lake.contains(lake.branch, source.ref):
        metadata = {"mlflow_run_id": lineage.run_id, "model_sha256": lineage.model_sha256, "experiment_branch": branch}
        git = {key: value for key, value in run.data.tags.items() if key.startswith("git_")}
        head = lake.merge_commit(source.ref, f"merge experiment {branch}", git | metadata)
        say(f"{branch} 을(를) {lake.branch} 에 병합했습니다: {head}", f"merged {branch} into {lake.branch}: {head}")
    if not lake.contains(lake.branch, source.ref):
        raise AppError(
            t(f"{source} 이(가) {lake.branch} 에 없습니다", f"{source} is not on {lake.branch} after the merge")
        )


def delete_experiment(lake: LakeFS, run: Run) -> None:
    """Delete an experiment's branch, unless it holds commits that the target lacks: those would be lost with it."""
    branch = _experiment(lake, run)
    head = dict(lake.named("branches")).get(branch or "")
    if branch is None or head is None:
        return
    if lake.contains(lake.branch, head):
        lake.delete_branch(branch)
        say(f"브랜치를 지웠습니다: {branch}", f"deleted the branch {branch}")
    else:
        say(
            f"브랜치 {branch} 에 병합하지 않은 커밋이 있어 지우지 않았습니다",
            f"kept the branch {branch}: it holds commits that {lake.branch} lacks",
        )


def register(client: MlflowClient, lake: LakeFS, settings: Settings, run: Run) -> ModelVersion:
    """Make a run's model a version and the champion; a run that has a version keeps it. Raises AppError.

    The file must be in lakeFS, and its bytes must have the hash of the run: it is read, not believed.
    """
    from train.prepare_data import cache_folder

    lineage = mlflow_utils.run_lineage(run)
    name = settings.registered_model
    there = registered(client, settings).get(run.info.run_id)
    if there is not None:
        say(
            f"이미 등록되어 있습니다: {name} v{there.version} (실행 {run.info.run_id})",
            f"already registered: {name} v{there.version} (run {run.info.run_id})",
        )
        if CHAMPION not in aliases(client, settings, name):  # an earlier call was cut off before its last step
            set_champion(client, settings, there)
        return there
    lake.verified_file(lineage.model_path, lineage.model_sha256, cache_folder(settings))
    folder = LakePath(lineage.model_path.repo, lineage.model_path.ref, lineage.model_path.path.rsplit("/", 1)[0])
    _ensure_model(client, settings, name)
    with mlflow_utils.explained(settings, t("모델 등록", "registering the model")):
        version = client.create_model_version(
            name,
            source=str(folder),  # a folder: MLflow takes a file for an empty one
            run_id=run.info.run_id,
            tags={**_version_tags(lineage, run), "registered_by_metric": settings.register_metric},
            description=f"{lineage.model_path}\n\n{lineage.data_path}\n\nGit {lineage.git_commit}",
            await_creation_for=0,
        )
    set_champion(client, settings, version)
    return version


def _version_tags(lineage: Lineage, run: Run) -> dict[str, str]:
    """All of the lineage once more: deleting a run must not cut a version from its data and code."""
    git = {key: value for key, value in run.data.tags.items() if key.startswith("git_")}
    metrics = {f"metric.{key}": repr(value) for key, value in lineage.metrics.items() if key.startswith("best_")}
    return {
        **git,
        **metrics,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
        "lakefs_model_commit": lineage.model_path.ref,
        "lakefs_data_commit": lineage.data_path.ref,
        "model_sha256": lineage.model_sha256,
    }


def _ensure_model(client: MlflowClient, settings: Settings, name: str) -> None:
    from mlflow.exceptions import MlflowException

    with mlflow_utils.explained(settings, t("모델 등록", "registering the model")):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def set_champion(client: MlflowClient, settings: Settings, version: ModelVersion) -> None:
    """Point the alias at this version and say so."""
    with mlflow_utils.explained(settings, t("별칭 지정", "setting the alias")):
        client.set_registered_model_alias(version.name, CHAMPION, str(version.version))
    say(f"{CHAMPION}: {version.name} v{version.version}", f"{CHAMPION}: {version.name} v{version.version}")
