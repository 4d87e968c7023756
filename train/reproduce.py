"""--reproduce: train a run again from its records, and compare every metric.

The code comes from Git (a temporary worktree of the run's commit with its recorded changes), the data from its lakeFS
commit, settings and seed from the run. The recorded code trains in a separate process, which is this module's `main`;
it writes to no server.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import FIELDS, ROOT, Settings, load_settings
from core.console import format_table
from core.errors import AppError, ExitCode
from core.git import worktree
from core.i18n import tr, trn
from core.process import run_script
from core.reporting import notify, warn
from core.reporting import result as report_result
from train.reproduction.patch import consented_patch
from train.reproduction.recipe import COMPARED, COMPARED_AT_END, COMPARED_OUT_OF_FOLD, Recipe, read_recipe
from train.reproduction.record_files import Measured, irreproducible, parse_measurements
from train.tracking import environment
from train.warm_start.load import load_initial
from utils.lakefs_utils import LakeFS, connect
from utils.lineage import INIT, INIT_SHA256
from utils.servers import Servers
from versioning.lockfile import explained_by_lock
from versioning.naming.results import resolve_run

if TYPE_CHECKING:
    import torch

    from dataset.data import SegmentationData
    from train.warm_start.initial import Initial

TOLERANCE = 1e-3  # absolute difference of a metric; on the CPU of one machine it is 0
# Settings that the recorded code, which may be a stranger's changes, does not need: it reads data and writes to no server.
WITHHELD = ("minio_endpoint", "minio_access_key", "minio_secret_key", "mlflow_tracking_uri")


def reproduce(settings: Settings, run_id: str, tolerance: float, trust_patch: bool = False) -> int:
    """Train the run again and report both results. Raises AppError if they differ by more than `tolerance`.

    `run_id` may be any name of the run: the beginning of its ID, a version, a tag, `lock`.
    `trust_patch`: apply recorded code changes without asking, wherever they were recorded.
    """
    from utils import mlflow_utils

    client = mlflow_utils.connect(settings, read_only=True)
    with explained_by_lock(settings, AppError), connect(settings) as lake:
        run_id = resolve_run(Servers(settings, client=client, lake=lake), run_id)
        recipe = read_recipe(client, lake, settings, run_id)
        lake.resolve(recipe.data_path.ref, recipe.data_path.repo)  # fail early if the commit is missing
        require_initial(settings, lake, recipe)
    if recipe.unvouched:
        warn(
            tr(
                "run {run_id} was recorded by an earlier version: only MLflow vouches for {files}, which everybody who "
                "reaches its server can change",
                run_id=run_id,
                files=", ".join(recipe.unvouched),
            )
        )
    patch = consented_patch(settings, recipe, trust_patch)
    changes = tr(" + recorded changes") if patch else ""
    notify(
        tr(
            "reproducing run {run_id}: Git {commit}{changes}, {data_path}",
            run_id=run_id,
            commit=recipe.commit[:12],
            changes=changes,
            data_path=recipe.data_path,
        )
    )
    try:
        with worktree(ROOT, recipe.commit, patch) as code:
            done = train_again(settings, recipe, code)
    except OSError as error:
        raise AppError(
            tr("could not check out the code of run {run_id}: {error}", run_id=run_id, error=error)
        ) from error
    compare_environments(recipe, done.environment, done.packages)
    return compare_metrics(recipe, done.figures, tolerance)


def require_initial(settings: Settings, lake: LakeFS, recipe: Recipe) -> None:
    """Raise UsageError if the run started from a model or a named file that is missing or was changed."""
    names = (INIT, INIT_SHA256, "pretrained", "weights")
    started = {name: recipe.settings[name] for name in names if name in recipe.settings}
    try:
        load_initial(dataclasses.replace(settings, **started), lake)
    except AppError as error:
        reason = tr("what it started from cannot be used: {error}", error=error)
        raise irreproducible(recipe.run_id, reason) from error


def train_again(settings: Settings, recipe: Recipe, code: Path) -> Measured:
    """Run the recorded code's `main` on the recorded data; return what it measured. Raises AppError."""
    if not (code / "train/reproduce.py").exists():
        raise irreproducible(recipe.run_id, tr("its code has no train/reproduce.py"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        arguments = [str(recipe.data_path), str(out), "smoke" if recipe.smoke else "whole"]
        done = subprocess.run(
            [sys.executable, "-m", "train.reproduce", *arguments],
            cwd=code,
            env=os.environ | as_environment(settings, recipe, Path(folder)),
        )
        if done.returncode != 0:
            raise AppError(tr("the training failed again (exit code {code}): see above", code=done.returncode))
        return parse_measurements(recipe.run_id, out.read_bytes())


def as_environment(settings: Settings, recipe: Recipe, folder: Path) -> dict[str, str]:
    """Return the settings as environment variables, as a worktree has no .env; the run's override those of now."""
    places: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    places |= dict.fromkeys(WITHHELD)
    places |= {"data_dir": folder / "data", "model_path": folder / "model.pth"}
    values = {**places, **recipe.settings}
    return {
        **{name.upper(): _text(value) for name, value in values.items()},
        "OMP_NUM_THREADS": str(recipe.environment["threads"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _text(value: Any) -> str:
    """Return a setting as config.py reads it; empty means unset."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def compare_environments(recipe: Recipe, now: Mapping[str, Any], packages: list[str]) -> None:
    """Warn about differences to the run's machine and packages; they alone are not a failure."""
    rows = [[key, recipe.environment.get(key), now.get(key)] for key in sorted({*recipe.environment, *now})]
    before, after = (dict(row.split("==", 1) for row in rows_) for rows_ in (recipe.packages, packages))
    rows += [[name, before.get(name), after.get(name)] for name in sorted({*before, *after}, key=str.lower)]
    different = [row for row in rows if row[1] != row[2]]
    if not different:
        notify(tr("environment: the same"))
        return
    warn(tr("the environment differs"))
    notify(format_table([tr("what"), tr("run"), tr("now")], different[:40]))


def _difference(before: float, after: float) -> float:
    """Return the absolute difference of two values of a metric; a value that is not finite differs from any other."""
    if math.isfinite(before) and math.isfinite(after):
        return abs(before - after)
    return 0.0 if repr(before) == repr(after) else math.inf


def compare_metrics(recipe: Recipe, now: Mapping[str, list[float]], tolerance: float) -> int:
    """Report the metrics side by side. Raises AppError beyond the tolerance, or for another number of epochs."""
    score = next(name for name in recipe.steps if name.endswith("_miou"))
    scores = recipe.figures[score]
    if not scores:
        raise irreproducible(recipe.run_id, tr("MLflow has no {metric} of it", metric=score))
    best = max(range(len(scores)), key=scores.__getitem__)
    rows, worst, equal = [], 0.0, True
    for name in (*recipe.steps, *_measured_at_end(recipe, now)):
        before, after = recipe.figures[name], now.get(name, [])
        if len(before) != len(after) or not before:
            raise AppError(
                trn(
                    "{name}: the run has {count} epoch, its reproduction {after}",
                    "{name}: the run has {count} epochs, its reproduction {after}",
                    len(before),
                    name=name,
                    after=len(after),
                )
            )
        gap = max(_difference(a, b) for a, b in zip(before, after, strict=True))
        worst, equal = max(worst, gap), equal and list(map(repr, before)) == list(map(repr, after))
        shown = best if name in recipe.steps else 0
        rows.append([name, repr(before[shown]), repr(after[shown]), f"{gap:.3g}"])
    heading, gaps = tr("epoch {best} (best)", best=best + 1), tr("largest difference of all epochs")
    if recipe.steps != COMPARED:
        heading, gaps = tr("fold {number} (best)", number=best + 1), tr("largest difference of all folds")
    report_result(format_table([heading, tr("run"), tr("reproduction"), gaps], rows))
    if equal:
        report_result(tr("all metrics are bit-identical."))
    elif worst <= tolerance:
        report_result(
            tr("largest difference {worst:.3g}: within the tolerance {tolerance}.", worst=worst, tolerance=tolerance)
        )
    else:
        raise AppError(
            tr(
                "run {run_id} could not be reproduced: largest difference {worst:.3g}, tolerance {tolerance}",
                run_id=recipe.run_id,
                worst=worst,
                tolerance=tolerance,
            )
        )
    return ExitCode.DONE


def _measured_at_end(recipe: Recipe, now: Mapping[str, list[float]]) -> list[str]:
    """Return the metrics that the run recorded at its end; warn where its code does not measure them again."""
    recorded = [name for name in (*COMPARED_OUT_OF_FOLD, *COMPARED_AT_END) if recipe.figures.get(name)]
    missing = [name for name in recorded if not now.get(name)]
    if missing:
        warn(tr("not compared: {names} (the code of the run does not report them)", names=", ".join(missing)))
    return [name for name in recorded if name not in missing]


def main(arguments: list[str]) -> int:
    """In the recorded code: train on a data commit with the settings of the environment, and write the metrics."""
    from versioning.checkout import checked_data

    data_path, out, extent = arguments
    settings = load_settings()
    with connect(settings) as lake:
        _, data = checked_data(settings, lake, data_path)
        initial = load_initial(settings, lake)
        smoke, measure = extent == "smoke", partial(_measure_folds, lake) if settings.folds else _measure
        figures, device = measure(settings, data, smoke, initial)
    content = {
        "figures": figures,
        "environment": environment.environment(device),
        "packages": environment.packages(),
    }
    Path(out).write_text(json.dumps(content), encoding="utf-8")
    return ExitCode.DONE


def _measure(
    settings: Settings, data: SegmentationData, smoke: bool, initial: Initial | None
) -> tuple[dict[str, list[float]], torch.device]:
    """Train a model; return its metrics by name, one value for each epoch, and the device."""
    from train.model_train import ModelTrain
    from train.setup import prepare_training

    training = ModelTrain(prepare_training(settings, data, smoke, initial), settings.model_path.parent)
    training.fit()
    validations = [r.validation for r in training.history if r.validation is not None]
    figures = {
        "train_loss": [r.train_loss for r in training.history],
        "val_loss": [v.loss for v in validations],
        "val_accuracy": [v.accuracy for v in validations],
        "val_miou": [v.miou for v in validations],
        "learning_rate": [r.learning_rate for r in training.history],
    }
    if training.test is not None:
        figures |= {"test_miou": [training.test.miou], "test_accuracy": [training.test.accuracy]}
    if training.calibration is not None:
        figures |= {name: [value] for name, value in training.calibration.metrics().items() if name in COMPARED_AT_END}
    return figures, training.device


def _measure_folds(
    lake: LakeFS, settings: Settings, data: SegmentationData, smoke: bool, initial: Initial | None
) -> tuple[dict[str, list[float]], torch.device]:
    """Train the models of all folds; return their metrics by name, one value for each fold, and the device."""
    from train.folds.start import divide_unseen
    from train.folds.training import FoldsTraining
    from train.tracking.result import OOF, split_metrics

    division = divide_unseen(settings, lake, data, initial, store=False)
    training = FoldsTraining(settings, division, settings.model_path.parent, smoke, initial)
    training.fit()
    found = training.fold_figures()
    figures = {name: [of_fold[name] for of_fold in found] for name in found[0]}
    at_end = split_metrics(training.out_of_fold().metrics, training.test, OOF) | training.calibration_errors()
    return figures | {name: [value] for name, value in at_end.items()}, training.device


if __name__ == "__main__":
    run_script(main)
