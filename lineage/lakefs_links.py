"""Links stored in lakeFS: model file, metrics.json, MLmodel, exports and data. All their bytes are hashed again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import urllib3

from core.errors import AppError
from core.i18n import tr, trn
from core.reporting import progress
from core.safety.json_object import JsonObject
from core.threads.workers import parallel
from inference.formats import EXPORT_FILES, export_path_tag, export_sha256_tag
from lineage.links import MODEL_METRICS, OPTIONAL_METRICS, Link, commit_facts, format_metric, hash_mismatch, member_fact
from segmentation.file_names import METRICS_FILE, MLMODEL
from utils.ensemble_file import MAX_BYTES, is_ensemble, parse_ensemble
from utils.lakefs_client.content import RemoteFile
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import CLASSES_TAGS
from versioning.streaming.shards import source_of
from versioning.versions import data_manifest

HEAD_BYTES = 1 << 20  # of a file that are kept, to be parsed as JSON


@dataclass
class LakeFSLinks:
    """Reads links from one lakeFS server; data that several runs share are read once."""

    lake: LakeFS
    data_links: dict[str, Link] = field(default_factory=dict)  # data path -> its link

    def read_file(self, kind: str, path: LakePath, kept: int = HEAD_BYTES) -> tuple[Link, str | None, bytes]:
        """Read a file from the server: its link, its SHA-256 (None if it cannot be read) and its first bytes.

        At least `kept` bytes are returned, if it has so many.
        """
        link, digest, head = Link(kind, str(path), rehashed=True), hashlib.sha256(), b""
        try:
            listed = self.lake.objects(path.ref, path.path, path.repo)
            remote = next((file for file in listed if file.path == path.path), None)
            if remote is None:
                raise AppError(tr("not in lakeFS"))
            for chunk in self.lake.read(path, remote):
                digest.update(chunk)
                head = head if len(head) > kept else head + chunk
        except (AppError, urllib3.exceptions.HTTPError) as error:
            link.faults.append(str(error))
            return link, None, b""
        found = digest.hexdigest()
        if remote.sha256 and remote.sha256 != found:
            link.faults.append(hash_mismatch(path.path, remote.sha256, found))
        return link, found, head

    def model(self, path: LakePath) -> Iterator[Link]:
        """Yield the links of the model file with its commit, of an ensemble's members, and of metrics.json and MLmodel."""
        kept = MAX_BYTES if is_ensemble(path.path) else HEAD_BYTES
        model, found, content = self.read_file(tr("model"), path, kept)
        members = self.members(path, model, content) if found is not None and is_ensemble(path.path) else []
        report, metrics = self._read_json_beside(path, METRICS_FILE)
        mlmodel, description = self._read_json_beside(path, MLMODEL)
        if found is not None:
            metadata = self.lake.commit_metadata(path.ref, path.repo)
            stated = commit_facts(metadata)
            if stated.get("model_sha256", found) != found:
                model.faults.append(hash_mismatch(tr("the commit's metadata"), stated["model_sha256"], found))
            model.facts = {**stated, "model_sha256": found, "lakefs_model_commit": path.ref}
            model.facts.pop("lakefs_model_path", None)
            tags = [name for name, commit in self.lake.list_refs("tags", path.repo) if commit == path.ref]
            model.note = tr("tags of this result: {tags}", tags=", ".join(tags)) if tags else ""
            if not report.faults:
                model.faults += _metadata_faults(metadata, metrics)
        if not report.faults:
            report.facts["run_id"] = str(metrics.get("mlflow_run_id"))
            report.facts["model_sha256"] = str(metrics.get("model_sha256"))
            report.facts |= {key: format_metric(metrics.get(key)) for key in (*MODEL_METRICS, "val_loss", "best_epoch")}
            report.facts |= {key: format_metric(metrics[key]) for key in OPTIONAL_METRICS if key in metrics}
            report.facts |= {key: str(metrics[key]) for key in CLASSES_TAGS if key in metrics}
        if not mlmodel.faults:
            mlmodel.facts["run_id"] = str(description.get("run_id"))
            described = description.get("metadata")
            mlmodel.facts["model_sha256"] = str(described.get("model_sha256") if isinstance(described, dict) else None)
        yield from (model, *members, report, mlmodel)

    def members(self, path: LakePath, model: Link, content: bytes) -> list[Link]:
        """Return the link of each member of an ensemble, with a fault if it is not the file that ensemble.json names.

        A file that is not an ensemble is a fault of `model`.
        """
        try:
            ensemble = parse_ensemble(content, path)
        except AppError as error:
            model.faults.append(str(error))
            return []
        links = []
        for member in ensemble.members:
            place = beside(path, member.file)
            link, found, _ = self.read_file(tr("member"), place)
            if found is not None:
                link.facts[member_fact(member.file)] = found
                link.faults += [hash_mismatch(path.path, member.sha256, found)] if found != member.sha256 else []
            links.append(link)
        return links

    def _read_json_beside(self, model: LakePath, name: str) -> tuple[Link, dict[str, Any]]:
        """Read a JSON file beside the model file; empty if it is not readable. MLmodel is YAML written as JSON."""
        path = beside(model, name)
        link, found, content = self.read_file(name, path)
        if link.faults:
            return link, {}
        link.facts[f"{name}_sha256"] = str(found)
        try:
            return link, JsonObject.parse(content, name, tr("train the model again")).content
        except AppError as error:
            link.faults.append(str(error))
            return link, {}

    def exports(self, run_tags: Mapping[str, str], used: set[str | None]) -> Iterator[Link]:
        """Yield the links of the exports that the run's tags name; a fault if one in `used` is not named."""
        for kind in EXPORT_FILES:
            uri, sha256 = run_tags.get(export_path_tag(kind)), run_tags.get(export_sha256_tag(kind))
            if uri is None and sha256 is None and kind not in used:
                continue
            if uri is None or sha256 is None:
                missing = export_path_tag(kind) if uri is None else export_sha256_tag(kind)
                fault = tr("the run has no tag {tag}: export the model again", tag=missing)
                yield Link(tr("export"), uri or kind, faults=[fault])
                continue
            try:
                yield self._export(kind, LakePath.parse_recorded(uri))
            except AppError as error:
                yield Link(tr("export"), uri, faults=[str(error)])

    def _export(self, kind: str, path: LakePath) -> Link:
        """Return the link of an exported file; its directory is named after the SHA-256 of its model."""
        link, found, _ = self.read_file(tr("export"), path)
        if found is None:
            return link
        key, model_sha256 = export_sha256_tag(kind), path.path.split("/")[-2:][0]
        metadata = self.lake.commit_metadata(path.ref, path.repo)
        # Other metadata: those of a later commit, which contained the file already.
        if metadata.get("model_sha256") == model_sha256 and key in metadata:
            link.facts = commit_facts(metadata)
            if metadata[key] != found:
                link.faults.append(hash_mismatch(tr("the commit's metadata"), metadata[key], found))
        link.facts |= {key: found, "model_sha256": model_sha256}
        return link

    def data(self, path: LakePath) -> Link:
        """Return the link of a data commit: every file hashed again, and the manifest hash of all of them."""
        if str(path) not in self.data_links:
            self.data_links[str(path)] = self._read_data(path)
        link = self.data_links[str(path)]
        return replace(link, facts=dict(link.facts), faults=list(link.faults))  # each run may add faults of its own

    def _read_data(self, path: LakePath) -> Link:
        link = Link(tr("data"), str(path), facts={"lakefs_data_commit": path.ref}, rehashed=True)
        remote = self._verify_files(link, path)
        if remote is not None and all(file.sha256 for file in remote):
            hashes = {file.path.removeprefix(path.path): str(file.sha256) for file in remote}
            link.facts["data_manifest_sha256"] = data_manifest(hashes, path.path)
        return link

    def shards(self, path: LakePath, source: LakePath) -> Link:
        """Return the link of the shards that a training read the data commit `source` from, hashed again."""
        link = Link(tr("shards"), str(path), rehashed=True)
        self._verify_files(link, path)
        stated = None if link.faults else source_of(self.lake, path)
        if stated != source and not link.faults:
            link.faults.append(tr("shards of {stated}, expected of {source}", stated=stated, source=source))
        return link

    def _verify_files(self, link: Link, path: LakePath) -> list[RemoteFile] | None:
        """Return the objects at a path, None without a listing, and state on the link which of them are damaged."""
        try:
            remote = list(self.lake.objects(path.ref, path.path, path.repo))
        except AppError as error:
            link.faults.append(str(error))
            return None
        results = parallel(lambda file: self.lake.verify_object(path, file), remote)
        for file, result in progress(results, len(remote), tr("verifying the data"), tr("files")):
            if result is not None:
                link.faults.append(f"{file.path}: {result}")
        link.note = trn("{count} file", "{count} files", len(remote))
        if not remote:
            link.faults.append(tr("no files in lakeFS"))
        return remote


def beside(path: LakePath, name: str) -> LakePath:
    """Return the path of a file in the directory of another one."""
    return LakePath(path.repo, path.ref, f"{path.path.rpartition('/')[0]}/{name}".lstrip("/"))


def _metadata_faults(metadata: Mapping[str, str], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the metadata of a model's commit, which have six digits of each metric, contradict metrics.json."""
    for name in (*MODEL_METRICS, *OPTIONAL_METRICS):
        value = metrics.get(name)
        wanted = f"{value:.6f}" if isinstance(value, int | float) and abs(value) < 1e308 else "nan"
        if metadata.get(name, wanted) != wanted:
            yield tr(
                "{name}: the commit's metadata say {found}, but {file} says {wanted}",
                name=name,
                found=metadata[name],
                file=METRICS_FILE,
                wanted=wanted,
            )
