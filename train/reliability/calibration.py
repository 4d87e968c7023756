"""Calibrate the best model of a training: fit its temperature on val, and describe the images that it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.figures import format_figure, format_share
from core.i18n import tr
from core.reporting import notify, progress
from segmentation.model import Model
from segmentation.model_file import save_model
from segmentation.preprocess import EVAL_BATCH, resize_logits, to_input
from segmentation.reliability.calibration import Calibrated, LogitSamples, Reliability, fit_temperature
from segmentation.reliability.drift import Observations, TrainingDistribution, fit_distribution
from segmentation.reliability.features import FeatureProbe, find_deepest
from segmentation.reliability.statistics import image_statistics, statistic_names
from train.base_train import SMOKE_BATCHES
from train.loading import loader
from train.parallel import distributed
from train.validation import join_samples

TRAIN_IMAGES, VAL_IMAGES = 256, 512  # that are looked at, evenly spaced in their split


@dataclass(frozen=True)
class Calibration:
    """The temperature of a model, its reliability on the splits that it was measured on, and its false alarms.

    `val_drift`: fraction of the validation images that are taken for unlike those of the training; None: not compared.
    """

    temperature: float = 1.0
    val: Calibrated | None = None
    test: Calibrated | None = None
    val_drift: float | None = None

    @property
    def splits(self) -> dict[str, Calibrated]:
        """The splits that were measured."""
        return {name: found for name, found in (("val", self.val), ("test", self.test)) if found is not None}

    def with_test(self, samples: LogitSamples) -> Calibration:
        """Return this with the reliability on the test split."""
        return dataclasses.replace(self, test=Calibrated.of(samples, self.temperature))

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the run; ECE is the expected calibration error."""
        metrics = {"temperature": self.temperature}
        for split, found in self.splits.items():
            metrics |= {f"{split}_ece": found.after.error, f"{split}_ece_uncalibrated": found.before.error}
        return metrics | ({} if self.val_drift is None else {"val_drift": self.val_drift})

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        splits = {
            name: [[field.tolist() for field in vars(side).values()] for side in (found.before, found.after)]
            for name, found in self.splits.items()
        }
        return {"temperature": self.temperature, "val_drift": self.val_drift, "splits": splits}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Calibration:
        """Restore from `state()`."""
        splits = {
            name: Calibrated(*(Reliability(*map(np.array, fields)) for fields in sides))
            for name, sides in state["splits"].items()
        }
        return cls(state["temperature"], splits.get("val"), splits.get("test"), state["val_drift"])


def calibrate(
    best_file: Path,
    model: Model,
    train: loader.SegmentationDataset,
    val: loader.SegmentationDataset,
    smoke: bool,
) -> Calibration:
    """Return the calibration of the best model on val, and add it to its file. All processes take part.

    `model` is the one in the file, on the device that measures.
    """
    bands = model.reading.channels
    module = find_deepest(model.network, bands)
    val_chosen = _choose(val, VAL_IMAGES, smoke)
    samples = LogitSamples(len(val_chosen), model.classes.num_classes)
    seen = _observe(model, train, _choose(train, TRAIN_IMAGES, smoke), module, None)
    seen_val = _observe(model, val, val_chosen, module, samples)
    temperature = fit_temperature(samples)
    inputs = fit_distribution(bands, seen, module)
    found = Calibration(temperature, Calibrated.of(samples, temperature))
    if inputs is not None:
        inputs = inputs.widened(seen_val)
        found = dataclasses.replace(found, val_drift=inputs.alarms(seen_val))
    if distributed.is_main():
        _save(best_file, model, found, inputs)
    return found


def _save(best_file: Path, model: Model, found: Calibration, inputs: TrainingDistribution | None) -> None:
    metrics = model.metrics | ({} if found.val is None else {"val_ece": found.val.after.error})
    save_model(best_file, dataclasses.replace(model, temperature=found.temperature, inputs=inputs, metrics=metrics))


def _choose(images: loader.SegmentationDataset, most: int, smoke: bool) -> list[int]:
    most = min(most, SMOKE_BATCHES * EVAL_BATCH) if smoke else most
    spaced: list[int] = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist()
    return spaced


@torch.inference_mode()
def _observe(
    model: Model,
    images: loader.SegmentationDataset,
    chosen: Sequence[int],
    module: str | None,
    samples: LogitSamples | None,
) -> Observations:
    """Measure what images are like; with `samples`, take logits at native size from them too."""
    model.network.eval()
    device = next(model.network.parameters()).device
    rows = [list(range(start, min(start + EVAL_BATCH, len(chosen)))) for start in range(0, len(chosen), EVAL_BATCH)]
    own = distributed.shard(rows)
    batches = [[chosen[row] for row in batch] for batch in own]
    statistics = torch.zeros(len(chosen), len(statistic_names(model.reading.channels)), dtype=torch.float64)
    features: torch.Tensor | None = None
    probe = FeatureProbe(model.network, module) if module is not None else None
    loaded = zip(own, loader.load(images, batches, 0), strict=True)
    for batch, (inputs, _, masks) in progress(loaded, len(own), tr("calibration"), tr("batches")):
        logits, found = _forward(model, inputs.to(device), probe)
        if found is not None:
            features = torch.zeros(len(chosen), found.shape[1]) if features is None else features
            features[batch] = found.cpu()
        for place, row in enumerate(batch):
            pair = images.pairs[chosen[row]]
            pixels = inputs[place].permute(1, 2, 0).numpy()
            statistics[row] = torch.from_numpy(image_statistics(pixels, (pair.height, pair.width)))
            if samples is not None:
                mask = masks[place].to(device)
                samples.add(row, resize_logits(logits[place], (mask.shape[0], mask.shape[1])), mask)
    if probe is not None:
        probe.remove()
    distributed.all_sum(statistics)
    join_samples(samples)
    return Observations(statistics.numpy(), _joined_features(features, len(chosen), module))


def _forward(
    model: Model, inputs: torch.Tensor, probe: FeatureProbe | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits, and the features of the deepest map."""
    images = to_input(inputs, model.normalisation, inputs.device)
    if probe is None:
        return model.network(images).float(), None
    with probe.recording() as recorded:
        logits = model.network(images).float()
    return logits, recorded[0]


def _joined_features(features: torch.Tensor | None, count: int, module: str | None) -> Any:
    """Return the features of all processes (N,d) float32; a process may have had no batch."""
    if module is None:
        return None
    width = torch.tensor([0 if features is None else features.shape[1]])
    if distributed.world_size() > 1:
        torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
    made = torch.zeros(count, int(width)) if features is None else features
    return distributed.all_sum(made).numpy()


def report_calibration(found: Calibration) -> None:
    """Report the temperature, the calibration errors without and with it, and the false alarms on val."""
    errors = ", ".join(
        f"{split} {format_figure(one.before.error)} → {format_figure(one.after.error)}"
        for split, one in found.splits.items()
    )
    if errors:
        notify(
            tr(
                "  calibration: temperature {temperature:.4g}, expected calibration error {errors}",
                temperature=found.temperature,
                errors=errors,
            )
        )
    if found.val_drift:
        notify(tr("  validation images unlike those of train: {fraction}", fraction=format_share(found.val_drift)))
