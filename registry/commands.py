"""What register_model.py does: register, roll back, compare, list; each returns an exit code."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from config import SETTINGS, Settings
from core.console import choose
from core.errors import AppError, ExitCode, UsageError
from core.i18n import tr
from core.reporting import notify, record, result, warn
from core.safety.terminal import escape_line
from registry.candidates import choose_run, require_registrable, require_threshold
from registry.choice.selection import model_of
from registry.experiment_branch import delete_experiment
from registry.overview import listing, overview
from registry.promotion import Promotion, lock_registry
from registry.records import PENDING, STATE, TEST_METRICS, version_lineage
from registry.state import read_state
from registry.versions import Registry
from segmentation.means import format_metric
from utils import mlflow_utils
from utils.lakefs_utils import connect
from utils.run_metrics import registry_metric
from utils.run_names import CHAMPION
from utils.servers import Servers
from versioning.lockfile import explained_by_lock
from versioning.naming.results import resolve_model
from versioning.provenance.signing import make_key, require_usable_key

if TYPE_CHECKING:
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
    if settings.signing_key is not None and not reads_only:
        require_usable_key(settings.signing_key, settings.signing_key_password)
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
    judged = registry_metric(settings.register_metric, run.data.metrics)
    shown = dict.fromkeys([judged, *(name for name in TEST_METRICS if name in run.data.metrics)])
    metrics = ", ".join(f"{name} {format_metric(name, run.data.metrics[name], run.data.tags)}" for name in shown)
    result(escape_line(f"{version.name} v{version.version}: {metrics}, {version.source}"))
    if unfinished:
        return ExitCode.FAILED
    champion = registry.aliases(version.name).get(CHAMPION)
    return ExitCode.BELOW_THRESHOLD if finished and champion not in finished else ExitCode.DONE


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
