"""The lakeFS tag of a registered version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from core.i18n import tr
from core.reporting import notify
from core.safety.urls import without_credentials
from registry.records import LAKEFS_TAG, version_lineage
from registry.versions import Registry
from utils.lakefs_client.refs import TagConflict
from utils.lakefs_utils import LakeFS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def tag_model_commit(registry: Registry, lake: LakeFS, version: ModelVersion) -> None:
    """Tag the model in lakeFS on a commit of the same files whose metadata name the version."""
    lineage = version_lineage(version)
    metadata = {
        **{key: value for key, value in version.tags.items() if key.startswith("git_")},
        "mlflow_run_id": lineage.run_id,
        "registered_model": version.name,
        "model_version": str(version.version),
        "model_sha256": lineage.model_sha256,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
    }
    server = registry.settings.mlflow_tracking_uri
    if server and server.startswith("http"):
        link = f"{without_credentials(server).rstrip('/')}/#/models/{version.name}/versions/{version.version}"
        metadata["::lakefs::MLflow::url[url:ui]"] = link
    tag, message = tag_name(version), f"{version.name} v{version.version}"
    try:
        lake.tag_with_metadata(tag, lineage.model_path, message, metadata)
    except TagConflict:  # version numbers restart with a new MLflow, and two of them over one lakeFS count separately
        taken, tag = tag, f"{tag}-{lineage.model_path.ref[:8]}"
        notify(tr("the lakeFS tag {taken} belongs to another model: used {tag}", taken=taken, tag=tag))
        lake.tag_with_metadata(tag, lineage.model_path, message, metadata)
    registry.set_tag(version, LAKEFS_TAG, tag)


def tag_name(version: ModelVersion) -> str:
    """Return `model-<name>-v<N>`, with '-' for characters that lakeFS does not allow in a tag."""
    name = re.sub(r"[^\w-]+", "-", version.name)
    return f"model-{name}-v{version.version}"
