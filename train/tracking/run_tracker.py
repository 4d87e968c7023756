"""RunTracker: one MLflow run from its creation to its end, whatever happens in between."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from core.errors import describe_error
from core.git import LAKECTL_COMMIT, GitFacts
from core.i18n import tr
from core.process import defer_interrupt
from core.reporting import notify, warn
from core.safety.redaction import redact
from core.safety.urls import MASK, without_credentials
from core.threads.background import Background
from dataset.faults import DataWarning, warning_records
from train.base_train import Diverged, EpochResult
from train.parallel import distributed
from train.resume import CHECKPOINT_FILE, Interrupted
from train.tracking import environment, liveness
from train.tracking.description import NOTE
from train.tracking.known_patches import remember_patch
from train.tracking.used_settings import GIVEN_TAG, given_names, known_parameters
from utils import mlflow_utils
from utils.lineage import FIRST_EPOCH, read_first_epoch

if TYPE_CHECKING:
    import torch
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from utils.lakefs_utils import LakePath

PARAM_LIMIT, ERROR_LIMIT = 6000, 5000  # characters that MLflow stores of a parameter; that we store of an error
WARNINGS_KEY, WARNINGS_FILE = "data_warnings", "data_warnings.json"  # tag, and artifact with all texts
PAGE_VIEW = "workflowType=machine_learning"  # MLflow 3.17 shows its pages for language models without it
TAG_LIMIT = 5000  # characters of the tag; MLflow stores 8,000, older servers 5,000


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before training; it becomes the run's tags."""

    git: GitFacts
    repo: str  # lakeFS repository
    branch: str  # lakeFS branch that results are published to
    target_branch: str | None  # of an experiment: where a champion is merged
    smoke: bool
    more_tags: Mapping[str, str] = field(default_factory=dict)  # of a run that belongs to another one: its parent's id
    resume_command: str = ""  # empty: --resume with the run's id

    def tags(self) -> dict[str, str]:
        """Return the tags, with Git's commit under MLflow's own name too; lakectl's name of it is for lakeFS."""
        tags = {
            **{key: value for key, value in self.git.metadata().items() if key != LAKECTL_COMMIT},
            "mlflow.source.name": "train.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
            "lakefs_repo": self.repo,
            "lakefs_branch": self.branch,
            "smoke": str(self.smoke).lower(),
            FIRST_EPOCH: "1",
            **liveness.process_tags(),
            "pid": str(os.getpid()),  # for people
            **self.more_tags,
        }
        if self.target_branch:
            tags["lakefs_target_branch"] = self.target_branch
        if self.git.commit != "none":
            tags["mlflow.source.git.commit"] = self.git.commit
        return tags


def dataset_digest(path: LakePath) -> str:
    """Return the digest of a data set in MLflow: the commit, as far as MLflow's limit of 36 characters."""
    return path.ref[:36]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return "unknown"


