"""MlflowTrain: one MLflow run around the training, from the data's commit to the model's, with its lineage and pictures."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import math
import os
import platform
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, cache_folder
from core.background import Background
from core.errors import AppError, UsageError, one_line
from core.files import link_or_copy, write_atomically
from core.git import GitFacts, without_credentials
from core.hashing import file_sha256
from core.i18n import tr
from core.process import uninterrupted
from core.reporting import notify, warn
from dataset.classes import UInt8
from dataset.layout import data_files
from segmentation import pyfunc
from train import distributed, environment
from train.base_train import Diverged, EpochResult
from train.model_train import ModelTrain
from train.reports import figures
from train.reports.history import CLASSES_TABLE
from train.reports.html import write_report
from train.result import Result
from train.resume import CHECKPOINT_FILE, Interrupted, RunRecord
from train.workers import Job, lead
from utils import mlflow_utils
from utils.lakefs_client.content import LocalFile
from utils.lakefs_utils import LakeFS, LakePath
from versioning.sync import say_published
from versioning.versions import DATA_PREFIX, MODEL_PREFIX, committed_files, compare, data_manifest

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS_FILE = "metrics.json"  # beside the model, locally and in lakeFS
REPORT_FILE = "report.html"


@dataclass
class MlflowTrain(ModelTrain):
    """Opens the run before anything is uploaded, so that a failed run leaves a trace, and closes it whatever happens."""

    lake: LakeFS = field(kw_only=True)
    client: MlflowClient = field(kw_only=True)
    git: GitFacts = field(kw_only=True)
    pinned: LakePath | None = field(default=None, kw_only=True)  # data that lie in lakeFS already: none are published
    target_branch: str | None = field(default=None, kw_only=True)  # where an experiment's branch goes when registered
    interrupted: Interrupted | None = field(default=None, kw_only=True)  # the run to go on with
    background: Background = field(default_factory=Background, kw_only=True)  # records epochs while the next is trained

    def run(self) -> Result:
        """Commit the data, train, commit the model. Raises AppError; nothing half-done shows on the target branch."""
        with self.tracked():
            self.commit_data()
            lead(Job(self.settings.of_the_result(), self.smoke, self.data_path, self.resume_from), self.data)
            best = self.fit()
            self.background.finish()
            with tempfile.TemporaryDirectory() as folder:
                figures.draw_all(Path(folder), self)
                result = self.commit_model(best)
                self.log_report(result, Path(folder))
            return result

    def clean_up(self) -> None:
        """Remove what only an interrupted run needs; called when everything else is done."""
        done_with = (self.run_folder / name for name in (METRICS_FILE, pyfunc.MLMODEL))
        for file in (self.best_file, self.checkpoint_file, *done_with):
            file.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the run's folder, and remove it where nothing is left in it."""
        self.claim.release()
        Path(self.claim.lock_file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.run_folder.rmdir()

    # --- the run --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def tracked(self) -> Iterator[None]:
        """An open MLflow run; it ends as FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED with its error."""
        with mlflow_utils.explained(self.settings, tr("opening the run")):
            run = self.new_run() if self.interrupted is None else self.reopened(self.interrupted)
            self.close_dead_runs(run.info.experiment_id)
        self.lineage = {"run_id": self.run_id, **self.git.metadata()}
        notify(tr("MLflow run: {run_name} ({run_id})", run_name=run.info.run_name, run_id=self.run_id))
        try:
            yield
        except BaseException as error:
            self.close_after(distributed.cause(error))
            raise
        with mlflow_utils.explained(self.settings, tr("closing the run")):
            self.client.set_terminated(self.run_id, "FINISHED")

    def new_run(self) -> Run:
        """A run that is open, and its folder, which is this process's alone."""
        experiment = mlflow_utils.experiment_id(self.client, self.settings)
        self.changes = environment.read_code_changes(ROOT, self.git, self.secrets())
        tags = {**self.run_tags(), environment.PATCH_TAG: self.changes.state}
        if self.changes.patch:
            tags["git_patch_sha256"] = hashlib.sha256(self.changes.patch).hexdigest()
        run = self.client.create_run(experiment, tags=tags, start_time=int(time.time() * 1000))
        self.run_id = str(run.info.run_id)
        self.claim = _claim(self.run_folder)
        return run

    def reopened(self, interrupted: Interrupted) -> Run:
        """The interrupted run, open again. Raises AppError where another process is at it, UsageError for an unknown one."""
        self.run_id = interrupted.record.run_id
        self.claim = _claim(self.run_folder)
        run = mlflow_utils.get_run(self.client, self.settings, self.run_id)
        for key in ("host", "pid"):
            self.client.set_tag(self.run_id, key, self.run_tags()[key])
        if "error" in run.data.tags:
            self.client.delete_tag(self.run_id, "error")
        self.client.update_run(self.run_id, status="RUNNING")
        self.resume_from = interrupted.state
        return run

    def close_after(self, error: BaseException) -> None:
        """Close the run as FAILED or KILLED, with the error's words, and say how to go on."""
        if self.checkpoint_file.exists() and not isinstance(error, Diverged):
            command = f"python train.py --resume {self.run_id}"
            print(tr("to go on: {command}", command=command), file=sys.stderr)
        elif not self.checkpoint_file.exists():
            self.release()
        self.record_the_rest(error)
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            with uninterrupted():
                self.client.set_tag(self.run_id, "error", self.without_secrets(one_line(error))[:5000])
                self.client.set_terminated(self.run_id, status)
        except Exception as second:  # the first error is the one to show; this one must not hide it
            warn(
                tr(
                    "could not close run {run_id} as {status}: {second}",
                    run_id=self.run_id,
                    status=status,
                    second=one_line(second),
                )
            )

    def record_the_rest(self, error: BaseException) -> None:
        """Let the epochs before a failure reach the run; what cannot is recorded again by --resume."""
        try:
            self.background.finish()
        except Exception as second:  # the first error is the one to show
            if second is not error:
                warn(
                    tr(
                        "run {run_id} lacks epochs that could not be recorded: {second}",
                        run_id=self.run_id,
                        second=one_line(second),
                    )
                )

    def record_code(self) -> None:
        """Put what a repetition needs besides commits into the run: settings, changed code, packages, hardware."""
        with tempfile.TemporaryDirectory() as folder:
            patch = self.changes.patch
            environment.write_record(Path(folder), self.settled(), self.smoke, patch, self.device)
            with mlflow_utils.explained(self.settings, tr("recording the run")):
                self.client.log_artifacts(self.run_id, folder, environment.FOLDER)

    def run_tags(self) -> dict[str, str]:
        """Everything that is known before training, Git's facts under MLflow's own names too."""
        tags = {
            **self.git.metadata(),
            "mlflow.source.name": "train.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
            "lakefs_repo": self.lake.repo,
            "lakefs_branch": self.lake.branch,
            "smoke": str(self.smoke).lower(),
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        }
        if self.target_branch:
            tags["lakefs_target_branch"] = self.target_branch
        if self.git.commit != "none":
            tags["mlflow.source.git.commit"] = self.git.commit
        return tags

    def close_dead_runs(self, experiment: str) -> None:
        """A killed process (kill -9, power cut) leaves its run RUNNING for ever: say so, and close it as KILLED."""
        wanted = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
        for run in self.client.search_runs([experiment], wanted, max_results=100):
            pid = run.data.tags.get("pid", "")
            if pid.isdigit() and not _alive(int(pid)):
                self.client.set_tag(run.info.run_id, "error", "the process ended without closing its run")
                self.client.set_terminated(run.info.run_id, "KILLED")
                checkpoint = self.settings.model_path.parent / run.info.run_id / CHECKPOINT_FILE
                how = f" (python train.py --resume {run.info.run_id})" if checkpoint.exists() else ""
                notify(
                    tr("an earlier run, {run_id}, was cut off: closed as KILLED{how}", run_id=run.info.run_id, how=how)
                )

    def secrets(self) -> list[str]:
        """The keys of the settings."""
        s = self.settings
        keys = (s.lakefs_access_key_id, s.lakefs_secret_access_key, s.minio_access_key, s.minio_secret_key)
        return [key for key in keys if key]

    def without_secrets(self, text: str) -> str:
        """The text with every secret of the settings blotted out."""
        for secret in self.secrets():
            text = text.replace(secret, "***")
        return text

    # --- data -----------------------------------------------------------------------------------------------------

    def commit_data(self) -> None:
        """Bring the checked data to lakeFS, unless they come from there, and pin the run to their commit."""
        known = {pair.image: pair.image_sha256 for pair in self.data.pairs}
        known |= {pair.mask: pair.mask_sha256 for pair in self.data.pairs}
        files = {
            path: LocalFile(file, known.get(file) or file_sha256(file))
            for path, file in data_files(self.data.root).items()
        }
        path = self.publish_data(files) if self.pinned is None else self.require_same(self.pinned, files)
        self.data_path = path
        self.data_manifest_sha256 = data_manifest({name: file.sha256 for name, file in files.items()}, path.path)
        self.lineage |= {"lakefs_data_path": str(path)}
        if self.interrupted is None:
            self.log_data(path)

    def require_same(self, pinned: LakePath, files: dict[str, LocalFile]) -> LakePath:
        """The pinned data's path. Raises AppError where the files in the cache are not those of the commit."""
        cache = cache_folder(self.settings)
        have = {name: file.sha256 for name, file in files.items()}
        changes = compare(have, committed_files(self.lake, pinned, cache))
        if changes:
            names = "\n".join(changes.lines(10))
            raise AppError(
                tr(
                    "{root} is not {pinned}: remove the cache folder {cache} and run again\n{names}",
                    root=self.data.root,
                    pinned=pinned,
                    cache=cache,
                    names=names,
                )
            )
        notify(tr("data: {pinned}", pinned=pinned))
        return pinned

    def publish_data(self, files: dict[str, LocalFile]) -> LakePath:
        """Commit the files where they differ from the branch, and say so."""
        done = self.lake.publish(files, DATA_PREFIX, self.data_message(len(files)), self.commit_metadata(), mirror=True)
        say_published(done, len(files))
        return LakePath(self.lake.repo, done.commit_id, DATA_PREFIX)

    def data_message(self, files: int) -> str:
        """One line for the data's commit."""
        counts = ", ".join(f"{split} {len(self.data.split(split))}" for split in self.data.pixel_counts)
        return f"data: {files} files ({counts})"

    def commit_metadata(self) -> dict[str, str]:
        """What both commits carry; `url:ui` shows as a button in lakeFS's web page."""
        metadata = {**self.git.metadata(), "mlflow_run_id": self.run_id}
        page = self.run_page()
        return metadata | ({"::lakefs::MLflow::url[url:ui]": page} if page else {})

    def run_page(self) -> str | None:
        """The run in MLflow's web page, where there is a server."""
        server = self.settings.mlflow_tracking_uri
        if not server or not server.startswith("http"):
            return None
        experiment = self.client.get_run(self.run_id).info.experiment_id
        return f"{without_credentials(server).rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"

    def log_data(self, path: LakePath) -> None:
        """The data set as the run's input, the settings as its parameters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        source = json.dumps({"uri": str(path), "repository": path.repo, "commit": path.ref})
        pictures = {split: len(self.data.split(split)) for split in self.data.pixel_counts}
        # MLflow's page shows the source of the types that it knows; of others only what the profile says.
        profile = json.dumps({"source": str(path), "pictures": pictures, "classes": list(self.data.classes.names)})
        digest = path.ref[:36]  # MLflow's limit; the full id stands in the source
        dataset = Dataset(name=path.repo, digest=digest, source_type="lakefs", source=source, profile=profile)
        parameters = {
            **self.settings.public(),
            "lakefs_data_path": str(path),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        with mlflow_utils.explained(self.settings, tr("recording the run")):
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
            self.client.log_batch(
                self.run_id,
                params=[Param(key, value[:6000]) for key, value in parameters.items()],
                tags=[
                    RunTag("lakefs_data_commit", path.ref),
                    RunTag("data_manifest_sha256", self.data_manifest_sha256),
                ],
            )

    # --- training -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Record what was chosen from data and machine: the settings say 'auto' where these say what it became."""
        import torch
        from mlflow.entities import Param

        super().prepare()
        if self.interrupted is not None:
            return
        resolved = {
            **{f"resolved_{key}": value[:6000] for key, value in self.chosen.items()},
            "num_classes": str(self.data.classes.num_classes),
            "num_parameters": str(sum(p.numel() for p in self.network.parameters())),
            "torch": torch.__version__,
            "processes": str(distributed.world_size()),
        }
        with mlflow_utils.explained(self.settings, tr("recording the run")):
            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in resolved.items()])
        self.record_code()

    def on_epoch_end(self, result: EpochResult) -> None:
        super().on_epoch_end(result)
        self.background.call(lambda: self.log_epoch(result))
        indices = figures.sample_indices(self.val_pictures)
        predicted = figures.predictions(self.model({}), self.val_pictures, indices)  # now: the weights will change
        self.background.call(lambda: self.log_overlays(result.epoch, indices, predicted))

    def log_epoch(self, result: EpochResult) -> None:
        """The figures of an epoch, as metrics of the run."""
        v = result.validation
        figures_of_epoch = {
            "train_loss": result.train_loss,
            "val_loss": v.loss,
            "val_accuracy": v.accuracy,
            "val_miou": v.miou,
            "images_per_second": result.images_per_second,
            "learning_rate": result.learning_rate,
            **{f"val_iou/{_metric_name(name)}": iou for name, iou in v.iou.items() if iou is not None},
        }
        self.log_metrics(figures_of_epoch, result.epoch)

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """All figures of a step in one request: one call for each takes a server 0.1 s."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with mlflow_utils.explained(self.settings, tr("recording metrics")):
            self.client.log_batch(self.run_id, metrics=[Metric(k, value, now, step) for k, value in values.items()])

    def run_record(self) -> dict[str, Any]:
        return RunRecord(
            run_id=self.run_id,
            smoke=self.smoke,
            data_path=self.data_path,
            repo=self.lake.repo,
            branch=self.lake.branch,
            target_branch=self.target_branch,
            git=self.git,
            processes=distributed.world_size(),
            **super().run_record(),
        ).to_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Also record the epochs that a kill kept from the run; none is recorded twice."""
        super().load_state(state)
        with mlflow_utils.explained(self.settings, tr("reading metrics")):
            known = {metric.step for metric in self.client.get_metric_history(self.run_id, "val_miou")}
        for result in self.history:
            if result.epoch not in known:
                self.log_epoch(result)
        notify(
            tr(
                "going on at epoch {epoch}/{epochs}, batch {step}/{steps_per_epoch}",
                epoch=self.epoch + 1,
                epochs=self.epochs,
                step=self.step,
                steps_per_epoch=self.steps_per_epoch,
            )
        )

    def log_report(self, result: Result, folder: Path) -> None:
        """Pictures, tables and the page that shows them, as artifacts and in the run's folder: people would rather look."""
        write_report(folder / REPORT_FILE, self, result, folder)
        for name in (REPORT_FILE, CLASSES_TABLE):
            if (folder / name).exists():
                write_atomically(self.run_folder / name, (folder / name).read_bytes())
        with mlflow_utils.explained(self.settings, tr("recording pictures")):
            self.client.log_artifacts(self.run_id, str(folder))
        notify(tr("report: {run_folder}", run_folder=self.run_folder / REPORT_FILE))

    def log_overlays(self, epoch: int, indices: list[int], predicted: list[UInt8]) -> None:
        """The fixed sample of overlays by the network of this epoch."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"epoch-{epoch + 1:04d}.jpg"
            figures.save_samples(file, self.val_pictures, indices, predicted)
            with mlflow_utils.explained(self.settings, tr("recording pictures")):
                self.client.log_artifact(self.run_id, str(file), "overlays")

    @property
    def run_folder(self) -> Path:
        """A folder of the run's own: two trainings at once must not write over each other."""
        if self.interrupted is not None:
            return self.interrupted.folder
        return self.settings.model_path.parent / self.run_id

    # --- model ----------------------------------------------------------------------------------------------------

    def commit_model(self, best: EpochResult) -> Result:
        """Bring the model file to lakeFS, put its path, hash and figures into the run, and the file at MODEL_PATH."""
        sha256, v = file_sha256(self.best_file), best.validation
        beside = {
            METRICS_FILE: json.dumps(self.metrics_report(best, sha256), indent=1),
            pyfunc.MLMODEL: pyfunc.mlmodel(self.run_id, "model.pth", sha256),
        }
        for name, text in beside.items():
            write_atomically(self.run_folder / name, text.encode())
        path = self.recorded_model() or self.publish_model(best, sha256)
        # Copies: until all is done, a second call must find everything in the run's folder.
        for name in beside:
            link_or_copy(self.run_folder / name, self.settings.model_path.with_name(name))
        link_or_copy(self.best_file, self.settings.model_path)
        return Result(self.run_id, self.data_path, self.data_manifest_sha256, path, sha256, v.accuracy, v.miou)

    def recorded_model(self) -> LakePath | None:
        """The model's place, where an earlier process got as far as to record it whole."""
        with mlflow_utils.explained(self.settings, tr("reading the run")):
            data = self.client.get_run(self.run_id).data
        whole = "model_sha256" in data.tags  # the last that is written
        return LakePath.parse(data.params["lakefs_model_path"]) if whole else None

    def publish_model(self, best: EpochResult, sha256: str) -> LakePath:
        """Commit the model, and record its place and figures in the run."""
        from mlflow.entities import Param, RunTag

        v = best.validation
        metrics = {"best_val_miou": v.miou, "best_val_accuracy": v.accuracy}
        metadata = {
            **self.commit_metadata(),
            **{key: f"{value:.6f}" for key, value in metrics.items()},
            "model_sha256": sha256,
            "lakefs_data_path": str(self.data_path),
        }
        message = f"model: {self.settings.model}, val mIoU {v.miou:.4f}, val accuracy {v.accuracy:.4f}"
        beside = {name: self.run_folder / name for name in (METRICS_FILE, pyfunc.MLMODEL)}
        files = {
            "model.pth": LocalFile(self.best_file, sha256),
            **{name: LocalFile(file, file_sha256(file)) for name, file in beside.items()},
        }
        done = self.lake.publish(files, MODEL_PREFIX, message, metadata, mirror=False)
        path = LakePath(self.lake.repo, done.commit_id, f"{MODEL_PREFIX}model.pth")
        with mlflow_utils.explained(self.settings, tr("recording the run")):
            recorded = "best_epoch" in self.client.get_run(self.run_id).data.metrics
            if not recorded:  # by a process that was killed right after
                self.log_metrics({**metrics, "best_epoch": float(best.epoch)}, best.epoch)
            self.client.log_batch(
                self.run_id,
                params=[Param("lakefs_model_path", str(path))],
                tags=[RunTag("lakefs_model_commit", done.commit_id)],
            )
            self.client.set_tag(self.run_id, "model_sha256", sha256)
        return path

    def metrics_report(self, best: EpochResult, model_sha256: str) -> dict[str, object]:
        """What `models/metrics.json` says of the model file beside it; the gate of _lakefs_actions/ reads it.

        `passed` is register_model.py's own question; `finite` false: a figure is no number, and stands as null.
        """
        v, threshold = best.validation, self.settings.register_threshold
        figures: dict[str, float | None] = {
            "best_val_miou": v.miou,
            "best_val_accuracy": v.accuracy,
            "val_loss": v.loss,
        }
        finite = all(math.isfinite(value) for value in (v.miou, v.accuracy, v.loss))
        known = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        decides = self.settings.register_metric if self.settings.register_metric in known else "best_val_miou"
        return {
            "finite": finite,
            "passed": finite and known[decides] >= threshold,
            "metric": decides,
            "threshold": threshold,
            **{name: known.get(name) for name in figures},
            "val_iou": v.iou,
            "best_epoch": best.epoch,
            "smoke": self.smoke,
            "mlflow_run_id": self.run_id,
            "model_sha256": model_sha256,
        }


def _claim(folder: Path) -> FileLock:
    """Take a run's folder for this process until it ends, however it ends. Raises UsageError where another one has it."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(tr("run {name} is still going on in another process", name=folder.name)) from None
    return lock


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return "unknown"


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there signal 0 is Ctrl-C: asking would interrupt
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process, or a system that cannot tell
        return True
    return True


def _metric_name(name: str) -> str:
    """A class name with only what MLflow allows in the name of a metric."""
    return re.sub(r"[^\w.\- ]", "_", name)
