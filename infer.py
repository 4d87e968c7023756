"""Predict with a model that MLflow knows: find its lakeFS paths, download it and the data, write masks and overlays.

python infer.py                                    # the champion (else the best run) on its own test or val split
python infer.py --interactive                      # choose experiment and model from tables
python infer.py --input photo.jpg folder/          # new images of any size
python infer.py --input clip.mp4                   # a video of overlays (pip install av)
python infer.py --camera 0                         # the same of a camera, until Ctrl-C
python infer.py --input photos/ --select 20        # and the 20 most uncertain images, to be annotated next
python infer.py --model image-segmentation/2 --output out/
python infer.py --serve                            # a page to drop images on, and POST /predict
python infer.py --export onnx                      # for other programs, and for --engine onnxruntime
"""

from __future__ import annotations

import argparse
from pathlib import Path

from config import Settings, load_settings
from core.console import ArgumentParser, add_common_options
from core.i18n import tr
from core.process import run_script
from core.reporting import notify
from core.settings import add_setting_options

PORT = 8080  # default of --serve
# Options that a mode does not use; --serve, --camera and --export name modes, else images are predicted.
FOLDER_OPTIONS, SERVER_OPTIONS = ("output", "extra", "resume", "select"), ("host", "port")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = ArgumentParser(prog="infer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--interactive", action="store_true", help=tr("choose a model from tables"))
    which.add_argument("--run-id", metavar="ID", help=tr("the model of this run"))
    which.add_argument("--model", metavar="NAME[@ALIAS|/VERSION]", help=tr("a registered model"))
    add_mode_options(parser.add_mutually_exclusive_group())
    parser.add_argument(
        "--engine",
        choices=("torch", "onnxruntime"),
        help=tr("inference engine (default: torch); onnxruntime: the exported file, on the CPU"),
    )
    parser.add_argument("--seconds", type=float, metavar="S", help=tr("with --camera: stop after this time"))
    parser.add_argument("--host", metavar="H", help=tr("address of --serve (default: 127.0.0.1, this machine only)"))
    parser.add_argument("--port", type=int, metavar="N", help=tr("port of --serve (default: 8080; 0: any)"))
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=tr("directory of the results (default: data/predictions)")
    )
    parser.add_argument(
        "--tile",
        type=tile_size,
        metavar="auto|N",
        help=tr("predict at the scale of the training, in tiles of N pixels"),
    )
    parser.add_argument(
        "--extra",
        nargs="+",
        default=[],
        choices=("probabilities", "areas", "coco", "polygons"),
        help=tr("also write: npz, csv of class areas, COCO RLE, polygons for labelme and COCO"),
    )
    parser.add_argument(
        "--select",
        type=image_count,
        metavar="N",
        help=tr("with --input: also write the N most uncertain images for annotation in labelme, CVAT or Label Studio"),
    )
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="KEY",
        help=tr("use the model only if its release is signed with this public key"),
    )
    parser.add_argument("--tta", action="store_true", help=tr("test-time augmentation: average with the mirror image"))
    parser.add_argument("--resume", action="store_true", help=tr("resume an interrupted job"))
    add_setting_options(parser, Settings, ["device", "allow_truncated"])
    add_common_options(parser)
    options = parser.parse_args(arguments)
    reject_unused_options(parser, options)
    return options


def add_mode_options(modes: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options that say what is predicted, or what is done instead."""
    modes.add_argument(
        "--input", nargs="+", type=Path, metavar="FILE|DIR", help=tr("new images (default: the test or val split)")
    )
    modes.add_argument("--split", choices=("train", "val", "test"), help=tr("split of the data commit"))
    modes.add_argument("--camera", metavar="N|PATH", help=tr("predict the images of a camera until Ctrl-C"))
    modes.add_argument("--serve", action="store_true", help=tr("serve a web page and POST /predict"))
    modes.add_argument(
        "--export",
        choices=("onnx", "torchscript"),
        help=tr("export the network, compare it, commit it to lakeFS"),
    )


def reject_unused_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options that the chosen mode ignores."""
    unused: tuple[str, ...]
    if options.export:
        unused, mode = (*FOLDER_OPTIONS, *SERVER_OPTIONS, "seconds", "tile", "tta", "engine"), "--export"
        unused = (*unused, "device", "allow_truncated")
    elif options.serve:
        unused, mode = (*FOLDER_OPTIONS, "seconds"), "--serve"
    elif options.camera is not None:
        unused, mode = ("extra", "resume", "select", *SERVER_OPTIONS, "allow_truncated"), "--camera"
    else:
        unused, mode = (*SERVER_OPTIONS, "seconds"), ""
    name = next((name for name in unused if getattr(options, name) not in (None, False, [])), None)
    name = None if name is None else name.replace("_", "-")
    if name is not None and mode:
        parser.error(tr("--{name} cannot be used with {mode}", name=name, mode=mode))
    if name is not None:
        parser.error(tr("--{name} cannot be used without --serve or --camera", name=name))
    if options.require_signature is not None and options.engine == "onnxruntime":
        parser.error(tr("--require-signature cannot be used with --engine onnxruntime: exports are not signed"))
    if options.select is not None and not options.input:
        parser.error(tr("--select needs --input, images without labels"))
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        parser.error(tr("--seconds {seconds}: expected more than 0", seconds=options.seconds))
    if options.port is not None and not 0 <= options.port <= 65535:
        parser.error(tr("--port {port}: expected 0 to 65535", port=options.port))
    options.port = PORT if options.port is None else options.port


def tile_size(text: str) -> int:
    """Return 0 for auto, else pixels."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or not 128 <= int(text) <= 65536:
        raise argparse.ArgumentTypeError(tr("'{text}': expected auto, or 128 to 65536", text=text))
    return int(text)


def image_count(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(tr("'{text}': expected a whole number of at least 1", text=text))
    return int(text)


def main(arguments: list[str]) -> int:
    """Predict as the options ask; return the exit code: 1 if an image could not be read."""
    options = parse(arguments)
    settings = load_settings(device=options.device, allow_truncated=options.allow_truncated)
    from core.errors import AppError
    from inference.commands import Job, run
    from registry.selection import select_model
    from registry.versions import Registry
    from utils import mlflow_utils
    from versioning.lockfile import explained_by_lock

    client = mlflow_utils.connect(settings, read_only=not options.export)
    with explained_by_lock(settings, AppError):
        lineage = select_model(Registry(client, settings), options.run_id, options.model, options.interactive)
    if lineage is None:
        notify(tr("nothing chosen."))
        return 0
    return run(Job(options, settings, client, lineage))


if __name__ == "__main__":
    run_script(main)
