"""A job of predictions: many pictures through a model, what is written of each, and what the whole amounts to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.errors import UsageError
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify, progress, warn
from core.workers import parallel
from dataset.classes import InvalidFileError, UInt8
from dataset.images import decode_image, read_mask
from dataset.samples import Item
from inference import outputs, pipeline
from inference.outputs import Outputs
from segmentation.metrics import ConfusionMatrix
from segmentation.predictor import InputImage, Prediction, Predictor
from segmentation.preprocess import EVAL_BATCH
from utils.lineage import Lineage

LARGEST_FILE = 1 << 30  # bytes; a picture is read whole
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What `predict` wrote: accuracy and mIoU are None without masks; `broken` are the pictures that were left out."""

    written: int
    kept: int  # of those, finished by an earlier call
    broken: list[str]
    accuracy: float | None
    miou: float | None
    iou: dict[str, float | None]


def predict(
    predictor: Predictor,
    items: Sequence[Item],
    output: Path,
    lineage: Lineage,
    split: str | None,
    resume: bool = False,
    extras: Collection[str] = (),
) -> Outcome:
    """Predict every picture at its own size and write <name>.png, <name>_overlay.jpg and predictions.json below `output`.

    A picture that cannot be read is named and left out. What an earlier call listed there is removed first, so that the
    folder never mixes two models; with `resume` it is kept where it is whole and of the same model and settings, and
    only the rest is predicted. Raises UsageError where that is another job's, where another process writes there, or
    where an output would overwrite an input.
    """
    job = Job(predictor, items, output, lineage, split, extras)
    job.outputs.refuse_inputs((item.image, item.name) for item in items if not item.fault)
    with outputs.lock_output_dir(output):
        return _predict(job, resume)


def _predict(job: Job, resume: bool) -> Outcome:
    if resume:
        job.take_finished()
    else:
        job.outputs.clear()
    try:
        job.run()
    except KeyboardInterrupt:
        done, count = len(job.records), len(job.items)
        notify(
            tr("\n{done} of {count} pictures are done: the same command with --resume goes on", done=done, count=count)
        )
        raise
    return job.finish()


