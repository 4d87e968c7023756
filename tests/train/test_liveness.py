"""A live run is never closed by another training; a dead one is, also between containers and after a reboot."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from core.locks import lock_or_fail
from core.machine.identity import ProcessIdentity
from tests.support.project import SOURCE
from train.tracking import liveness
from train.tracking.liveness import DEAD_ERROR, HEARTBEAT_TAG, HOST_TAG, PROCESS_TAG, SILENT_S, Heartbeat, process_tags
from utils import mlflow_utils

HERE = ProcessIdentity.of_this_process()
FRESH, STALE = str(int(time.time())), str(int(time.time() - SILENT_S - 60))
pytestmark = pytest.mark.skipif(not HERE.boot_id or not HERE.start, reason="needs /proc")


class Runs:
    """An experiment of a local MLflow database, and RUNNING runs in it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", model_path=folder / "models/model.pth"
        )
        self.client = mlflow_utils.connect(self.settings)
        self.experiment = mlflow_utils.get_or_create_experiment(self.client, self.settings)
        self.own = self.add({})

    def add(self, tags: dict[str, str]) -> str:
        return str(self.client.create_run(self.experiment, tags=tags).info.run_id)

    def folder(self, run_id: str) -> Path:
        return self.settings.model_path.parent / run_id

    def status_after_another_training(self, run_id: str) -> str:
        """Return the run's status after another training has started."""
        liveness.close_dead_runs(self.client, self.settings, self.experiment, self.own)
        return str(self.client.get_run(run_id).info.status)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(mlflow_database, folder)
    return Runs(folder)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def identity_of(pid: int) -> ProcessIdentity:
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(HERE, pid=pid, start=start)


def tags_of(identity: ProcessIdentity, host: str = socket.gethostname(), beat: str = FRESH) -> dict[str, str]:
    return {HOST_TAG: host, PROCESS_TAG: str(identity), HEARTBEAT_TAG: beat, "pid": str(identity.pid)}


def test_run_of_a_live_process_stays_and_that_of_a_killed_one_is_closed(
    runs: Runs, child: subprocess.Popen[bytes]
) -> None:
    run_id = runs.add(tags_of(identity_of(child.pid), beat=STALE))
    assert runs.status_after_another_training(run_id) == "RUNNING"
    child.kill()
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not waited for: a zombie
    assert runs.status_after_another_training(run_id) == "KILLED"
    assert runs.client.get_run(run_id).data.tags["error"] == DEAD_ERROR


def test_run_whose_process_id_another_process_got_is_closed(runs: Runs) -> None:
    run_id = runs.add(tags_of(replace(HERE, start="1")))
    assert runs.status_after_another_training(run_id) == "KILLED"


# A process id that is free here, as those of another container are, and 1, which always exists.
ELSEWHERE = {
    "container of this machine": replace(HERE, pid_namespace="pid:[1]", pid=1),
    "container of this machine, other process id": replace(HERE, pid_namespace="pid:[1]", pid=2**22 + 1),
    "machine of the same name": replace(HERE, boot_id="6ee9b7e1", pid=2**22 + 1),
    "container on a machine of the same name": replace(HERE, boot_id="6ee9b7e1", pid_namespace="pid:[1]", pid=1),
    "a system that tells nothing": ProcessIdentity("", "", 2**22 + 1, ""),
}


@pytest.mark.parametrize("identity", ELSEWHERE.values(), ids=ELSEWHERE)
def test_live_run_elsewhere_is_never_closed_and_a_silent_one_is(runs: Runs, identity: ProcessIdentity) -> None:
    live, silent = runs.add(tags_of(identity)), runs.add(tags_of(identity, beat=STALE))
    assert runs.status_after_another_training(live) == "RUNNING"
    assert runs.client.get_run(silent).info.status == "KILLED"
    runs.client.set_terminated(live)


def test_run_of_another_machine_is_left_alone(runs: Runs) -> None:
    run_id = runs.add(tags_of(replace(HERE, boot_id="6ee9b7e1"), host="other", beat=STALE))
    assert runs.status_after_another_training(run_id) == "RUNNING"
    runs.client.set_terminated(run_id)


