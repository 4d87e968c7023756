"""Train with Ray Train.

python docs/cluster/ray_train.py --job NAME --workers 2 --gpus -- --data-ref lakefs://REPO/COMMIT/data/ --epochs 100

Ray places the processes and restarts them after a failure; train.py runs in each as it does under torchrun. All nodes need
this checkout at the same path, the packages of requirements.txt, and the directory of --models on storage that all of
them see. A job has its checkpoint in MODELS/NAME: the same command resumes it, another training needs another name.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).resolve().with_name("train.sh")


def environment(rank: tuple[int, int], world_size: tuple[int, int], address: tuple[str, int]) -> dict[str, str]:
    """Return the variables by which a process finds its training: those that torchrun sets.

    `rank` and `world_size`: in the whole training, and on this machine.
    """
    return {
        "RANK": str(rank[0]),
        "WORLD_SIZE": str(world_size[0]),
        "LOCAL_RANK": str(rank[1]),
        "LOCAL_WORLD_SIZE": str(world_size[1]),
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "PYTHON": sys.executable,
    }


def train_worker(config: dict[str, Any]) -> None:
    """Run train.py as one process of the training; raise CalledProcessError if it fails, so that Ray starts all again."""
    import ray.train

    context = ray.train.get_context()
    # Ray's own process group has set MASTER_ADDR and MASTER_PORT; the training's uses the next port.
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1)
    rank = context.get_world_rank(), context.get_local_rank()
    own = environment(rank, (context.get_world_size(), context.get_local_world_size()), address)
    own["MODEL_PATH"] = config["model_path"]
    subprocess.run([str(SCRIPT), *config["arguments"]], cwd=ROOT, env=os.environ | own, check=True)


def job_name(text: str) -> str:
    """Return the name of a job if it can be the name of a directory; else raise ArgumentTypeError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected letters, digits, '.', '_' and '-', with no blank or '/'")
    return text


def main() -> None:
    """Start the training on the cluster of RAY_ADDRESS, or on this machine."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=job_name, required=True, metavar="NAME", help="directory of the checkpoint")
    parser.add_argument("--models", type=Path, default=ROOT / "models", metavar="DIR", help="shared by all nodes")
    parser.add_argument("--workers", type=int, default=2, help="processes, over all machines")
    parser.add_argument("--gpus", action="store_true", help="one GPU for each process")
    parser.add_argument("--restarts", type=int, default=3, help="restarts after a failure")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the options of train.py")
    options = parser.parse_args()
    arguments = [argument for argument in options.arguments if argument != "--"]
    model_path = str(options.models.absolute() / options.job / "model.pth")
    TorchTrainer(
        train_worker,
        train_loop_config={"arguments": arguments, "model_path": model_path},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpus),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.restarts)),
    ).fit()


if __name__ == "__main__":
    main()
