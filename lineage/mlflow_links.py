"""Links that MLflow knows: a run, its metric history and the versions registered from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config import Settings
from core.errors import AppError
from core.i18n import tr
from inference.formats import EXPORT_FILES, export_sha256_tag
from lineage.links import LINEAGE_KEYS, MODEL_METRICS, TEST_METRICS, Link, format_metric, is_tag_of
from registry.records import LAKEFS_TAG, version_lineage
from registry.versions import Registry
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import CLASSES_TAGS, INIT_KEYS, read_first_epoch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

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
        link.facts |= {key: format_metric(run.data.metrics[key]) for key in TEST_METRICS if key in run.data.metrics}
        return link, run

    def metric_history(self, run: Run) -> Link:
        """Return the link of the metric history at the best epoch, which the model's own metrics must equal."""
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
                    if key in (*MODEL_METRICS, *TEST_METRICS)
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
