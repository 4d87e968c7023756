"""ModelRecord: what MLflow and lakeFS recorded about a registered model; the files of a release are made from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from utils.lineage import Lineage
from utils.mlflow_utils import local_time
from versioning.provenance.ancestors import Ancestor
from versioning.provenance.measurements import Measurements
from versioning.provenance.verdict import Verdict

PRODUCER = "urn:lakefs-image-segmentation"


@dataclass(frozen=True)
class ModelRecord:
    """A registered version with its origin.

    `git` are the tags `git_*` of its run, `parameters` the settings that decided the training, `metrics` those of
    metrics.json, `gate` the verdict of the promotion. A run that was deleted leaves `parameters` and the times empty.
    """

    name: str
    version: str
    lineage: Lineage
    git: Mapping[str, str]
    data_manifest_sha256: str
    parameters: Mapping[str, str]
    metrics: Measurements
    gate: Verdict | None
    started: datetime | None
    finished: datetime | None
    ancestors: tuple[Ancestor, ...] = ()  # the models that it was trained from, the nearest first

    @property
    def remote(self) -> str | None:
        """URL of the Git repository, if the clone had one."""
        remote = self.git.get("git_remote", "none")
        return None if remote == "none" else remote

    @property
    def commit(self) -> str | None:
        """The Git commit, None if the model was trained without one."""
        return None if self.lineage.git_commit == "none" else self.lineage.git_commit


def utc(milliseconds: int | None) -> datetime | None:
    """Return a time of MLflow, in milliseconds since 1970, as a datetime in UTC; None if it is unset or no date."""
    time = local_time(milliseconds)
    return None if time is None else time.astimezone(UTC)


def timestamp(time: datetime) -> str:
    """Return a time as RFC 3339 text in UTC: 2026-11-30T01:02:03Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
