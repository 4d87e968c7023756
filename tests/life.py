"""The whole life of a model, lived once with the real scripts; tests of registry, trace and MLflow look at what is left."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from config import Settings
from tests.project import Project, make_project

NAME, REPO = "image-segmentation", "image-segmentation-local-repo"


@dataclass
class Life:
    """A project, what its commands printed, and its runs by name."""

    project: Project
    runs: dict[str, str] = field(default_factory=dict)
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def train(self, name: str, *arguments: str) -> None:
        done = self.project.run("train.py", "--batch-size", "4", "--image-size", "64", "64", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        self.runs[name] = self.project.runs()[0].info.run_id

    def do(self, name: str, script: str, *arguments: str) -> None:
        self.said[name] = self.project.run(script, *arguments, env={"REGISTER_THRESHOLD": "0"})

    def champion(self) -> str:
        return str(self.project.mlflow().get_model_version_by_alias(NAME, "champion").version)

    @property
    def settings(self) -> Settings:
        """Settings of the project, for calls from this process."""
        folder = self.project.folder
        return Settings(
            mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            lakefs_local_dir=folder / ".lakefs",
            data_dir=folder / "data",
            model_path=folder / "models/model.pth",
            register_threshold=0.0,
            device="cpu",
        )


def live(folder: Path) -> Life:
    """Train, register, train a worse one (refused), a better one (promoted), go back, predict."""
    life = Life(make_project(folder, pictures=44))
    split_by_hand(folder / "data")
    # Far apart (val mIoU about 0.25, 0.05 and 0.45): what a processor rounds otherwise must not change the order.
    life.train("first", "--epochs", "2", "--lr", "0.003")
    life.do("first", "register_model.py")
    life.train("worse", "--epochs", "1", "--lr", "0.00001")
    life.do("worse", "register_model.py")
    assert life.champion() == "1", life.said["worse"]
    life.train("better", "--epochs", "8", "--lr", "0.005")
    life.do("better", "register_model.py")
    assert life.champion() == "3", life.said["better"]
    life.do("back", "register_model.py", "--rollback")
    life.do("infer", "infer.py", "--split", "val")
    return life


def split_by_hand(data: Path) -> None:
    """Half of the pictures for validation: over the few of the usual split, no gain is more than chance."""
    names = sorted(path.stem for path in (data / "images").iterdir())
    (data / "splits").mkdir(exist_ok=True)
    for split, chosen in (("train", names[:24]), ("val", names[24:40]), ("test", names[40:])):
        (data / f"splits/{split}.txt").write_text("\n".join(chosen) + "\n")