class Job:
    """The state of one call: records by name, the confusion matrix over all of them, the pictures left out."""

    def __init__(
        self,
        predictor: Predictor,
        items: Sequence[Item],
        output: Path,
        lineage: Lineage,
        split: str | None,
        extras: Collection[str] = (),
    ) -> None:
        self.predictor, self.items = predictor, items
        self.settings = {**origin(predictor, lineage), "split": split}
        self.outputs = Outputs(output, predictor.model.classes, self.settings, extras)
        self.records: dict[str, dict[str, Any]] = {}
        self.broken: list[str] = []
        self.kept = 0
        self.confusion = ConfusionMatrix(predictor.model.classes.num_classes)

    # --- going on -------------------------------------------------------------------------------------------------

    def take_finished(self) -> None:
        """Keep what an earlier call has finished. Raises UsageError if that call had another model or other settings."""
        settings, records = self.outputs.earlier()
        differs = [key for key in self.settings if settings.get(key) != self.settings[key]] if records else []
        if differs:
            key = differs[0]
            raise UsageError(
                tr(
                    "{folder}: of another job ({key}: {key2}, now {settings}): run without "
                    "--resume or give another --output",
                    folder=self.outputs.folder,
                    key=key,
                    key2=settings.get(key),
                    settings=self.settings[key],
                )
            )
        known = {str(record["mask"]): record for record in records}
        pairs = [(item, known.get(self.outputs.names(item.name)["mask"])) for item in self.items]
        for (item, record), found in parallel(self._finished, pairs, workers=self.predictor.cores):
            if isinstance(found, Exception):
                raise found
            if record is not None and found is not None:
                self.records[item.name] = record
                self.confusion.counts += found
        self.kept = len(self.records)
        notify(tr("kept {kept} pictures that were done before", kept=self.kept))

    def _finished(self, pair: tuple[Item, dict[str, Any] | None]) -> Counts | None:
        """The pixel counts of a record whose input and files are as they were written; None where they are not."""
        item, record = pair
        if record is None or record.get("input") != _shown(item):
            return None
        files = {key: self.outputs.place(name) for key, name in self.outputs.names(item.name).items()}
        try:
            same = file_sha256(item.image) == record["input_sha256"]
            if not same or any(file_sha256(path) != record[f"{key}_sha256"] for key, path in files.items()):
                return None
        except (FileNotFoundError, KeyError):
            return None
        classes = self.predictor.model.classes
        if item.mask is None:
            return np.zeros((classes.num_classes, classes.num_classes), np.int64)
        return self._compared(item.mask, read_mask(files["mask"], classes)).counts

    # --- the work -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Predict what is not finished, in the batches that validation has."""
        predictor = self.predictor
        batches = [self.items[start : start + EVAL_BATCH] for start in range(0, len(self.items), EVAL_BATCH)]
        # A batch that was cut is done again whole: the same pictures together give the same bits.
        left = [batch for batch in batches if any(item.name not in self.records for item in batch)]
        stages = pipeline.Stages(self.read, predictor.predict, self.write)
        total = sum(map(len, left))
        with (
            self.outputs.begin(self.settings, list(self.records.values())) as journal,
            predictor.streams(len(batches)) as (streams, begin),
        ):
            results = pipeline.run(left, stages, streams, helpers=predictor.cores, begin=begin)
            for item, outcome in progress(results, total, tr("predict"), tr("images")):
                if isinstance(outcome, UsageError):
                    warn(str(outcome))
                    self.broken.append(str(outcome))
                elif item.name not in self.records:
                    self.records[item.name], counts = outcome
                    self.confusion.counts += counts
                    outputs.add(journal, self.records[item.name])

    def read(self, item: Item) -> InputImage:
        """Decode a picture. Raises UsageError that names it."""
        if item.fault:
            raise UsageError(item.fault)
        try:
            if (size := item.image.stat().st_size) > LARGEST_FILE:
                raise InvalidFileError((tr("a file of at most 1 GB"), tr("{size:,} bytes", size=size)))
            data = item.image.read_bytes()
            return self.predictor.prepare(decode_image(data), hashlib.sha256(data).hexdigest())
        except (InvalidFileError, OSError) as error:
            raise UsageError(f"{item.image}: {error}") from None

    def write(self, item: Item, picture: InputImage, prediction: Prediction) -> tuple[dict[str, Any], Counts]:
        """Write a picture's files; returns its entry of predictions.json, and the pixel counts where it has a label."""
        classes, indices = self.predictor.model.classes, prediction.indices
        record: dict[str, Any] = {
            "input": _shown(item),
            "input_sha256": picture.sha256,
            **self.outputs.write(item.name, picture.pixels, prediction),
            "height": indices.shape[0],
            "width": indices.shape[1],
            "class_shares": outputs.class_shares(indices, classes),
        }
        if item.mask is None:
            return record, np.zeros((classes.num_classes, classes.num_classes), np.int64)
        own = self._compared(item.mask, indices)
        return record | {"accuracy": own.accuracy, "miou": own.miou}, own.counts

    def _compared(self, mask: Path, indices: UInt8) -> ConfusionMatrix:
        classes = self.predictor.model.classes
        own = ConfusionMatrix(classes.num_classes)
        own.update(torch.from_numpy(indices), torch.from_numpy(read_mask(mask, classes)))
        return own

    def finish(self) -> Outcome:
        """Write predictions.json."""
        model = self.predictor.model
        measured = any(item.mask for item in self.items)
        outcome = Outcome(
            written=len(self.records),
            kept=self.kept,
            broken=self.broken,
            accuracy=self.confusion.accuracy if measured else None,
            miou=self.confusion.miou if measured else None,
            iou=dict(zip(model.classes.names, self.confusion.iou(), strict=True)) if measured else {},
        )
        totals = {"accuracy": outcome.accuracy, "miou": outcome.miou, "iou": outcome.iou} if measured else {}
        self.outputs.finish(
            {
                **self.settings,
                "model_metrics": model.metrics,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                **totals,
                "images": [self.records[item.name] for item in self.items if item.name in self.records],
                "broken": self.broken,
            }
        )
        return outcome


def _shown(item: Item) -> str:
    """What predictions.json calls the input: the name in a data commit, else the path as it was given."""
    return str(item.image) if item.mask is None else item.name


def origin(predictor: Predictor, lineage: Lineage) -> dict[str, Any]:
    """Which data, code and run made the predictions, and how."""
    return {
        "model_version": lineage.version,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "model_sha256": lineage.model_sha256,
        "lakefs_data_path": str(lineage.data_path),
        "git_commit": lineage.git_commit,
        "git_dirty": predictor.model.lineage.get("git_dirty", "none"),
        "device": predictor.device.type,
        "engine": predictor.engine,
        "tile": predictor.method.tile,
        "tta": predictor.method.flip,
    }
