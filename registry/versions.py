"""The registered models in MLflow: versions hold metadata only; the model file that they name stays in lakeFS."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config import Settings
from core.errors import AppError, UsageError, one_line
from core.i18n import tr
from core.reporting import notify
from core.safety.checksummed_json import parse_json
from registry.records import (
    ROLLED_BACK,
    describe_figures,
    describe_origin,
    is_archived,
    lineage_tags,
    metrics_of,
    version_lineage,
)
from utils import mlflow_utils, run_names
from utils.lakefs_utils import LakePath
from utils.lineage import Lineage
from utils.run_names import CHAMPION
from versioning.provenance.card import describe_promotion
from versioning.provenance.verdict import CHALLENGER, Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

DESCRIPTION_LIMIT = 5000  # characters that MLflow stores
# MLflow's server cannot read lakefs://, so "Schema" is empty on the page of a version.
SCHEMA_PLACE = "Inputs, outputs and an example: on the page of the run's logged model."
MODEL_VERSIONS = "mlflow.modelVersions"  # tag of a logged model: MLflow's own list of its versions


def logged_model_of(run: Run) -> str | None:
    """Return the id of the run's logged model in MLflow; None for a run of an earlier version."""
    models = run.outputs.model_outputs if run.outputs else []
    return str(models[0].model_id) if models else None


def _parse_links(recorded: str, model_id: str) -> list[Any]:
    """Return MLflow's list of the versions of a logged model. Raises AppError if the tag is something else."""
    try:
        found = parse_json(recorded)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise AppError(
            tr(
                "logged model {model}: tag {key}: expected a JSON list, found {found}: delete the tag in MLflow, and run "
                "the command again",
                model=model_id,
                key=MODEL_VERSIONS,
                found=ascii(recorded[:80]),
            )
        )
    return found


