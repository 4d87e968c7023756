"""Predict with a model that MLflow knows: find its lakeFS paths, download it and the data, write masks and overlays.

python infer.py                                    # the champion (else the best run) on its own test or val split
python infer.py --interactive                      # choose experiment and model from tables
python infer.py --input photo.jpg folder/          # new pictures of any size
python infer.py --input clip.mp4                   # a video of overlays (pip install av)
python infer.py --camera 0                         # the same of a camera, until Ctrl-C
python infer.py --model image-segmentation/2 --output out/
python infer.py --serve                            # a page to drop pictures on, and POST /predict
python infer.py --export onnx                      # for other programs, and for --engine onnxruntime
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings, load_settings
from core.console import add_common_options, choose, say, table
from core.errors import AppError, UsageError
from core.i18n import t
from core.process import run_script
from dataset import samples

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient

    from dataset.samples import Item
    from segmentation.predictor import Predictor
    from utils.lineage import Lineage

LOOPBACK, PORT = "127.0.0.1", 8080  # where --serve listens, unless it is told otherwise


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
    what.add_argument(
        "--camera",
        metavar="N|PATH",
        help=t("카메라의 그림을 Ctrl-C 까지 예측", "predict what a camera sees, until Ctrl-C"),
    )
    what.add_argument(
        "--serve", action="store_true", help=t("그림을 받는 웹 페이지와 POST /predict", "a web page and POST /predict")
    )
    what.add_argument(
        "--export",
        choices=("onnx", "torchscript"),
        help=t("신경망을 내보내 비교하고 lakeFS 에 커밋", "export the network, compare it, commit it to lakeFS"),
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "onnxruntime"),
        help=t(
            "무엇으로 계산할지 (기본 torch)",
            "what computes (default: torch); onnxruntime: the exported file, on the CPU",
        ),
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help=t("--camera 를 S 초 동안", "with --camera: for so long")
    )
    parser.add_argument(
        "--host",
        metavar="H",
        help=t(
            "--serve 의 주소 (기본 127.0.0.1: 이 컴퓨터만)", "where to serve (default 127.0.0.1: this machine only)"
        ),
    )
    parser.add_argument("--port", type=int, metavar="N", help=t("--serve 의 포트 (기본 8080)", "default: 8080; 0: any"))
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=t("결과 폴더 (기본 data/predictions)", "where results go (default: data/predictions)"),
    )
    parser.add_argument(
        "--tile",
        type=tile_size,
        metavar="auto|N",
        help=t("학습 배율 그대로, N 픽셀 타일로", "keep the scale of the training, in tiles of N pixels"),
    )
    parser.add_argument(
        "--extra",
        nargs="+",
        default=[],
        choices=("probabilities", "areas", "coco"),
        help=t("더 쓸 것: 확률(npz), 클래스별 넓이(csv), COCO RLE", "also write: npz, csv of class areas, COCO RLE"),
    )
    parser.add_argument("--tta", action="store_true", help=t("좌우 반전과의 평균", "mean with the mirror image"))
    parser.add_argument(
        "--resume",
        action="store_true",
        help=t("중단된 작업을 이어서 합니다", "go on where an interrupted job stopped"),
    )
    parser.add_argument(
        "--device", help=t("auto, cpu, cuda, mps (기본 auto)", "auto, cpu, cuda or mps (default: auto)")
    )
    add_common_options(parser)
    options = parser.parse_args(arguments)
    refuse_mixed(parser, options)
    return options


def refuse_mixed(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What a way of working does not use is not taken in silence."""
    of_a_folder, of_a_server = ["output", "extra", "resume"], ["host", "port"]
    unused, way = [*of_a_server, "seconds"], t("--serve, --camera 없이는", "without --serve or --camera")
    if options.camera is not None:
        unused, way = ["extra", "resume", *of_a_server], t("--camera 와는", "with --camera")
    if options.serve:
        unused, way = [*of_a_folder, "seconds"], t("--serve 와는", "with --serve")
    if options.export:
        unused, way = (
            [*of_a_folder, *of_a_server, "seconds", "tile", "tta", "engine", "device"],
            t("--export 와는", "with --export"),
        )
    for name in unused:
        value = getattr(options, name)
        if value is not None and value is not False and value != []:
            parser.error(t(f"{way} --{name} 을(를) 쓸 수 없습니다", f"--{name} does not go {way}"))
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        parser.error(t(f"--seconds {options.seconds}: 0 보다 커야 합니다", f"--seconds {options.seconds}: above 0"))
    if options.port is not None and not 0 <= options.port <= 65535:
        parser.error(t(f"--port {options.port}: 0~65535", f"--port {options.port}: 0 to 65535"))
    options.port = PORT if options.port is None else options.port


