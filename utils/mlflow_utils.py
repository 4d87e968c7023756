"""MLflow client: connect, find experiments and runs, and read the lakeFS paths of a run."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from core.errors import AppError, UsageError, one_line
from core.i18n import tr
from core.locks import is_locked_database, locked_database_fix
from core.process import defer_interrupt
from core.safety.redaction import redact
from core.safety.urls import MASK, without_credentials
from utils import mlflow_local
from utils.identifiers import MAX_TIME_S, InvalidValue
from utils.lakefs_utils import LakePath
from utils.lineage import CLASSES_TAGS, Lineage, fold_of
from utils.network.certificates import MLFLOW
from utils.network.failures import explain_failure, raise_if_refused
from utils.network.limits import LimitExceeded, PageLimit, check_artifacts
from utils.network.policy import NetworkPolicy, PolicyPool, prepare_mlflow
from utils.run_metrics import find_metric

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Experiment, Run

MAX_ENTRIES = 50_000  # of one page, whatever was asked for: the limit of MLflow's own listings
PAGE = 1000  # entries of one page of a listing, at most; MLflow allows no more for most listings
ACTIVE_ONLY = 1  # mlflow.entities.ViewType.ACTIVE_ONLY, which is an int; importing it takes a second
# Without it, MLflow's page opens the experiment as evaluations of a language model.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
HEALTH_S = 5.0  # seconds that a configured server may take to answer before it counts as down


def tracking_uri(settings: Settings) -> str:
    """Return the URI of the configured server, or of a SQLite file by its absolute path."""
    uri = settings.mlflow_tracking_uri or "sqlite:///mlflow.db"
    database = mlflow_local.database_of(uri)
    return uri if database is None else f"sqlite:///{(ROOT / database).as_posix()}"


@contextlib.contextmanager
def convert_errors(settings: Settings, what: str) -> Iterator[None]:
    """Convert MlflowException to AppError: operation, server, its response. Ctrl-C is deferred until the call has ended."""
    from mlflow.exceptions import MlflowException

    try:
        with defer_interrupt():
            yield
    except MlflowException as error:
        raise AppError(
            f"{what} (MLflow {without_credentials(tracking_uri(settings))}): {_message(settings, error)}"
        ) from error


def _message(settings: Settings, error: Exception) -> str:
    """Return the message of MLflow on one line, without the keys of the settings."""
    reason = explain_failure(error, tracking_uri(settings), NetworkPolicy.from_environment(), MLFLOW)
    if is_locked_database(error):  # MLflow has waited for 20 s
        reason = locked_database_fix()
    text = reason or one_line(error)
    for secret in settings.secrets():
        text = text.replace(secret, MASK)
    return redact(text)[:400]


def connect(settings: Settings, read_only: bool = False) -> MlflowClient:
    """Return a client of the configured server or of the SQLite default. Raises AppError if the server does not answer.

    Sets MLFLOW_* variables of this process that are not set.
    """
    uri = tracking_uri(settings)
    if uri.startswith(("http://", "https://")):
        _check_health(uri)
        prepare_mlflow(uri)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")  # MLflow's default of 7 takes four minutes
    # MLflow's client would follow one anywhere, and a redirected POST becomes a GET, which no server of MLflow answers.
    os.environ.setdefault("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one per small file, in English only
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # otherwise it logs each table of a new database
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the user and password of the server's URL
    import mlflow

    database = mlflow_local.database_of(uri)
    with convert_errors(settings, tr("connecting to MLflow")), mlflow_local.explain_database_errors(uri):
        if database is not None:
            uri = f"sqlite:///{mlflow_local.open_database(database, read_only).as_posix()}"
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _check_health(uri: str) -> None:
    """Raise AppError if the server does not answer its health check, UsageError for unusable network settings."""
    import urllib3

    pool, shown = PolicyPool(NetworkPolicy.from_environment(), MLFLOW), without_credentials(uri)
    try:
        url = uri.rstrip("/") + "/health"
        retries = urllib3.Retry(2, backoff_factor=0.3, status=0)
        raise_if_refused(pool, url, pool.request("GET", url, timeout=HEALTH_S, retries=retries))
    except LimitExceeded as error:
        raise AppError(f"MLflow {shown}: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        reason = explain_failure(error, uri, pool.policy, MLFLOW)
        if reason:
            raise AppError(f"MLflow {shown}: {reason}") from error
        raise AppError(
            tr(
                "MLflow {shown}: the server does not answer ({cause}): start it or correct "
                "MLFLOW_TRACKING_URI (unset: SQLite in the project directory)",
                shown=shown,
                cause=type(getattr(error, "reason", None) or error).__name__,
            )
        ) from error


def get_or_create_experiment(client: MlflowClient, settings: Settings) -> str:
    """Return the id of the configured experiment; create it if missing. Concurrent calls are safe."""
    from mlflow.exceptions import MlflowException

    name = settings.mlflow_experiment
    with convert_errors(settings, tr("experiment '{name}'", name=name)):
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
        if found is not None:
            raise _deleted_experiment(settings, found)
        # Without a server the default location of artifacts is relative to the working directory.
        database = mlflow_local.database_of(tracking_uri(settings))
        location = None if database is None else mlflow_local.artifact_place(database)
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = client.get_experiment_by_name(name)
        assert created is not None  # another process has just created it
        return str(created.experiment_id)


def mark_experiment(client: MlflowClient, settings: Settings, experiment_id: str) -> None:
    """Mark an experiment of an earlier version or of MLflow's page as one of model training; a chosen kind is kept."""
    with convert_errors(settings, tr("experiment '{name}'", name=settings.mlflow_experiment)):
        tags = client.get_experiment(experiment_id).tags
        for key, value in EXPERIMENT_TAGS.items():
            if key not in tags:
                client.set_experiment_tag(experiment_id, key, value)


