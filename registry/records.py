"""What a version of the registry records: its lineage, its verdict, its metrics, and that it was taken out of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from core.errors import AppError, one_line
from core.figures import format_figure
from core.git import LAKECTL_COMMIT
from core.i18n import tr
from core.safety.json_object import JsonObject
from utils.identifiers import InvalidValue
from utils.lakefs_utils import LakePath
from utils.lineage import CLASSES_TAGS, Lineage
from utils.run_metrics import OOF_PREFIX
from versioning.provenance.verdict import Verdict

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

STATE, PENDING, DONE = "registration", "pending", "done"  # tag of a version, and its values
LAKEFS_TAG = "lakefs_tag"  # tag of a version: name of its tag in lakeFS
GATE = "gate"  # tag of a version: the verdict, as JSON
REPLACED = "replaced"  # tag of a version: number of the champion that it replaced; empty: there was none
TEST_METRICS = ("test_miou", "test_accuracy")  # of the run that a version keeps, besides those of the best epoch
LINEAGE_TAGS = ("lakefs_model_path", "lakefs_data_path", "model_sha256")  # of a version that register_model.py made
REGISTERED = "registered_version"  # tag of a run: "NAME vN"
ROLLED_BACK = "rolled_back"  # tag of a version that a person took out of use: when, who, to which version
METRIC = "metric."  # prefix of the tags of a version that keep metrics of its run


class Rollback(NamedTuple):
    """When and by whom a version was taken out of use, and the number of the version in use since; '?': not recorded."""

    at: str
    by: str
    to: str


def version_lineage(version: ModelVersion) -> Lineage:
    """Return the lineage of a version from its tags, which outlive its run. Raises AppError if one is missing."""
    tags = version.tags
    missing = [key for key in LINEAGE_TAGS if key not in tags]
    if missing:
        raise AppError(
            tr(
                "{name} v{version} has no tag {missing}: not registered by register_model.py",
                name=version.name,
                version=version.version,
                missing=", ".join(missing),
            )
        )
    name = f"{version.name} v{version.version}"
    try:
        return Lineage(
            run_id=version.run_id or tags.get("run_id", "none"),
            version=name,
            model_path=LakePath.parse_recorded(tags["lakefs_model_path"]),
            model_sha256=tags["model_sha256"],
            data_path=LakePath.parse_recorded(tags["lakefs_data_path"]),
            git_commit=tags.get("git_commit", "none"),
            metrics=metrics_of(version),
            classes={key: tags[key] for key in CLASSES_TAGS if key in tags},
        )
    except InvalidValue as error:
        raise AppError(f"{name}: {one_line(error, 400)}") from error


def is_archived(version: ModelVersion) -> bool:
    """Return whether a person archived a version by MLflow's stages."""
    return bool(version.current_stage == "Archived")


def verdict_of(version: ModelVersion) -> Verdict | None:
    """Return the recorded verdict of a version; None if it has none. Raises AppError for a tag that is not a verdict."""
    text = version.tags.get(GATE)
    return None if text is None else Verdict.parse(text, _tag_place(version, GATE))


def rollback_of(version: ModelVersion) -> Rollback | None:
    """Return how a version was taken out of use; None if it was not. Raises AppError for a tag that does not say it."""
    text = version.tags.get(ROLLED_BACK)
    if text is None:
        return None
    found = JsonObject.parse(text, _tag_place(version, ROLLED_BACK), tr("it was changed in MLflow: delete the tag"))
    return Rollback(*(found.text(key) if key in found else "?" for key in ("at", "by", "to")))


def metrics_of(version: ModelVersion) -> dict[str, float]:
    """Return the metrics that a version keeps of its run. Raises AppError for a tag that is not a number."""
    found = {}
    for key, value in version.tags.items():
        if key.startswith(METRIC):
            try:
                found[key.removeprefix(METRIC)] = float(value)
            except ValueError:
                raise AppError(
                    tr(
                        "{place}: expected a number, found {found}: it was changed in MLflow: correct or delete the tag",
                        place=_tag_place(version, key),
                        found=ascii(value[:80]),
                    )
                ) from None
    return found


def _tag_place(version: ModelVersion, key: str) -> str:
    return tr("{name} v{version}: tag {key}", name=version.name, version=version.version, key=key)


def lineage_tags(lineage: Lineage, run: Run) -> dict[str, str]:
    """Return the lineage as tags of a version, so that deleting the run does not cut the version from data and code."""
    git = {key: value for key, value in run.data.tags.items() if key.startswith("git_") and key != LAKECTL_COMMIT}
    decisive = ("best_", OOF_PREFIX)
    kept = {key: value for key, value in lineage.metrics.items() if key.startswith(decisive) or key in TEST_METRICS}
    return {
        **git,
        **{f"{METRIC}{key}": repr(value) for key, value in kept.items()},
        **lineage.classes,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
        "lakefs_model_commit": lineage.model_path.ref,
        "lakefs_data_commit": lineage.data_path.ref,
        "model_sha256": lineage.model_sha256,
    }


def describe_origin(lineage: Lineage) -> str:
    """Return where model, data and code of a version are, in Markdown; English, as it is stored."""
    places = (
        ("Model", f"`{lineage.model_path}`"),
        ("Data", f"`{lineage.data_path}`"),
        ("Code", f"Git `{lineage.git_commit}`"),
    )
    return "\n\n".join(f"**{name}:** {place}" for name, place in places)


def describe_figures(metrics: dict[str, float]) -> str:
    """Return the mIoU of a version by split, in Markdown; empty if none was recorded."""
    recorded = (("val", "best_val_miou"), ("out-of-fold", "oof_miou"), ("test", "test_miou"))
    figures = ", ".join(f"{split} mIoU {format_figure(metrics[name])}" for split, name in recorded if name in metrics)
    return f"**Result:** {figures}\n\n" if figures else ""
