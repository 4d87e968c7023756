"""Select the model for inference: by name or file, interactively, or the one that is in use."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from config import ROOT
from core import git
from core.console import SHOWN_ID, choose, fit_table, format_table, is_terminal
from core.errors import AppError, UsageError
from core.i18n import tr
from core.provenance.code_files import LOCK_NAME
from core.reporting import notify, warn
from registry.choice.files import file_origin
from registry.overview import aliases_of, overview
from registry.records import REGISTERED, version_lineage
from registry.run_tree import Row, arrange, describe, metric_cell
from registry.state import RegistryState, read_state
from registry.versions import Registry
from segmentation.model_file import read_record
from utils import mlflow_utils
from utils.ensemble_file import first_changed, working_copy
from utils.identifiers import NONE
from utils.lineage import FOLD_TAG, PARENT_TAG, Lineage, Origin
from utils.servers import Servers
from versioning.lockfile import Lock, explained_by_lock, is_reachable, read_lock, unreachable_data
from versioning.naming.files import named_file, plain_file
from versioning.naming.results import Choice, lock_choice, resolve_model
from versioning.versions import LOCK, cached_files

if TYPE_CHECKING:
    from mlflow.entities import Run

FROM_TABLE = "chosen from a table"
TableRow = tuple[Lineage | None, list[str]]  # None: it cannot be chosen; the cells without the number


def select_model(servers: Servers, name: str | None = None, interactive: bool = False) -> Origin | None:
    """Return the model of a name, of a choice from tables, or without both the one that is in use: see `default_model`.

    Servers are contacted only as far as the choice needs them: none for a model file. None: nothing was chosen. Raises
    UsageError for an unknown or ambiguous name.
    """
    if interactive:
        return ask(Registry(servers.client, servers.settings))
    file = None if name is None else named_file(name)
    if file is not None:
        return file_origin(file)
    with explained_by_lock(servers.settings, AppError):
        return default_model(servers) if name is None else named_model(servers, name)


def named_model(servers: Servers, name: str) -> Origin | None:
    """Return the model of a name that is not written as a path. Raises UsageError for an unknown or ambiguous one."""
    if name == servers.settings.registered_model:
        return registered_model(servers, name)
    plain = plain_file(servers, name)
    if plain is not None:
        return file_origin(plain)
    return model_of(servers, resolve_model(servers, name), name)


def model_of(servers: Servers, choice: Choice, name: str) -> Lineage:
    """Return the model of a choice; that of a lock or tag is verified, and downloaded if it is not in MODEL_PATH."""
    selected_by = choice.label(name)
    if choice.lineage is not None:
        return with_file(servers, replace(choice.lineage, selected_by=selected_by))
    if choice.version is not None:
        return replace(version_lineage(choice.version), selected_by=selected_by)
    run = mlflow_utils.get_run(servers.client, servers.settings, choice.run_id)
    return replace(mlflow_utils.run_lineage(run), selected_by=selected_by)


def with_file(servers: Servers, lineage: Lineage) -> Lineage:
    """Return the lineage of a lock or tag with the local copy of its file, and with what the file records.

    The copy is MODEL_PATH, if it has the SHA-256, so that a model that is there needs no server. Raises UsageError if it
    is in another store than the configured one.
    """
    settings = servers.settings
    file = working_copy(settings.model_path, lineage.model_path.path)
    if first_changed(file, lineage.model_sha256) is not None:
        require_reachable(servers, lineage)
        file = servers.lake.verified_file(lineage.model_path, lineage.model_sha256, settings.cache_dir)
    record = read_record(file)
    commit = lineage.git_commit if lineage.git_commit != NONE else record.lineage.get("git_commit", NONE)
    return replace(lineage, file=file, git_commit=commit, metrics=record.metrics or lineage.metrics)


def require_reachable(servers: Servers, lineage: Lineage) -> None:
    """Raise UsageError for the model of lakefs.lock if it is in another store, and not in the cache."""
    lock, lake = read_lock(ROOT), servers.lake
    if lock is None or lock.model != lineage.model_path:
        return
    if cached_files(lake, lock.model, servers.settings.cache_dir) is None and not is_reachable(lake, lock):
        raise unreachable_data(lock, lake)


def default_model(servers: Servers) -> Origin | None:
    """Return the model to use without a name, and report a lakefs.lock that names another one.

    With a tag or commit of Git checked out (detached HEAD), lakefs.lock decides: it names the model of that commit. On a
    branch it is the champion, else the best run that was never registered, else the model of lakefs.lock. None: nobody
    answered. Raises UsageError if there is no champion and nobody to ask, AppError if there is no model.
    """
    lock, checked_out = read_lock(ROOT), git.detached_head(ROOT)
    if lock is not None and checked_out is not None:
        notify(
            tr(
                "Git has {name} checked out: using the model of {lock_name} (--model champion: the registered one)",
                name=checked_out,
                lock_name=LOCK_NAME,
            )
        )
        return model_of(servers, lock_choice(lock), LOCK)
    found = registered_model(servers) if lock is None else _registered_or_locked(servers, lock)
    if lock is not None and found is not None and found.model_sha256 != lock.model_sha256:
        notify(
            tr(
                "using {model}; {lock_name} names another model, that of run {run_id}: python infer.py --model lock uses it",
                model=found.version or tr("run {run_id}", run_id=found.run_id),
                lock_name=LOCK_NAME,
                run_id=lock.run_id,
            )
        )
    return found


def _registered_or_locked(servers: Servers, lock: Lock) -> Lineage | None:
    """Return the registered model or best run; where MLflow has neither, the model of the lock."""
    registry = Registry(servers.client, servers.settings)
    if registry.find_aliases() is None and not finished_runs(registry):
        notify(tr("MLflow has no model and no run: using the model of {lock_name}", lock_name=LOCK_NAME))
        return model_of(servers, lock_choice(lock), LOCK)
    return registered_model(servers)


def registered_model(servers: Servers, name: str | None = None) -> Lineage | None:
    """Return the champion, else of what a person chooses, else without a registered model the best run."""
    registry = Registry(servers.client, servers.settings)
    state = read_state(registry)
    if state.champion is not None:
        return replace(version_lineage(state.champion), selected_by=f"champion {state.name}/{state.champion.version}")
    if state.exists or name:
        return ask_version(registry, state)
    return replace(best_unregistered_run(registry), selected_by="best run")


def ask_version(registry: Registry, state: RegistryState) -> Lineage | None:
    """Without a champion, show the versions and ask for one; None if nobody answers. Raises UsageError off a terminal."""
    usable = state.usable()
    if not usable or not is_terminal():
        raise state.nothing_to_predict_with()
    warn(state.problem())
    notify(overview(registry, numbered=True, versions=usable))
    index = choose(tr("version to use"), len(usable))
    return None if index is None else replace(version_lineage(usable[index]), selected_by=FROM_TABLE)


def best_unregistered_run(registry: Registry) -> Lineage:
    """Return the best run that was never registered: a version that was deleted is out of use. Raises AppError."""
    runs = finished_runs(registry)
    never_registered = [run for run in runs if REGISTERED not in run.data.tags]
    if never_registered:
        notify(tr("no registered model: using the best run."))
        return mlflow_utils.run_lineage(never_registered[0])
    if runs:
        raise UsageError(
            tr(
                "no registered model, and every finished run was registered before (the best: {run_id}, as {version}): "
                "register it again: python register_model.py --run-id {run_id}",
                run_id=runs[0].info.run_id,
                version=runs[0].data.tags[REGISTERED],
            )
        )
    raise UsageError(
        tr(
            "no registered model, and no finished run in experiment '{experiment}': run train.py first",
            experiment=registry.settings.mlflow_experiment,
        )
    )


def finished_runs(registry: Registry) -> list[Run]:
    """Return the runs of the configured experiment that have a model, best first."""
    client, settings = registry.client, registry.settings
    experiment = mlflow_utils.get_or_create_experiment(client, settings)
    return mlflow_utils.find_finished_runs(client, settings, experiment, settings.register_metric)


def ask(registry: Registry) -> Lineage | None:
    """Ask for an experiment, then for a version or an unregistered run of it; None if nobody answers."""
    client, settings, metric = registry.client, registry.settings, registry.settings.register_metric
    experiments = mlflow_utils.list_experiments(client, settings)
    notify(format_table(["#", tr("experiment")], [[i, e.name] for i, e in enumerate(experiments, 1)]))
    index = choose(tr("experiment"), len(experiments))
    if index is None:
        return None
    runs = mlflow_utils.find_finished_runs(client, settings, experiments[index].experiment_id, metric)
    if not runs:
        raise AppError(tr("experiment '{name}' has no usable run", name=experiments[index].name))
    arranged = arrange(registry, runs)
    rows = [*_version_rows(registry, runs, arranged, metric)]
    known = {choice.run_id for choice, _ in rows if choice is not None}
    rows += _run_rows(arranged, known, metric)
    choices = [choice for choice, _ in rows if choice is not None]
    numbers = itertools.count(1)
    code, data = "Git", tr("data commit")
    headers = ["#", tr("model"), tr("aliases"), metric, tr("date"), tr("run"), code, data]
    table = [["" if choice is None else str(next(numbers)), *cells] for choice, cells in rows]
    notify(fit_table(headers, table, (data, code)))
    index = choose(tr("model"), len(choices))
    return None if index is None else replace(choices[index], selected_by=FROM_TABLE)


def _run_rows(arranged: Sequence[Row], known: Collection[str], metric: str) -> Iterator[TableRow]:
    """Yield the runs without a version, below each the ones that belong to it; those of `known` are left out."""
    hidden = False  # whether the row is below one that is left out
    for row in arranged:
        hidden = row.run.info.run_id in known or (hidden and not row.chosen and row.depth > 0)
        if hidden:
            continue
        if row.chosen:
            lineage = mlflow_utils.run_lineage(row.run)
            yield lineage, _cells(describe(row.run) or "-", "", lineage, metric, row.run.info.start_time)
        else:
            yield None, _child_cells(row.run, metric)


def _child_cells(run: Run, metric: str) -> list[str]:
    """Return the cells of a run that cannot be chosen: a fold, a trial without a model, or a sweep."""
    figure, date = metric_cell(metric, run.data.metrics, run.data.tags), mlflow_utils.format_time(run.info.start_time)
    name = f"- {describe(run)}" if PARENT_TAG in run.data.tags else describe(run) or str(run.info.run_name)
    return [name, "", figure, date, run.info.run_id[:SHOWN_ID], "", ""]


def _version_rows(registry: Registry, runs: list[Run], arranged: Sequence[Row], metric: str) -> Iterator[TableRow]:
    """Yield the versions of these runs, newest first, each with its cells and folds; a name is that of its model."""
    ids = {run.info.run_id for run in runs}
    folds: dict[str, list[Run]] = {}
    for row in arranged:
        if FOLD_TAG in row.run.data.tags:
            folds.setdefault(row.run.data.tags.get(PARENT_TAG, ""), []).append(row.run)
    for name in registry.model_names():
        aliases = registry.aliases(name)
        for version in registry.versions(name):
            if version.run_id in ids:
                lineage = version_lineage(version)
                marks = aliases_of(version, aliases)
                yield lineage, _cells(str(lineage.version), marks, lineage, metric, version.creation_timestamp)
                yield from ((None, _child_cells(run, metric)) for run in folds.get(lineage.run_id, ()))


def _cells(name: str, aliases: str, lineage: Lineage, metric: str, created: int) -> list[str]:
    figure = metric_cell(metric, lineage.metrics, lineage.classes)
    ids = (lineage.run_id, lineage.git_commit, lineage.data_path.ref)
    return [name, aliases, figure, mlflow_utils.format_time(created), *(text[:SHOWN_ID] for text in ids)]
