"""--reproduce: train a run again from what it recorded, and compare every figure.

The code comes from Git (a temporary worktree of the run's commit, with its recorded changes), the data from its lakeFS
commit, settings and seed from the run. The recorded code trains in a process of its own, which is this module's `main`;
it writes to no server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import FIELDS, ROOT, Settings, load_settings
from core.console import say, table, warn
from core.errors import AppError, UsageError
from core.git import resolve, worktree
from core.i18n import t
from core.process import run_script
from train import environment as provenance
from utils.lakefs_utils import LakePath, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

TOLERANCE = 1e-3  # of a figure, absolute; on one machine's CPU the difference is 0
COMPARED = ("train_loss", "val_loss", "val_accuracy", "val_miou", "learning_rate")


@dataclass(frozen=True)
class Recipe:
    """What a run recorded of itself, and its figures: name -> value of each epoch."""

    run_id: str
    commit: str
    patch: bytes
    settings: dict[str, Any]
    smoke: bool
    data_path: LakePath
    environment: dict[str, Any]
    packages: list[str]
    figures: dict[str, list[float]]


def reproduce(settings: Settings, run_id: str, tolerance: float) -> int:
    """Train the run again and print both sides. Raises AppError where they differ by more than `tolerance`."""
    from utils import mlflow_utils

    recipe = read_recipe(mlflow_utils.connect(settings), settings, run_id)
    with connect(settings) as lake:
        lake.resolve(recipe.data_path.ref, recipe.data_path.repo)  # before anything is done
    changes = t(" + 기록된 변경", " + recorded changes") if recipe.patch else ""
    say(
        f"재현: 실행 {run_id}, Git {recipe.commit[:12]}{changes}, {recipe.data_path}",
        f"reproducing run {run_id}: Git {recipe.commit[:12]}{changes}, {recipe.data_path}",
    )
    try:
        with worktree(ROOT, recipe.commit, recipe.patch) as code:
            done = train_again(settings, recipe, code)
    except OSError as error:
        raise AppError(
            t(
                f"실행 {run_id} 의 코드를 꺼내지 못했습니다: {error}",
                f"could not check out the code of run {run_id}: {error}",
            )
        ) from error
    compare_environments(recipe, done["environment"], done["packages"])
    return judge(recipe, done["figures"], tolerance)


def read_recipe(client: MlflowClient, settings: Settings, run_id: str) -> Recipe:
    """What the run recorded. Raises UsageError that says what is missing for a reproduction."""
    from utils import mlflow_utils

    run = mlflow_utils.get_run(client, settings, run_id)
    tags, params = run.data.tags, run.data.params
    commit, state = tags.get("git_commit", "none"), tags.get(provenance.PATCH_TAG)
    if commit == "none":
        raise _impossible(run_id, "Git 커밋 없이 학습했습니다", "it was trained without a Git commit")
    if state is None:
        raise _impossible(
            run_id, "기록이 없는 이전 코드의 실행입니다", "it is of older code, which recorded too little"
        )
    if state not in ("clean", "recorded"):
        raise _impossible(run_id, f"바뀐 코드가 없습니다 ({state})", f"the changes of its code are missing ({state})")
    if resolve(ROOT, commit) is None:
        raise _impossible(
            run_id,
            f"Git 커밋 {commit} 이(가) 이 저장소에 없습니다: git fetch 로 받으세요",
            f"this clone has no Git commit {commit}: git fetch may bring it",
        )
    if "lakefs_data_path" not in params:
        raise _impossible(run_id, "데이터 커밋 전에 끝났습니다", "it ended before its data were committed")
    with tempfile.TemporaryDirectory() as folder, mlflow_utils.explained(settings, t("실행 읽기", "reading the run")):
        files = Path(client.download_artifacts(run_id, provenance.FOLDER, folder))
        recipe = json.loads((files / provenance.SETTINGS).read_text(encoding="utf-8"))
        histories = {name: client.get_metric_history(run_id, name) for name in COMPARED}
        return Recipe(
            run_id=run_id,
            commit=commit,
            patch=(files / provenance.PATCH).read_bytes() if state == "recorded" else b"",
            settings=recipe["settings"],
            smoke=recipe["smoke"],
            data_path=LakePath.parse(params["lakefs_data_path"]),
            environment=json.loads((files / provenance.ENVIRONMENT).read_text(encoding="utf-8")),
            packages=(files / provenance.PACKAGES).read_text(encoding="utf-8").splitlines(),
            figures={name: [m.value for m in sorted(h, key=lambda m: m.step)] for name, h in histories.items()},
        )


def _impossible(run_id: str, korean: str, english: str) -> UsageError:
    return UsageError(
        t(f"실행 {run_id} 은(는) 재현할 수 없습니다: {korean}", f"run {run_id} cannot be reproduced: {english}")
    )


def train_again(settings: Settings, recipe: Recipe, code: Path) -> dict[str, Any]:
    """Run the recorded code's `main` on the recorded data; what it measured."""
    if not (code / "train/reproduce.py").exists():
        raise _impossible(recipe.run_id, "코드에 train/reproduce.py 가 없습니다", "its code has no train/reproduce.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        arguments = [str(recipe.data_path), str(out), "smoke" if recipe.smoke else "whole"]
        done = subprocess.run(
            [sys.executable, "-m", "train.reproduce", *arguments],
            cwd=code,
            env=os.environ | as_environment(settings, recipe, Path(folder)),
        )
        if done.returncode != 0:
            raise AppError(
                t(
                    f"재현 학습이 실패했습니다 (종료 코드 {done.returncode}): 위의 메시지를 보세요",
                    f"training again failed (exit code {done.returncode}): see above",
                )
            )
        content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return content


def as_environment(settings: Settings, recipe: Recipe, folder: Path) -> dict[str, str]:
    """Settings as environment variables: a worktree has no .env. Those that decide the result are the run's."""
    places: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    places |= {"data_dir": folder / "data", "model_path": folder / "model.pth"}
    values = {**places, **recipe.settings}
    return {
        **{name.upper(): _text(value) for name, value in values.items()},
        "OMP_NUM_THREADS": str(recipe.environment["threads"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _text(value: Any) -> str:
    """A setting as config.py reads it; empty is unset."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def compare_environments(recipe: Recipe, now: Mapping[str, Any], packages: list[str]) -> None:
    """Say what differs from the run's machine and packages; that alone is no failure."""
    rows = [[key, recipe.environment.get(key), now.get(key)] for key in sorted({*recipe.environment, *now})]
    before, after = (dict(row.split("==", 1) for row in rows_) for rows_ in (recipe.packages, packages))
    rows += [[name, before.get(name), after.get(name)] for name in sorted({*before, *after}, key=str.lower)]
    different = [row for row in rows if row[1] != row[2]]
    if not different:
        say("환경: 같음", "environment: the same")
        return
    warn("환경이 다릅니다", "the environment differs")
    print(table([t("무엇", "what"), t("실행", "run"), t("지금", "now")], different[:40]))


def judge(recipe: Recipe, now: Mapping[str, list[float]], tolerance: float) -> int:
    """Print the figures side by side. Raises AppError beyond the tolerance, or for another number of epochs."""
    best = {name: max(range(len(v)), key=v.__getitem__) for name, v in (("run", recipe.figures["val_miou"]),)}["run"]
    rows, worst, equal = [], 0.0, True
    for name in COMPARED:
        before, after = recipe.figures[name], now[name]
        if len(before) != len(after) or not before:
            raise AppError(
                t(
                    f"{name}: 실행에는 {len(before)} 에폭, 재현에는 {len(after)} 에폭이 있습니다",
                    f"{name}: the run has {len(before)} epochs, its repetition {len(after)}",
                )
            )
        gap = max(abs(a - b) for a, b in zip(before, after, strict=True))
        worst, equal = max(worst, gap), equal and before == after
        rows.append([name, repr(before[best]), repr(after[best]), f"{gap:.3g}"])
    heading = t(f"에폭 {best + 1} (가장 좋음)", f"epoch {best + 1} (the best)")
    print(
        table(
            [heading, t("실행", "run"), t("재현", "again"), t("모든 에폭의 최대 차이", "largest gap of all epochs")],
            rows,
        )
    )
    if equal:
        say("모든 값이 비트까지 같습니다.", "every figure is equal to the bit.")
    elif worst <= tolerance:
        say(
            f"차이 {worst:.3g} 은(는) 허용 오차 {tolerance} 안입니다.",
            f"gap {worst:.3g}: within the tolerance {tolerance}.",
        )
    else:
        raise AppError(
            t(
                f"실행 {recipe.run_id} 이(가) 재현되지 않았습니다: 차이 {worst:.3g}, 허용 오차 {tolerance}",
                f"run {recipe.run_id} was not reproduced: gap {worst:.3g}, tolerance {tolerance}",
            )
        )
    return 0


def main(arguments: list[str]) -> int:
    """In the recorded code: train on a data commit by the environment's settings, and write the figures."""
    from train.model_train import ModelTrain
    from versioning.checkout import checked_data

    data_path, out, extent = arguments
    settings = load_settings()
    with connect(settings) as lake:
        _, data = checked_data(settings, lake, data_path)
    training = ModelTrain(settings, extent == "smoke", data=data)
    training.fit()
    figures = {
        "train_loss": [r.train_loss for r in training.history],
        "val_loss": [r.validation.loss for r in training.history],
        "val_accuracy": [r.validation.accuracy for r in training.history],
        "val_miou": [r.validation.miou for r in training.history],
        "learning_rate": [r.learning_rate for r in training.history],
    }
    environment = provenance.environment(training.device)
    content = {"figures": figures, "environment": environment, "packages": provenance.packages()}
    Path(out).write_text(json.dumps(content), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
