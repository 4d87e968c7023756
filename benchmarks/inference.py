"""Compare inference with the limit of the machine: a directory of images from reading to writing, and one image.

    python benchmarks/inference.py folder IMAGES MODEL.pth [--count 1000]   # e.g. CamVid's 360x480 PNG files
    python benchmarks/inference.py agreement FOLDER MODEL.pth --tiles 352     # FOLDER/images, FOLDER/masks
    python benchmarks/inference.py one IMAGE MODEL.pth                        # in a project that has a trained run

`folder`: the limit is the CPU time of reading, network and writing, each measured by itself on one thread, divided by
the cores. It is measured again in every round, before the pipeline and the plain loop: the same machine is a quarter
faster in one minute than in another. The median of the rounds is shown with the least and the largest. Where other
programs run too, compare the CPU seconds: the wall clock is theirs as well.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.console import format_table
from core.hashing import file_sha256
from core.i18n import set_language
from core.machine.heap import keep_freed_memory

SAMPLE = 128  # images for the stages, measured one by one


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@contextlib.contextmanager
def measured(rows: list[list[Any]], name: str, count: int) -> Iterator[None]:
    """Append a row: name, CPU milliseconds and wall milliseconds per image."""
    cpu, wall = cpu_seconds(), time.monotonic()
    yield
    rows.append([name, (cpu_seconds() - cpu) / count * 1000, (time.monotonic() - wall) / count * 1000])


def make_job(predictor: Any, folder: Path, output: Path) -> Any:
    """Return the job that infer.py makes of a directory of images."""
    from inference import batch_job, inputs

    return batch_job.BatchJob(predictor, inputs.collect_items([folder]), output, unknown_lineage(), None)


def unknown_lineage() -> Any:
    """Return a lineage for measurements that nobody traces."""
    from utils.lakefs_utils import LakePath
    from utils.lineage import Lineage

    model, data = LakePath("repo", "1" * 64, "models/model.pth"), LakePath("repo", "2" * 64, "data/")
    return Lineage("f" * 32, None, model, "0" * 64, data, "none", {})


def stages(predictor: Any, folder: Path, output: Path, rows: list[list[Any]]) -> None:
    """Measure reading, network and writing by themselves, on one thread each."""
    import torch

    from segmentation.preprocess import EVAL_BATCH

    output.mkdir()
    job = make_job(predictor, folder, output)
    items = job.items[:SAMPLE]
    count = len(items)
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    with measured(rows, "read", count):
        images = [job.read(item) for item in items]
    predictor.predict(images[:EVAL_BATCH])
    with measured(rows, "network", count):
        found = [i for at in range(0, count, EVAL_BATCH) for i in predictor.predict(images[at : at + EVAL_BATCH])]
    with measured(rows, "write", count):
        for item, image, indices in zip(items, images, found, strict=True):
            job.write(item, image, indices)
    torch.set_num_threads(cores)


def pipeline(predictor: Any, folder: Path, output: Path, rows: list[list[Any]]) -> None:
    """Measure the whole job, as infer.py does it."""
    output.mkdir()
    job = make_job(predictor, folder, output)
    with measured(rows, "pipeline", len(job.items)):
        job.run()
        job.finish()


def plain_loop(predictor: Any, folder: Path, output: Path, rows: list[list[Any]]) -> None:
    """Measure the simplest loop, image by image with the defaults of Pillow and PyTorch; it writes the same files."""
    import numpy as np
    import torch
    from PIL import Image

    from segmentation.preprocess import native_logits

    model = predictor.model
    output.mkdir()
    paths = sorted(folder.iterdir())
    with measured(rows, "plain loop", len(paths)), torch.inference_mode():
        for path in paths:
            image = Image.open(path).convert("RGB")
            small = np.array(image.resize(model.input_size[::-1], Image.Resampling.BILINEAR))
            batch = torch.from_numpy(small).permute(2, 0, 1)[None]
            (logits,) = native_logits(model.network, batch, [image.size[::-1]], model.normalisation, predictor.device)
            mask = Image.fromarray(logits.argmax(0).byte().numpy())
            mask.putpalette(model.classes.palette())
            mask.save(output / f"{path.stem}.png")
            Image.blend(image, mask.convert("RGB"), 0.55).save(output / f"{path.stem}_overlay.jpg", quality=90)


def folder(options: argparse.Namespace) -> None:
    """Predict `count` copies of the images by the pipeline and by a plain loop."""
    from segmentation.model_file import load_model
    from segmentation.predictor import Predictor
    from segmentation.preprocess import choose_device

    cpu = choose_device("cpu")
    keep_freed_memory()
    predictor = Predictor(load_model(options.model, file_sha256(options.model), cpu), cpu)
    with tempfile.TemporaryDirectory() as name:
        images = Path(name, "in")
        images.mkdir()
        sources = sorted(path for path in options.images.iterdir() if path.is_file())
        for i in range(options.count):
            shutil.copy(sources[i % len(sources)], images / f"{i:05}{sources[i % len(sources)].suffix}")
        rows: list[list[Any]] = []
        for turn in range(options.rounds):
            for step in (stages, pipeline, plain_loop):
                # Nothing is removed before the end: ext4 writes small files more slowly after that.
                step(predictor, images, Path(name, f"{step.__name__}{turn}"), rows)
    by_name: dict[str, list[tuple[float, float]]] = {}
    for step_name, cpu_ms, wall_ms in rows:
        by_name.setdefault(step_name, []).append((cpu_ms, wall_ms))
    shown = [[name, *(spread([pair[k] for pair in pairs], 1) for k in (0, 1))] for name, pairs in by_name.items()]
    print(format_table([f"{options.count} images", "CPU ms per image", "wall ms per image"], shown))
    one_by_one = zip(*(by_name[part] for part in ("read", "network", "write")), strict=True)
    limits = [sum(cpu_ms for cpu_ms, _ in part) / predictor.cores for part in one_by_one]
    print(f"limit on {predictor.cores} cores: {spread(limits, 1)} ms per image")
    for what, k in (("CPU", 0), ("wall", 1)):
        share = predictor.cores if k == 0 else 1
        ours, plain = ([pair[k] for pair in by_name[name]] for name in ("pipeline", "plain loop"))
        of_limit = spread([one / share / limit for one, limit in zip(ours, limits, strict=True)])
        of_ours = spread([other / one for one, other in zip(ours, plain, strict=True)])
        print(f"{what}: pipeline / limit {of_limit}, plain loop / pipeline {of_ours}")


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median, and of several values also the smallest and the largest."""
    ends = f" ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.{digits}f}{ends}"


