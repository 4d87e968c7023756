"""The files of docs/cluster: they are what their engines accept, and call train.py with options that exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support.processes import free_port
from tests.support.project import SOURCE

FOLDER = SOURCE / "docs/cluster"
WRAPPER = FOLDER / "train.sh"


def options_of_train() -> set[str]:
    text = (SOURCE / "docs/options.md").read_text(encoding="utf-8")
    return set(re.findall(r"`(--[a-z-]+)", text))


def ray_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_train", FOLDER / "ray_train.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wrapped(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run train.sh with a Python that prints its arguments."""
    echo = folder / "echo"
    echo.write_text('#!/bin/sh\necho "$@"\n')
    echo.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "MODEL_PATH"} | {"PYTHON": str(echo)} | env
    command = [str(WRAPPER), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_wrapper_starts_a_training_and_resumes_that_of_its_job(tmp_path: Path) -> None:
    first = wrapped(tmp_path, "--split-group", "(a b)", MODEL_PATH="models/7/model.pth")
    assert (first.returncode, first.stdout) == (0, "train.py --split-group (a b)\n")
    for job in ("7", "8"):
        (tmp_path / "models" / job / "run").mkdir(parents=True)
    (tmp_path / "models/8/run/checkpoint.pth").touch()
    assert wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/7/model.pth").stdout == "train.py --epochs 3\n"
    assert wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/8/model.pth").stdout == "train.py --resume last\n"
    missing = wrapped(tmp_path, "--epochs", "3")
    assert missing.returncode != 0 and "set MODEL_PATH" in missing.stderr


def test_slurm_script_is_valid(tmp_path: Path) -> None:
    script = FOLDER / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(script), str(WRAPPER)]).returncode == 0
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", "\n".join(lines), re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "time", "requeue", "signal"} <= directives.keys()
    assert directives["ntasks-per-node"] == "1", "torchrun starts the processes of a node"


def slurm_environment(folder: Path, **programs: str) -> dict[str, str]:
    """Return the environment of a job of two nodes, in which these shell scripts stand for the programs of Slurm."""
    for name, text in {"scontrol": "echo node7; echo node8", **programs}.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "keys.env").write_text("LAKEFS_SECRET_ACCESS_KEY=hush\n")
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(folder),
        "USER": "somebody",
        "SLURM_JOB_ID": "42",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "CLUSTER_ENV": str(folder / "keys.env"),
        "DATA_REF": "lakefs://repo/c/data/",
    }


def test_slurm_script_starts_torchrun_with_the_job_and_without_keys_on_the_command_line(tmp_path: Path) -> None:
    env = slurm_environment(tmp_path, srun='echo srun "$@"')
    command = ["bash", str(FOLDER / "slurm.sbatch"), "--epochs", "100"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "--nnodes=2" in done.stdout and "--rdzv_endpoint=node7:29500" in done.stdout and "--rdzv_id=42" in done.stdout
    )
    assert done.stdout.endswith("docs/cluster/train.sh --data-ref lakefs://repo/c/data/ --epochs 100\n")
    assert "hush" not in done.stdout
    without = subprocess.run(command, env={**env, "DATA_REF": ""}, capture_output=True, text=True)
    assert without.returncode != 0 and "set DATA_REF" in without.stderr


def test_slurm_job_saves_on_all_nodes_before_its_time_is_over_and_is_requeued(tmp_path: Path) -> None:
    """srun kills its tasks when it is sent SIGTERM itself; one node saves at once, the other one takes longer."""
    task = "trap 'sleep {0}; touch saved{0}; exit 1' TERM; touch started{0}; while :; do sleep 0.05; done"
    srun = "\n".join(
        [
            *(f'bash -c "{task.format(seconds)}" & echo $! >> tasks' for seconds in (0, 1)),
            "trap 'kill -KILL $(cat tasks)' TERM",
            "wait; wait",
        ]
    )
    scancel = 'echo "$@" > cancelled; kill -TERM $(cat tasks)'
    scontrol = 'echo node7; if [ "$1" = requeue ]; then echo "$@" > requeued; fi'
    env = slurm_environment(tmp_path, srun=srun, scancel=scancel, scontrol=scontrol)
    job = subprocess.Popen(["bash", str(FOLDER / "slurm.sbatch")], env=env, cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not all((tmp_path / f"started{seconds}").exists() for seconds in (0, 1)):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    job.terminate()
    job.wait(timeout=30)
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 42\n"
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"


def test_kubernetes_job_has_what_the_operator_and_the_training_need() -> None:
    job: dict[str, Any] = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    elastic = job["spec"]["elasticPolicy"]
    assert elastic["minReplicas"] == elastic["maxReplicas"] == worker["replicas"], "a result does not depend on luck"
    assert elastic["rdzvBackend"] == "c10d" and worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch" and container["envFrom"][0]["secretRef"]["name"] == "segmentation"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    command = container["command"]
    assert command[:3] == ["torchrun", "--no-python", "docs/cluster/train.sh"] and "--data-ref" in command
    assert {word for word in command[3:] if word.startswith("--")} <= options_of_train()
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert variables["MODEL_PATH"].startswith("/models/") and "KEY" not in str(variables), "keys are in the secret"


def test_processes_of_ray_find_each_other() -> None:
    """The variables that the script of Ray Train sets are those by which train.py forms a group."""
    environment, address = ray_script().environment, ("127.0.0.1", free_port())
    code = (
        "import torch; from train.parallel import distributed as d\n"
        "with d.process_group(): s = d.all_sum(torch.tensor([d.rank() + 1.0])); import sys; print(int(s), file=sys.stderr)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=SOURCE,
            env=os.environ | environment(rank, 2, rank, address),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in both:
        _, output = process.communicate(timeout=120)
        assert process.returncode == 0 and output.splitlines()[-1] == "3", output


@pytest.mark.parametrize("document", ["docs/cluster.md", "docs/cluster.ko.md"])
def test_page_names_the_files(document: str) -> None:
    text = (SOURCE / document).read_text(encoding="utf-8")
    assert all(f"docs/cluster/{path.name}" in text for path in FOLDER.iterdir())
