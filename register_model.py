"""Register the best run's model in MLflow when it is good enough; the file stays in lakeFS.

    python register_model.py                           # the best finished run by REGISTER_METRIC
    python register_model.py --manual                  # choose from a table
    python register_model.py --run-id ID --threshold 0.6

The branch of an experiment (train.py --experiment-branch) is merged into the target first, and deleted after.

Exit code 3: below the threshold, nothing registered.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from config import Settings, load_settings
from utils.console import AppError, add_common_options, choose, run_script, say, t, table

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="register_model.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--manual", action="store_true", help=t("표에서 실행을 고릅니다", "choose a run from a table"))
    which.add_argument("--run-id", metavar="ID", help=t("이 실행을 등록합니다", "register this run"))
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help=t("비교할 지표 (기본 best_val_miou)", "metric that decides (default: best_val_miou)"),
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X", help=t("등록할 최솟값 (기본 0.3)", "smallest value (default: 0.3)")
    )
    parser.add_argument(
        "--keep-branch",
        action="store_true",
        help=t("병합한 실험 브랜치를 지우지 않습니다", "keep the branch of an experiment after its merge"),
    )
    add_common_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    settings = load_settings(register_metric=options.metric, register_threshold=options.threshold)
    from utils import mlflow_utils, registry
    from utils.lakefs_utils import connect

    client = mlflow_utils.connect(settings)
    if options.run_id:
        run: Run | None = mlflow_utils.get_run(client, settings, options.run_id)
    else:
        runs = best_runs(client, settings)
        run = ask(client, settings, runs) if options.manual else runs[0]
    if run is None:
        say("고르지 않았습니다: 등록하지 않았습니다.", "nothing chosen: nothing registered.")
        return 0
    registry.require_registrable(run, settings)
    with connect(settings) as lake:
        registry.merge_experiment(lake, run)
        version = registry.register(client, lake, settings, run)
        if not options.keep_branch:
            registry.delete_experiment(lake, run)
    print(
        f"{version.name} v{version.version}: {settings.register_metric} {run.data.metrics[settings.register_metric]:.4f}, {version.source}"
    )
    return 0


def best_runs(client: MlflowClient, settings: Settings) -> list[Run]:
    """Runs that could be registered, best first. Raises AppError where there is none."""
    from utils import mlflow_utils

    experiment = mlflow_utils.experiment_id(client, settings)
    runs = mlflow_utils.finished_runs(client, settings, experiment, settings.register_metric)
    if not runs:
        name, metric = settings.mlflow_experiment, settings.register_metric
        raise AppError(
            t(
                f"실험 '{name}' 에 지표 '{metric}' 이(가) 있는 완료된 실행이 없습니다: train.py 를 먼저 실행하세요",
                f"no finished run with metric '{metric}' in experiment '{name}': run train.py first",
            )
        )
    return runs


def ask(client: MlflowClient, settings: Settings, runs: list[Run]) -> Run | None:
    """Show the runs and ask for one; None when nobody answers."""
    from utils import mlflow_utils, registry

    known = registry.registered(client, settings)
    headers = [
        "#",
        settings.register_metric,
        t("날짜", "date"),
        t("실행", "run"),
        "Git",
        t("데이터 커밋", "data commit"),
        t("등록", "registered"),
    ]
    rows = []
    for number, run in enumerate(runs, 1):
        tags, version = run.data.tags, known.get(run.info.run_id)
        value = f"{run.data.metrics[settings.register_metric]:.4f}"
        dirty = "+" if tags.get("git_dirty") == "true" else ""
        commits = [tags.get("git_commit", "none")[:8] + dirty, tags.get("lakefs_data_commit", "none")[:8]]
        mark = f"v{version.version}" if version else t("아니요", "no")
        rows.append([number, value, mlflow_utils.when(run.info.start_time), run.info.run_name, *commits, mark])
    print(table(headers, rows))
    index = choose(t("등록할 실행 번호", "run to register"), len(runs))
    return None if index is None else runs[index]


if __name__ == "__main__":
    run_script(main)
