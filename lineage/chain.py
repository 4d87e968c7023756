"""The chain of one run: versions, run, metric history, model file, exports, data and code."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core import git
from core.errors import AppError
from core.hashing import file_sha256
from core.i18n import tr, trn
from lineage.ancestry import ancestor_links
from lineage.lakefs_links import LakeFSLinks
from lineage.links import Link, hash_mismatch, name_members
from lineage.mlflow_links import MlflowLinks
from train.tracking import environment
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS, LakePath

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PATCH = f"{environment.FOLDER}/{environment.PATCH}"  # artifact of a run that trained with uncommitted changes
PATCH_SHA256_TAG = f"{environment.PATCH_TAG}_sha256"


class Chain:
    """Follows runs to their versions, files, data and code."""

    def __init__(self, settings: Settings, lake: LakeFS, client: MlflowClient) -> None:
        self.settings, self.client = settings, client
        self.mlflow, self.lakefs = MlflowLinks(settings, lake, client), LakeFSLinks(lake)

    def links(self, run_id: str, start: list[Link]) -> Iterator[Link]:
        """Yield the links of a run. For a deleted run, the paths that `start` or a version states are followed."""
        run_link, run = self.mlflow.run(run_id)
        versions = list(self.mlflow.versions(run_id))
        self._check_stated_version(start, versions)
        with_paths = (link.facts for link in [run_link, *versions, *start] if "lakefs_model_path" in link.facts)
        known = next(with_paths, {})
        yield from versions
        yield run_link
        if run is not None:
            yield self.mlflow.metric_history(run)
            yield self.artifacts(run)
        of_model = list[Link]()
        if "lakefs_model_path" in known:
            of_model = list(self.lakefs.model(LakePath.parse_recorded(known["lakefs_model_path"])))
            name_members(start, of_model)
            yield from of_model
        yield from ancestor_links(self.lakefs, {**(of_model[0].facts if of_model else {}), **run_link.facts})
        tags = dict(run.data.tags) if run is not None else {}
        yield from self.lakefs.exports(tags, {link.export for link in start})
        if "lakefs_data_path" in known:
            data = LakePath.parse_recorded(known["lakefs_data_path"])
            yield self.lakefs.data(data)
            if run is not None and "data_shards" in run.data.params:
                yield self.lakefs.shards(LakePath.parse_recorded(run.data.params["data_shards"]), data)
        yield self.code(run_id, known, tags)

    def artifacts(self, run: Run) -> Link:
        """Return the link of the files that a run recorded in MLflow, each of which must be there."""
        link = Link(tr("artifacts"), run.info.run_id)
        expected = []
        if environment.PATCH_TAG in run.data.tags:  # else of a version that did not record them
            expected += [f"{environment.FOLDER}/{name}" for name in environment.RECORDED]
        if run.info.status == "FINISHED":
            expected.append(environment.REPORT_FILE)
        try:
            with mlflow_utils.convert_errors(self.settings, tr("listing artifacts of the run")):
                found = mlflow_utils.list_artifacts(self.client, self.settings, run.info.run_id)
                found |= mlflow_utils.list_artifacts(self.client, self.settings, run.info.run_id, environment.FOLDER)
        except (AppError, OSError) as error:
            link.faults.append(str(error))
            return link
        missing = [name for name in expected if name not in found]
        if missing:
            link.faults.append(tr("missing in {place}: {names}", place=run.info.artifact_uri, names=", ".join(missing)))
        link.faults += self._changed_files(run, found)
        link.note = trn("{count} file", "{count} files", len(expected) - len(missing))
        return link

    def _changed_files(self, run: Run, listed: Collection[str]) -> Iterator[str]:
        """Yield the recorded files whose SHA-256 is not the one that the run, or the commit of its model, states.

        Runs of earlier versions state none. The patch belongs to the link of the code.
        """
        metadata = self._commit_metadata(run)
        for name in environment.RECORDED:
            file, key = f"{environment.FOLDER}/{name}", environment.HASH_KEYS[name]
            stated = {tr("the run"): run.data.tags.get(key), tr("the commit's metadata"): metadata.get(key)}
            if file not in listed or not any(stated.values()):
                continue
            try:
                found = self._artifact_sha256(run.info.run_id, file)
            except (AppError, OSError) as error:
                yield f"{file}: {error}"
                continue
            for place, expected in stated.items():
                if expected is not None and expected != found:
                    yield tr("changed: {fault}", fault=hash_mismatch(f"{file} ({place})", expected, found))

    def _commit_metadata(self, run: Run) -> Mapping[str, str]:
        """Return the metadata of the commit of a run's model; empty if there is none, which the model's link says."""
        try:
            model = mlflow_utils.run_lineage(run).model_path
            return self.lakefs.lake.commit_metadata(model.ref, model.repo)
        except AppError:
            return {}

    def _artifact_sha256(self, run_id: str, file: str) -> str:
        """Download a file of a run and return its SHA-256. Raises AppError and OSError."""
        with (
            tempfile.TemporaryDirectory() as folder,
            mlflow_utils.convert_errors(self.settings, tr("downloading artifacts of the run")),
        ):
            return file_sha256(mlflow_utils.download_artifacts(self.client, self.settings, run_id, file, folder))

    def _check_stated_version(self, start: list[Link], versions: list[Link]) -> None:
        """Add a fault if a prediction names a version of the settings' model that was not registered from this run."""
        names = [link.name for link in versions]
        for link in start:
            stated = link.facts.get("version", "")
            if stated not in names and stated.rsplit(" v", 1)[0] == self.settings.registered_model:
                known = ", ".join(names) or tr("none")
                link.faults.append(tr("version: says {stated}, but its run has: {known}", stated=stated, known=known))

    def code(self, run_id: str, known: Mapping[str, str], tags: Mapping[str, str]) -> Link:
        """Return the link of the Git commit, whose objects Git hashes again, and of the run's uncommitted changes."""
        link = Link(tr("code"), known.get("git_commit", git.NONE))
        if link.name == git.NONE:
            link.note = tr("the run had no Git repository")
            return link
        problem = git.verify_commit(ROOT, link.name)
        notes = []
        if problem:
            link.faults.append(problem)
        else:
            notes.append(tr("the code that trained it"))
            of_commit = git.list_tags(ROOT, link.name)
            notes += [tr("Git tags of this code: {tags}", tags=", ".join(of_commit))] if of_commit else []
        if known.get("git_dirty") == "true":
            state, fault = self._read_patch(run_id, tags)
            notes.append(tr("with uncommitted changes ({state})", state=state))
            link.faults += [fault] if fault else []
        link.note = ", ".join(notes)
        return link

    def _read_patch(self, run_id: str, tags: Mapping[str, str]) -> tuple[str, str | None]:
        """Return how the uncommitted changes of a run are recorded, and what is wrong with the recorded patch."""
        state = tags.get(environment.PATCH_TAG, tr("not recorded"))
        if state != "recorded":
            return state, None
        expected, fault = tags.get(PATCH_SHA256_TAG), None
        try:
            found = self._artifact_sha256(run_id, PATCH)
            if expected is not None and found != expected:
                fault = hash_mismatch(PATCH, expected, found)
        except (AppError, OSError) as error:
            fault = f"{PATCH}: {error}"
        return PATCH if expected else tr("{patch}, its SHA-256 was not recorded", patch=PATCH), fault