@dataclass(frozen=True)
class Registry:
    """The registry of one MLflow server; `name` is the registered model of the settings."""

    client: MlflowClient
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the settings' registered model."""
        return self.settings.registered_model

    # --- reading ---

    def model_names(self) -> list[str]:
        """Return the names of all registered models."""
        with mlflow_utils.convert_errors(self.settings, tr("listing registered models")):
            models = mlflow_utils.all_pages(
                lambda token: self.client.search_registered_models(max_results=mlflow_utils.PAGE, page_token=token)
            )
            return [model.name for model in models]

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return all versions of a registered model, newest first; an unknown name has none."""
        return run_names.list_versions(self.client, self.settings, name or self.name)

    def aliases(self, name: str | None = None) -> dict[str, str]:
        """Return alias -> version number of a registered model; listings of versions may leave aliases out."""
        return self.find_aliases(name) or {}

    def find_aliases(self, name: str | None = None) -> dict[str, str] | None:
        """Return the same as `aliases`; None if there is no such registered model."""
        return run_names.find_aliases(self.client, self.settings, name or self.name)

    def find(self, text: str) -> ModelVersion:
        """Return the version of `2`, `v2`, an alias, NAME (its champion), NAME@ALIAS or NAME/VERSION.

        Raises UsageError listing the known.
        """
        found = run_names.find_version(self.client, self.settings, text)
        if found is None:
            qualified = run_names.QUALIFIED.fullmatch(text)
            known = run_names.registered_names(self.client, self.settings, qualified[1] if qualified else None)
            raise UsageError(
                tr(
                    "'{spec}' is not registered{hint} (available: {available})",
                    spec=one_line(text, 80),
                    hint=run_names.nearest(text, known),
                    available=run_names.abbreviated(list(known.values()))
                    or tr("no version registered: run register_model.py"),
                )
            )
        return found

    def champion(self) -> ModelVersion | None:
        """Return the version that the alias names; None if there is no alias, or the version was deleted."""
        number = self.aliases().get(CHAMPION)
        return next((version for version in self.versions() if str(version.version) == number), None)

    def versions_by_run(self) -> dict[str, ModelVersion]:
        """Return run id -> newest version that was made from it."""
        return {str(version.run_id): version for version in reversed(self.versions()) if version.run_id}

    def reload(self, version: ModelVersion) -> ModelVersion:
        """Read a version again."""
        with mlflow_utils.convert_errors(self.settings, tr("reading the version")):
            return self.client.get_model_version(version.name, str(version.version))

    # --- writing ---

    def create_version(self, lineage: Lineage, run: Run, tags: dict[str, str]) -> ModelVersion:
        """Create a version with its lineage and `tags` in one request: none exists without verdict and lineage."""
        self._ensure_model()
        directory = LakePath(lineage.model_path.repo, lineage.model_path.ref, lineage.model_path.path.rsplit("/", 1)[0])
        with mlflow_utils.convert_errors(self.settings, tr("registering the model")):
            return self.client.create_model_version(
                self.name,
                source=str(directory),  # a directory: MLflow takes a file for an empty one
                run_id=run.info.run_id,
                tags={**lineage_tags(lineage, run), **tags},
                description=describe_origin(lineage),
                await_creation_for=0,
                model_id=logged_model_of(run),
            )

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        with mlflow_utils.convert_errors(self.settings, tr("registering the model")):
            try:
                self.client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def set_tag(self, version: ModelVersion, key: str, value: str) -> None:
        """Set a tag of a version."""
        with mlflow_utils.convert_errors(self.settings, tr("recording the version")):
            self.client.set_model_version_tag(version.name, str(version.version), key, value)

    def _link_logged_model(self, version: ModelVersion) -> None:
        """Name a version in the logged model of its run, so that MLflow's pages lead from one to the other."""
        with mlflow_utils.convert_errors(self.settings, tr("recording the version")):
            model_id = logged_model_of(self.client.get_run(str(version.run_id)))
            if model_id is None:
                return
            recorded = self.client.get_logged_model(model_id).tags.get(MODEL_VERSIONS, "[]")
            entry = {"name": version.name, "version": str(version.version)}
            links = [link for link in _parse_links(recorded, model_id) if link != entry]
            self.client.set_logged_model_tags(model_id, {MODEL_VERSIONS: json.dumps([*links, entry])})

    def describe(self, version: ModelVersion, verdict: Verdict) -> None:
        """Set the description on MLflow's page, the verdict in words, and link the version with its run's logged model."""
        origin = f"{describe_figures(metrics_of(version))}{describe_origin(version_lineage(version))}\n\n{SCHEMA_PLACE}"
        text = f"{describe_promotion(verdict)}\n\n{origin}"
        with mlflow_utils.convert_errors(self.settings, tr("recording the version")):
            self.client.update_model_version(version.name, str(version.version), text[:DESCRIPTION_LIMIT])
        self._link_logged_model(version)

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias at a version and report it."""
        with mlflow_utils.convert_errors(self.settings, tr("setting the alias")):
            self.client.set_registered_model_alias(version.name, alias, str(version.version))
        notify(tr("{alias}: {name} v{version}", alias=tr(alias), name=version.name, version=version.version))

    def set_champion(self, version: ModelVersion) -> None:
        """Point `champion` at a version and remove the marks of a version that is not in use."""
        self.set_alias(version, CHAMPION)
        number = str(version.version)
        with mlflow_utils.convert_errors(self.settings, tr("recording the version")):
            if self.aliases(version.name).get(CHALLENGER) == number:
                self.client.delete_registered_model_alias(version.name, CHALLENGER)
            if is_archived(self.client.get_model_version(version.name, number)):
                with warnings.catch_warnings(action="ignore", category=FutureWarning):  # stages end with MLflow 4
                    self.client.transition_model_version_stage(version.name, number, "None")
            if ROLLED_BACK in self.client.get_model_version(version.name, number).tags:
                self.client.delete_model_version_tag(version.name, number, ROLLED_BACK)
