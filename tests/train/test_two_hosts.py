"""torchrun on two hosts: each fetches the commit itself, and a host that dies and returns changes no bit of the result."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import servers
from tests.support.hosts import Host, reachable, two_hosts
from tests.support.project import SOURCE, Project, make_project
from tests.train.test_resume import is_identical, recorded_metrics, weights

EPOCHS = 8  # the kill comes within the second
TRAINING = ("--epochs", str(EPOCHS), "--batch-size", "8", "--image-size", "32", "32")
SECONDS = 400
KEEP_ALIVE_S = 3  # without a sign of life, a host is gone


class Cluster:
    """Two hosts with a checkout each, and a lakeFS server; the first host has MLflow's database and the checkpoints."""

    def __init__(self, hosts: tuple[Host, Host], folder: Path, lakefs: dict[str, Any]) -> None:
        self.hosts, self.folder = hosts, folder
        env = {key.upper(): str(value) for key, value in lakefs.items()}
        first = make_project(folder / "one", images=24)
        second = Project(folder / "two")
        shutil.copytree(first.folder, second.folder, ignore=shutil.ignore_patterns("data"))
        self.projects = (first, second)
        for project, host in zip(self.projects, hosts, strict=True):
            project.env |= env | {"GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
            project.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{first.folder / 'mlflow.db'}"  # written by the first host

    def start(self, number: int, job: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one host's part of a job with the script of docs/cluster."""
        host, project = self.hosts[number], self.projects[number]
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc_per_node=1",
            "--max_restarts=3",
        ]
        command += ["--rdzv_backend=c10d", f"--rdzv_endpoint={self.hosts[0].address}:29517", f"--rdzv_id={job}"]
        rendezvous = f"is_host={1 - number},keep_alive_interval=1,keep_alive_max_attempt={KEEP_ALIVE_S}"  # host names do not resolve here
        command += [f"--rdzv_conf={rendezvous}", f"--local_addr={host.address}"]
        command += ["--monitor_interval=0.3", "--no-python", str(SOURCE / "docs/cluster/train.sh"), *arguments]
        env = project.environment() | {"MODEL_PATH": f"models/{job}/model.pth", "PYTHON": sys.executable}
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see docs/cluster.md
        return host.start(command, project.folder, env, self.log(number))

    def log(self, number: int) -> Path:
        return self.folder / f"host-{number}.log"

    def output(self, number: int) -> str:
        return self.log(number).read_text(errors="replace")

    def wait(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            process.wait(SECONDS)
        assert [process.returncode for process in processes] == [0] * len(processes), self.output(0) + self.output(1)

    def wait_for(self, number: int, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.output(number):
            assert time.monotonic() < deadline, self.output(0) + self.output(1)
            time.sleep(0.05)

    def weights(self, job: str) -> dict[str, Any]:
        shutil.copy(
            self.projects[0].folder / "models" / job / "model.pth", self.projects[0].folder / "models/model.pth"
        )
        return weights(self.projects[0])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hosts")
    with two_hosts() as hosts, servers.embedded(folder / "lake") as server, reachable(server.endpoint, hosts):
        yield Cluster(hosts, folder, server.settings())


@pytest.fixture(scope="module")
def reference(cluster: Cluster) -> tuple[str, dict[str, Any]]:
    """Run and weights of a training that nothing interrupts; the data is committed by it."""
    cluster.wait(*(cluster.start(number, "whole", *TRAINING) for number in (0, 1)))
    return cluster.projects[0].runs()[0].info.run_id, cluster.weights("whole")


def test_each_host_downloads_the_commit(cluster: Cluster, reference: tuple[str, dict[str, Any]]) -> None:
    run = cluster.projects[0].mlflow().get_run(reference[0])
    assert run.info.status == "FINISHED" and run.data.params["processes"] == "2"
    second = cluster.projects[1].folder
    assert not (second / "data").exists() and not (second / "mlflow.db").exists()
    assert list((second / ".lakefs/cache").rglob("*.png")), "its own copy of the commit"


def test_host_that_is_killed_and_returns_changes_nothing(
    cluster: Cluster, reference: tuple[str, dict[str, Any]]
) -> None:
    data_ref = cluster.projects[0].mlflow().get_run(reference[0]).data.params["lakefs_data_path"]
    arguments = (*TRAINING, "--data-ref", data_ref)
    first, second = (cluster.start(number, "killed", *arguments) for number in (0, 1))
    cluster.wait_for(0, f"epoch 2/{EPOCHS}  ")
    cluster.hosts[1].power_off()
    assert second.wait(SECONDS) == -signal.SIGKILL
    time.sleep(KEEP_ALIVE_S + 2)  # a machine that starts again takes longer: the first host has noticed
    cluster.wait(first, cluster.start(1, "killed", *arguments))
    assert "resuming at epoch" in cluster.output(0)
    run = cluster.projects[0].runs()[0].info.run_id
    assert recorded_metrics(cluster.projects[0], run) == recorded_metrics(cluster.projects[0], reference[0])
    assert is_identical(cluster.weights("killed"), reference[1])
