"""torchrun with two processes on the CPU: the results match one process within noise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.faults import fault_proxy
from tests.support.processes import free_port
from tests.support.project import SOURCE, Project, make_project

TRAINING = ("--epochs", "3", "--batch-size", "8", "--image-size", "64", "64", "--lr", "0.003")


def torchrun(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *arguments]
    return subprocess.run(
        command, cwd=project.folder, env=project.environment(), capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("two"), images=50)


def test_two_processes_match_one_process(project: Project) -> None:
    one = project.run("train.py", *TRAINING)
    assert one.returncode == 0, one.stderr
    two = torchrun(project, "train.py", *TRAINING)
    assert two.returncode == 0, two.stdout + two.stderr
    runs = project.runs()
    assert len(runs) == 2 and all(run.info.status == "FINISHED" for run in runs), "one process opened one run"
    assert [run.data.params["processes"] for run in runs] == ["2", "1"]
    assert two.stdout.count("epoch 3/3  ") == 1 and two.stdout.count("=== LakeFS 커밋 완료 ===") == 1
    pair, single = runs[0].data.metrics, runs[1].data.metrics
    assert pair["learning_rate"] == single["learning_rate"], "the same steps"
    assert pair["train_loss"] == pytest.approx(single["train_loss"], rel=0.25)
    assert pair["best_val_accuracy"] == pytest.approx(single["best_val_accuracy"], abs=0.15)


def test_two_processes_start_from_the_same_model(project: Project) -> None:
    parent = project.runs()[0]
    done = torchrun(project, "train.py", *TRAINING[2:], "--smoke", "--init", parent.info.run_id[:8])
    assert done.returncode == 0, done.stdout + done.stderr
    run = project.runs()[0]
    assert run.data.params["processes"] == "2" and run.data.params["init_run_id"] == parent.info.run_id
    assert run.data.metrics["train_loss"] == pytest.approx(parent.data.metrics["train_loss"], rel=0.5)


def test_two_processes_stop_at_the_same_time_limit(project: Project) -> None:
    done = torchrun(project, "train.py", *TRAINING[2:], "--max-seconds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    run = project.runs()[0]
    assert run.info.status == "FINISHED" and run.data.metrics["learning_rate"] < 0.001, "at the end of its schedule"


def test_failure_of_one_process_ends_all_with_one_message(project: Project) -> None:
    done = torchrun(project, "train.py", "--epochs", "2", "--batch-size", "3")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: BATCH_SIZE=3: 2 processes need at least 4; it is the sum over all processes"]
    assert project.runs()[0].info.status == "FAILED" and "BATCH_SIZE=3" in project.runs()[0].data.tags["error"]


@pytest.mark.parametrize("missing", ["LAKEFS_ENDPOINT", "MLFLOW_TRACKING_URI"])
def test_two_machines_without_servers_for_both_are_refused_before_anything_is_created(
    tmp_path: Path, missing: str
) -> None:
    """Two processes that take each other for another machine; the servers do not exist: nothing may ask them."""
    project = make_project(tmp_path / "project", images=8)
    servers = {"LAKEFS_ENDPOINT": "http://127.0.0.1:9", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    project.env |= {key: value for key, value in servers.items() if key != missing}
    project.env |= {"LAKEFS_ACCESS_KEY_ID": "id", "LAKEFS_SECRET_ACCESS_KEY": "key"} if missing[0] == "M" else {}
    project.env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    project.env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    before = {path.name for path in project.folder.iterdir()}
    both = [
        subprocess.Popen(
            project.command("train.py", "--smoke"),
            cwd=project.folder,
            env=project.environment() | {"RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=120)[1] for process in both]
    server = {"L": "a lakeFS", "M": "an MLflow"}[missing[0]]
    (error,) = [line for line in outputs[0].splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: training on several machines needs {server} server: set {missing} on each of them")
    assert both[0].returncode == 2 and both[1].returncode != 0
    assert {path.name for path in project.folder.iterdir()} == before


@pytest.mark.parametrize("option", [("--overfit", "4"), ("--reproduce", "0123")])
def test_checks_of_one_process_refuse_torchrun(project: Project, option: tuple[str, str]) -> None:
    done = torchrun(project, "train.py", *option)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [f"error: {option[0]} uses one process: start train.py without torchrun"]


def start_node(project: Project, number: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    """Start torchrun as one of two nodes, both on this machine, with the script of docs/cluster."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=2"]
    command += ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=job", "--local_addr=127.0.0.1"]
    command += [f"--rdzv_conf=is_host={1 - number}", "--monitor_interval=0.3"]
    command += ["--no-python", str(SOURCE / "docs/cluster/train.sh"), *arguments]
    env = project.environment() | {"MODEL_PATH": "models/job/model.pth", "PYTHON": sys.executable}
    env |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=project.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_failed_publication_restarts_all_nodes_and_is_done_from_the_checkpoint(tmp_path: Path) -> None:
    project, port = make_project(tmp_path / "project", images=12), free_port()
    with servers.embedded(tmp_path / "lake") as server, fault_proxy(server.endpoint) as faults:
        project.env |= {key.upper(): str(value) for key, value in server.settings().items()}
        project.env |= {
            "LAKEFS_ENDPOINT": faults.endpoint,
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        }
        faults.match, faults.statuses = "objects?path=models%2F", [403]  # not a fault that is tried again
        training = ("--epochs", "2", "--batch-size", "4", "--image-size", "32", "32")
        nodes = [start_node(project, number, port, *training) for number in (0, 1)]
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
        assert faults.statuses == []
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    printed = "".join(outputs)
    assert printed.count("resuming at epoch") == 1 and printed.count("=== LakeFS 커밋 완료 ===") == 1
    (run,) = project.runs()
    assert run.info.status == "FINISHED" and "error" not in run.data.tags
    assert (project.folder / "models/job/model.pth").exists()
