"""The model registry in MLflow: versions hold metadata only; the file that they name stays in lakeFS."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from config import Settings
from core.console import table
from core.errors import AppError, UsageError
from core.i18n import tr
from utils import mlflow_utils
from utils.lakefs_utils import LakePath
from utils.lineage import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = (
    "champion",
    "challenger",
)  # aliases: the version in use, and the newest that did not pass the gate


def version_lineage(version: ModelVersion) -> Lineage:
    """The lakeFS paths of a registered version; they stand in its tags, so that they outlive its run."""
    tags = version.tags
    missing = [key for key in ("lakefs_model_path", "lakefs_data_path", "model_sha256") if key not in tags]
    if missing:
        raise AppError(
            tr(
                "{name} v{version} has no tag {missing}: not registered by register_model.py",
                name=version.name,
                version=version.version,
                missing=", ".join(missing),
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
    with mlflow_utils.explained(settings, tr("registered model '{name}'", name=name)):
        while True:
            page: Any = client.search_model_versions(f"name = '{quoted}'", max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda version: -int(version.version))


def model_names(client: MlflowClient, settings: Settings) -> list[str]:
    """Names of all registered models."""
    with mlflow_utils.explained(settings, tr("listing registered models")):
        return [model.name for model in client.search_registered_models(max_results=1000)]


def aliases(client: MlflowClient, settings: Settings, name: str) -> dict[str, str]:
    """alias -> version of a registered model; listings of versions may leave aliases out."""
    from mlflow.exceptions import MlflowException

    with mlflow_utils.explained(settings, tr("registered model '{name}'", name=name)):
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
        raise UsageError(tr("not a model: '{spec}' (NAME, NAME@ALIAS or NAME/VERSION)", spec=spec))
    name, alias, number = match[1], match[2], match[3]
    known, named = versions(client, settings, name), aliases(client, settings, name)
    if number is None:
        number = named.get(alias or CHAMPION)
    found = next((version for version in known if str(version.version) == number), None)
    if found is None:
        there = ", ".join([f"{name}/{v.version}" for v in known[:10]] + [f"{name}@{a}" for a in named])
        there = there or tr("no version registered: run register_model.py")
        raise UsageError(tr("'{spec}' is not registered (there is: {there})", spec=spec, there=there))
    return found


def registered(client: MlflowClient, settings: Settings) -> dict[str, ModelVersion]:
    """run id -> newest version of the settings' model that was made from it."""
    return {str(v.run_id): v for v in reversed(versions(client, settings, settings.registered_model)) if v.run_id}


def champion(client: MlflowClient, settings: Settings) -> ModelVersion | None:
    """The version in use of the settings' model; None before the first."""
    name = settings.registered_model
    number = aliases(client, settings, name).get(CHAMPION)
    return None if number is None else find_version(client, settings, f"{name}/{number}")


def spelled(settings: Settings, spec: str) -> str:
    """`3`, `v3` and `champion` as versions of the settings' model; what names its model is left as it is."""
    if "/" in spec or "@" in spec:
        return spec
    number = spec.removeprefix("v")
    return f"{settings.registered_model}/{number}" if number.isdigit() else f"{settings.registered_model}@{spec}"


def overview(client: MlflowClient, settings: Settings, name: str, numbered: bool = False) -> str:
    """A table of all versions, newest first: aliases, figures, verdict, and where each comes from."""
    named = aliases(client, settings, name)
    headers = [
        tr("version"),
        tr("aliases"),
        settings.register_metric,
        tr("verdict"),
        tr("date"),
        tr("run"),
        "Git",
        tr("data commit"),
        tr("model commit"),
    ]
    rows = [_row(settings, version, named) for version in versions(client, settings, name)]
    if numbered:
        headers, rows = ["#", *headers], [[str(i), *row] for i, row in enumerate(rows, 1)]
    return table(headers, rows)


def _row(settings: Settings, version: ModelVersion, named: dict[str, str]) -> list[str]:
    tags = version.tags
    gate = json.loads(tags.get("gate", "{}"))
    verdict = gate.get("decision", "-") + tr(" (forced)") * ("forced" in gate)
    verdict += tr(", rolled back") * ("rolled_back" in tags)
    verdict += tr(", unfinished") * (tags.get("registration") == "pending")
    dirty = "+" * (tags.get("git_dirty") == "true")
    return [
        f"v{version.version}",
        ", ".join(sorted(alias for alias, number in named.items() if number == str(version.version))),
        tags.get(f"metric.{settings.register_metric}", "-")[:6],
        verdict,
        mlflow_utils.when(version.creation_timestamp),
        str(version.run_id or tags.get("run_id", "-"))[:12],
        tags.get("git_commit", "none")[:8] + dirty,
        tags.get("lakefs_data_commit", "-")[:8],
        tags.get("lakefs_model_commit", "-")[:8],
    ]
