"""What a person calls a run or a registered version: `2`, `v2`, `champion`, NAME/2, NAME@alias, a run ID or its beginning.

Commands look a run or a version up here, so that what one of them prints can be given to each other;
versioning.naming.results adds tags and lakefs.lock.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config import Settings
from core.errors import AppError, UsageError, one_line
from core.i18n import mark, tr
from utils import mlflow_utils
from utils.identifiers import RunId

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = mark("champion")  # alias of the version in use
MIN_PREFIX = 4  # characters of a run ID; fewer digits are the number of a version
RUN_PREFIX = re.compile(rf"[0-9a-fA-F]{{{MIN_PREFIX},32}}")
VERSION_NUMBER = re.compile(r"v?(\d{1,9})")
QUALIFIED = re.compile(r"([^@/]+)(?:@([^@/]+)|/v?(\d{1,9}))")  # NAME@ALIAS or NAME/VERSION
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Named:
    """A run, and the version that was named, if it was one."""

    run_id: str
    version: ModelVersion | None = None

    @property
    def label(self) -> str:
        """How to name it without ambiguity."""
        return self.run_id if self.version is None else f"{self.version.name}/{self.version.version}"


# --- the registry ----------------------------------------------------------------------------------------------------


def list_versions(client: MlflowClient, settings: Settings, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, newest first; an unknown name has none."""
    condition = "name = '{}'".format(name.replace("'", "\\'"))
    with mlflow_utils.convert_errors(settings, tr("registered model '{name}'", name=name)):
        found = mlflow_utils.all_pages(
            lambda token: client.search_model_versions(condition, max_results=mlflow_utils.PAGE, page_token=token)
        )
        return sorted(found, key=lambda version: -int(version.version))


def find_aliases(client: MlflowClient, settings: Settings, name: str) -> dict[str, str] | None:
    """Return alias -> version number of a registered model; None if there is no such registered model."""
    from mlflow.exceptions import MlflowException

    with mlflow_utils.convert_errors(settings, tr("registered model '{name}'", name=name)):
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
    return {alias: str(version) for alias, version in model.aliases.items()}


def find_version(client: MlflowClient, settings: Settings, text: str) -> ModelVersion | None:
    """Return the version of `2`, `v2`, an alias, NAME (its champion), NAME/2 or NAME@ALIAS; None if there is none."""
    name, number = _version_number(client, settings, text)
    versions = list_versions(client, settings, name) if number is not None else []
    return next((version for version in versions if str(version.version) == number), None)


def _version_number(client: MlflowClient, settings: Settings, text: str) -> tuple[str, str | None]:
    """Return the registered model and the number that a name means, None for no number; asks for the aliases once."""
    name = settings.registered_model
    if qualified := QUALIFIED.fullmatch(text):
        name, alias, number = qualified.groups()
        return name, _aliases(client, settings, name).get(alias) if number is None else str(int(number))
    if plain := VERSION_NUMBER.fullmatch(text):
        return name, str(int(plain[1]))
    aliases = _aliases(client, settings, name)
    if text == name:
        return name, aliases.get(CHAMPION)
    if text in aliases:
        return name, aliases[text]
    return text, _aliases(client, settings, text).get(CHAMPION)  # another registered model


def _aliases(client: MlflowClient, settings: Settings, name: str) -> dict[str, str]:
    return find_aliases(client, settings, name) or {}


# --- runs --------------------------------------------------------------------------------------------------------------


def runs_starting_with(client: MlflowClient, settings: Settings, prefix: str) -> list[str]:
    """Return the IDs of the runs of all experiments, deleted runs included, that start with `prefix`, newest first."""
    from mlflow.entities import ViewType

    if not RUN_PREFIX.fullmatch(prefix):
        return []
    experiments = [experiment.experiment_id for experiment in mlflow_utils.list_experiments(client, settings)]
    condition = f"attributes.run_id LIKE '{prefix.lower()}%'"
    with mlflow_utils.convert_errors(settings, tr("searching runs")):
        found = mlflow_utils.search_runs(client, experiments, condition, ["attributes.start_time DESC"], ViewType.ALL)
        return [run.info.run_id for run in found]


def run_of_version(version: ModelVersion) -> str:
    """Return the ID of the run that a version was registered from. Raises AppError for one without."""
    run_id = version.run_id or version.tags.get("run_id")
    if not run_id:
        raise AppError(
            tr(
                "{name} v{version} has no tag {missing}: not registered by register_model.py",
                name=version.name,
                version=version.version,
                missing="run_id",
            )
        )
    return str(RunId(run_id))


def find_named(client: MlflowClient, settings: Settings, text: str) -> list[Named]:
    """Return every run and version that this text can mean, versions first; each run once."""
    if RunId.accepts(text.lower()):
        found, version = [text.lower()], None
    else:
        found, version = runs_starting_with(client, settings, text), find_version(client, settings, text)
    named = [] if version is None else [Named(run_of_version(version), version)]
    if not found and not named and RUN_PREFIX.fullmatch(text):  # a version outlives its run
        versions = list_versions(client, settings, settings.registered_model)
        with_run = [v for v in versions if str(v.run_id or "").startswith(text.lower())]
        return [Named(run_of_version(v), v) for v in with_run]
    return named + [Named(run_id) for run_id in found if all(run_id != one.run_id for one in named)]


# --- messages ------------------------------------------------------------------------------------------------------------


def ambiguous(text: str, candidates: list[str]) -> UsageError:
    """Return the error for a name with several meanings."""
    return UsageError(
        tr(
            "'{text}' is ambiguous: name one of: {candidates}",
            text=one_line(text, 80),
            candidates=abbreviated(candidates),
        )
    )


def registered_names(client: MlflowClient, settings: Settings, name: str | None = None) -> dict[str, str]:
    """Return name -> how a message shows it, of the versions of a model, newest first, and of its aliases.

    The model is by default that of the settings, whose aliases need no name of the model.
    """
    prefix = "" if name in (None, settings.registered_model) else f"{name}@"
    name = name or settings.registered_model
    aliases = _aliases(client, settings, name)
    shown = {}
    for version in list_versions(client, settings, name):
        number = str(version.version)
        marks = ", ".join(sorted(alias for alias, named in aliases.items() if named == number))
        shown[f"{name}/{number}"] = f"{name}/{number}" + (f" ({marks})" if marks else "")
    return shown | {f"{prefix}{alias}": f"{prefix}{alias}" for alias in aliases}


def nearest(text: str, names: Iterable[str]) -> str:
    """Return ': did you mean X?' for a similar name, else nothing."""
    found = difflib.get_close_matches(text, list(names), n=1, cutoff=0.6)
    return tr(": did you mean {name}?", name=found[0]) if found else ""


def abbreviated(names: list[str]) -> str:
    """Return names for a message, at most `SHOWN` of them."""
    return ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])
