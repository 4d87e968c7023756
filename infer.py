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
from core.console import add_common_options, choose, table
from core.errors import AppError, UsageError
from core.i18n import tr
from core.process import run_script
from core.reporting import notify

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
    which.add_argument("--interactive", action="store_true", help=tr("choose a model from tables"))
    which.add_argument("--run-id", metavar="ID", help=tr("the model of this run"))
    which.add_argument("--model", metavar="NAME[@ALIAS|/VERSION]", help=tr("a registered model"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--input",
        nargs="+",
        type=Path,
        metavar="FILE|DIR",
        help=tr("new pictures (default: the test or val split)"),
    )
    what.add_argument("--split", choices=("train", "val", "test"), help=tr("split of the data commit"))
    what.add_argument(
        "--camera",
        metavar="N|PATH",
        help=tr("predict what a camera sees, until Ctrl-C"),
    )
    what.add_argument("--serve", action="store_true", help=tr("a web page and POST /predict"))
    what.add_argument(
        "--export",
        choices=("onnx", "torchscript"),
        help=tr("export the network, compare it, commit it to lakeFS"),
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "onnxruntime"),
        help=tr("what computes (default: torch); onnxruntime: the exported file, on the CPU"),
    )
    parser.add_argument("--seconds", type=float, metavar="S", help=tr("with --camera: for so long"))
    parser.add_argument(
        "--host",
        metavar="H",
        help=tr("where to serve (default 127.0.0.1: this machine only)"),
    )
    parser.add_argument("--port", type=int, metavar="N", help=tr("default: 8080; 0: any"))
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=tr("where results go (default: data/predictions)"),
    )
    parser.add_argument(
        "--tile",
        type=tile_size,
        metavar="auto|N",
        help=tr("keep the scale of the training, in tiles of N pixels"),
    )
    parser.add_argument(
        "--extra",
        nargs="+",
        default=[],
        choices=("probabilities", "areas", "coco"),
        help=tr("also write: npz, csv of class areas, COCO RLE"),
    )
    parser.add_argument("--tta", action="store_true", help=tr("mean with the mirror image"))
    parser.add_argument(
        "--resume",
        action="store_true",
        help=tr("go on where an interrupted job stopped"),
    )
    parser.add_argument("--device", help=tr("auto, cpu, cuda or mps (default: auto)"))
    add_common_options(parser)
    options = parser.parse_args(arguments)
    refuse_mixed(parser, options)
    return options


def refuse_mixed(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What a way of working does not use is not taken in silence."""
    of_a_folder, of_a_server = ["output", "extra", "resume"], ["host", "port"]
    unused, way = [*of_a_server, "seconds"], tr("without --serve or --camera")
    if options.camera is not None:
        unused, way = ["extra", "resume", *of_a_server], tr("with --camera")
    if options.serve:
        unused, way = [*of_a_folder, "seconds"], tr("with --serve")
    if options.export:
        unused, way = (
            [*of_a_folder, *of_a_server, "seconds", "tile", "tta", "engine", "device"],
            tr("with --export"),
        )
    for name in unused:
        value = getattr(options, name)
        if value is not None and value is not False and value != []:
            parser.error(tr("--{name} does not go {way}", name=name, way=way))
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        parser.error(tr("--seconds {seconds}: above 0", seconds=options.seconds))
    if options.port is not None and not 0 <= options.port <= 65535:
        parser.error(tr("--port {port}: 0 to 65535", port=options.port))
    options.port = PORT if options.port is None else options.port


def tile_size(text: str) -> int:
    """0 for auto, else pixels."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or not 128 <= int(text) <= 65536:
        raise argparse.ArgumentTypeError(tr("'{text}': auto, or 128 to 65536", text=text))
    return int(text)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where a picture could not be read, the others being done."""
    options = parse(arguments)
    settings = load_settings(device=options.device)
    from utils import mlflow_utils

    client = mlflow_utils.connect(settings)
    lineage = choose_model(client, settings, options)
    if lineage is None:
        notify(tr("nothing chosen."))
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
        raise UsageError(tr("--resume and --extra do not go with videos"))
    items, split = (inputs.input_items(options.input) if options.input and not videos else []), None
    cache, engine = cache_folder(settings), options.engine or "torch"
    device = choose_device(settings.device) if engine == "torch" else onnx_device(settings)
    forward = None
    with connect(settings) as lake:
        model_file = lake.verified_file(lineage.model_path, lineage.model_sha256, cache)
        if not options.input and not options.serve and options.camera is None:
            from dataset import samples

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
        raise UsageError(tr("--engine onnxruntime: CPU only (DEVICE={found})", found=found))
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
    notify(
        tr(
            "logits within {difference:.2g} of the original's: {file}\n  {place}",
            difference=difference,
            file=file,
            place=place,
        )
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

    what = tr("{split} split", split=split) if split else tr("new pictures")
    notify(tr("input: {what}, {count} pictures", what=what, count=len(items)))
    outcome = batch_job.predict(predictor, items, output, lineage, split, options.resume, options.extra)
    if outcome.miou is not None:
        notify(
            tr(
                "{split} split: accuracy {accuracy:.4f}, mIoU {miou:.4f}",
                split=split,
                accuracy=outcome.accuracy,
                miou=outcome.miou,
            )
        )
    notify(tr("predicted {written} pictures: {output}", written=outcome.written, output=output))
    if outcome.broken:
        lines = "\n".join(f"  {line}" for line in outcome.broken)
        raise AppError(tr("{count} pictures could not be read:\n{lines}", count=len(outcome.broken), lines=lines))
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
            tr(
                "no registered model, and no finished run in experiment '{mlflow_experiment}': run train.py first",
                mlflow_experiment=settings.mlflow_experiment,
            )
        )
    notify(tr("no registered model: taking the best run."))
    return mlflow_utils.run_lineage(runs[0])


def ask(client: MlflowClient, settings: Settings) -> Lineage | None:
    """Choose an experiment, then a registered version or a run of it; None when nobody answers."""
    from registry import versions as registry
    from utils import mlflow_utils

    experiments = mlflow_utils.experiments(client, settings)
    print(table(["#", tr("experiment")], [[i, e.name] for i, e in enumerate(experiments, 1)]))
    index = choose(tr("experiment"), len(experiments))
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
        raise AppError(tr("experiment '{name}' has no run to use", name=experiments[index].name))
    choices = [registry.version_lineage(v) for v in versions] + [mlflow_utils.run_lineage(run) for run in runs]
    times = [v.creation_timestamp for v in versions] + [run.info.start_time for run in runs]
    names = [c.version or tr("run") + f" {c.run_id[:8]}" for c in choices]
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
    print(table(["#", tr("model"), metric, tr("date"), "Git", tr("data commit")], rows))
    index = choose(tr("model"), len(choices))
    return None if index is None else choices[index]


def show(lineage: Lineage) -> None:
    """Say which model, run, code and data are used."""
    name = lineage.version or tr("unregistered run")
    notify(
        tr(
            "model: {name} (MLflow run {run_id}, Git {git_commit})",
            name=name,
            run_id=lineage.run_id,
            git_commit=lineage.git_commit[:12],
        )
    )
    print(f"  {lineage.model_path}\n  {lineage.data_path}")


if __name__ == "__main__":
    run_script(main)