def mious(folder: Path, model: Path, tiles: list[int]) -> dict[str, float]:
    """Return the mIoU over `folder`/images: whole and in tiles, with torch and, if installed, ONNX Runtime."""
    import torch

    from dataset.samples import Item
    from inference import batch_job, export
    from segmentation.model_file import load_model
    from segmentation.predictor import Method, Predictor

    cpu = torch.device("cpu")
    loaded = load_model(model, file_sha256(model), cpu)
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    items = [Item(path.stem, path, masks[path.stem]) for path in sorted((folder / "images").iterdir())]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        engines: dict[str, Any] = {"torch": None}
        if all(importlib.util.find_spec(package) for package in export.REQUIRED_PACKAGES["onnx"]):
            with contextlib.redirect_stdout(None):
                export._to_onnx(loaded.network, Path(name, "model.onnx"))
            engines["onnxruntime"] = export.onnx_forward(Path(name, "model.onnx").read_bytes())
        for engine, forward in engines.items():
            for tile in (None, *tiles):
                predictor = Predictor(loaded, cpu, Method(tile), forward, engine)
                out = Path(name, f"{engine}{tile}")
                outcome = batch_job.predict(predictor, items, out, unknown_lineage(), "val")
                assert outcome.miou is not None and not outcome.failed, outcome.failed
                found[f"{engine}, {'whole' if tile is None else f'tiles of {tile}'}"] = outcome.miou
    return found


def agreement(options: argparse.Namespace) -> None:
    """Print the mIoU of each way, and the largest difference."""
    found = mious(options.folder, options.model, options.tiles)
    print(format_table(["", "mIoU"], [[name, f"{value:.5f}"] for name, value in found.items()]))
    print(f"largest difference {max(found.values()) - min(found.values()):.5f} (wanted: at most 0.001)")


BARE = """
import sys, torch, mlflow, lakefs_sdk
import numpy as np
from pathlib import Path
from PIL import Image
from segmentation.model_file import load_model
from segmentation.preprocess import native_logits, resize_image
from core.hashing import file_sha256
image, path, cpu = np.array(Image.open(sys.argv[1]).convert("RGB")), Path(sys.argv[2]), torch.device("cpu")
model = load_model(path, file_sha256(path), cpu)
batch = torch.from_numpy(resize_image(image, model.input_size).copy()).permute(2, 0, 1)[None]
with torch.inference_mode():
    next(native_logits(model.network, batch, [image.shape[:2]], model.normalisation, cpu)).argmax(0)
"""


def timed(command: list[str], runs: int) -> tuple[float, float]:
    """Return the smallest CPU seconds and the smallest wall seconds of several runs."""
    figures = []
    for _ in range(runs):
        cpu, wall = cpu_seconds(), time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        figures.append((cpu_seconds() - cpu, time.monotonic() - wall))
    return min(cpu for cpu, _ in figures), min(wall for _, wall in figures)


def one(options: argparse.Namespace) -> None:
    """Compare infer.py on one image with importing the libraries, loading the model and running it; time each --help."""
    with tempfile.TemporaryDirectory() as out:
        image, model = str(options.image.resolve()), str(options.model.resolve())
        bare = timed([sys.executable, "-c", BARE, image, model], options.runs)
        script = timed([sys.executable, "infer.py", "--input", image, "--output", out], options.runs)
    rows = [
        ["imports, load, run", *bare],
        ["infer.py --input", *script],
        ["ratio", *(s / b for s, b in zip(script, bare, strict=True))],
    ]
    for name in ("train.py", "register_model.py", "infer.py", "lake.py"):
        rows.append([f"{name} --help", *timed([sys.executable, name, "--help"], options.runs)])
    print(format_table(["", "CPU s", "wall s"], [[name, f"{cpu:.2f}", f"{wall:.2f}"] for name, cpu, wall in rows]))


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="folder|one|agreement")
    many = commands.add_parser("folder")
    many.add_argument("images", type=Path)
    many.add_argument("model", type=Path)
    many.add_argument("--count", type=int, default=1000)
    many.add_argument("--rounds", type=int, default=3)
    many.set_defaults(call=folder)
    same = commands.add_parser("agreement")
    same.add_argument("folder", type=Path)
    same.add_argument("model", type=Path)
    same.add_argument("--tiles", nargs="+", type=int, default=[0], metavar="N", help="0: as large as memory allows")
    same.set_defaults(call=agreement)
    single = commands.add_parser("one")
    single.add_argument("image", type=Path)
    single.add_argument("model", type=Path)
    single.add_argument("--runs", type=int, default=5)
    single.set_defaults(call=one)
    options = parser.parse_args()
    call: Callable[[argparse.Namespace], None] = options.call
    call(options)


if __name__ == "__main__":
    set_language(os.environ.get("APP_LANG", "en"))
    main()