def _deleted_experiment(settings: Settings, experiment: Experiment) -> UsageError:
    return UsageError(
        tr(
            "experiment '{name}' was deleted in MLflow: restore it (MLFLOW_TRACKING_URI={uri} mlflow experiments restore "
            "--experiment-id {number}), or set MLFLOW_EXPERIMENT to another name",
            name=experiment.name,
            uri=without_credentials(tracking_uri(settings)),
            number=experiment.experiment_id,
        )
    )


def log_dataset(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    """Record a data set as input of a run. Concurrent calls are safe.

    MLflow looks for the data set and inserts it in two steps. If another process inserts the same one in between, the
    database refuses the second; repeated, the call finds it.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.log_inputs(run_id, [dataset])
    except MlflowException as error:
        if "IntegrityError" not in str(error):
            raise
        client.log_inputs(run_id, [dataset])


def log_artifacts(client: MlflowClient, settings: Settings, run_id: str, folder: Path, path: str | None = None) -> None:
    """Record the files of a directory as artifacts of a run, below `path`."""
    mlflow_local.artifacts_of(client, tracking_uri(settings), run_id).log_artifacts(str(folder), path)


def log_model_artifacts(client: MlflowClient, settings: Settings, model_id: str, folder: Path) -> None:
    """Record the files of a directory as artifacts of a logged model."""
    mlflow_local.artifacts_of_model(client, tracking_uri(settings), model_id).log_artifacts(str(folder))


def download_artifacts(client: MlflowClient, settings: Settings, run_id: str, path: str, folder: str) -> Path:
    """Download an artifact of a run, or a directory of them, into `folder`; return its path. Raises MlflowException."""
    repository = mlflow_local.artifacts_of(client, tracking_uri(settings), run_id)
    check_artifacts(repository, path)
    return Path(repository.download_artifacts(path, folder))


def list_artifacts(client: MlflowClient, settings: Settings, run_id: str, path: str | None = None) -> set[str]:
    """Return the paths of the artifacts of a run that are directly below `path`."""
    found = mlflow_local.artifacts_of(client, tracking_uri(settings), run_id).list_artifacts(path)
    return {entry.path for entry in found}


def all_pages(list_page: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the entries of every page of a listing; `list_page` returns the page of a token, None for the first."""
    token: str | None = None
    limit = PageLimit(MAX_ENTRIES)
    while True:
        page = list_page(token)
        token = page.token or None
        limit.check(len(page), token)
        yield from page
        if token is None:
            return


def search_runs(
    client: MlflowClient,
    experiments: Sequence[str],
    condition: str,
    order_by: Sequence[str] | None = None,
    view: int = ACTIVE_ONLY,
) -> Iterator[Run]:
    """Yield the runs of these experiments that meet the condition (MLflow's search syntax), page by page."""
    order = list(order_by) if order_by else None
    return all_pages(
        lambda token: client.search_runs(
            list(experiments), condition, view, max_results=PAGE, order_by=order, page_token=token
        )
    )


def list_experiments(client: MlflowClient, settings: Settings) -> list[Experiment]:
    """Return all active experiments, newest first."""
    with convert_errors(settings, tr("listing experiments")):
        return list(all_pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token)))