@dataclass(frozen=True)
class RunTracker:
    """An open run. Its folder belongs to this process: two trainings at once must not overwrite each other's files."""

    client: MlflowClient
    settings: Settings
    facts: RunFacts
    run_id: str
    experiment_id: str
    folder: Path
    lock: FileLock
    changes: environment.CodeChanges | None  # None: a resumed run, which has recorded them
    first_epoch: int = 1  # the step of the first epoch; 0 in a resumed run that an earlier version started
    given: frozenset[str] = frozenset()  # names of the settings that somebody set when the run was started
    background: Background = field(default_factory=Background)  # records epochs during the next one
    record: dict[str, str] = field(default_factory=dict)  # SHA-256 of the recorded files, by environment.HASH_KEYS

    # --- start ---

    @classmethod
    def start(cls, client: MlflowClient, settings: Settings, facts: RunFacts) -> RunTracker:
        """Create a run, so that a failure from here on leaves a trace. Raises AppError."""
        with mlflow_utils.convert_errors(settings, tr("opening the run")):
            experiment = mlflow_utils.get_or_create_experiment(client, settings)
            mlflow_utils.mark_experiment(client, settings, experiment)
            changes = environment.read_code_changes(ROOT, facts.git, settings.secrets(), settings.data_dir)
            tags = {**facts.tags(), environment.PATCH_TAG: changes.state, GIVEN_TAG: given_names(settings)}
            if changes.patch:
                sha256 = hashlib.sha256(changes.patch).hexdigest()
                tags[environment.HASH_KEYS[environment.PATCH]] = sha256
                remember_patch(settings.lakefs_local_dir, sha256)
            run = client.create_run(experiment, tags=tags, start_time=int(time.time() * 1000))
            folder = settings.model_path.parent / str(run.info.run_id)
            return cls._opened(client, settings, facts, run, folder, liveness.lock_run_folder(folder), changes)

    @classmethod
    def reopen(cls, client: MlflowClient, settings: Settings, facts: RunFacts, interrupted: Interrupted) -> RunTracker:
        """Open an interrupted run again. Raises UsageError if another process uses it or MLflow does not know it."""
        with mlflow_utils.convert_errors(settings, tr("opening the run")):
            lock = liveness.lock_run_folder(interrupted.folder)
            run = mlflow_utils.get_run(client, settings, interrupted.record.run_id)
            for key, value in {**liveness.process_tags(), "pid": str(os.getpid()), **interrupted.tags}.items():
                client.set_tag(run.info.run_id, key, value)
            if "error" in run.data.tags:
                client.delete_tag(run.info.run_id, "error")
            client.update_run(run.info.run_id, status="RUNNING")
            tracker = cls._opened(client, settings, facts, run, interrupted.folder, lock, None)
            tracker.record.update(interrupted.record.hashes)
            return tracker

    @classmethod
    def _opened(
        cls,
        client: MlflowClient,
        settings: Settings,
        facts: RunFacts,
        run: Run,
        folder: Path,
        lock: FileLock,
        changes: environment.CodeChanges | None,
    ) -> RunTracker:
        tags, ids = run.data.tags, (str(run.info.run_id), str(run.info.experiment_id))
        given = frozenset(tags.get(GIVEN_TAG, "").split())
        tracker = cls(client, settings, facts, *ids, folder, lock, changes, read_first_epoch(tags), given)
        liveness.close_dead_runs(client, settings, tracker.experiment_id, tracker.run_id)
        notify(tr("MLflow run: {name} ({run_id})", name=run.info.run_name, run_id=tracker.run_id))
        return tracker

    # --- end ---

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """End the run as FINISHED, as KILLED (Ctrl-C, SIGTERM), or as FAILED with its error."""
        heartbeat = liveness.Heartbeat(self.client, self.run_id)
        try:
            yield
            heartbeat.stop()
        except BaseException as error:
            heartbeat.stop()
            self._close_after(distributed.cause(error))
            raise
        with self._recording(tr("closing the run")):
            self.client.set_terminated(self.run_id, "FINISHED")
            liveness.remove_false_error(self.client, self.run_id)
        if page := self.page():
            notify(tr("MLflow page of the run: {page}", page=page))

    def prepare_resume(self, error: BaseException) -> None:
        """Say how the run is resumed after an error; without a checkpoint, remove its folder."""
        checkpoint = self.folder / CHECKPOINT_FILE
        if checkpoint.exists() and not isinstance(error, Diverged):
            command = self.facts.resume_command or f"python train.py --resume {self.run_id}"
            warn(tr("to resume: {command}", command=command))
        elif not checkpoint.exists():
            self.release()

    def _close_after(self, error: BaseException) -> None:
        self.prepare_resume(error)
        self._record_remaining_epochs(error)
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            with defer_interrupt():
                self.client.set_tag(self.run_id, "error", self.without_secrets(describe_error(error))[:ERROR_LIMIT])
                self.client.set_terminated(self.run_id, status)
        except Exception as second:  # the first error is the one to show; this one must not hide it
            warn(
                tr(
                    "could not close run {run_id} as {status}: {error}",
                    run_id=self.run_id,
                    status=status,
                    error=describe_error(second),
                )
            )

    def _record_remaining_epochs(self, error: BaseException) -> None:
        """Let the epochs before a failure reach the run; --resume records those that cannot."""
        try:
            self.background.finish()
        except Exception as second:  # the first error is the one to show
            if second is not error:
                warn(
                    tr(
                        "run {run_id} lacks epochs that could not be recorded: {error}",
                        run_id=self.run_id,
                        error=describe_error(second),
                    )
                )

    def release(self) -> None:
        """Release the run's folder, and remove it if it is empty."""
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    # --- records ---

    @contextlib.contextmanager
    def _recording(self, what: str) -> Iterator[None]:
        with mlflow_utils.convert_errors(self.settings, what):
            yield

    def without_secrets(self, text: str) -> str:
        """Return the text with every key of the settings and of the environment masked."""
        for secret in self.settings.secrets():
            text = text.replace(secret, MASK)
        return redact(text)

    def page(self) -> str | None:
        """Return the URL of the run in MLflow's web page; None without a server."""
        server = self.settings.mlflow_tracking_uri
        if not server or not server.startswith("http"):
            return None
        address = f"{without_credentials(server).rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"
        return f"{address}?{PAGE_VIEW}"

    def commit_metadata(self) -> dict[str, str]:
        """Return the metadata of the run's lakeFS commits; `url:ui` shows as a button in lakeFS's web page."""
        metadata = {**self.facts.git.metadata(), "mlflow_run_id": self.run_id}
        page = self.page()
        return metadata | ({"::lakefs::MLflow::url[url:ui]": page} if page else {})

    def log_data(self, path: LakePath, manifest_sha256: str, images: dict[str, int], classes: list[str]) -> None:
        """Record the data set as the run's input, and the settings as its parameters."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        source = json.dumps({"uri": str(path), "repository": path.repo, "commit": path.ref})
        # MLflow's page shows the source of known types only; of others what the profile says.
        profile = json.dumps({"source": str(path), "pictures": images, "classes": classes})
        digest = dataset_digest(path)
        dataset = Dataset(name=path.repo, digest=digest, source_type="lakefs", source=source, profile=profile)
        parameters = {
            **known_parameters(self.settings),
            "lakefs_data_path": str(path),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        tags = {"lakefs_data_commit": path.ref, "data_manifest_sha256": manifest_sha256}
        with self._recording(tr("recording the run")):
            recorded = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
            mlflow_utils.log_dataset(self.client, self.run_id, recorded)
            self.client.log_batch(
                self.run_id,
                params=[Param(key, redact(value)[:PARAM_LIMIT]) for key, value in parameters.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )

    def log_warnings(self, warnings: Sequence[DataWarning]) -> None:
        """Record the data's warnings: as an artifact, and as a tag that leaves out texts that are too long."""
        if not warnings:
            return
        records = warning_records(warnings)
        tag = json.dumps(records, ensure_ascii=False)
        if len(tag) > TAG_LIMIT:
            tag = json.dumps(sorted({warning.kind for warning in warnings}))
        with self._recording(tr("recording the run")), tempfile.TemporaryDirectory() as folder:
            self.client.set_tag(self.run_id, WARNINGS_KEY, tag)
            content = json.dumps(records, ensure_ascii=False, indent=1)
            (Path(folder) / WARNINGS_FILE).write_text(content, encoding="utf-8")
            mlflow_utils.log_artifacts(self.client, self.settings, self.run_id, Path(folder))

    def describe(self, text: str) -> None:
        """Set the description that MLflow's page shows, in Markdown."""
        with self._recording(tr("recording the run")):
            self.client.set_tag(self.run_id, NOTE, self.without_secrets(text)[:TAG_LIMIT])

    def log_params(self, values: Mapping[str, object]) -> None:
        """Record parameters in one request."""
        from mlflow.entities import Param

        with self._recording(tr("recording the run")):
            params = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in values.items()]
            self.client.log_batch(self.run_id, params=params)

    def log_metrics(self, values: Mapping[str, float], step: int, *of_model: str) -> None:
        """Record all metrics of a step in one request: one request each takes a server 0.1 s.

        `of_model`: id of a logged model that they are of too, name and digest of the data set.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._recording(tr("recording metrics")):
            metrics = [Metric(key, value, now, step, *of_model) for key, value in values.items()]
            self.client.log_batch(self.run_id, metrics=metrics)

    def step_of(self, result: EpochResult) -> int:
        """Return the step at which this run records the metrics of an epoch."""
        return result.epoch + self.first_epoch

    def recorded_steps(self, metric: str) -> set[int]:
        """Return the steps that a metric was recorded at."""
        with self._recording(tr("reading metrics")):
            return {entry.step for entry in self.client.get_metric_history(self.run_id, metric)}

    def log_code(self, settings: dict[str, Any], device: torch.device) -> None:
        """Record what a reproduction needs besides commits: settings, changed code, packages, hardware."""
        from mlflow.entities import RunTag

        patch = self.changes.patch if self.changes else b""
        with tempfile.TemporaryDirectory() as folder:
            self.record.update(environment.write_record(Path(folder), settings, self.facts.smoke, patch, device))
            self.log_artifacts(Path(folder), environment.FOLDER)
            with self._recording(tr("recording the run")):
                self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in self.record.items()])

    def log_artifacts(self, folder: Path, destination: str | None = None) -> None:
        """Record the files of a folder as artifacts."""
        with self._recording(tr("recording artifacts")):
            mlflow_utils.log_artifacts(self.client, self.settings, self.run_id, folder, destination)
