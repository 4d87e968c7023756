"""What infer.py does with a model: predict images, a split, videos or a camera; serve; export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from config import Settings
from core.errors import AppError, ExitCode, UsageError
from core.figures import format_figure
from core.files import require_writable
from core.i18n import tr, trn
from core.reporting import notify
from core.reporting import result as report_result
from core.safety.terminal import escape_line
from inference.earlier import ownership
from inference.job import Job
from inference.model_loading import find_model_file, load_predictor, onnx_device
from utils.lineage import Lineage, Origin

if TYPE_CHECKING:
    from dataset.samples import Item
    from segmentation.predictor import Predictor

LOOPBACK = "127.0.0.1"  # default address of --serve
SHOWN = 10  # selected images that are listed on the console


def check_request(settings: Settings, options: argparse.Namespace) -> None:
    """Raise UsageError for what cannot be done on this machine: before a server is contacted or a file written."""
    if options.require_signature is not None and not options.require_signature.is_file():
        raise UsageError(tr("--require-signature {path}: no such file", path=options.require_signature))
    if options.export:
        from inference import export as exporting

        exporting.require_packages(f"--export {options.export}", exporting.REQUIRED_PACKAGES[options.export])
        return
    if options.output is not None:
        ownership.reject_data_directory(options.output, settings.data_dir)
        require_writable(options.output, "--output")
    if options.camera is not None:
        from inference.streams import video

        video.require_pyav("--camera")
    if options.input:
        from inference.inputs import require_inputs

        require_inputs(options.input)
    _require_extras(options)
    if options.engine == "onnxruntime":
        onnx_device(settings)
    elif settings.device not in ("auto", "cpu"):
        from segmentation.preprocess import choose_device

        choose_device(settings.device)


def run(job: Job) -> int:
    """Do what the options ask; return the exit code."""
    options = job.options
    ownership.reject_data_directory(job.output, job.settings.data_dir)
    if options.export:
        return export(job, options.export)
    if options.serve:
        return serve(job)
    if options.camera is not None:
        return predict_camera(job)
    if options.input:
        return predict_files(job)
    return predict_split(job)


def export(job: Job, kind: str) -> int:
    """Export the model's network, compare it, and commit it to lakeFS."""
    from inference import export as exporting

    exporting.require_packages(f"--export {kind}", exporting.REQUIRED_PACKAGES[kind])
    import torch

    from segmentation.model_file import load_model

    lineage, servers = job.lineage, job.servers
    show(lineage)
    model = load_model(find_model_file(job), lineage.model_sha256, torch.device("cpu"))
    notify(tr("exporting to {kind}, and comparing the export with the original", kind=kind))
    file, place, difference = exporting.export(model, kind, lineage, servers.lake, servers.client, job.settings)
    report_result(
        tr(
            "logits within {difference:.2g} of the original's: {file}\n  {place}",
            difference=difference,
            file=file,
            place=place,
        )
    )
    return ExitCode.DONE


def serve(job: Job) -> int:
    """Serve a web page and POST /predict until Ctrl-C."""
    from inference import server

    predictor = load_predictor(job)
    job.servers.close()
    show(job.origin)
    return server.serve(predictor, job.origin, job.settings, job.options.host or LOOPBACK, job.options.port)


def predict_camera(job: Job) -> int:
    """Predict the images of a camera until Ctrl-C or --seconds."""
    from inference.streams import camera, video

    video.require_pyav("--camera")
    predictor = load_predictor(job)
    job.servers.close()
    show(job.origin)
    source = camera.find_camera(job.options.camera)
    return camera.predict_camera(predictor, source, job.options.seconds, job.origin, job.output)


def predict_files(job: Job) -> int:
    """Predict the images or videos of --input."""
    from inference import inputs, selection
    from inference.streams import video

    options = job.options
    _require_extras(options)
    if options.select is not None:
        selection.reject_corrections(job.output)
    videos = video.select_videos(options.input, job.output)
    if videos and (options.resume or options.extra or options.select):
        raise UsageError(tr("--resume, --extra and --select cannot be used with videos"))
    items = [] if videos else inputs.collect_items(options.input, job.settings.data_dir)
    predictor = load_predictor(job)
    job.servers.close()
    show(job.origin)
    if videos:
        return video.predict_videos(predictor, videos, job.origin, job.output)
    return _predict(job, predictor, items, None)