def find_finished_runs(client: MlflowClient, settings: Settings, experiment: str, metric: str) -> list[Run]:
    """Return FINISHED runs of an experiment that committed a model and have a finite `metric`, best first.

    A run with folds is judged by the out-of-fold metric, see `registry_metric`.
    Runs with `--smoke` are excluded: their metrics are those of two batches.
    """
    with convert_errors(settings, tr("searching runs")):
        found = search_runs(client, [experiment], "attributes.status = 'FINISHED'")
        runs = [run for run in found if _is_registrable(run, metric)]
    return sorted(runs, key=lambda run: (-(find_metric(metric, run.data.metrics) or 0), -run.info.start_time))


def find_best_runs(client: MlflowClient, settings: Settings) -> list[Run]:
    """Return the runs of the configured experiment that can be registered, best first. Raises UsageError if there is none."""
    name, metric = settings.mlflow_experiment, settings.register_metric
    runs = find_finished_runs(client, settings, get_or_create_experiment(client, settings), metric)
    if not runs:
        raise UsageError(
            tr(
                "no finished run with metric '{metric}' in experiment '{name}': run train.py first",
                metric=metric,
                name=name,
            )
        )
    return runs


def _is_registrable(run: Run, metric: str) -> bool:
    """Return whether a run committed a model, has a finite metric, and is not a smoke test."""
    tags, value = run.data.tags, find_metric(metric, run.data.metrics)
    return "lakefs_model_commit" in tags and tags.get("smoke") != "true" and value is not None and math.isfinite(value)


def get_run(client: MlflowClient, settings: Settings, run_id: str) -> Run:
    """Return a run by its id. Raises UsageError for an unknown one."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            where = without_credentials(tracking_uri(settings))
            raise AppError(f"MLflow {where}: {_message(settings, error)}") from error
        raise UsageError(
            tr(
                "no run '{run_id}' in MLflow {uri}",
                run_id=run_id,
                uri=without_credentials(tracking_uri(settings)),
            )
        ) from error


def run_lineage(run: Run) -> Lineage:
    """Return the lineage of a run. Raises AppError if it committed no model, as that of a fold."""
    tags, params = run.data.tags, run.data.params
    if fold := fold_of(tags):
        raise UsageError(
            tr(
                "run {run_id} is fold {fold} of run {parent}, which has the model of all folds: name that run",
                run_id=run.info.run_id,
                fold=fold[0],
                parent=fold[1],
            )
        )
    missing = [key for key in ("lakefs_model_path", "lakefs_data_path") if key not in params]
    missing += [key for key in ("model_sha256",) if key not in tags]
    if missing:
        raise AppError(
            tr(
                "run {run_id} ({status}) has no {missing}: it committed no model",
                run_id=run.info.run_id,
                status=run.info.status,
                missing=", ".join(missing),
            )
        )
    try:
        return Lineage(
            run_id=run.info.run_id,
            version=None,
            model_path=LakePath.parse_recorded(params["lakefs_model_path"]),
            model_sha256=tags["model_sha256"],
            data_path=LakePath.parse_recorded(params["lakefs_data_path"]),
            git_commit=tags.get("git_commit", "none"),
            metrics=dict(run.data.metrics),
            classes={key: tags[key] for key in CLASSES_TAGS if key in tags},
        )
    except InvalidValue as error:
        raise AppError(tr("run {run_id}: {reason}", run_id=one_line(run.info.run_id, 40), reason=error)) from error


def local_time(timestamp_ms: int | None) -> datetime | None:
    """Return a time stamp of MLflow as local time; None if it is unset or no date."""
    if timestamp_ms is None or not 0 <= timestamp_ms <= 1000 * MAX_TIME_S:
        return None
    return datetime.fromtimestamp(timestamp_ms / 1000).astimezone()


def format_time(timestamp_ms: int | None) -> str:
    """Format a time stamp of MLflow as local date and time, '-' if it is unset or no date."""
    time = local_time(timestamp_ms)
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M")
