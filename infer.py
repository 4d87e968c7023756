"""Predict with a model that MLflow knows: find its lakeFS paths, download it and the data, write masks and overlays.

python infer.py                                    # the champion (else the best run) on its own test or val split
python infer.py --interactive                      # choose experiment and model from tables
python infer.py --input photo.jpg folder/          # new pictures of any size
python infer.py --model image-segmentation/2 --output out/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings, load_settings
from utils.console import AppError, add_common_options, choose, run_script, say, t, table

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from utils.mlflow_utils import Lineage


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="infer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--interactive", action="store_true", help=t("표에서 모델을 고릅니다", "choose a model from tables")
    )
    which.add_argument("--run-id", metavar="ID", help=t("이 실행의 모델", "the model of this run"))
    which.add_argument("--model", metavar="NAME[@ALIAS|/VERSION]", help=t("등록된 모델", "a registered model"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--input",
        nargs="+",
        type=Path,
        metavar="FILE|DIR",
        help=t("새 그림 (기본: 학습 데이터의 test/val)", "new pictures (default: the test or val split)"),
    )
    what.add_argument(
        "--split", choices=("train", "val", "test"), help=t("데이터 커밋의 분할", "split of the data commit")
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=t("결과 폴더 (기본 data/predictions)", "where results go (default: data/predictions)"),
    )
    parser.add_argument(
        "--device", help=t("auto, cpu, cuda, mps (기본 auto)", "auto, cpu, cuda or mps (default: auto)")
    )
    add_common_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where a picture could not be read, the others being done."""
    options = parse(arguments)
    settings = load_settings(device=options.device)
    from utils import mlflow_utils

    lineage = choose_model(mlflow_utils.connect(settings), settings, options)
    if lineage is None:
        say("고르지 않았습니다.", "nothing chosen.")
        return 0
    from train import inference
    from train.checkpoint import load_model
    from train.prepare_data import cache_folder
    from train.preprocess import choose_device
    from utils.lakefs_utils import connect

    items, split = (inference.input_items(options.input) if options.input else []), None
    device, cache = choose_device(settings.device), cache_folder(settings)
    with connect(settings) as lake:
        model_file = lake.verified_file(lineage.model_path, lineage.model_sha256, cache)
        if not items:
            split, items = inference.committed_items(lake, lineage.data_path, options.split, cache)
    model = load_model(model_file, lineage.model_sha256, device)
    show(lineage, split, len(items))
    output = options.output or settings.data_dir / "predictions"
    outcome = inference.predict(model, items, output, lineage, split, device)
    if outcome.miou is not None:
        say(
            f"{split} 분할: 정확도 {outcome.accuracy:.4f}, mIoU {outcome.miou:.4f}",
            f"{split} split: accuracy {outcome.accuracy:.4f}, mIoU {outcome.miou:.4f}",
        )
    say(f"{outcome.written}장을 예측했습니다: {output}", f"predicted {outcome.written} pictures: {output}")
    if outcome.broken:
        lines = "\n".join(f"  {line}" for line in outcome.broken)
        raise AppError(
            t(
                f"읽지 못한 그림 {len(outcome.broken)}장:\n{lines}",
                f"{len(outcome.broken)} pictures could not be read:\n{lines}",
            )
        )
    return 0


def choose_model(client: MlflowClient, settings: Settings, options: argparse.Namespace) -> Lineage | None:
    """What the options name; else the champion, or without a registry entry the best finished run."""
    from utils import mlflow_utils, registry

    if options.interactive:
        return ask(client, settings)
    if options.run_id:
        return mlflow_utils.run_lineage(mlflow_utils.get_run(client, settings, options.run_id))
    if options.model:
        return registry.version_lineage(registry.find_version(client, settings, options.model))
    if registry.CHAMPION in registry.aliases(client, settings, settings.registered_model):
        return registry.version_lineage(registry.find_version(client, settings, settings.registered_model))
    experiment = mlflow_utils.experiment_id(client, settings)
    runs = mlflow_utils.finished_runs(client, settings, experiment, settings.register_metric)
    if not runs:
        raise AppError(
            t(
                f"등록된 모델도, 실험 '{settings.mlflow_experiment}' 의 완료된 실행도 없습니다: train.py 를 먼저 실행하세요",
                f"no registered model, and no finished run in experiment '{settings.mlflow_experiment}': run train.py first",
            )
        )
    say("등록된 모델이 없어 가장 좋은 실행을 씁니다.", "no registered model: taking the best run.")
    return mlflow_utils.run_lineage(runs[0])


def ask(client: MlflowClient, settings: Settings) -> Lineage | None:
    """Choose an experiment, then a registered version or a run of it; None when nobody answers."""
    from utils import mlflow_utils, registry

    experiments = mlflow_utils.experiments(client, settings)
    print(table(["#", t("실험", "experiment")], [[i, e.name] for i, e in enumerate(experiments, 1)]))
    index = choose(t("실험 번호", "experiment"), len(experiments))
    if index is None:
        return None
    metric = settings.register_metric
    runs = mlflow_utils.finished_runs(client, settings, experiments[index].experiment_id, metric)
    ids = {run.info.run_id for run in runs}
    versions = [
        v
        for name in registry.model_names(client, settings)
        for v in registry.versions(client, settings, name)
        if v.run_id in ids
    ]
    if not runs:
        raise AppError(
            t(
                f"실험 '{experiments[index].name}' 에 쓸 수 있는 실행이 없습니다",
                f"experiment '{experiments[index].name}' has no run to use",
            )
        )
    choices = [registry.version_lineage(v) for v in versions] + [mlflow_utils.run_lineage(run) for run in runs]
    times = [v.creation_timestamp for v in versions] + [run.info.start_time for run in runs]
    names = [c.version or t("실행", "run") + f" {c.run_id[:8]}" for c in choices]
    rows = [
        [
            i,
            name,
            f"{c.metrics.get(metric, float('nan')):.4f}",
            mlflow_utils.when(at),
            c.git_commit[:8],
            c.data_path.ref[:8],
        ]
        for i, (c, name, at) in enumerate(zip(choices, names, times, strict=True), 1)
    ]
    print(table(["#", t("모델", "model"), metric, t("날짜", "date"), "Git", t("데이터 커밋", "data commit")], rows))
    index = choose(t("모델 번호", "model"), len(choices))
    return None if index is None else choices[index]


def show(lineage: Lineage, split: str | None, count: int) -> None:
    """Say which model, run, code and data are used."""
    name = lineage.version or t("등록되지 않은 실행", "unregistered run")
    say(
        f"모델: {name} (MLflow 실행 {lineage.run_id}, Git {lineage.git_commit[:12]})",
        f"model: {name} (MLflow run {lineage.run_id}, Git {lineage.git_commit[:12]})",
    )
    print(f"  {lineage.model_path}\n  {lineage.data_path}")
    what = t(f"{split} 분할", f"{split} split") if split else t("새 그림", "new pictures")
    say(f"입력: {what} {count}장", f"input: {what}, {count} pictures")


if __name__ == "__main__":
    run_script(main)
