"""Register a run's model; it becomes champion when it is better than the champion on the same pictures, else challenger.

    python register_model.py                           # the best run since the last registration
    python register_model.py --run-id ID --min-gain 0.01
    python register_model.py --list                    # versions, aliases, figures, where they come from
    python register_model.py --rollback                # the champion before this one; or --rollback 3
    python register_model.py --compare 2 3             # tables, and pictures side by side in models/compare/
    python register_model.py --manual                  # choose from a table; with --rollback or --compare too

Exit code 3: below the threshold and not registered, or registered (or a cut-off registration finished) as challenger.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings, load_settings
from core.console import add_common_options, choose, table
from core.errors import EXIT_BELOW_THRESHOLD, EXIT_DONE, EXIT_FAILED, UsageError
from core.i18n import tr
from core.process import run_script
from core.reporting import notify
from registry import experiment_branch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from utils.lakefs_utils import LakeFS
    from utils.lineage import Lineage


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="register_model.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run-id", metavar="ID", help=tr("register this run"))
    what.add_argument("--list", action="store_true", help=tr("show versions and where they come from"))
    what.add_argument(
        "--rollback",
        nargs="?",
        const="",
        metavar="VERSION",
        help=tr("make an earlier version champion (default: the one before)"),
    )
    what.add_argument(
        "--compare",
        nargs="*",
        metavar="A B",
        help=tr("compare two versions or runs on the same pictures"),
    )
    parser.add_argument("--manual", action="store_true", help=tr("choose from a table"))
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help=tr("metric that decides (default: best_val_miou)"),
    )
    parser.add_argument("--threshold", type=float, metavar="X", help=tr("smallest value (default: 0.3)"))
    parser.add_argument(
        "--min-gain",
        type=float,
        metavar="X",
        help=tr("smallest gain over the champion (default: 0)"),
    )
    parser.add_argument(
        "--force",
        metavar="WHY",
        help=tr("champion whatever the gate says; recorded with who and why"),
    )
    parser.add_argument(
        "--keep-branch",
        action="store_true",
        help=tr("keep the branch of an experiment after its merge"),
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=tr("where --compare writes (default: models/compare)"),
    )
    add_common_options(parser)
    options = parser.parse_args(arguments)
    if options.compare is not None and len(options.compare) != (0 if options.manual else 2):
        parser.error(tr("--compare takes A and B (none with --manual)"))
    if options.manual and options.run_id:
        parser.error(tr("--manual: not allowed with --run-id"))
    if options.force is not None and not options.force.strip():
        parser.error(tr("--force needs a reason"))
    return options


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    settings = load_settings(
        register_metric=options.metric, register_threshold=options.threshold, register_min_gain=options.min_gain
    )
    from registry import versions as registry
    from utils import mlflow_utils
    from utils.lakefs_utils import connect

    client = mlflow_utils.connect(settings)
    if options.list:
        print(registry.overview(client, settings, settings.registered_model))
        return EXIT_DONE
    with connect(settings) as lake:
        if options.compare is not None:
            return compare(client, lake, settings, options)
        from registry import promotion

        with promotion.alone(settings):
            finished = promotion.finish_pending(client, lake, settings)
            if options.rollback is not None:
                return rollback(client, lake, settings, options)
            return register(client, lake, settings, options, [str(version.version) for version in finished])


def register(
    client: MlflowClient, lake: LakeFS, settings: Settings, options: argparse.Namespace, finished: list[str]
) -> int:
    """Register one run, unless it has a version; what it became decides the exit code, else what was `finished` before."""
    from registry import promotion
    from registry import versions as registry

    run = choose_run(client, settings, options)
    if run is None:
        notify(tr("nothing chosen: nothing registered."))
        return EXIT_DONE
    promotion.require_registrable(run, settings)
    if options.force is None:
        promotion.require_threshold(run, settings)
    version = registry.registered(client, settings).get(run.info.run_id)
    chosen = options.run_id or options.manual or options.force
    if version is not None and not chosen:  # a challenger, or what was rolled back, must not come in again by itself
        notify(
            tr(
                "already registered: {name} v{version}: no run has finished since",
                name=version.name,
                version=version.version,
            )
        )
        known = registry.versions(client, settings, version.name)
        stuck = any(each.tags.get(promotion.STATE) == promotion.PENDING for each in known)  # said already
    else:
        version = promotion.register(client, lake, settings, run, options.force)
        finished = [str(version.version)]
        stuck = False
    if not options.keep_branch:
        experiment_branch.delete_experiment(lake, run)
    value = run.data.metrics[settings.register_metric]
    print(f"{version.name} v{version.version}: {settings.register_metric} {value:.4f}, {version.source}")
    if stuck:
        return EXIT_FAILED
    champion = registry.aliases(client, settings, version.name).get(registry.CHAMPION)
    return EXIT_BELOW_THRESHOLD if finished and champion not in finished else EXIT_DONE


def choose_run(client: MlflowClient, settings: Settings, options: argparse.Namespace) -> Run | None:
    """The run of the options; else the best since the newest version was made, or where there is none, the best of all."""
    from registry import versions as registry
    from utils import mlflow_utils

    if options.run_id:
        return mlflow_utils.get_run(client, settings, options.run_id)
    runs = mlflow_utils.best_runs(client, settings)
    if options.manual:
        return ask_run(client, settings, runs)
    versions = registry.versions(client, settings, settings.registered_model)
    last = max((version.creation_timestamp for version in versions), default=0)
    return next((run for run in runs if (run.info.end_time or 0) > last), runs[0])


def rollback(client: MlflowClient, lake: LakeFS, settings: Settings, options: argparse.Namespace) -> int:
    """Point `champion` at an earlier version."""
    from registry import promotion
    from registry import versions as registry

    if options.manual:
        chosen = ask_version(client, settings, tr("version to go back to"))
        if chosen is None:
            notify(tr("nothing chosen."))
            return EXIT_DONE
    else:
        spec = options.rollback
        chosen = registry.find_version(client, settings, registry.spelled(settings, spec)) if spec else None
    promotion.rollback(client, lake, settings, chosen)
    return EXIT_DONE


def compare(client: MlflowClient, lake: LakeFS, settings: Settings, options: argparse.Namespace) -> int:
    """Tables and pictures of two models on one split."""
    from registry.compare import compare_models

    if options.manual:
        pair = [ask_version(client, settings, name) for name in ("A", "B")]
        if any(version is None for version in pair):
            notify(tr("nothing chosen."))
            return EXIT_DONE
        from registry import versions as registry

        first, second = (registry.version_lineage(version) for version in pair if version)
    else:
        first, second = (named(client, settings, spec) for spec in options.compare)
    compare_models(settings, lake, first, second, options.output or settings.model_path.parent / "compare")
    return EXIT_DONE


def named(client: MlflowClient, settings: Settings, spec: str) -> Lineage:
    """The model of a run id, or of a version: 3, v3, champion, NAME/3, NAME@champion."""
    import re

    from registry import versions as registry
    from utils import mlflow_utils

    if re.fullmatch(r"[0-9a-f]{32}", spec):
        return mlflow_utils.run_lineage(mlflow_utils.get_run(client, settings, spec))
    return registry.version_lineage(registry.find_version(client, settings, registry.spelled(settings, spec)))


def ask_version(client: MlflowClient, settings: Settings, prompt: str) -> ModelVersion | None:
    """Show the versions and ask for one; None when nobody answers. Raises UsageError where there is none."""
    from registry import versions as registry

    versions = registry.versions(client, settings, settings.registered_model)
    if not versions:
        raise UsageError(tr("no version of {registered_model}", registered_model=settings.registered_model))
    print(registry.overview(client, settings, settings.registered_model, numbered=True))
    index = choose(prompt, len(versions))
    return None if index is None else versions[index]


def ask_run(client: MlflowClient, settings: Settings, runs: list[Run]) -> Run | None:
    """Show the runs and ask for one; None when nobody answers."""
    from registry import versions as registry
    from utils import mlflow_utils

    known = registry.registered(client, settings)
    headers = [
        "#",
        settings.register_metric,
        tr("date"),
        tr("run"),
        "Git",
        tr("data commit"),
        tr("registered"),
    ]
    rows = []
    for number, run in enumerate(runs, 1):
        tags, version = run.data.tags, known.get(run.info.run_id)
        value = f"{run.data.metrics[settings.register_metric]:.4f}"
        dirty = "+" if tags.get("git_dirty") == "true" else ""
        commits = [tags.get("git_commit", "none")[:8] + dirty, tags.get("lakefs_data_commit", "none")[:8]]
        mark = f"v{version.version}" if version else tr("no")
        rows.append([number, value, mlflow_utils.when(run.info.start_time), run.info.run_name, *commits, mark])
    print(table(headers, rows))
    index = choose(tr("run to register"), len(runs))
    return None if index is None else runs[index]


if __name__ == "__main__":
    run_script(main)
