"""folds: the mean of the models of --folds against the best of them, on images that none of them was trained on.

The judge is the test split, or val where there is none; then the folds are made of train only, and val decides nothing.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from pathlib import Path

from config import load_settings
from core.console import format_table
from core.hashing import file_sha256
from dataset.data import SegmentationData
from dataset.samples import Item
from dataset.validation import check_data
from segmentation.evaluation import EvaluationResult, measure
from segmentation.intervals import gain_interval
from segmentation.model_file import load_model
from segmentation.preprocess import choose_device
from train.folds.division import divide
from train.folds.training import FoldsTraining


def folds(path: Path, count: int, seconds: float, seeds: list[int], size: list[int], extra: list[str]) -> None:
    """Train `count` models for each seed; print their test mIoU, that of their mean, and the gain.

    Each is trained for `seconds`, or for the epochs=N of `extra`.
    """
    named = dict(setting.split("=", 1) for setting in extra)
    os.environ |= {name.upper(): value for name, value in named.items()}
    rows, gains = [], []
    for seed in seeds:
        length = None if "epochs" in named else seconds
        settings = load_settings(max_seconds=length, seed=seed, image_size=tuple(size), folds=count)
        data = _with_judge(check_data(path, seed, make_split=False))
        with tempfile.TemporaryDirectory() as folder:
            training = FoldsTraining(settings, divide(settings, data, store=False), Path(folder), smoke=False)
            training.fit()
            single = [_measure(file, data) for file in training.member_files]
            mean = _measure(training.ensemble_file, data)
        values = [found.metric("miou") for found in single]
        best = max(range(count), key=values.__getitem__)
        gain, interval = mean.metric("miou") - values[best], gain_interval(single[best], mean, "miou", 0.95)
        gains.append(100 * gain)
        points = f"{100 * gain:+.1f}" + (f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else "")
        shown = " ".join(f"{value:.4f}" for value in values)
        out_of_fold = training.out_of_fold().metrics.miou
        row = [seed, shown, f"{values[best]:.4f}", f"{mean.metric('miou'):.4f}", points, f"{out_of_fold:.4f}"]
        rows.append([*row, f"{mean.milliseconds / single[best].milliseconds:.1f}"])
    head = ["seed", "mIoU of the folds", "best fold", "mean of all", "gain in points (95 %)", "out-of-fold"]
    print(format_table([*head, "times the time per image"], rows))
    print(
        f"gain: median {statistics.median(gains):+.1f} points ({min(gains):+.1f} to {max(gains):+.1f}), seeds {len(gains)}"
    )


def _with_judge(data: SegmentationData) -> SegmentationData:
    """Return data with a test split: its own, else val."""
    if data.split("test"):
        return data
    pairs = tuple(dataclasses.replace(pair, split="test" if pair.split == "val" else "train") for pair in data.pairs)
    return dataclasses.replace(data, pairs=pairs)


def _measure(file: Path, data: SegmentationData) -> EvaluationResult:
    device = choose_device("auto")
    model = load_model(file, file_sha256(file), device)
    items = [Item(pair.name, pair.image, pair.mask, group=pair.group, page=pair.page) for pair in data.split("test")]
    return measure(model, items, data.classes, device)
