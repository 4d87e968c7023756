"""MlflowTrain: one MLflow run around the training, from the data's commit to the model's, with its lineage and pictures."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from train import figures
from train.base_train import EpochResult
from train.dataset import data_files
from train.model_train import ModelTrain
from train.prepare_data import cache_folder
from utils import mlflow_utils
from utils.console import AppError, one_line, say, t, uninterrupted, warn
from utils.files import file_sha256
from utils.git_utils import GitFacts, without_credentials
from utils.lakefs_utils import LakeFS, LakePath
from utils.transfer import LocalFile
from utils.versions import DATA_PREFIX, MODEL_PREFIX, committed_files, compare, data_manifest, say_published

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_FILE = "metrics.json"  # beside the model, locally and in lakeFS


@dataclass(frozen=True)
class Result:
    """What a run left behind; `accuracy` and `miou` are those of the saved model on the validation split."""

    run_id: str
    data_path: LakePath
    data_manifest_sha256: str
    model_path: LakePath
    model_sha256: str
    accuracy: float
    miou: float


@dataclass
class MlflowTrain(ModelTrain):
    """Opens the run before anything is uploaded, so that a failed run leaves a trace, and closes it whatever happens."""

    lake: LakeFS = field(kw_only=True)
    client: MlflowClient = field(kw_only=True)
    git: GitFacts = field(kw_only=True)
    pinned: LakePath | None = field(default=None, kw_only=True)  # data that lie in lakeFS already: none are published
    target_branch: str | None = field(default=None, kw_only=True)  # where an experiment's branch goes when registered

    def run(self) -> Result:
        """Commit the data, train, commit the model. Raises AppError; nothing half-done shows on the target branch."""
        with self.tracked():
            data_path = self.commit_data()
            best = self.fit()
            self.log_pictures()
            return self.commit_model(data_path, best)

    # --- the run --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def tracked(self) -> Iterator[None]:
        """An open MLflow run; it ends as FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED with its error."""
        with mlflow_utils.explained(self.settings, t("실행 시작", "opening the run")):
            experiment = mlflow_utils.experiment_id(self.client, self.settings)
            self.close_dead_runs(experiment)
            run = self.client.create_run(experiment, tags=self.run_tags(), start_time=int(time.time() * 1000))
        self.run_id = str(run.info.run_id)
        self.lineage = {"run_id": self.run_id, **self.git.metadata()}
        say(f"MLflow 실행: {run.info.run_name} ({self.run_id})", f"MLflow run: {run.info.run_name} ({self.run_id})")
        try:
            yield
        except BaseException as error:
            self.close_after(error)
            raise
        with mlflow_utils.explained(self.settings, t("실행 종료", "closing the run")):
            self.client.set_terminated(self.run_id, "FINISHED")

    def close_after(self, error: BaseException) -> None:
        """Close the run as FAILED or KILLED, with the error's words."""
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            with uninterrupted():
                self.client.set_tag(self.run_id, "error", self.without_secrets(one_line(error))[:5000])
                self.client.set_terminated(self.run_id, status)
        except Exception as second:  # the first error is the one to show; this one must not hide it
            warn(
                f"실행 {self.run_id} 을(를) {status} 로 닫지 못했습니다: {one_line(second)}",
                f"could not close run {self.run_id} as {status}: {one_line(second)}",
            )

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
                say(
                    f"이전 실행 {run.info.run_id} 은(는) 도중에 끊겼습니다: KILLED 로 닫았습니다",
                    f"an earlier run, {run.info.run_id}, was cut off: closed as KILLED",
                )

    def without_secrets(self, text: str) -> str:
        """The text with every secret of the settings blotted out."""
        s = self.settings
        for secret in (s.lakefs_access_key_id, s.lakefs_secret_access_key, s.minio_access_key, s.minio_secret_key):
            text = text.replace(secret, "***") if secret else text
        return text

    # --- data -----------------------------------------------------------------------------------------------------

    def commit_data(self) -> LakePath:
        """Bring the checked data to lakeFS, unless they come from there, and pin the run to their commit."""
        known = {pair.image: pair.image_sha256 for pair in self.data.pairs}
        known |= {pair.mask: pair.mask_sha256 for pair in self.data.pairs}
        files = {
            path: LocalFile(file, known.get(file) or file_sha256(file))
            for path, file in data_files(self.data.root).items()
        }
        path = self.publish_data(files) if self.pinned is None else self.require_same(self.pinned, files)
        self.data_manifest_sha256 = data_manifest({name: file.sha256 for name, file in files.items()}, path.path)
        self.lineage |= {"lakefs_data_path": str(path)}
        self.log_data(path)
        return path

    def require_same(self, pinned: LakePath, files: dict[str, LocalFile]) -> LakePath:
        """The pinned data's path. Raises AppError where the files in the cache are not those of the commit."""
        cache = cache_folder(self.settings)
        have = {name: file.sha256 for name, file in files.items()}
        changes = compare(have, committed_files(self.lake, pinned, cache))
        if changes:
            names = "\n".join(changes.lines(10))
            raise AppError(
                t(
                    f"{self.data.root} 이(가) {pinned} 와 다릅니다: 캐시 폴더 {cache} 를 지우고 다시 실행하세요\n{names}",
                    f"{self.data.root} is not {pinned}: remove the cache folder {cache} and run again\n{names}",
                )
            )
        say(f"데이터: {pinned}", f"data: {pinned}")
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
        server = self.settings.mlflow_tracking_uri
        if server and server.startswith("http"):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            link = f"{without_credentials(server).rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"
            metadata["::lakefs::MLflow::url[url:ui]"] = link
        return metadata

    def log_data(self, path: LakePath) -> None:
        """The data set as the run's input, the settings as its parameters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        source = json.dumps({"uri": str(path), "repository": path.repo, "commit": path.ref})
        pictures = {split: len(self.data.split(split)) for split in self.data.pixel_counts}
        profile = json.dumps({"pictures": pictures, "classes": list(self.data.classes.names)})
        digest = path.ref[:36]  # MLflow's limit; the full id stands in the source
        dataset = Dataset(name=path.repo, digest=digest, source_type="lakefs", source=source, profile=profile)
        parameters = {
            **self.settings.public(),
            "lakefs_data_path": str(path),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        with mlflow_utils.explained(self.settings, t("실행 기록", "recording the run")):
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
            self.client.log_batch(
                self.run_id,
                params=[Param(key, value[:6000]) for key, value in parameters.items()],
                tags=[RunTag("lakefs_data_commit", path.ref)],
            )

    # --- training -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Record what was chosen from data and machine: the settings say 'auto' where these say what it became."""
        import torch
        from mlflow.entities import Param

        super().prepare()
        resolved = {
            "resolved_image_size": f"{self.size[0]} {self.size[1]}",
            "resolved_device": str(self.device),
            "num_classes": str(self.data.classes.num_classes),
            "num_parameters": str(sum(p.numel() for p in self.network.parameters())),
            "torch": torch.__version__,
        }
        with mlflow_utils.explained(self.settings, t("실행 기록", "recording the run")):
            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in resolved.items()])

    def on_epoch_end(self, result: EpochResult) -> None:
        super().on_epoch_end(result)
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
        with mlflow_utils.explained(self.settings, t("지표 기록", "recording metrics")):
            self.client.log_batch(self.run_id, metrics=[Metric(k, value, now, step) for k, value in values.items()])

    def log_pictures(self) -> None:
        """Curves, confusion matrix and overlays of the saved model, as artifacts: people would rather look than read."""
        with tempfile.TemporaryDirectory() as folder:
            figures.draw_all(Path(folder), self)
            with mlflow_utils.explained(self.settings, t("그림 기록", "recording pictures")):
                self.client.log_artifacts(self.run_id, folder)

    @property
    def best_file(self) -> Path:
        """In a folder of the run's own, until it is committed: two trainings at once must not write over each other."""
        return self.settings.model_path.parent / self.run_id / self.settings.model_path.name

    # --- model ----------------------------------------------------------------------------------------------------

    def commit_model(self, data_path: LakePath, best: EpochResult) -> Result:
        """Bring the model file to lakeFS and put its path, hash and figures into the run."""
        from mlflow.entities import Param, RunTag

        model_file, v = self.best_file, best.validation
        sha256 = file_sha256(model_file)
        metrics = {"best_val_miou": v.miou, "best_val_accuracy": v.accuracy}
        metadata = {
            **self.commit_metadata(),
            **{key: f"{value:.6f}" for key, value in metrics.items()},
            "model_sha256": sha256,
            "lakefs_data_path": str(data_path),
        }
        message = f"model: {self.settings.model}, val mIoU {v.miou:.4f}, val accuracy {v.accuracy:.4f}"
        metrics_file = model_file.with_name(METRICS_FILE)
        metrics_file.write_text(json.dumps(self.metrics_report(best, sha256), indent=1), encoding="utf-8")
        files = {
            "model.pth": LocalFile(model_file, sha256),
            METRICS_FILE: LocalFile(metrics_file, file_sha256(metrics_file)),
        }
        try:
            done = self.lake.publish(files, MODEL_PREFIX, message, metadata, mirror=False)
        except AppError as error:
            kept = t(f"학습한 모델은 {model_file} 에 남아 있습니다", f"the trained model is kept in {model_file}")
            raise AppError(f"{error}\n{kept}") from error
        path = LakePath(self.lake.repo, done.commit_id, f"{MODEL_PREFIX}model.pth")
        self.log_metrics({**metrics, "best_epoch": float(best.epoch)}, best.epoch)
        with mlflow_utils.explained(self.settings, t("실행 기록", "recording the run")):
            self.client.log_batch(
                self.run_id,
                params=[Param("lakefs_model_path", str(path))],
                tags=[RunTag("lakefs_model_commit", done.commit_id), RunTag("model_sha256", sha256)],
            )
        os.replace(metrics_file, self.settings.model_path.with_name(METRICS_FILE))
        os.replace(model_file, self.settings.model_path)
        model_file.parent.rmdir()
        return Result(self.run_id, data_path, self.data_manifest_sha256, path, sha256, v.accuracy, v.miou)

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
