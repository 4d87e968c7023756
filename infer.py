# PYTHON_ARGCOMPLETE_OK
"""Predict with a model that MLflow knows: find its lakeFS paths, download it and the data, write masks and overlays.

python infer.py                                    # the champion (without a registered model: the best run) on its own test or val split
python infer.py --interactive                      # choose experiment and model from tables
python infer.py --input photo.jpg folder/          # new images of any size
python infer.py --input clip.mp4                   # a video of overlays (pip install av)
python infer.py --camera 0                         # the same of a camera, until Ctrl-C
python infer.py --input photos/ --select 20        # and the 20 most uncertain images, to be annotated next
python infer.py --model v1.0-acc85 --output out/   # of a tag; or: champion, 2, lock (lakefs.lock), models/model.pth
python infer.py --serve                            # a page to drop images on, and POST /predict
python infer.py --export onnx                      # for other programs, and for --engine onnxruntime
"""

from __future__ import annotations

import argparse

from config import ROOT, SETTINGS, Settings, load_settings
from core.command_line.actions import DEFAULT, Actions
from core.command_line.common import make_parser, parse_command_line
from core.command_line.setting_options import add_setting_options, given_options, settings_without_option
from core.command_line.values import UnexpectedValue, path, port, positive_int, positive_number
from core.errors import ExitCode, UsageError
from core.i18n import tr
from core.process import run_script
from core.reporting import notify
from core.settings import name_origins

PORT = 8080  # default of --serve
WHICH = "--interactive --run-id --model --require-signature"
METHOD = "--engine --tile --tta --device"
ACTIONS = Actions(
    {
        "--export": WHICH,
        "--serve": f"{WHICH} {METHOD} --host --port --allow-truncated",
        "--camera": f"{WHICH} {METHOD} --seconds --output",
        DEFAULT: f"{WHICH} {METHOD} --input --split --output --extra --select --resume --allow-truncated",
    },
    exclusive=("--interactive --run-id --model", "--input --split"),
    needs={"--select": "--input"},
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = make_parser("infer.py", __doc__, meant="--input", settings=settings_without_option(Settings))
    parser.add_argument("--interactive", action="store_true", help=tr("choose a model from tables"))
    parser.add_argument("--run-id", metavar="ID", help=tr("the model of this run; at least 4 characters of its ID"))
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=tr(
            "champion, 2, NAME/2, lock (lakefs.lock), a tag such as v1.0-acc85, or a file such as models/model.pth"
        ),
    )
    add_mode_options(parser)
    parser.add_argument(
        "--engine",
        choices=("torch", "onnxruntime"),
        help=tr("inference engine (default: torch); onnxruntime: the exported file, on the CPU"),
    )
    parser.add_argument("--seconds", type=positive_number, metavar="S", help=tr("with --camera: stop after this time"))
    parser.add_argument("--host", metavar="H", help=tr("address of --serve (default: 127.0.0.1, this machine only)"))
    parser.add_argument(
        "--port", type=port, default=PORT, metavar="N", help=tr("port of --serve (default: 8080; 0: any)")
    )
    parser.add_argument(
        "--output", type=path, metavar="DIR", help=tr("directory of the results (default: data/predictions)")
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
        choices=("probabilities", "uncertainty", "areas", "coco", "polygons"),
        help=tr("also write: npz, entropy maps, csv of class areas, COCO RLE, polygons for labelme and COCO"),
    )
    parser.add_argument(
        "--select",
        type=positive_int,
        metavar="N",
        help=tr("with --input: also write the N most uncertain images for annotation in labelme, CVAT or Label Studio"),
    )
    parser.add_argument(
        "--require-signature",
        type=path,
        metavar="KEY",
        help=tr("use the model only if its release is signed with this public key"),
    )
    parser.add_argument("--tta", action="store_true", help=tr("test-time augmentation: average with the mirror image"))
    parser.add_argument("--resume", action="store_true", help=tr("resume an interrupted job"))
    add_setting_options(parser, Settings, ["device", "allow_truncated"])
    options = parse_command_line(parser, arguments, ACTIONS)
    if options.require_signature is not None and options.engine == "onnxruntime":
        raise UsageError(tr("--require-signature cannot be used with --engine onnxruntime: exports are not signed"))
    return options


def add_mode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is predicted, or what is done instead."""
    parser.add_argument(
        "--input", nargs="+", type=path, metavar="FILE|DIR", help=tr("new images (default: the test or val split)")
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help=tr("split of the data commit"))
    parser.add_argument("--camera", metavar="N|PATH", help=tr("predict the images of a camera until Ctrl-C"))
    parser.add_argument("--serve", action="store_true", help=tr("serve a web page and POST /predict"))
    parser.add_argument(
        "--export",
        choices=("onnx", "torchscript"),
        help=tr("export the network, compare it, commit it to lakeFS"),
    )


def tile_size(text: str) -> int:
    """Return 0 for auto, else pixels."""
    if text == "auto":
        return ExitCode.DONE
    if not text.isascii() or not text.isdigit() or not 128 <= int(text) <= 65536:
        raise UnexpectedValue(tr("auto, or 128 to 65536"))
    return int(text)


def main(arguments: list[str]) -> int:
    """Predict as the options ask; return the exit code: 1 if an image could not be read."""
    options = parse(arguments)
    settings = load_settings(device=options.device, allow_truncated=options.allow_truncated)
    from inference.commands import check_request, run
    from inference.job import Job
    from registry.choice.selection import select_model
    from utils.servers import Servers

    with name_origins(SETTINGS, given_options(options, Settings), ROOT / ".env"):
        check_request(settings, options)
    with Servers(settings, read_only=not options.export) as servers:
        origin = select_model(servers, options.model or options.run_id, options.interactive)
        if origin is None:
            notify(tr("nothing chosen."))
            return ExitCode.DONE
        return run(Job(options, settings, servers, origin))


if __name__ == "__main__":
    run_script(main)
