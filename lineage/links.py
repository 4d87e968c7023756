"""The chain around one run: version, run, model file, exports and data in lakeFS, code in Git; each is read again.

A link says what it knows of the others (its facts) and what is wrong with itself (its faults).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from config import ROOT, Settings
from core import git
from core.errors import AppError, UsageError
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import progress
from core.workers import parallel
from registry.versions import Registry, version_lineage
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS, LakePath
from versioning.versions import data_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ORIGIN = ("run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit")  # what everything names
FIGURES = ("best_val_miou", "best_val_accuracy")
OF_THE_BEST_EPOCH = {"val_miou": "best_val_miou", "val_accuracy": "best_val_accuracy", "val_loss": "val_loss"}
METRICS, MLMODEL = "metrics.json", "MLmodel"  # beside model.pth
EXPORTS = ("onnx", "torchscript")
PATCH = "code/changes.patch"  # artifact of a run whose files differed from its commit
SMALL = 1 << 20  # bytes of a file that are kept, to be read as JSON


@dataclass
class Link:
    """One thing in the chain: `facts` is what it says of the others, `faults` what is wrong with it itself."""

    kind: str
    name: str
    note: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    hashed: bool = False  # whether it lies in lakeFS, and all of it was hashed again
    export: str | None = None  # which of EXPORTS it is, or was made with


def figure(value: object) -> str:
    """A figure as all links write it: exact; 'none' for a missing one, and for what JSON has no number for."""
    number = float(value) if isinstance(value, int | float) else math.nan
    return repr(number) if abs(number) < 1e308 else "none"  # MLflow turns infinity into the largest number


def differs(name: str, expected: str, found: str) -> str:
    return tr("{name}: SHA-256 expected {expected}, found {found}", name=name, expected=expected, found=found)


def commit_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of a commit say; an export's name the code that exported, which is no part of the chain."""
    exported = any(f"{kind}_sha256" in metadata for kind in EXPORTS)
    keys = [key for key in (*ORIGIN, "git_dirty") if not (exported and key.startswith("git_"))]
    facts = {**metadata, **({"run_id": metadata["mlflow_run_id"]} if "mlflow_run_id" in metadata else {})}
    return {key: facts[key] for key in keys if key in facts}


def leads_to(lake: LakeFS, commit: str, path: LakePath) -> bool:
    """Whether a tag's commit is that of a path, or one made on it to carry metadata; an id of before a copy counts."""
    try:
        wanted = lake.resolve(path.ref, path.repo)
    except UsageError:  # not known there
        return False
    return wanted in (commit, *lake.commit(commit, path.repo).parents)


