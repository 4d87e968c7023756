"""Which RUNNING runs of MLflow are still in progress: a training reports that it lives, and others close dead ones."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings
from core.errors import UsageError
from core.i18n import tr
from core.locks import lock_or_fail
from core.machine.identity import ProcessIdentity
from core.reporting import notify
from train.resume import CHECKPOINT_FILE
from utils import mlflow_utils
from utils.lineage import PARENT_TAG

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import Run

PROCESS_TAG, HOST_TAG, HEARTBEAT_TAG = "process", "host", "heartbeat"
DEAD_ERROR = "the process ended without closing its run"  # value of the tag `error`
HEARTBEAT_S = 60.0  # seconds between two heartbeats
STOP_S = 5.0
SILENT_S = 3600.0  # seconds without one after which a process that cannot be seen is dead; clocks may differ by minutes


def process_tags() -> dict[str, str]:
    """Return the tags by which another process finds out whether this one still runs."""
    identity = str(ProcessIdentity.of_this_process())
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: identity, HEARTBEAT_TAG: str(int(time.time()))}


class Heartbeat:
    """Thread that records the time in a run's tag as long as its process works on it."""

    def __init__(self, client: MlflowClient, run_id: str, interval_s: float = HEARTBEAT_S) -> None:
        self._client, self._run_id, self._interval_s = client, run_id, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; a request that is under way gets a few seconds to end."""
        self._stopped.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            # The next one may reach the server; a training that cannot record its metrics fails by itself.
            with contextlib.suppress(Exception):
                self._client.set_tag(self._run_id, HEARTBEAT_TAG, str(int(time.time())))


def close_dead_runs(client: MlflowClient, settings: Settings, experiment_id: str, own_run: str) -> None:
    """Close runs whose process is gone (kill -9, power cut): MLflow would show them as RUNNING forever.

    The parent of a run in progress is in progress, too: several processes may share it, and the last one to mark it may
    have ended.
    """
    models = settings.model_path.parent
    with mlflow_utils.convert_errors(settings, tr("opening the run")):
        # A list first: closing runs changes what the next page would hold.
        running = list(mlflow_utils.search_runs(client, [experiment_id], "attributes.status = 'RUNNING'"))
        dead = {str(run.info.run_id): run for run in running if _is_dead(run, models / str(run.info.run_id))}
        at_work = {own_run} | {run.data.tags.get(PARENT_TAG) for run in running if run.info.run_id not in dead}
        for run_id, run in dead.items():
            if run_id not in at_work:
                _close(client, run_id, models / run_id / CHECKPOINT_FILE, PARENT_TAG in run.data.tags)


def remove_false_error(client: MlflowClient, run_id: str) -> None:
    """Remove the error of a run that another machine took for dead, such as while this one slept."""
    if client.get_run(run_id).data.tags.get("error") == DEAD_ERROR:
        client.delete_tag(run_id, "error")


def _is_dead(run: Run, folder: Path) -> bool:
    """Return whether the process of a RUNNING run is certainly gone; `folder` is the run's, if it is in this checkout.

    Of a run on another machine, nothing is certain. Runs of earlier versions have no heartbeat: they stay as they are.
    """
    tags = run.data.tags
    identity, here = ProcessIdentity.parse(tags.get(PROCESS_TAG, "")), ProcessIdentity.of_this_process()
    if identity is None or _is_locked(folder):
        return False
    alive = identity.is_alive()
    if alive is not None:
        return not alive
    same_kernel = bool(here.boot_id) and identity.boot_id == here.boot_id
    if same_kernel and (folder / ".lock").exists():
        return True  # a container that shares this checkout held the lock as long as it lived
    if not same_kernel and tags.get(HOST_TAG) != socket.gethostname():
        return False
    beat = tags.get(HEARTBEAT_TAG, "")
    return re.fullmatch(r"[0-9]{1,12}", beat) is not None and time.time() - int(beat) > SILENT_S


def _is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        lock_or_fail(folder / ".lock", "").release()
    except (UsageError, OSError):  # held, or of another user: not certainly free
        return True
    return False


def _close(client: MlflowClient, run_id: str, checkpoint: Path, is_child: bool) -> None:
    client.set_tag(run_id, "error", DEAD_ERROR)
    client.set_terminated(run_id, "KILLED")
    if is_child:
        return  # what is said of its parent is enough
    if checkpoint.exists():
        command = f"python train.py --resume {run_id}"
        notify(
            tr(
                "an earlier run, {run_id}, was interrupted: closed as KILLED ({command})",
                run_id=run_id,
                command=command,
            )
        )
    else:
        notify(tr("an earlier run, {run_id}, was interrupted: closed as KILLED", run_id=run_id))


def lock_run_folder(folder: Path) -> FileLock:
    """Lock a run's folder for this process. Raises UsageError if another one has it."""
    message = tr("run {run_id} is still in progress in another process", run_id=folder.name)
    return lock_or_fail(folder / ".lock", message)
