"""The registered models in MLflow: versions hold metadata only; the model file that they name stays in lakeFS."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from config import Settings
from core.errors import AppError, UsageError, one_line
from core.figures import format_figure
from core.git import LAKECTL_COMMIT
from core.i18n import tr
from core.reporting import notify
from core.safety.checksummed_json import parse_json
from core.safety.json_object import JsonObject
from utils import mlflow_utils, run_names
from utils.identifiers import InvalidValue
from utils.lakefs_utils import LakePath
from utils.lineage import CLASSES_TAGS, Lineage
from utils.run_names import CHAMPION
from versioning.provenance.card import describe_promotion
from versioning.provenance.verdict import CHALLENGER, Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

STATE, PENDING, DONE = "registration", "pending", "done"  # tag of a version, and its values
LAKEFS_TAG = "lakefs_tag"  # tag of a version: name of its tag in lakeFS
GATE = "gate"  # tag of a version: the verdict, as JSON
REPLACED = "replaced"  # tag of a version: number of the champion that it replaced; empty: there was none
TEST_METRICS = ("test_miou", "test_accuracy")  # of the run that a version keeps, besides those of the best epoch
LINEAGE_TAGS = ("lakefs_model_path", "lakefs_data_path", "model_sha256")  # of a version that register_model.py made
REGISTERED = "registered_version"  # tag of a run: "NAME vN"
DESCRIPTION_LIMIT = 5000  # characters that MLflow stores
# MLflow's server cannot read lakefs://, so "Schema" is empty on the page of a version.
SCHEMA_PLACE = "Inputs, outputs and an example: on the page of the run's logged model."
MODEL_VERSIONS = "mlflow.modelVersions"  # tag of a logged model: MLflow's own list of its versions
ROLLED_BACK = "rolled_back"  # tag of a version that a person took out of use: when, who, to which version
METRIC = "metric."  # prefix of the tags of a version that keep metrics of its run


class Rollback(NamedTuple):
    """When and by whom a version was taken out of use, and the number of the version in use since; '?': not recorded."""

    at: str
    by: str
    to: str


def version_lineage(version: ModelVersion) -> Lineage:
    """Return the lineage of a version from its tags, which outlive its run. Raises AppError if one is missing."""
    tags = version.tags
    missing = [key for key in LINEAGE_TAGS if key not in tags]
    if missing:
        raise AppError(
            tr(
                "{name} v{version} has no tag {missing}: not registered by register_model.py",
                name=version.name,
                version=version.version,
                missing=", ".join(missing),
            )
        )
    name = f"{version.name} v{version.version}"
    try:
        return Lineage(
            run_id=version.run_id or tags.get("run_id", "none"),
            version=name,
            model_path=LakePath.parse_recorded(tags["lakefs_model_path"]),
            model_sha256=tags["model_sha256"],
            data_path=LakePath.parse_recorded(tags["lakefs_data_path"]),
            git_commit=tags.get("git_commit", "none"),
            metrics=metrics_of(version),
            classes={key: tags[key] for key in CLASSES_TAGS if key in tags},
        )
    except InvalidValue as error:
        raise AppError(f"{name}: {one_line(error, 400)}") from error


def is_archived(version: ModelVersion) -> bool:
    """Return whether a person archived a version by MLflow's stages."""
    return bool(version.current_stage == "Archived")


def verdict_of(version: ModelVersion) -> Verdict | None:
    """Return the recorded verdict of a version; None if it has none. Raises AppError for a tag that is not a verdict."""
    text = version.tags.get(GATE)
    return None if text is None else Verdict.parse(text, _tag_place(version, GATE))


def rollback_of(version: ModelVersion) -> Rollback | None:
    """Return how a version was taken out of use; None if it was not. Raises AppError for a tag that does not say it."""
    text = version.tags.get(ROLLED_BACK)
    if text is None:
        return None
    found = JsonObject.parse(text, _tag_place(version, ROLLED_BACK), tr("it was changed in MLflow: delete the tag"))
    return Rollback(*(found.text(key) if key in found else "?" for key in ("at", "by", "to")))


def metrics_of(version: ModelVersion) -> dict[str, float]:
    """Return the metrics that a version keeps of its run. Raises AppError for a tag that is not a number."""
    found = {}
    for key, value in version.tags.items():
        if key.startswith(METRIC):
            try:
                found[key.removeprefix(METRIC)] = float(value)
            except ValueError:
                raise AppError(
                    tr(
                        "{place}: expected a number, found {found}: it was changed in MLflow: correct or delete the tag",
                        place=_tag_place(version, key),
                        found=ascii(value[:80]),
                    )
                ) from None
    return found


def _tag_place(version: ModelVersion, key: str) -> str:
    return tr("{name} v{version}: tag {key}", name=version.name, version=version.version, key=key)


def lineage_tags(lineage: Lineage, run: Run) -> dict[str, str]:
    """Return the lineage as tags of a version, so that deleting the run does not cut the version from data and code."""
    git = {key: value for key, value in run.data.tags.items() if key.startswith("git_") and key != LAKECTL_COMMIT}
    kept = {key: value for key, value in lineage.metrics.items() if key.startswith("best_") or key in TEST_METRICS}
    return {
        **git,
        **{f"{METRIC}{key}": repr(value) for key, value in kept.items()},
        **lineage.classes,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
        "lakefs_model_commit": lineage.model_path.ref,
        "lakefs_data_commit": lineage.data_path.ref,
        "model_sha256": lineage.model_sha256,
    }


def _origin(lineage: Lineage) -> str:
    """Return where model, data and code of a version are, in Markdown; English, as it is stored."""
    places = (
        ("Model", f"`{lineage.model_path}`"),
        ("Data", f"`{lineage.data_path}`"),
        ("Code", f"Git `{lineage.git_commit}`"),
    )
    return "\n\n".join(f"**{name}:** {place}" for name, place in places)


def _figures(metrics: dict[str, float]) -> str:
    """Return the mIoU of a version by split, in Markdown; empty if none was recorded."""
    recorded = (("val", "best_val_miou"), ("test", "test_miou"))
    figures = ", ".join(f"{split} mIoU {format_figure(metrics[name])}" for split, name in recorded if name in metrics)
    return f"**Result:** {figures}\n\n" if figures else ""


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
                description=_origin(lineage),
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
        origin = f"{_figures(metrics_of(version))}{_origin(version_lineage(version))}\n\n{SCHEMA_PLACE}"
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
