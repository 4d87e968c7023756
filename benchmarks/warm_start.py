"""Time until a model is as good as the champion after new data: trained from the champion, and from the beginning.

    python benchmarks/warm_start.py path/to/data --size 90 120 --epochs 40 --seeds 0 1 2
    python benchmarks/warm_start.py path/to/data --rates 0.0003 0.001 0.003    # compare peak learning rates

The folder holds {train,val}/{images,masks} with class ids as pixel values, and classes.json (CamVid has that shape).

The champion is trained on train without its last tenth: of each film (images whose names differ in their last number)
the last tenth of the frames, so that the new images are unlike the known ones. Then two trainings get all of train: one
from random weights for as many epochs, one from the champion for a part of them (--part, a quarter). For each, the
table has the seconds and images until its val mIoU first reached that of the champion. Validation does not count.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config
from core.console import format_table
from core.hashing import file_sha256
from dataset.data import SegmentationData
from dataset.validation import check_data
from segmentation.model_file import load_model
from train.model_train import ModelTrain
from train.setup import prepare_training
from train.warm_start.initial import InitialModel
from train.warm_start.load import initial_model

NEW = 10  # one of so many images of a film is new
Curve = list[tuple[float, int, float]]  # seconds of training, images, val mIoU after each epoch


@dataclass(frozen=True)
class Reached:
    """When a training was as good as the champion; None: never."""

    seconds: float | None
    images: int | None
    best: float


def known_part(data: Path, folder: Path) -> Path:
    """Copy the data without the new images of train."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("test"))
    films = defaultdict(list)
    for image in sorted((folder / "train/images").iterdir()):
        films[re.sub(r"\d+\D*$", "", image.stem)].append(image)
    for frames in films.values():
        for image in frames[len(frames) - len(frames) // NEW :]:
            image.unlink()
            for mask in (folder / "train/masks").glob(f"{image.stem}.*"):
                mask.unlink()
    return folder


def train(
    options: argparse.Namespace,
    data: SegmentationData,
    folder: Path,
    seed: int,
    epochs: int,
    rate: float | None = None,
    initial: InitialModel | None = None,
) -> tuple[ModelTrain, Curve]:
    """Train as train.py does, without servers."""
    settings = config.load_settings(
        seed=seed,
        epochs=epochs,
        image_size=tuple(options.size),
        learning_rate=rate,
        init=None if initial is None else initial.reference,
        lakefs_local_dir=options.cache,
        model_path=folder / "model.pth",
    )
    folder.mkdir(parents=True)
    training = ModelTrain(prepare_training(settings, data, initial=initial), folder)
    training.fit()
    seconds, curve = 0.0, Curve()
    for result in training.history:
        seconds += result.seconds
        curve.append((seconds, (result.epoch + 1) * len(training.setup.train_images), result.val.miou))
    return training, curve


def reached(curve: Curve, target: float) -> Reached:
    """Return when the validation mIoU first was at least the target."""
    best = max(miou for _, _, miou in curve)
    first = next(((seconds, images) for seconds, images, miou in curve if miou >= target), (None, None))
    return Reached(first[0], first[1], best)


def measure(options: argparse.Namespace, seed: int, folder: Path) -> list[tuple[str, Reached]]:
    """Train the champion, from the beginning, and from the champion by each learning rate; return the last ones."""
    known, full = (check_data(path, seed, make_split=False) for path in (options.known, options.data))
    champion, curve = train(options, known, folder / "champion", seed, options.epochs)
    target = max(miou for _, _, miou in curve)
    print(f"seed {seed}: champion's val mIoU {target:.4f} after {curve[-1][0]:.1f} s", flush=True)
    sha256 = file_sha256(champion.best_file)
    start = initial_model("champion", sha256, load_model(champion.best_file, sha256, champion.device), {})
    _, scratch = train(options, full, folder / "scratch", seed, options.epochs)
    rows = [("from the beginning", reached(scratch, target))]
    for rate in options.rates or [None]:
        epochs = max(1, round(options.epochs * options.part))
        training, warm = train(options, full, folder / f"warm-{rate}", seed, epochs, rate, start)
        rows.append((f"from the champion, lr {training.setup.peak_rate:g}", reached(warm, target)))
    for name, found in rows:
        print(f"  {name}: {found}", flush=True)
    return rows


def summary(found: dict[str, list[Reached]]) -> str:
    """Return a table of the means over the seeds that reached the target."""
    rows = []
    scratch = found["from the beginning"]
    for name, runs in found.items():
        done = [(run, base) for run, base in zip(runs, scratch, strict=True) if run.images is not None]
        parts = [run.images / base.images for run, base in done if run.images and base.images]
        seconds = [run.seconds for run, _ in done if run.seconds is not None]
        rows.append(
            (
                name,
                f"{len(done)} of {len(runs)}",
                f"{statistics.mean(seconds):.1f}" if seconds else "-",
                f"{statistics.mean(run.images for run, _ in done if run.images):.0f}" if done else "-",
                f"{statistics.mean(parts):.0%} (at most {max(parts):.0%})" if parts else "-",
                f"{statistics.mean(run.best for run in runs):.4f}",
            )
        )
    return format_table(("training", "reached", "seconds", "images", "of the images from the beginning", "best"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(90, 120), metavar=("H", "W"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--part", type=float, default=0.25, help="of the epochs, for trainings from the champion")
    parser.add_argument("--rates", type=float, nargs="+", help="peak learning rates from the champion (default: ours)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    found = defaultdict[str, list[Reached]](list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options.cache, options.known = folder / "cache", known_part(options.data, folder / "known")
        for seed in options.seeds:
            for name, run in measure(options, seed, folder / str(seed)):
                found[name].append(run)
    print(summary(found))


if __name__ == "__main__":
    main()
