"""What register_model.py does: register, roll back, compare, list; each returns an exit code."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from config import SETTINGS, Settings
from core.console import SHOWN_ID, choose, fit_table
from core.errors import AppError, ExitCode, UsageError
from core.i18n import tr
from core.reporting import notify, record, result, warn
from core.safety.terminal import escape_line
from registry.choice.selection import model_of
from registry.experiment_branch import delete_experiment
from registry.overview import aliases_of, listing, overview
from registry.promotion import Promotion, lock_registry, require_registrable, require_threshold
from registry.state import read_state
from registry.versions import PENDING, REGISTERED, STATE, TEST_METRICS, Registry, version_lineage
from segmentation.means import format_cell, format_metric
from utils import mlflow_utils
from utils.lakefs_utils import connect
from utils.run_names import CHAMPION
from utils.servers import Servers
from versioning.lockfile import explained_by_lock
from versioning.naming.results import resolve_model, resolve_run
from versioning.provenance.signing import make_key

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from utils.lakefs_utils import LakeFS
    from utils.lineage import Lineage


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do what the options ask; return the exit code."""
    if options.make_signing_key is not None:
        public = make_key(options.make_signing_key, settings.signing_key_password)
        notify(tr("private key: {key}; for those who verify: {public}", key=options.make_signing_key, public=public))
        return ExitCode.DONE
    reads_only = options.list or options.compare is not None
    registry = Registry(mlflow_utils.connect(settings, reads_only), settings)
    if options.list:
        record(listing(registry))
        result(overview(registry, long=options.long))
        return ExitCode.DONE
    with explained_by_lock(settings, AppError), connect(settings) as lake:
        if options.compare is not None:
            return compare(registry, lake, options)
        promotion = Promotion(registry, lake, repeated_options(options))
        with lock_registry(settings):
            finished = promotion.finish_pending()
            if options.rollback is not None:
                return rollback(promotion, options)
            return register(promotion, options, [str(version.version) for version in finished])


