"""Links that MLflow knows: a run, its metric history and the versions registered from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config import Settings
from core.errors import AppError
from core.i18n import tr, trn
from inference.formats import EXPORT_FILES, export_sha256_tag
from lineage.links import LINEAGE_KEYS, MODEL_METRICS, OOF_METRICS, OPTIONAL_METRICS, Link, format_metric, is_tag_of
from registry.records import LAKEFS_TAG, version_lineage
from registry.versions import Registry
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import CLASSES_TAGS, FOLD_TAG, INIT_KEYS, PARENT_TAG, read_first_epoch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

FOLD_METRIC = "fold_miou"  # of a run with folds at the step of each fold, and of the run of that fold
# Metric whose value at the best epoch is compared -> fact that it must equal.
BEST_EPOCH_FACTS = {"val_miou": "best_val_miou", "val_accuracy": "best_val_accuracy", "val_loss": "val_loss"}
RUN_TAGS = (
    *("git_dirty", "data_manifest_sha256", "lakefs_model_commit", "lakefs_data_commit", *CLASSES_TAGS),
    *map(export_sha256_tag, EXPORT_FILES),
)
VERSION_TAGS = (*LINEAGE_KEYS, "git_dirty", "lakefs_model_commit", "lakefs_data_commit", *CLASSES_TAGS)


@dataclass(frozen=True)
class MlflowLinks:
    """Reads links from one MLflow server; `lake` is used to check the lakeFS tags of versions."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient

    def run(self, run_id: str) -> tuple[Link, Run | None]:
        """Return the link of a run and the run; None if it was deleted or committed no model."""
        link = Link(tr("run"), run_id)
        try:
            run = mlflow_utils.get_run(self.client, self.settings, run_id)
            lineage = mlflow_utils.run_lineage(run)
        except AppError as error:
            link.faults.append(str(error))
            return link, None
        link.note = f"{run.info.run_name}, {run.info.status}, {mlflow_utils.format_time(run.info.start_time)}"
        link.facts = {
            "run_id": run_id,
            "lakefs_model_path": str(lineage.model_path),
            "model_sha256": lineage.model_sha256,
            "lakefs_data_path": str(lineage.data_path),
            "git_commit": lineage.git_commit,
            **{name: format_metric(run.data.metrics.get(name)) for name in (*MODEL_METRICS, "best_epoch")},
        }
        link.facts |= {key: run.data.tags[key] for key in RUN_TAGS if key in run.data.tags}
        link.facts |= {key: run.data.params[key] for key in INIT_KEYS if key in run.data.params}
        link.facts |= {key: format_metric(run.data.metrics[key]) for key in OPTIONAL_METRICS if key in run.data.metrics}
        return link, run

    def metric_history(self, run: Run) -> Link:
        """Return the link of the metric history at the best epoch, which the model's own metrics must equal."""
        if OOF_METRICS[0] in run.data.metrics:
            return self._folds(run)
        step = run.data.metrics.get("best_epoch", math.nan)
        epoch = step - read_first_epoch(run.data.tags) + 1
        link = Link(tr("metric history"), run.info.run_id, tr("epoch {epoch:.0f}", epoch=epoch))
        for name, fact in BEST_EPOCH_FACTS.items():
            with mlflow_utils.convert_errors(self.settings, tr("reading metrics")):
                history = self.client.get_metric_history(run.info.run_id, name)
            values = [metric.value for metric in history if metric.step == step]
            # The last one: an epoch that a kill interrupted is run, and logged, twice.
            link.facts[fact] = format_metric(values[-1] if values else None)
        return link

    def _folds(self, run: Run) -> Link:
        """Return the link of the runs of the folds, whose metrics must be those that the run of all folds has of them."""
        link = Link(tr("folds"), run.info.run_id)
        wanted = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        with mlflow_utils.convert_errors(self.settings, tr("reading metrics")):
            children = list(mlflow_utils.search_runs(self.client, [run.info.experiment_id], wanted))
            history = self.client.get_metric_history(run.info.run_id, FOLD_METRIC)
        recorded = {str(metric.step): format_metric(metric.value) for metric in history}
        found = {
            child.data.tags[FOLD_TAG]: format_metric(child.data.metrics.get(FOLD_METRIC))
            for child in children
            if FOLD_TAG in child.data.tags
        }
        link.note = trn("{count} fold", "{count} folds", len(recorded))
        link.faults += [
            tr(
                "fold {fold}: the run has {metric} {expected}, that of the fold {found}",
                fold=fold,
                metric=FOLD_METRIC,
                expected=recorded.get(fold, "-"),
                found=found.get(fold, "-"),
            )
            for fold in sorted(recorded.keys() | found.keys())
            if recorded.get(fold) != found.get(fold)
        ]
        return link

    def versions(self, run_id: str) -> Iterator[Link]:
        """Yield the links of the versions that were registered from a run."""
        registry = Registry(self.client, self.settings)
        numbers = registry.aliases()
        for version in registry.versions():
            if run_id not in (version.run_id, version.tags.get("run_id")):
                continue
            aliases = [alias for alias, number in numbers.items() if number == str(version.version)]
            link = Link(tr("version"), f"{registry.name} v{version.version}", ", ".join(sorted(aliases)))
            try:
                lineage = version_lineage(version)
                link.facts = {key: version.tags[key] for key in VERSION_TAGS if key in version.tags}
                link.facts |= {
                    key: format_metric(value)
                    for key, value in lineage.metrics.items()
                    if key in (*MODEL_METRICS, *OPTIONAL_METRICS)
                }
                link.faults += self._version_faults(version, lineage.model_path)
            except (AppError, ValueError) as error:  # ValueError: a metric tag that is not a number
                link.faults.append(str(error))
            yield link

    def _version_faults(self, version: ModelVersion, model: LakePath) -> Iterator[str]:
        """Yield what is wrong with a version's source and with its tag in lakeFS."""
        if version.source != str(model).rsplit("/", 1)[0]:
            yield tr("its source is {source}, but its tag names {model}", source=version.source, model=model)
        tag = version.tags.get(LAKEFS_TAG)
        if tag is None:
            return
        commit = dict(self.lake.list_refs("tags", model.repo)).get(tag)
        if commit is None or not is_tag_of(self.lake, commit, model):
            found = commit or tr("none")
            yield tr("the lakeFS tag {tag} is {found}, expected on {ref}", tag=tag, found=found, ref=model.ref)