@dataclass
class Chain:
    """Follows runs to their versions, files, data and code; data that several runs share are read once."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient
    read: dict[str, Link] = field(default_factory=dict)

    def links(self, run_id: str, start: list[Link]) -> Iterator[Link]:
        """The links around a run; where MLflow does not know it any more, what `start` or a version says is followed."""
        (run, record), versions = self.run(run_id), list(self.versions(run_id))
        self._require_version(start, versions)
        known = next((link.facts for link in [run, *versions, *start] if "lakefs_model_path" in link.facts), {})
        yield from versions
        yield run
        if record is not None:
            yield self.best_epoch(record)
        if "lakefs_model_path" in known:
            yield from self.model(LakePath.parse(known["lakefs_model_path"]))
        tags = dict(record.data.tags) if record is not None else {}
        yield from self.exports(tags, {link.export for link in start})
        if "lakefs_data_path" in known:
            yield self.data(LakePath.parse(known["lakefs_data_path"]))
        yield self.code(run_id, known, tags)

    # --- MLflow ---------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> tuple[Link, Run | None]:
        """The run as MLflow knows it; None beside the link where it committed no model, or is gone."""
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
            **{name: figure(run.data.metrics.get(name)) for name in (*FIGURES, "best_epoch")},
        }
        more = ("git_dirty", "data_manifest_sha256", "lakefs_model_commit", "lakefs_data_commit")
        exported = (f"{kind}_sha256" for kind in EXPORTS)
        link.facts |= {key: run.data.tags[key] for key in (*more, *exported) if key in run.data.tags}
        return link, run

    def best_epoch(self, run: Run) -> Link:
        """What MLflow's curves show for the best epoch, which the model's own figures are."""
        step = run.data.metrics.get("best_epoch", math.nan)
        link = Link(tr("curves"), run.info.run_id, tr("step {step:.0f}", step=step))
        for name, fact in OF_THE_BEST_EPOCH.items():
            with mlflow_utils.convert_errors(self.settings, tr("reading metrics")):
                history = self.client.get_metric_history(run.info.run_id, name)
            values = [metric.value for metric in history if metric.step == step]
            link.facts[fact] = figure(values[-1] if values else None)  # an epoch that a kill cut off is done twice
        return link

    def versions(self, run_id: str) -> Iterator[Link]:
        """The registered versions that were made from a run."""
        name = self.settings.registered_model
        registry = Registry(self.client, self.settings)
        numbers = registry.aliases()
        for version in registry.versions():
            if run_id not in (version.run_id, version.tags.get("run_id")):
                continue
            aliases = [alias for alias, number in numbers.items() if number == str(version.version)]
            link = Link(tr("version"), f"{name} v{version.version}", ", ".join(sorted(aliases)))
            try:
                lineage = version_lineage(version)
                more = ("git_dirty", "lakefs_model_commit", "lakefs_data_commit")
                link.facts = {key: version.tags[key] for key in (*ORIGIN, *more) if key in version.tags}
                link.facts |= {key: figure(value) for key, value in lineage.metrics.items() if key in FIGURES}
                link.faults += self._source(version, lineage.model_path)
            except (AppError, ValueError) as error:  # ValueError: a figure that is no number
                link.faults.append(str(error))
            yield link

    def _source(self, version: ModelVersion, model: LakePath) -> Iterator[str]:
        """What is wrong with a version's source, and with its tag in lakeFS."""
        if version.source != str(model).rsplit("/", 1)[0]:
            yield tr("its source is {source}, its tag names {model}", source=version.source, model=model)
        tag = version.tags.get("lakefs_tag")
        if tag is None:
            return
        commit = dict(self.lake.list_refs("tags", model.repo)).get(tag)
        if commit is None or not leads_to(self.lake, commit, model):
            found = commit or tr("none")
            yield tr("the lakeFS tag {tag} is {found}, expected on {ref}", tag=tag, found=found, ref=model.ref)

    def _require_version(self, start: list[Link], versions: list[Link]) -> None:
        """Note where a prediction names a version of the settings' model that is none of this run's."""
        names = [link.name for link in versions]
        for link in start:
            said = link.facts.get("version", "")
            if said not in names and said.rsplit(" v", 1)[0] == self.settings.registered_model:
                there = ", ".join(names) or tr("none")
                link.faults.append(tr("version: says {said}, its run's: {there}", said=said, there=there))

    # --- files in lakeFS ------------------------------------------------------------------------------------------

    def _file(self, kind: str, place: LakePath) -> tuple[Link, str | None, bytes]:
        """A file, read again; its SHA-256, None where it cannot be read; its first bytes."""
        link, digest, head = Link(kind, str(place), hashed=True), hashlib.sha256(), b""
        try:
            listed = self.lake.objects(place.ref, place.path, place.repo)
            remote = next((file for file in listed if file.path == place.path), None)
            if remote is None:
                raise AppError(tr("not in lakeFS"))
            for chunk in self.lake.read(place, remote):
                digest.update(chunk)
                head = head if len(head) > SMALL else head + chunk
        except (AppError, urllib3.exceptions.HTTPError) as error:
            link.faults.append(str(error))
            return link, None, b""
        found = digest.hexdigest()
        if remote.sha256 and remote.sha256 != found:
            link.faults.append(differs(place.path, remote.sha256, found))
        return link, found, head

    def _metadata(self, place: LakePath) -> dict[str, str]:
        return self.lake.commit_metadata(place.ref, place.repo)

    def model(self, path: LakePath) -> Iterator[Link]:
        """The model file, metrics.json and MLmodel beside it, and what their commit says."""
        link, found, _ = self._file(tr("model"), path)
        report, figures = self._beside(path, METRICS)
        described, content = self._beside(path, MLMODEL)
        if found is not None:
            metadata = self._metadata(path)
            said = commit_facts(metadata)
            if said.get("model_sha256", found) != found:
                link.faults.append(differs(tr("the commit's metadata"), said["model_sha256"], found))
            link.facts = {**said, "model_sha256": found, "lakefs_model_commit": path.ref}
            link.facts.pop("lakefs_model_path", None)
            if not report.faults:
                link.faults += _other_figures(metadata, figures)
        if not report.faults:
            report.facts["run_id"] = str(figures.get("mlflow_run_id"))
            report.facts["model_sha256"] = str(figures.get("model_sha256"))
            report.facts |= {key: figure(figures.get(key)) for key in (*FIGURES, "val_loss", "best_epoch")}
        if not described.faults:
            described.facts["run_id"] = str(content.get("run_id"))
            described.facts["model_sha256"] = str(dict(content.get("metadata") or {}).get("model_sha256"))
        yield from (link, report, described)

    def _beside(self, model: LakePath, name: str) -> tuple[Link, dict[str, Any]]:
        """A JSON file beside the model file, and what it holds; MLmodel is YAML that is JSON, too."""
        place = replace(model, path=f"{model.path.rpartition('/')[0]}/{name}".lstrip("/"))
        link, found, content = self._file(name, place)
        if link.faults:
            return link, {}
        link.facts[f"{name}_sha256"] = str(found)
        try:
            return link, dict(json.loads(content))
        except (ValueError, TypeError) as error:
            link.faults.append(tr("not readable ({error})", error=error))
            return link, {}

    def exports(self, tags: Mapping[str, str], needed: set[str | None]) -> Iterator[Link]:
        """The exported files that the run names; one that it does not name, but that was used, is a fault."""
        for kind in EXPORTS:
            uri, sha256 = tags.get(f"lakefs_{kind}_path"), tags.get(f"{kind}_sha256")
            if uri is None and sha256 is None and kind not in needed:
                continue
            label = tr("export")
            try:
                if uri is None or sha256 is None:
                    raise AppError(tr("the run has no tag lakefs_{kind}_path, or none {kind}_sha256", kind=kind))
                yield self._export(label, kind, LakePath.parse(uri))
            except AppError as error:
                yield Link(label, uri or kind, faults=[str(error)])

    def _export(self, label: str, kind: str, place: LakePath) -> Link:
        """An exported file, read again; it lies in a folder that is called as its model's hash."""
        link, found, _ = self._file(label, place)
        if found is None:
            return link
        key, model = f"{kind}_sha256", place.path.split("/")[-2:][0]
        metadata = self._metadata(place)
        if metadata.get("model_sha256") == model and key in metadata:  # else a later commit, which had the file already
            link.facts = commit_facts(metadata)
            if metadata[key] != found:
                link.faults.append(differs(tr("the commit's metadata"), metadata[key], found))
        link.facts |= {key: found, "model_sha256": model}
        return link

    def data(self, path: LakePath) -> Link:
        """Every file of the data, read again; the hash over all of them."""
        if str(path) not in self.read:
            self.read[str(path)] = self._data(path)
        known = self.read[str(path)]
        return replace(known, facts=dict(known.facts), faults=list(known.faults))  # this run may add to them

    def _data(self, path: LakePath) -> Link:
        link = Link(tr("data"), str(path), facts={"lakefs_data_commit": path.ref}, hashed=True)
        try:
            remote = list(self.lake.objects(path.ref, path.path, path.repo))
        except AppError as error:
            link.faults.append(str(error))
            return link
        results = parallel(lambda file: self.lake.verify_object(path, file), remote)
        for file, result in progress(results, len(remote), tr("verifying the data"), tr("files")):
            if result is not None:
                link.faults.append(f"{file.path}: {result}")
        link.note = tr("{count} files", count=len(remote))
        if not remote:
            link.faults.append(tr("no files in lakeFS"))
        if all(file.sha256 for file in remote):
            hashes = {file.path.removeprefix(path.path): str(file.sha256) for file in remote}
            link.facts["data_manifest_sha256"] = data_manifest(hashes, path.path)
        return link

    # --- code -----------------------------------------------------------------------------------------------------

    def code(self, run_id: str, known: Mapping[str, str], tags: Mapping[str, str]) -> Link:
        """The code in Git, its objects hashed again by Git itself, and the changes that a run had on top of it."""
        link = Link(tr("code"), known.get("git_commit", git.NONE))
        if link.name == git.NONE:
            link.note = tr("no Git when it ran")
            return link
        problem = git.verify_commit(ROOT, link.name)
        if problem:
            link.faults.append(problem)
        else:
            link.note = ", ".join(git.list_tags(ROOT, link.name))
        if known.get("git_dirty") == "true":
            link.note += ", " * bool(link.note) + self._changes(link, run_id, tags)
        return link

    def _changes(self, link: Link, run_id: str, tags: Mapping[str, str]) -> str:
        """What is known of the uncommitted changes that a run trained with; a broken record of them is a fault."""
        state, expected = tags.get("git_patch", tr("no record of them")), tags.get("git_patch_sha256")
        if state == "recorded":
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
            try:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    mlflow_utils.convert_errors(self.settings, tr("reading the run's record")),
                ):
                    found = file_sha256(Path(self.client.download_artifacts(run_id, PATCH, folder)))
            except (AppError, OSError) as error:
                link.faults.append(f"{PATCH}: {error}")
            else:
                if expected is not None and found != expected:
                    link.faults.append(differs(PATCH, expected, found))
            state = PATCH if expected else tr("{patch}, its hash was not recorded", patch=PATCH)
        return tr("with uncommitted changes ({state})", state=state)


def _other_figures(metadata: Mapping[str, str], figures: Mapping[str, Any]) -> Iterator[str]:
    """Where a model's commit, which has six digits of each figure, says another than metrics.json."""
    for name in FIGURES:
        value = figures.get(name)
        wanted = f"{value:.6f}" if isinstance(value, int | float) else "nan"
        if metadata.get(name, wanted) != wanted:
            yield tr(
                "{name}: the commit's metadata say {metadata}, where {metrics} says {wanted}",
                name=name,
                metadata=metadata[name],
                metrics=METRICS,
                wanted=wanted,
            )