@pytest.mark.parametrize("identity", ELSEWHERE.values(), ids=ELSEWHERE)
def test_run_whose_directory_is_locked_is_never_closed(runs: Runs, identity: ProcessIdentity) -> None:
    run_id = runs.add(tags_of(identity, beat=STALE))
    hold = "import sys; from core.locks import lock_or_fail; from pathlib import Path\n"
    hold += "lock = lock_or_fail(Path(sys.argv[1]), ''); print('locked', flush=True); input()"
    command = [sys.executable, "-c", hold, str(runs.folder(run_id) / ".lock")]
    with subprocess.Popen(command, cwd=SOURCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        assert runs.status_after_another_training(run_id) == "RUNNING"
        process.kill()
    assert runs.status_after_another_training(run_id) == "KILLED"


def test_killed_container_with_this_checkout_is_closed_at_once(runs: Runs) -> None:
    run_id = runs.add(tags_of(ELSEWHERE["container of this machine"]))
    lock_or_fail(runs.folder(run_id) / ".lock", "").release()  # as the end of its process leaves it
    assert runs.status_after_another_training(run_id) == "KILLED"


def test_run_of_an_earlier_version_stays(runs: Runs) -> None:
    run_id = runs.add({HOST_TAG: socket.gethostname(), "pid": str(2**22 + 1)})
    assert runs.status_after_another_training(run_id) == "RUNNING"
    runs.client.set_terminated(run_id)


def test_training_in_a_real_pid_namespace_is_not_closed(runs: Runs) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("no new pid namespaces here")
    code = "import json; from train.tracking.liveness import process_tags\n"
    code += "print(json.dumps(process_tags()), flush=True); input()"
    command = [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=SOURCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tags: dict[str, str] = json.loads(process.stdout.readline())
        identity = ProcessIdentity.parse(tags[PROCESS_TAG])
        assert identity is not None and identity.pid == 1 and identity.pid_namespace != HERE.pid_namespace
        assert identity.is_alive() is None and tags[HOST_TAG] == socket.gethostname()
        run_id = runs.add(tags)
        assert runs.status_after_another_training(run_id) == "RUNNING"
        process.communicate(b"\n")
    runs.client.set_terminated(run_id)


def test_identity_is_stored_as_text() -> None:
    assert ProcessIdentity.parse(str(HERE)) == HERE
    assert ProcessIdentity.parse(str(ProcessIdentity("", "", 7, ""))) == ProcessIdentity("", "", 7, "")
    for text in ("", "a b c d", "1 2 3", "a b -1 d", "a b 1 d e", "a b 1 d"):
        assert text == "a b 1 d" or ProcessIdentity.parse(text) is None
    assert process_tags()[PROCESS_TAG] == str(HERE)


class Flaky:
    """A client whose server is down for the first request."""

    def __init__(self) -> None:
        self.beats: list[dict[str, Any]] = []
        self.failed = False

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        if not self.failed:
            self.failed = True
            raise ConnectionError("down")
        self.beats.append({"run_id": run_id, key: value})


def test_heartbeat_goes_on_after_a_failed_request_until_it_is_stopped() -> None:
    client = Flaky()
    heartbeat = Heartbeat(client, "run", interval_s=0.01)  # type: ignore[arg-type]
    deadline = time.monotonic() + 30
    while len(client.beats) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    heartbeat.stop()
    count = len(client.beats)
    time.sleep(0.05)
    assert count >= 2 and len(client.beats) == count
    assert abs(int(client.beats[-1][HEARTBEAT_TAG]) - time.time()) < 60


def test_run_that_was_taken_for_dead_loses_the_error_and_keeps_others(runs: Runs) -> None:
    for error, kept in ((DEAD_ERROR, False), ("disk full", True)):
        run_id = runs.add({"error": error})
        liveness.remove_false_error(runs.client, run_id)
        assert ("error" in runs.client.get_run(run_id).data.tags) == kept
        runs.client.set_terminated(run_id)


def test_every_field_of_an_identity_counts() -> None:
    assert HERE.is_alive() is True
    for field in dataclasses.fields(ProcessIdentity):
        other: Any = 2**22 + 1 if field.name == "pid" else "other"
        assert replace(HERE, **{field.name: other}).is_alive() is not True
