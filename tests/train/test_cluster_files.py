"""The files of docs/cluster: they are what their engines accept, and call train.py with options that exist."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.support.processes import free_port
from tests.support.project import SIGKILL, SOURCE, finish, make_project, wait_for_line

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
    environment = {key: value for key, value in os.environ.items() if key != "MODEL_PATH"}
    environment |= {"PYTHON": str(echo), "MLFLOW_TRACKING_URI": "http://mlflow:5000"} | env
    command = [str(WRAPPER), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_wrapper_starts_a_training_and_resumes_that_of_its_job(tmp_path: Path) -> None:
    first = wrapped(tmp_path, "--split-group", "(a b)", MODEL_PATH="models/7/model.pth")
    assert (first.returncode, first.stdout) == (0, "train.py --split-group (a b)\n")
    (tmp_path / "models/7/run").mkdir()
    again = wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/7/model.pth")
    assert again.stdout == "train.py --epochs 3\n", "nothing to resume: other options are another training"
    (tmp_path / "models/7/run/checkpoint.pth").touch()
    resumed = wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/7/model.pth")
    assert (resumed.returncode, resumed.stdout) == (0, "train.py --resume last\n")
    other = wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/7/model.pth", RANK="1", LOCAL_RANK="1")
    assert (other.returncode, other.stdout) == (0, "train.py --epochs 3\n"), (
        "it takes over the job of the first process"
    )
    assert wrapped(tmp_path, MODEL_PATH="models/8/model.pth").stdout == "train.py\n"
    missing = wrapped(tmp_path, "--epochs", "3")
    assert missing.returncode != 0 and "set MODEL_PATH" in missing.stderr
    sqlite = wrapped(tmp_path, MODEL_PATH="models/9/model.pth", MLFLOW_TRACKING_URI="")
    assert sqlite.returncode != 0 and sqlite.stdout == "" and "MLFLOW_TRACKING_URI: set it" in sqlite.stderr


@pytest.mark.parametrize("changed", [("--data-ref", "b", "--epochs", "3"), ("--data-ref", "a", "--epochs", "300"), ()])
def test_wrapper_refuses_other_options_than_those_of_the_checkpoint(tmp_path: Path, changed: tuple[str, ...]) -> None:
    started = ("--data-ref", "a", "--epochs", "3")
    assert wrapped(tmp_path, *started, MODEL_PATH="models/7/model.pth").returncode == 0
    (tmp_path / "models/7/run").mkdir()
    (tmp_path / "models/7/run/checkpoint.pth").touch()
    refused = wrapped(tmp_path, *changed, MODEL_PATH="models/7/model.pth")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert f"expected {' '.join(started)}, found {' '.join(changed)}: " in line and "set MODEL_PATH" in line
    local = wrapped(tmp_path, *changed, MODEL_PATH="models/7/model.pth", RANK="1", LOCAL_RANK="1")
    assert (local.returncode, local.stdout, local.stderr) == (2, "", ""), "one line on each machine"
    assert wrapped(tmp_path, *started, MODEL_PATH="models/7/model.pth").stdout == "train.py --resume last\n"


def test_wrapper_does_not_train_a_published_model_again(tmp_path: Path) -> None:
    """The engine starts a job again also if it failed after the model was published: the checkpoint is gone then."""
    model = tmp_path / "models/7/model.pth"
    assert wrapped(tmp_path, "--epochs", "3", MODEL_PATH=str(model)).returncode == 0
    model.touch()
    again = wrapped(tmp_path, "--epochs", "3", MODEL_PATH=str(model))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.count("\n") == 1 and f"{model}: the training of this job is complete: " in again.stderr
    other = wrapped(tmp_path, "--epochs", "4", MODEL_PATH=str(model))
    assert (other.returncode, other.stdout) == (0, "train.py --epochs 4\n"), "other options are another training"
    os.utime(model, (1, 1))
    assert wrapped(tmp_path, "--epochs", "4", MODEL_PATH=str(model)).returncode == 0, "the model is of an earlier one"


def test_wrapper_refuses_a_checkpoint_that_it_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "models/run").mkdir(parents=True)
    (tmp_path / "models/run/checkpoint.pth").touch()
    refused = wrapped(tmp_path, "--epochs", "3", MODEL_PATH="models/model.pth")
    assert (refused.returncode, refused.stdout) == (2, "") and not (tmp_path / "models/train-options").exists()
    assert refused.stderr.count("\n") == 1 and "models/run/checkpoint.pth: not of a training" in refused.stderr


def test_wrapper_passes_on_the_options_that_a_checkpoint_does_not_have(tmp_path: Path) -> None:
    options = (
        "--git-tag --epochs 3 --device cuda --image-size 32 48 --workers=4 --quiet --data-ref a --git-tag v1 --sample"
    )
    for _ in range(2):
        done = wrapped(tmp_path, *options.split(), MODEL_PATH="models/7/model.pth")
        (tmp_path / "models/7/run").mkdir(exist_ok=True)
        (tmp_path / "models/7/run/checkpoint.pth").touch()
    assert done.stdout == "train.py --resume last --git-tag --device cuda --workers=4 --quiet --git-tag v1\n"


def test_job_that_is_started_again_with_other_options_does_not_finish_the_old_training(tmp_path: Path) -> None:
    """With the real train.py: the same command resumes the run, one with other options or settings is refused."""
    project, options = make_project(tmp_path / "project", images=12), ("--epochs", "40", "--image-size", "32", "32")
    script = ["sh", str(WRAPPER)]
    env = project.environment() | {"MODEL_PATH": "models/job/model.pth", "PYTHON": sys.executable}
    env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{project.folder / 'mlflow.db'}", "BATCH_SIZE": "4", "LOSS": "ce"}
    job = subprocess.Popen(
        [*script, *options], cwd=project.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_line(job, lambda line: line.startswith("epoch 1/40 "))
    assert finish(job, SIGKILL)[0] == -SIGKILL

    def start(*given: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command, changed = [*script, *given], env | changes
        return subprocess.run(command, cwd=project.folder, env=changed, capture_output=True, text=True, timeout=300)

    refused = start("--epochs", "2", "--image-size", "32", "32")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "other options" in refused.stderr
    (project.folder / ".env").write_text("SEED=7\n")
    refused = start(*options, BATCH_SIZE="2", LOSS="")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert "expected BATCH_SIZE=4 LOSS=ce, found BATCH_SIZE=2 SEED=7: set the same ones" in refused.stderr
    invalid = start(*options, BATCH_SIZE="none")
    assert invalid.returncode == 2 and "BATCH_SIZE='none': expected a whole number" in invalid.stderr
    (project.folder / ".env").unlink()
    done = start(*options, EPOCHS="2")  # that an option replaces
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming at epoch" in done.stdout and [run.info.status for run in project.runs()] == ["FINISHED"]


def test_slurm_script_is_valid(tmp_path: Path) -> None:
    script = FOLDER / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(script), str(WRAPPER)]).returncode == 0
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", "\n".join(lines), re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time", "requeue"} <= directives.keys()
    assert directives["signal"] == "B:USR1@120", "TERM would be that of scancel, too"
    assert directives["ntasks-per-node"] == "1", "torchrun starts the processes of a node"


def slurm_environment(folder: Path, **programs: str) -> dict[str, str]:
    """Return the environment of a job of two nodes, in which these shell scripts stand for the programs of Slurm."""
    for name, text in {"scontrol": "echo node7; echo node8", **programs}.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "keys.env").write_text("LAKEFS_SECRET_ACCESS_KEY=hush\nMLFLOW_TRACKING_URI=http://mlflow\n")
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(folder),
        "USER": "somebody",
        "SLURM_JOB_ID": "42",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "32",
        "CLUSTER_ENV": str(folder / "keys.env"),
        "DATA_REF": "lakefs://repo/c/data/",
    }


def test_slurm_script_starts_torchrun_with_the_job_and_without_keys_on_the_command_line(tmp_path: Path) -> None:
    env = slurm_environment(tmp_path, srun='echo srun "$@"')
    command = ["bash", str(FOLDER / "slurm.sbatch"), "--epochs", "100"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("srun --cpus-per-task=32 torchrun "), "srun does not take it over from sbatch"
    assert "--nnodes=2" in done.stdout and "--rdzv_id=42" in done.stdout
    assert "--rdzv_endpoint=node7:10042 " in done.stdout
    assert done.stdout.endswith("docs/cluster/train.sh --data-ref lakefs://repo/c/data/ --epochs 100\n")
    assert "hush" not in done.stdout
    neighbour = subprocess.run(command, env={**env, "SLURM_JOB_ID": "123456789"}, capture_output=True, text=True)
    assert "--rdzv_endpoint=node7:26789 " in neighbour.stdout, "two jobs on one node need two ports"
    without = subprocess.run(command, env={**env, "DATA_REF": ""}, capture_output=True, text=True)
    assert without.returncode != 0 and "set DATA_REF" in without.stderr
    (tmp_path / "keys.env").write_text("LAKEFS_SECRET_ACCESS_KEY=hush\n")
    sqlite = subprocess.run(command, env=env, capture_output=True, text=True)
    assert sqlite.returncode != 0 and sqlite.stdout == "" and "MLFLOW_TRACKING_URI: set it" in sqlite.stderr


def test_slurm_job_saves_on_all_nodes_before_its_time_is_over_and_is_requeued(tmp_path: Path) -> None:
    """srun kills its tasks when it is sent SIGTERM itself; one node saves at once, the other one takes longer."""
    task = "trap 'sleep {0}; touch saved{0}; exit 1' TERM; touch started{0}; while :; do sleep 0.05; done"
    srun = "\n".join(
        [
            *(f'bash -c "{task.format(seconds)}" & echo $! >> tasks' for seconds in (0, 1)),
            "trap 'kill -KILL $(cat tasks)' TERM",
            "wait; wait; exit 1",
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
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) != 0
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 42\n"
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"


@pytest.mark.parametrize(
    ("signals", "code", "requeued"),
    [
        (["USR1"], 0, False),  # the training ends successfully after the signal
        (["USR1"], 3, True),
        (["TERM"], 3, False),  # scancel, or a preemption
        (["USR1", "TERM"], 3, False),  # scancel within the last two minutes
        ([], 0, False),
        ([], 3, False),
    ],
)
def test_slurm_job_is_requeued_only_if_its_time_is_over_and_its_training_is_not(
    tmp_path: Path, signals: list[str], code: int, requeued: bool
) -> None:
    srun = f"touch started; until [ -e end ]; do sleep 0.05; done; touch ended; exit {code}"
    scontrol = 'echo node7; if [ "$1" = requeue ]; then touch requeued; fi'
    env = slurm_environment(tmp_path, srun=srun, scancel="touch cancelled", scontrol=scontrol)
    job = subprocess.Popen(["bash", str(FOLDER / "slurm.sbatch")], env=env, cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    for name in signals:
        job.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.3)
    (tmp_path / "end").touch()
    assert job.wait(timeout=30) == code and (tmp_path / "ended").exists(), "it waits for the training"
    assert (tmp_path / "cancelled").exists() == ("USR1" in signals)
    assert (tmp_path / "requeued").exists() == requeued


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
    variables = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}
    assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    key = {"name": "segmentation", "key": "MLFLOW_TRACKING_URI"}
    assert variables["MLFLOW_TRACKING_URI"] == {"secretKeyRef": key}, "a pod without it does not start"
    label = "metadata.labels['training.kubeflow.org/job-name']"
    assert variables["JOB_NAME"] == {"fieldRef": {"fieldPath": label}}
    assert variables["MODEL_PATH"] == "/models/$(JOB_NAME)/model.pth", "each job has a checkpoint of its own"
    assert [*variables].index("JOB_NAME") < [*variables].index("MODEL_PATH"), "Kubernetes inserts only earlier ones"
    assert "_KEY" not in str(variables), "keys are in the secret"


def test_processes_of_ray_find_each_other() -> None:
    """The variables that the script of Ray Train sets are those by which train.py forms a group."""
    environment, address = ray_script().environment, ("127.0.0.1", free_port())
    assert environment((3, 1), (4, 2), address).items() >= {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items()
    code = (
        "import torch; from train.parallel import distributed as d\n"
        "with d.process_group(): s = d.all_sum(torch.tensor([d.rank() + 1.0])); import sys; print(int(s), file=sys.stderr)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=SOURCE,
            env=os.environ | environment((rank, rank), (2, 2), address),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in both:
        _, output = process.communicate(timeout=120)
        assert process.returncode == 0 and output.splitlines()[-1] == "3", output


def test_job_of_ray_has_a_checkpoint_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Ray runs the function of the processes here, with train.py replaced by a script that prints."""
    jobs: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, train: Any, train_loop_config: dict[str, Any], **_: Any) -> None:
            jobs.append(train_loop_config)
            train(train_loop_config)

        def fit(self) -> None:
            pass

    context = {"get_world_rank": lambda: 0, "get_world_size": lambda: 1, "get_local_rank": lambda: 0}
    context["get_local_world_size"] = lambda: 1
    train = ModuleType("ray.train")
    for name in ("FailureConfig", "RunConfig", "ScalingConfig"):
        setattr(train, name, lambda **_: None)
    vars(train)["get_context"] = lambda: SimpleNamespace(**context)
    torch = ModuleType("ray.train.torch")
    vars(torch).update(TorchConfig=lambda **_: None, TorchTrainer=Trainer)
    ray = ModuleType("ray")
    vars(ray)["train"] = train
    for module in (ray, train, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    printing = tmp_path / "print"
    printing.write_text(f'#!/bin/sh\necho "$MODEL_PATH $*" >> {tmp_path}/log\n')
    printing.chmod(0o755)
    script = ray_script()
    monkeypatch.setattr(script, "SCRIPT", printing)
    for name, value in {"MODEL_PATH": "one/for/all.pth", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for job in ("a", "b"):
        options = ["--job", job, "--models", str(tmp_path), "--", "--epochs", "3"]
        monkeypatch.setattr(sys, "argv", ["ray_train.py", *options])
        script.main()
    assert (tmp_path / "log").read_text().splitlines() == [
        f"{tmp_path}/a/model.pth --epochs 3",
        f"{tmp_path}/b/model.pth --epochs 3",
    ]
    for wrong in ("../a", "", "a b"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected letters"):
            script.job_name(wrong)


@pytest.mark.parametrize("document", ["docs/cluster.md", "docs/cluster.ko.md"])
def test_page_names_the_files(document: str) -> None:
    text = (SOURCE / document).read_text(encoding="utf-8")
    assert all(f"docs/cluster/{path.name}" in text for path in FOLDER.iterdir())