def repeated_options(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the options of this call that decide its result, as a command that continues it must repeat them."""
    names = ("register_metric", "register_threshold", "register_min_gain", "register_confidence", "signing_key")
    given = {SETTINGS[name].option: getattr(options, name) for name in names}
    repeated = [f"{option} {shlex.quote(str(value))}" for option, value in given.items() if value is not None]
    return (*repeated, *(["--accept-warnings"] if options.register_accept_warnings else []))


def register(promotion: Promotion, options: argparse.Namespace, finished: list[str]) -> int:
    """Register one run, unless it has a version; the exit code tells what it became, or what `finished` became before."""
    registry, settings = promotion.registry, promotion.registry.settings
    run = choose_run(registry, promotion.lake, options)
    if run is None:
        notify(tr("nothing chosen: nothing registered."))
        return ExitCode.DONE
    require_registrable(run, settings)
    if options.force is None:
        require_threshold(run, settings)
    version, unfinished = registry.versions_by_run().get(run.info.run_id), False
    chosen = options.run_id or options.manual or options.force or options.register_accept_warnings
    if version is not None and not chosen:  # a challenger, or what was rolled back, must not be promoted unasked
        notify(
            tr(
                "already registered: {name} v{version}: no run has finished since",
                name=version.name,
                version=version.version,
            )
        )
        state = read_state(registry)
        if state.champion is None:
            warn(str(state.no_champion()))
        unfinished = any(each.tags.get(STATE) == PENDING for each in state.versions)  # reported already
    else:
        version = promotion.register(run, options.force)
        finished = [str(version.version)]
    if not options.keep_branch:
        delete_experiment(promotion.lake, run)
    shown = dict.fromkeys([settings.register_metric, *(name for name in TEST_METRICS if name in run.data.metrics)])
    metrics = ", ".join(f"{name} {format_metric(name, run.data.metrics[name], run.data.tags)}" for name in shown)
    result(escape_line(f"{version.name} v{version.version}: {metrics}, {version.source}"))
    if unfinished:
        return ExitCode.FAILED
    champion = registry.aliases(version.name).get(CHAMPION)
    return ExitCode.BELOW_THRESHOLD if finished and champion not in finished else ExitCode.DONE


def choose_run(registry: Registry, lake: LakeFS, options: argparse.Namespace) -> Run | None:
    """Return the run of the options; else the best since the newest version was created, or without one, of all."""
    client, settings = registry.client, registry.settings
    if options.run_id:
        run_id = resolve_run(_servers(registry, lake), options.run_id)
        return mlflow_utils.get_run(client, settings, run_id)
    runs = mlflow_utils.find_best_runs(client, settings)
    if options.manual:
        return ask_run(registry, runs)
    versions = registry.versions()
    candidates = [run for run in runs if not was_deleted(registry.name, versions, run)]
    if not candidates:
        raise UsageError(
            tr(
                "every finished run was registered before, and its version deleted: register one again: {command}",
                command=f"python register_model.py --run-id {runs[0].info.run_id}"
                + (" --force REASON" if options.force else ""),
            )
        )
    last = max((version.creation_timestamp for version in versions), default=0)
    return next((run for run in candidates if (run.info.end_time or 0) > last), candidates[0])


def was_deleted(name: str, versions: Sequence[ModelVersion], run: Run) -> bool:
    """Return whether a person deleted the version that a run had of this model: it must not come back unasked."""
    registered = run.data.tags.get(REGISTERED, "").rpartition(" v")[0] == name
    return registered and all(version.run_id != run.info.run_id for version in versions)


def rollback(promotion: Promotion, options: argparse.Namespace) -> int:
    """Point `champion` at an earlier version."""
    registry = promotion.registry
    if options.manual:
        target = ask_version(registry, tr("version to roll back to"))
        if target is None:
            notify(tr("nothing chosen."))
            return ExitCode.DONE
    else:
        target = named_version(registry, promotion.lake, options.rollback) if options.rollback else None
    promotion.rollback(target)
    return ExitCode.DONE


def compare(registry: Registry, lake: LakeFS, options: argparse.Namespace) -> int:
    """Compare two models on one split: tables, and images side by side."""
    from registry.comparison.models import compare_models

    if options.manual:
        chosen = [ask_version(registry, name) for name in ("A", "B")]
        pair = [version_lineage(version) for version in chosen if version is not None]
        if len(pair) < 2:
            notify(tr("nothing chosen."))
            return ExitCode.DONE
    else:
        pair = [named_model(registry, lake, spec) for spec in options.compare]
    settings = registry.settings
    compare_models(settings, lake, pair[0], pair[1], options.output or settings.model_path.parent / "compare")
    return ExitCode.DONE


def named_model(registry: Registry, lake: LakeFS, name: str) -> Lineage:
    """Return the model of a run, version, tag or lakefs.lock by any of its names: see `versioning/naming/results.py`."""
    servers = _servers(registry, lake)
    return model_of(servers, resolve_model(servers, name), name)


def named_version(registry: Registry, lake: LakeFS, name: str) -> ModelVersion:
    """Return a version by any of its names, or of those of its run. Raises UsageError for a run without one."""
    choice = resolve_model(_servers(registry, lake), name)
    found = choice.version or registry.versions_by_run().get(choice.run_id)
    if found is None:
        raise UsageError(
            tr("run {run_id} is not registered: python register_model.py --run-id {run_id}", run_id=choice.run_id)
        )
    return found


def _servers(registry: Registry, lake: LakeFS) -> Servers:
    return Servers(registry.settings, client=registry.client, lake=lake)


def ask_version(registry: Registry, prompt: str) -> ModelVersion | None:
    """Show the versions and ask for one; None if nobody answers. Raises UsageError if there is none."""
    versions = registry.versions()
    if not versions:
        raise UsageError(tr("no version of {registered_model}", registered_model=registry.name))
    notify(overview(registry, numbered=True))
    index = choose(prompt, len(versions))
    return None if index is None else versions[index]


def ask_run(registry: Registry, runs: list[Run]) -> Run | None:
    """Show the runs and ask for one; None if nobody answers."""
    known, aliases, metric = registry.versions_by_run(), registry.aliases(), registry.settings.register_metric
    code, data, name = "Git", tr("data commit"), tr("name")
    headers = ["#", metric, tr("date"), tr("run"), name, code, data, tr("registered")]
    rows = []
    for number, run in enumerate(runs, 1):
        tags, version = run.data.tags, known.get(run.info.run_id)
        value = format_cell(metric, run.data.metrics[metric], tags)
        dirty = "+" if tags.get("git_dirty") == "true" else ""
        ids = [tags.get("git_commit", "none")[:SHOWN_ID] + dirty, tags.get("lakefs_data_commit", "none")[:SHOWN_ID]]
        mark = f"v{version.version} {aliases_of(version, aliases)}".rstrip() if version else tr("no")
        shown = [run.info.run_id[:SHOWN_ID], run.info.run_name, *ids, mark]
        rows.append([number, value, mlflow_utils.format_time(run.info.start_time), *shown])
    notify(fit_table(headers, rows, (name, data, code)))
    index = choose(tr("run to register"), len(runs))
    return None if index is None else runs[index]
