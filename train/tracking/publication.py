"""Publication: the lakeFS commits of a run, of its data and of its model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import AppError
from core.figures import format_figure
from core.files import link_or_copy, write_atomically
from core.hashing import file_sha256
from core.i18n import Message, tr
from core.reporting import notify, progress
from dataset.data import SegmentationData
from dataset.directory import data_files
from dataset.faults import warning_records
from dataset.formats.record import source_metadata
from segmentation import pyfunc
from segmentation.file_names import METRICS_FILE, MLMODEL, MODEL_FILE
from segmentation.means import classes_tag, format_mean
from train.base_train import EpochResult, Validation
from train.tracking.logged_model import log_model
from train.tracking.result import OOF, VAL, DataCommit, Result, TrainedModel, class_metrics, split_metrics
from train.tracking.run_tracker import WARNINGS_KEY, RunTracker, dataset_digest
from utils import mlflow_utils
from utils.ensemble_file import ENSEMBLE_FILE, MODEL_FILE_KEY, working_copy
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import FIRST_EPOCH
from versioning.push import Mode, data_message, publish_directory
from versioning.streaming.files import StreamedFiles
from versioning.versions import DATA_PREFIX, MODEL_PREFIX, committed_files, compare, data_manifest

if TYPE_CHECKING:
    from pathlib import Path


def hash_files(data: SegmentationData) -> dict[str, LocalFile]:
    """Return every file of checked data with its hash, which the check has computed for images and masks."""
    if isinstance(data.source, StreamedFiles):
        return {path: LocalFile(data.root / path, sha256) for path, sha256 in data.source.hashes().items()}
    known = {pair.image: pair.image_sha256 for pair in data.pairs}
    known |= {pair.mask: pair.mask_sha256 for pair in data.pairs}
    files = data_files(data.root)
    found = progress(files.items(), len(files), tr("hashing the data"), tr("files"))
    return {path: LocalFile(file, known.get(file) or file_sha256(file)) for path, file in found}


@dataclass(frozen=True)
class Publication:
    """Publishes the data and the model of a run; nothing incomplete becomes visible on the target branch."""

    lake: LakeFS
    tracker: RunTracker
    data: SegmentationData
    replace: bool = False  # whether the data may undo changes of the branch
    initial: Mapping[str, str] = field(default_factory=dict)  # what the network started from

    # --- data ---

    def commit_data(self, pinned: LakePath | None) -> DataCommit:
        """Commit the checked data, unless `pinned` names the commit that they come from. Raises AppError."""
        files = hash_files(self.data)
        path = self._publish_data(files) if pinned is None else self._require_same(pinned, files)
        return DataCommit(path, data_manifest({name: file.sha256 for name, file in files.items()}, path.path))

    def _publish_data(self, files: dict[str, LocalFile]) -> LakePath:
        counts = ", ".join(f"{split} {len(self.data.split(split))}" for split in self.data.pixel_counts)
        message = data_message(len(files), counts)
        metadata = {**self.tracker.commit_metadata(), **source_metadata(self.data.root)}
        mode: Mode = "replace" if self.replace else "default"
        done = publish_directory(self.tracker.settings, self.lake, files, message, metadata, mode)
        return LakePath(self.lake.repo, done.commit_id, DATA_PREFIX)

    def _require_same(self, pinned: LakePath, files: dict[str, LocalFile]) -> LakePath:
        """Return the pinned path. Raises AppError if the files in the cache are not those of the commit."""
        if self.data.source.streamed:  # each file is compared with the commit whenever it is read
            notify(tr("data: {path}", path=pinned))
            return pinned
        cache = self.tracker.settings.cache_dir
        have = {name: file.sha256 for name, file in files.items()}
        changes = compare(have, committed_files(self.lake, pinned, cache))
        if changes:
            raise AppError(
                tr(
                    "{root} differs from {commit}: remove the cache directory {cache} and run again\n{changes}",
                    root=self.data.root,
                    commit=pinned,
                    cache=cache,
                    changes=Message("\n".join(changes.lines(10))),
                )
            )
        notify(tr("data: {path}", path=pinned))
        return pinned

    # --- model ---

    def commit_model(self, model: TrainedModel, data: DataCommit) -> Result:
        """Commit the model's files, record path, hash and metrics in the run, and copy them to MODEL_PATH."""
        tracker, model_path = self.tracker, self.tracker.settings.model_path
        sha256 = file_sha256(model.file)
        side_files = {
            METRICS_FILE: json.dumps(self._metrics_report(model, sha256), indent=1),
            MLMODEL: pyfunc.mlmodel(tracker.run_id, _name_in_models(model), sha256),
        }
        for name, text in side_files.items():
            write_atomically(tracker.folder / name, text.encode())
        path = self._recorded_model() or self.publish_model(model, sha256, data)
        # Copies: until everything is done, a second call must find all files in the run's folder.
        for name in side_files:
            link_or_copy(tracker.folder / name, model_path.with_name(name))
        for member in model.members:
            link_or_copy(member, model_path.with_name(member.name))
        link_or_copy(model.file, working_copy(model_path, path.path))
        return Result(
            tracker.run_id,
            data.path,
            data.manifest_sha256,
            path,
            sha256,
            model.judged,
            model.test,
            model.split,
            model.calibration,
        )

    def _recorded_model(self) -> LakePath | None:
        """Return the model's path if an earlier process recorded it completely."""
        with mlflow_utils.convert_errors(self.tracker.settings, tr("reading the run")):
            recorded = self.tracker.client.get_run(self.tracker.run_id).data
        complete = "model_sha256" in recorded.tags  # it is written last
        return LakePath.parse_recorded(recorded.params["lakefs_model_path"]) if complete else None

    def publish_model(self, model: TrainedModel, sha256: str, data: DataCommit) -> LakePath:
        """Commit the model, and record its path and metrics in the run."""
        from mlflow.entities import Param, RunTag

        tracker, metrics, splits = self.tracker, model.metrics, model.splits
        classes = {classes_tag(split): str(measured.coverage) for split, measured in splits.items()}
        metadata = {
            **tracker.commit_metadata(),
            **{key: f"{value:.6f}" for key, value in metrics.items()},
            **classes,
            **self._warning_metadata(),
            **tracker.record,
            **self.initial,
            "model_sha256": sha256,
            "lakefs_data_path": str(data.path),
            **({MODEL_FILE_KEY: ENSEMBLE_FILE} if model.members else {}),
        }
        message = f"model: {tracker.settings.model}, " + ", ".join(itertools.starmap(_describe_split, splits.items()))
        name, side_files = _name_in_models(model), (tracker.folder / METRICS_FILE, tracker.folder / MLMODEL)
        files = {
            name: LocalFile(model.file, sha256),
            **{file.name: LocalFile(file, file_sha256(file)) for file in (*model.members, *side_files)},
        }
        done = self.lake.publish(files, MODEL_PREFIX, message, metadata, mirror=False)
        path = LakePath(self.lake.repo, done.commit_id, f"{MODEL_PREFIX}{name}")
        channels = self.data.reading.channels
        model_id = log_model(tracker.client, tracker.settings, tracker.run_id, path, sha256, channels)
        with mlflow_utils.convert_errors(tracker.settings, tr("recording the run")):
            recorded = next(iter(metrics)) in tracker.client.get_run(tracker.run_id).data.metrics
            if not recorded:  # otherwise by a process that was killed right afterwards
                figures = {**metrics, **model.figures}
                for split in splits.keys() - {VAL}:  # of VAL, each epoch has them
                    figures |= class_metrics(split, splits[split])
                tracker.log_metrics(figures, model.step, model_id, data.path.repo, dataset_digest(data.path))
            tracker.client.log_batch(
                tracker.run_id,
                params=[Param("lakefs_model_path", str(path))],
                tags=[RunTag(key, value) for key, value in {"lakefs_model_commit": done.commit_id, **classes}.items()],
            )
            tracker.client.set_tag(tracker.run_id, "model_sha256", sha256)
        return path

    def record_metrics(self, best: EpochResult) -> None:
        """Record the metrics of a model that is not kept, as those of a committed one are recorded."""
        from mlflow.entities import RunTag

        step, v = self.tracker.step_of(best), best.val
        self.tracker.log_metrics({**split_metrics(v, None), "best_epoch": float(step)}, step)
        with mlflow_utils.convert_errors(self.tracker.settings, tr("recording the run")):
            classes = [RunTag(classes_tag(VAL), str(v.coverage))]
            self.tracker.client.log_batch(self.tracker.run_id, tags=classes)

    def _warning_metadata(self) -> dict[str, str]:
        """Return the kinds of the data's warnings; their texts are in metrics.json."""
        kinds = dict.fromkeys(f"{w.kind} ({w.split})" if w.split else w.kind for w in self.data.warnings)
        return {WARNINGS_KEY: ", ".join(kinds)} if kinds else {}

    def _metrics_report(self, model: TrainedModel, model_sha256: str) -> dict[str, object]:
        """Return the content of `models/metrics.json`, which the quality gate of _lakefs_actions/ reads.

        `passed`: whether register_model.py would accept it; `finite` false: a metric is not finite, and is null here.
        """
        settings, splits = self.tracker.settings, model.splits
        losses = {f"{split}_loss": measured.loss for split, measured in splits.items() if split != OOF}
        metrics = {**model.metrics, **losses}
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        finite = len(known) == len(metrics)
        metric = settings.register_metric if settings.register_metric in known else next(iter(metrics))
        return {
            "finite": finite,
            "passed": finite and known[metric] >= settings.register_threshold,
            "metric": metric,
            "threshold": settings.register_threshold,
            **{name: known.get(name) for name in metrics},
            **{f"{split}_iou": measured.iou for split, measured in splits.items()},
            **{classes_tag(split): str(measured.coverage) for split, measured in splits.items()},
            "warnings": warning_records(self.data.warnings),
            **{name: int(value) if name == "best_epoch" else value for name, value in model.figures.items()},
            FIRST_EPOCH: self.tracker.first_epoch,
            "smoke": self.tracker.facts.smoke,
            "mlflow_run_id": self.tracker.run_id,
            "model_sha256": model_sha256,
        }

    def remove_working_files(self, *files: Path) -> None:
        """Remove `files` and others that only an interrupted run needs, and release the run's folder."""
        for file in (*files, *(self.tracker.folder / name for name in (METRICS_FILE, MLMODEL))):
            file.unlink(missing_ok=True)
        self.tracker.release()


def _name_in_models(model: TrainedModel) -> str:
    """Return the name of the model's file in models/, in lakeFS."""
    return ENSEMBLE_FILE if model.members else MODEL_FILE


def _describe_split(split: str, measured: Validation) -> str:
    mean = format_mean(measured.miou, measured.coverage)
    return f"{split} mIoU {mean}, {split} accuracy {format_figure(measured.accuracy)}"