def tile_size(text: str) -> int:
    """0 for auto, else pixels."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or not 128 <= int(text) <= 65536:
        raise argparse.ArgumentTypeError(t(f"'{text}': auto 또는 128~65536", f"'{text}': auto, or 128 to 65536"))
    return int(text)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where a picture could not be read, the others being done."""
    options = parse(arguments)
    settings = load_settings(device=options.device)
    from utils import mlflow_utils

    client = mlflow_utils.connect(settings)
    lineage = choose_model(client, settings, options)
    if lineage is None:
        say("고르지 않았습니다.", "nothing chosen.")
        return 0
    if options.export:
        return export(lineage, client, settings, options.export)
    from config import cache_folder
    from inference import inputs, video
    from inference.coco import require_pycocotools
    from segmentation.model_file import load_model
    from segmentation.predictor import Method, Predictor
    from segmentation.preprocess import choose_device
    from utils.lakefs_utils import connect

    if "coco" in options.extra:
        require_pycocotools()
    if options.camera is not None:
        video.require_pyav("--camera")
    output = options.output or settings.data_dir / "predictions"
    videos = video.chosen(options.input or [], output)
    if videos and (options.resume or options.extra):
        raise UsageError(
            t("동영상에는 --resume, --extra 를 쓸 수 없습니다", "--resume and --extra do not go with videos")
        )
    items, split = (inputs.input_items(options.input) if options.input and not videos else []), None
    cache, engine = cache_folder(settings), options.engine or "torch"
    device = choose_device(settings.device) if engine == "torch" else onnx_device(settings)
    forward = None
    with connect(settings) as lake:
        model_file = lake.verified_file(lineage.model_path, lineage.model_sha256, cache)
        if not options.input and not options.serve and options.camera is None:
            split, items = samples.committed_items(lake, lineage.data_path, options.split, cache)
        if engine == "onnxruntime":
            from inference.export import fetch_onnx, onnx_forward

            forward = onnx_forward(fetch_onnx(lineage, lake, client, settings, cache).read_bytes())
    method = Method(options.tile, options.tta, "probabilities" in options.extra)
    predictor = Predictor(load_model(model_file, lineage.model_sha256, device), device, method, forward, engine)
    show(lineage)
    if options.serve:
        from inference.server import serve

        return serve(predictor, lineage, settings, options.host or LOOPBACK, options.port)
    if options.camera is not None:
        from inference.camera import camera, predict_camera

        return predict_camera(predictor, camera(options.camera), options.seconds, lineage, output)
    if videos:
        return video.predict_videos(predictor, videos, lineage, output)
    return predict(predictor, items, split, lineage, options, output)


def onnx_device(settings: Settings) -> torch.device:
    """The CPU. Raises UsageError where another device is wanted, or ONNX Runtime is missing."""
    from inference.export import require
    from segmentation.preprocess import choose_device

    require("--engine onnxruntime", ("onnxruntime",))
    if settings.device not in ("auto", "cpu"):
        found = settings.device
        raise UsageError(
            t(
                f"--engine onnxruntime 는 CPU 에서만 됩니다 (DEVICE={found})",
                f"--engine onnxruntime: CPU only (DEVICE={found})",
            )
        )
    return choose_device("cpu")


def export(lineage: Lineage, client: MlflowClient, settings: Settings, kind: str) -> int:
    """Export the model's network and say where it is."""
    from inference import export as exporting

    exporting.require(f"--export {kind}", exporting.NEEDED[kind])
    import torch

    from config import cache_folder
    from segmentation.model_file import load_model
    from utils.lakefs_utils import connect

    show(lineage)
    with connect(settings) as lake:
        model_file = lake.verified_file(lineage.model_path, lineage.model_sha256, cache_folder(settings))
        model = load_model(model_file, lineage.model_sha256, torch.device("cpu"))
        file, place, difference = exporting.export(model, kind, lineage, lake, client, settings)
    say(
        f"로짓의 차이 {difference:.2g} 이하: {file}\n  {place}",
        f"logits within {difference:.2g} of the original's: {file}\n  {place}",
    )
    return 0


def predict(
    predictor: Predictor,
    items: Sequence[Item],
    split: str | None,
    lineage: Lineage,
    options: argparse.Namespace,
    output: Path,
) -> int:
    """Predict pictures into a folder and say what came of it. Raises AppError that names what could not be read."""
    from inference import batch_job

    what = t(f"{split} 분할", f"{split} split") if split else t("새 그림", "new pictures")
    say(f"입력: {what} {len(items)}장", f"input: {what}, {len(items)} pictures")
    outcome = batch_job.predict(predictor, items, output, lineage, split, options.resume, options.extra)
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
    from registry import versions as registry
    from utils import mlflow_utils

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
    from registry import versions as registry
    from utils import mlflow_utils

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


def show(lineage: Lineage) -> None:
    """Say which model, run, code and data are used."""
    name = lineage.version or t("등록되지 않은 실행", "unregistered run")
    say(
        f"모델: {name} (MLflow 실행 {lineage.run_id}, Git {lineage.git_commit[:12]})",
        f"model: {name} (MLflow run {lineage.run_id}, Git {lineage.git_commit[:12]})",
    )
    print(f"  {lineage.model_path}\n  {lineage.data_path}")


if __name__ == "__main__":
    run_script(main)
