"""Predict many images into an output directory, and resume a job that was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from core.errors import UsageError
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.pages.cards import Panel
from core.reporting import notify, progress, warn
from core.safety.terminal import escape_line
from core.threads.workers import parallel
from dataset.classes import InvalidFileError, UInt8
from dataset.decoding.image import to_channels
from dataset.decoding.mask import read_mask
from dataset.decoding.options import DEFAULT_READING
from dataset.decoding.samples import decode_raw
from dataset.samples import Item
from inference import gallery, outputs, pipeline
from inference.earlier import results as earlier
from inference.earlier import reuse
from inference.geo.georeference import is_georeferenced, require_rasterio
from inference.geo.windows import is_large, require_windows
from inference.origin import describe_origin
from inference.outputs import OutputDirectory
from inference.tally import Tally, read_levels, reliability_record, summarize_drift
from segmentation.evaluation import read_labels
from segmentation.means import Coverage
from segmentation.prediction import Prediction
from segmentation.predictor import InputImage, Predictor
from segmentation.preprocess import EVAL_BATCH
from segmentation.reliability.uncertainty import UInt16
from utils.lineage import Origin

MAX_FILE_BYTES = 1 << 30  # an image file is read into memory at once


@dataclass(frozen=True)
class Outcome:
    """Result of a job; accuracy and mIoU are None for images without masks."""

    written: int
    reused: int  # of those written, finished by an earlier call
    failed: list[str]  # messages about images that could not be read
    accuracy: float | None
    miou: float | None
    iou: dict[str, float | None]
    drift: dict[str, Any] | None = None  # see `tally.summarize_drift`
    uncertainty_auroc: float | None = None


def predict(
    predictor: Predictor,
    items: Sequence[Item],
    output: Path,
    lineage: Origin,
    split: str | None,
    resume: bool = False,
    extras: Collection[str] = (),
) -> Outcome:
    """Predict every image at its own size; write <name>.png, <name>_overlay.jpg and predictions.json below `output`.

    An image that cannot be read is reported and skipped. Predictions that an earlier call listed there are set aside when
    the first new one is ready, so that a directory never mixes two models, and are removed at the end. With `resume`,
    those that are intact and from the same model and settings are reused, and only the others are predicted. Raises
    UsageError if the earlier job differs, if another process writes there, or if an output would replace a file that
    infer.py did not write.
    """
    job = BatchJob(predictor, items, output, lineage, split, extras)
    with outputs.lock_output_dir(output):
        earlier.recover(output)
        job.outputs.reject_foreign_files(item.name for item in items if not item.fault)
        return _predict(job, resume)


def _predict(job: BatchJob, resume: bool) -> Outcome:
    if resume:
        job.reuse_finished()
        job.replaces = False
    try:
        job.run()
    except KeyboardInterrupt:
        done, count = len(job.records), len(job.items)
        if done:
            text = tr(
                "images done: {done} of {count}: repeat the command with --resume to continue", done=done, count=count
            )
            notify("\n" + text)
        earlier.report_kept(job.outputs.folder)
        raise
    return job.finish()


class BatchJob:
    """The state of one call of `predict`: records by item name, and what is counted over all of them."""

    def __init__(
        self,
        predictor: Predictor,
        items: Sequence[Item],
        output: Path,
        lineage: Origin,
        split: str | None,
        extras: Collection[str] = (),
    ) -> None:
        self.predictor, self.items = predictor, items
        self.settings = {**describe_origin(predictor, lineage), "split": split}
        rasters = {item.name: item for item in items if item.fault is None and is_georeferenced(item.image, item.page)}
        require_rasterio(sorted({str(item.image) for item in rasters.values()}))
        self.large = {name for name, item in rasters.items() if item.page is None and is_large(item.image)}
        if self.large:
            require_windows(predictor, extras)
        self.outputs = OutputDirectory(output, predictor.model.classes, self.settings, extras, rasters)
        self.records: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        self.reused = 0
        self.replaces = True  # results of earlier calls; else they are completed
        self._journal: IO[str] | None = None  # open from the first result on
        self._beginning = threading.Lock()
        self.tally = Tally.empty(predictor.model.classes.num_classes)

    # --- resuming ---

    def reuse_finished(self) -> None:
        """Reuse predictions of an earlier call. Raises UsageError if it had another model or other settings."""
        finished = reuse.read_matching(self.outputs, self.settings)
        pairs = [(item, finished.get(self.outputs.file_names(item.name)["mask"])) for item in self.items]
        results = parallel(self._verify_finished, pairs, workers=self.predictor.cores)
        for (item, record), found in progress(results, len(pairs), tr("verifying the predictions"), tr("images")):
            if isinstance(found, Exception):
                raise found
            if record is not None and found is not None:
                self.records[item.name] = record
                self.tally.add(found)
        self.reused = len(self.records)
        notify(
            trn("reused {count} image that was done before", "reused {count} images that were done before", self.reused)
        )

    def _verify_finished(self, pair: tuple[Item, dict[str, Any] | None]) -> Tally | None:
        """Return the counts of a record whose input and files are unchanged; None if any was changed."""
        item, record = pair
        if record is None or record.get("input") != _input_name(item):
            return None
        if item.name not in self.large and any(key not in record for key in self.predictor.measured):
            return None
        files = {key: self.outputs.path_of(name) for key, name in self.outputs.file_names(item.name).items()}
        if not reuse.is_unchanged(record, item.image, files):
            return None
        classes = self.predictor.model.classes
        if item.mask is None:
            return Tally.empty(classes.num_classes)
        levels = read_levels(files["uncertainty_map"]) if "uncertainty_map" in files else None
        return self._compare(item, read_mask(files["mask"], classes, DEFAULT_READING), levels)

    def begin_writing(self) -> IO[str]:
        """Set earlier results that are replaced aside before the first result is written; return the journal.

        Thread-safe; repeated calls do nothing.
        """
        with self._beginning:
            if self._journal is None:
                if self.replaces:
                    earlier.set_aside(self.outputs)
                self._journal = self.outputs.open_journal(self.settings, list(self.records.values()))
            return self._journal

    def run(self) -> None:
        """Predict the images that are not finished, in batches of the size that validation uses."""
        predictor = self.predictor
        items = [item for item in self.items if item.name not in self.large]
        batches = [items[start : start + EVAL_BATCH] for start in range(0, len(items), EVAL_BATCH)]
        # An incomplete batch is predicted again as a whole: results are bit-identical only for the same batch.
        unfinished = [batch for batch in batches if any(item.name not in self.records for item in batch)]
        stages = pipeline.Stages(self.read, predictor.predict, self.write)
        total = sum(map(len, unfinished))
        with contextlib.ExitStack() as stack:
            streams, begin = stack.enter_context(predictor.streams(len(batches)))
            stack.callback(self._close_journal)
            results = pipeline.run(unfinished, stages, streams, helpers=predictor.cores, begin=begin)
            for item, outcome in progress(results, total, tr("predict"), tr("images")):
                if isinstance(outcome, UsageError):
                    warn(str(outcome))
                    self.failed.append(str(outcome))
                elif item.name not in self.records:
                    self.records[item.name], counts = outcome
                    self.tally.add(counts)
                    outputs.append_record(self.begin_writing(), self.records[item.name])
                    if self.records[item.name].get("truncated"):
                        warn(tr("{path}: truncated JPEG: the missing part is grey", path=item.image))
            self.run_large()

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def run_large(self) -> None:
        """Predict the georeferenced images that do not fit into memory, one at a time."""
        predictor = self.predictor.with_tiles() if self.large else self.predictor
        for item in self.items:
            if item.name not in self.large or item.name in self.records:
                continue
            self.begin_writing()
            try:
                record = self.outputs.write_large(item.name, item.image, predictor)
            except UsageError as error:
                warn(str(error))
                self.failed.append(str(error))
                continue
            self.records[item.name] = {"input": _input_name(item), "input_sha256": file_sha256(item.image), **record}
            outputs.append_record(self.begin_writing(), self.records[item.name])

    def read(self, item: Item) -> InputImage:
        """Decode an image. Raises UsageError that names the file."""
        if item.fault:
            raise UsageError(item.fault)
        try:
            if (size := item.image.stat().st_size) > MAX_FILE_BYTES:
                raise InvalidFileError((tr("a file of at most 1 GB"), tr("{size:,} bytes", size=size)))
            data = item.image.read_bytes()
            raw = decode_raw(data, self.predictor.model.reading, page=item.page)
            pixels = to_channels(raw, self.predictor.model.reading)
            image = self.predictor.prepare(pixels, hashlib.sha256(data).hexdigest())
            return replace(image, truncated=raw.truncated)
        except (InvalidFileError, OSError) as error:
            raise UsageError(escape_line(f"{item.image}: {error}")) from None

    def write(self, item: Item, image: InputImage, prediction: Prediction) -> tuple[dict[str, Any], Tally]:
        """Write an image's files; return its record and its counts, which are 0 for an image without a mask."""
        self.begin_writing()
        classes, indices = self.predictor.model.classes, prediction.indices
        record: dict[str, Any] = {
            "input": _input_name(item),
            "input_sha256": image.sha256,
            **self.outputs.write(item.name, item.image, image.pixels, prediction, item.page),
            "height": indices.shape[0],
            "width": indices.shape[1],
            "class_shares": outputs.compute_class_shares(indices, classes),
            **reliability_record(prediction),
        }
        if item.page is not None:
            record["page"] = item.page + 1
        if image.truncated:
            record["truncated"] = True
        if item.mask is None:
            return record, Tally.empty(classes.num_classes)
        tally = self._compare(item, indices, prediction.levels)
        confusion = tally.confusion
        iou = dict(zip(classes.names, confusion.iou(), strict=True))
        means = {"accuracy": confusion.accuracy, "miou": confusion.miou, "classes": str(Coverage.of(iou.values()))}
        return record | means | {"iou": iou}, tally

    def _compare(self, item: Item, indices: UInt8, levels: UInt16 | None) -> Tally:
        model = self.predictor.model
        labels = read_labels(item, model.classes, model.reading, indices.shape)
        return Tally.of(model.classes.num_classes, indices, labels, levels)

    def finish(self) -> Outcome:
        """Write predictions.json and return the result; without any result, earlier ones stay as they are."""
        model = self.predictor.model
        measured = any(item.mask for item in self.items)
        confusion, drift = self.tally.confusion, summarize_drift(self.records.values())
        outcome = Outcome(
            written=len(self.records),
            reused=self.reused,
            failed=self.failed,
            accuracy=confusion.accuracy if measured else None,
            miou=confusion.miou if measured else None,
            iou=dict(zip(model.classes.names, confusion.iou(), strict=True)) if measured else {},
            drift=drift,
            uncertainty_auroc=self.tally.auroc,
        )
        classes = str(Coverage.of(outcome.iou.values()))
        means = {"accuracy": outcome.accuracy, "miou": outcome.miou, "classes": classes, "iou": outcome.iou}
        folder = self.outputs.folder
        if not self.records and earlier.exist(folder):
            self._close_journal()
            earlier.recover(folder)
            earlier.report_kept(folder)
            return outcome
        self.begin_writing().close()
        records = {item.name: self.records[item.name] for item in self.items if item.name in self.records}
        small = {item.name: item for item in self.items if item.name not in self.large}
        self.outputs.finish(
            {
                **self.settings,
                "model_metrics": model.metrics,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                **(means if measured else {}),
                **({} if outcome.uncertainty_auroc is None else {"uncertainty_auroc": outcome.uncertainty_auroc}),
                **({} if drift is None else {"drift": drift}),
                "images": list(records.values()),
                "broken": self.failed,
            },
            gallery.collect_previews(records, small, self._preview, self.predictor.cores),
        )
        earlier.discard(folder)
        return outcome

    def _preview(self, item: Item) -> list[Panel]:
        mask = self.outputs.path_of(self.outputs.file_names(item.name)["mask"])
        return gallery.preview_item(item, self.read(item).pixels, mask, self.predictor.model)


def _input_name(item: Item) -> str:
    """Return the name of the input in predictions.json: that in the data commit, else the path of --input."""
    return str(item.image) if item.mask is None else item.name