def predict_split(job: Job) -> int:
    """Predict a split of the data that the model was trained on, and measure it."""
    from dataset.samples import committed_items
    from inference.inputs import name_fault

    _require_extras(job.options)
    source = job.origin.data_path
    if source is None:
        raise UsageError(tr("{file}: does not record its data: name images with --input", file=job.origin.file))
    predictor = load_predictor(job)
    split, items = committed_items(job.servers.lake, source, job.options.split, job.settings.cache_dir)
    items = [replace(item, fault=item.fault or name_fault(item.name, item.image)) for item in items]
    job.servers.close()
    show(job.origin)
    return _predict(job, predictor, items, split)


def _require_extras(options: argparse.Namespace) -> None:
    if "coco" in options.extra:
        from inference.annotations.coco import require_pycocotools

        require_pycocotools()


def _predict(job: Job, predictor: Predictor, items: Sequence[Item], split: str | None) -> int:
    """Predict images into the output directory. Raises AppError that names the images that could not be read."""
    from inference import batch_job
    from inference.tally import report_drift
    from segmentation.means import Coverage, format_mean

    options = job.options
    if split:
        notify(
            trn("input: {split} split, {count} image", "input: {split} split, {count} images", len(items), split=split)
        )
    else:
        notify(trn("input: {count} new image", "input: {count} new images", len(items)))
    outcome = batch_job.predict(predictor, items, job.output, job.origin, split, options.resume, options.extra)
    if outcome.miou is not None:
        report_result(
            tr(
                "{split} split: accuracy {accuracy:.4f}, mIoU {miou}",
                split=split,
                accuracy=outcome.accuracy,
                miou=format_mean(outcome.miou, Coverage.of(outcome.iou.values())),
            )
        )
    if outcome.uncertainty_auroc is not None:
        report_result(
            tr("AUROC of the uncertainty for wrong pixels: {auroc}", auroc=format_figure(outcome.uncertainty_auroc))
        )
    report_drift(outcome.drift)
    report_result(
        trn(
            "predicted {count} image: {output}",
            "predicted {count} images: {output}",
            outcome.written,
            output=job.output,
        )
    )
    if options.select is not None and outcome.written:
        _select(job, predictor)
    if outcome.failed:
        lines = "".join(f"\n  {line}" for line in outcome.failed)
        raise AppError(
            trn("{count} image could not be read:", "{count} images could not be read:", len(outcome.failed)) + lines
        )
    return ExitCode.DONE


def _select(job: Job, predictor: Predictor) -> None:
    """Write the most uncertain images for annotation, and report them."""
    from inference import selection

    selected = selection.write_selection(job.output, job.options.select, predictor.model.classes)
    folder = job.output / selection.FOLDER
    report_result(
        trn(
            "selected the most uncertain image: {folder}",
            "selected the {count} most uncertain images: {folder}",
            len(selected),
            folder=folder,
        )
    )
    for item in selected[:SHOWN]:
        report_result(escape_line(f"  {format_figure(item.uncertainty)}  {item.file}"))
    notify(
        tr("after correcting them: python lake.py import-labels EXPORT --to DIR --selection {folder}", folder=folder)
    )


def show(origin: Origin) -> None:
    """Report which model, run, code and data are used."""
    run_id, commit = origin.run_id, origin.git_commit[:12]
    if isinstance(origin, Lineage) and not origin.version:  # its run may be registered: a tag or a lock does not say
        notify(tr("model of MLflow run {run_id} (Git {commit})", run_id=run_id, commit=commit))
    else:
        name = origin.version or str(origin.file)
        notify(tr("model: {name} (MLflow run {run_id}, Git {commit})", name=name, run_id=run_id, commit=commit))
    places = (origin.model_path or f"SHA-256 {origin.model_sha256}", origin.data_path)
    notify("\n".join(f"  {place}" for place in places if place is not None))
