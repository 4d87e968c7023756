"""From what a person names - a file, run, version, commit or tag - to the runs whose chain it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core import git as git_utils
from core.errors import AppError, UsageError
from core.files import require_content
from core.hashing import file_sha256
from core.i18n import tr
from core.provenance import code_files
from core.provenance.code_files import LOCK_NAME
from core.reporting import notify
from core.safety.checksummed_json import parse_json
from core.safety.terminal import escape_line
from inference.formats import EXPORT_FILES, LISTING, export_sha256_tag
from lineage import predictions
from lineage.links import Facts, Link, commit_facts, is_tag_of, member_fact
from segmentation.file_names import METRICS_FILE, MLMODEL
from utils import mlflow_utils, run_names
from utils.ensemble_file import ENSEMBLE_FILE, is_member, working_copy
from utils.identifiers import CommitId, RunId
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import fold_of
from utils.servers import Servers
from versioning.lockfile import Lock, parse_lock, require_lock
from versioning.migrate import EMBEDDED_ID
from versioning.naming.results import find_meanings, find_models, known_tags, resolve_run
from versioning.versions import LOCK

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPORT_OF_TAG = {export_sha256_tag(kind): kind for kind in EXPORT_FILES}
SHA256_TAGS = ("model_sha256", *EXPORT_OF_TAG)  # tags of runs by which a file is found
# File name -> fact that its SHA-256 is, for files whose SHA-256 is not the tag of any run.
FACT_OF_FILE = {
    **{name: f"{name}_sha256" for name in (METRICS_FILE, MLMODEL)},
    **{name: export_sha256_tag(kind) for kind, name in EXPORT_FILES.items()},
}
TRACEABLE_SUFFIXES = (".png", ".jpg", ".npz", ".csv", ".json", ".mp4", ".pth", ".onnx", ".pt")


@dataclass
class Finder:
    """Finds the runs that a target belongs to. Each method returns links that lead to them, and run ids, newest first."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient

    def find(self, target: str) -> tuple[list[Link], list[str]]:
        """Find a target of any kind. Raises UsageError for one that does not exist or that no run belongs to."""
        path = Path(target)
        if path.is_dir():
            path = predictions.find_record(path) or path
        if path.is_file():
            self._reject_other_meanings(target)
            link = predictions.prediction_link(path)
            return self.find_file(path) if link is None else ([link], [self._predicting_run(link)])
        if target.startswith("lakefs://"):
            lake_path = LakePath.parse(target if target.count("/") > 3 else target + "/")
            return self.find_commit(lake_path.repo, lake_path.ref)
        if target == LOCK:
            lock = require_lock(ROOT)
            return [Link(LOCK_NAME, str(ROOT / LOCK_NAME), facts=_lock_facts(lock))], [lock.run_id]
        return self._find_named(target, path)

    def _predicting_run(self, link: Link) -> str:
        """Return the run whose model made a prediction. Raises UsageError if nobody knows it."""
        known = link.facts.get("run_id")
        found = [known] if known else self.runs_with_tag("model_sha256", link.facts["model_sha256"])
        if not found:
            raise UsageError(
                tr(
                    "{name}: predicted with a model file that no run recorded (SHA-256 {sha256})",
                    name=link.name,
                    sha256=link.facts["model_sha256"],
                )
            )
        return found[0]

    def _find_named(self, target: str, path: Path) -> tuple[list[Link], list[str]]:
        """Find a run, a version, or a commit or tag of Git or lakeFS. Raises UsageError for a name with several meanings."""
        servers = Servers(self.settings, client=self.client, lake=self.lake)
        named, tag = find_meanings(servers, target)
        if named and tag is not None:
            return [], [resolve_run(servers, target)]  # raises unless both are the same run
        if tag is not None:
            return self._find_tag(tag)
        git_commit = None if RunId.accepts(target.lower()) else git_utils.resolve(ROOT, target)
        meanings = [one.label for one in named]
        meanings += [f"Git {git_commit}"] if git_commit else []
        if run_names.RUN_PREFIX.fullmatch(target) and not RunId.accepts(target.lower()):
            commit = self._lakefs_commit(target)
            meanings += [f"lakefs://{self.lake.repo}/{commit}/"] if commit else []
        if len(meanings) > 1:
            raise run_names.ambiguous(target, meanings)
        if named:
            return self._find_run(named[0].run_id)
        if git_commit:
            self._mention_lakefs_branch(target)
            return self.find_git(target, git_commit)
        a_path = "\\" in target or ("/" in target and not run_names.QUALIFIED.fullmatch(target))
        if a_path or path.suffix.lower() in TRACEABLE_SUFFIXES or path.is_dir():
            problem = tr("directory without predictions") if path.is_dir() else tr("no such file")
            raise UsageError(escape_line(f"{target}: {problem}"))
        if run_names.QUALIFIED.fullmatch(target) or self._lakefs_commit(target) is None:
            raise self._unknown(target)
        return self.find_commit(self.lake.repo, target)

    def _find_run(self, run_id: str) -> tuple[list[Link], list[str]]:
        """Find a run; that of a fold leads to the run of all folds, which has the model. A deleted run is found too."""
        try:
            run = mlflow_utils.get_run(self.client, self.settings, run_id)
        except UsageError:
            return [], [run_id]
        fold = fold_of(run.data.tags)
        if fold is None:
            return [], [run_id]
        stated = {**run.data.params, **run.data.tags}
        facts: Facts = {key: stated[key] for key in ("lakefs_data_path", "git_commit") if key in stated}
        return [Link(tr("run"), run_id, tr("fold {fold}", fold=fold[0]), facts)], [fold[1]]

    def _find_tag(self, name: str) -> tuple[list[Link], list[str]]:
        """Find a tag of Git, which is compared with the one of lakeFS, or a tag of lakeFS only."""
        if name in git_utils.list_tags(ROOT):
            return self.find_git(name, git_utils.resolve(ROOT, f"refs/tags/{name}") or name)
        return self.find_commit(self.lake.repo, name)

    def _reject_other_meanings(self, file: str) -> None:
        """Raise UsageError for a file that is written like the name of something else, and that such a thing has, too."""
        if file == LOCK or "/" in file or "\\" in file or Path(file).suffix.lower() in TRACEABLE_SUFFIXES:
            return
        others = find_models(Servers(self.settings, client=self.client, lake=self.lake), file)
        if others:
            raise run_names.ambiguous(file, [*(choice.spelling for choice in others), f"./{file}"])

    def _mention_lakefs_branch(self, name: str) -> None:
        """Report how to trace the branch of lakeFS that has the name of a branch of Git, as 'main' often has."""
        if name in dict(self.lake.list_refs("branches")):
            path = f"lakefs://{self.lake.repo}/{name}/"
            notify(tr("{name}: of Git; for the branch of lakeFS with this name: {path}", name=name, path=path))

    def _lakefs_commit(self, ref: str) -> str | None:
        """Return the commit of a reference of lakeFS; None if there is none."""
        try:
            return self.lake.resolve(ref)
        except UsageError:
            return None

    def _unknown(self, target: str) -> UsageError:
        """Return the error for a name that nothing has: what there is, and the nearest of it."""
        versions = run_names.registered_names(self.client, self.settings)
        tags = known_tags(self.lake)
        return UsageError(
            tr(
                "'{target}' is not a file, run, version, commit or tag{hint} (versions: {versions}; tags: {tags})",
                target=escape_line(target)[:80],
                hint=run_names.nearest(target, [*versions, *tags]),
                versions=run_names.abbreviated(list(versions.values())) or tr("none"),
                tags=run_names.abbreviated(tags) or tr("none"),
            )
        )

    def find_file(self, path: Path) -> tuple[list[Link], list[str]]:
        """Find a model file, an export, metrics.json or MLmodel by its SHA-256, else by the files beside it."""
        require_content(path)
        sha256 = file_sha256(path)
        fact, runs = FACT_OF_FILE.get(path.name, "model_sha256"), list[str]()
        for tag in SHA256_TAGS:
            found = self.runs_with_tag(tag, sha256)
            if found:
                fact, runs = tag, found
                break
        else:
            if is_member(path):
                ensemble = path.with_name(ENSEMBLE_FILE)
                fact, runs = member_fact(path.name), self.runs_with_tag("model_sha256", file_sha256(ensemble))
        link = Link(tr("file"), str(path), facts={fact: sha256}, export=EXPORT_OF_TAG.get(fact))
        if not runs:
            runs = self._runs_of_neighbours(path)
            link.note = tr("no run has its SHA-256; its run was found by the files beside it")
        if not runs and path.suffix == ".pth":
            runs = self._stated_run(path)
            link.note = tr("no run has its SHA-256; its run is the one that it states")
        if not runs:
            raise UsageError(
                tr(
                    "{path}: no run has its SHA-256 {sha256}, and no {listing} in a directory above lists it",
                    path=path,
                    sha256=sha256,
                    listing=LISTING,
                )
            )
        return [link], runs

    def _runs_of_neighbours(self, path: Path) -> list[str]:
        """Return the run of metrics.json beside a file, of lakefs.lock for models/model.pth, or of an export's model."""
        try:
            report = parse_json(path.with_name(METRICS_FILE).read_text(encoding="utf-8"))
            return [str(report["mlflow_run_id"])]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no readable metrics.json: try the other ways
        lock = _read_lock(ROOT, None)
        if lock and path.resolve() == working_copy(self.settings.model_path, lock.model.path).resolve():
            return [lock.run_id]
        model_sha256 = path.absolute().parent.name  # of exports/<SHA-256 of model.pth>/
        if not re.fullmatch("[0-9a-f]{64}", model_sha256):
            return []
        return self.runs_with_tag("model_sha256", model_sha256)

    def _stated_run(self, path: Path) -> list[str]:
        """Return the run that a model file states, such as a member of an ensemble, whose hash no run records."""
        from segmentation.model_file import read_record

        try:
            run_id = RunId(read_record(path).lineage.get("run_id", ""))
            mlflow_utils.get_run(self.client, self.settings, run_id)
        except AppError:  # not a model of this project, or of a run that MLflow does not know
            return []
        return [run_id]

    def find_commit(self, repo: str, ref: str) -> tuple[list[Link], list[str]]:
        """Find a lakeFS commit of data or of a model; tags and branches resolve to theirs.

        A commit that was copied to another server is also found by its id before the copy.
        """
        commit_id = self.lake.resolve(ref, repo)
        commit = self.lake.commit(commit_id, repo)
        metadata = commit.metadata
        link = Link("lakeFS", f"lakefs://{repo}/{commit_id}", note=(commit.message.splitlines() or [""])[0][:60])
        ids = [commit_id, *([CommitId(metadata[EMBEDDED_ID])] if EMBEDDED_ID in metadata else [])]
        found = (self.runs_with_tag(tag, name) for tag in ("lakefs_model_commit", "lakefs_data_commit") for name in ids)
        runs = next(filter(None, found), [])
        if not runs and "mlflow_run_id" in metadata:
            runs = [metadata["mlflow_run_id"]]
            link.facts = commit_facts(metadata)
        if not runs:
            raise UsageError(tr("{name}: no run names this commit, and its metadata name no run", name=link.name))
        return [link], runs

    def find_git(self, name: str, commit: str) -> tuple[list[Link], list[str]]:
        """Find a Git tag or commit by its lakefs.lock, else by the runs that were made with that code."""
        link = Link("Git", name if name == commit else f"{name} ({commit[:12]})")
        lock = _read_lock(ROOT, commit)
        runs = self.runs_with_tag("git_commit", commit)
        if lock is not None and (name in git_utils.list_tags(ROOT) or not runs):
            link.note, link.facts = "lakefs.lock", _lock_facts(lock)
            runs = [lock.run_id]
        if lock is not None:
            tag = dict(self.lake.list_refs("tags", lock.model.repo)).get(name)
            if tag is not None and not is_tag_of(self.lake, tag, lock.model):
                link.faults.append(
                    tr("the lakeFS tag of this name is {tag}, but lakefs.lock names {ref}", tag=tag, ref=lock.model.ref)
                )
        if not runs:
            raise UsageError(tr("Git {name}: it has no lakefs.lock, and no run was made with it", name=name))
        return [link], runs

    def runs_with_tag(self, tag: str, value: str) -> list[str]:
        """Return ids of the runs of all experiments with this tag, newest first."""
        experiments = [e.experiment_id for e in mlflow_utils.list_experiments(self.client, self.settings)]
        if not re.fullmatch(r"[\w.-]+", value):  # it would be more than a value of the search
            raise AppError(tr("{tag}: expected a hash or a commit ID, found {value!r:.80}", tag=tag, value=value))
        with mlflow_utils.convert_errors(self.settings, tr("searching runs")):
            found = mlflow_utils.search_runs(
                self.client, experiments, f"tags.{tag} = '{value}'", ["attributes.start_time DESC"]
            )
            return [run.info.run_id for run in found]


def _lock_facts(lock: Lock) -> Facts:
    return {
        "run_id": lock.run_id,
        "lakefs_model_path": str(lock.model),
        "model_sha256": lock.model_sha256,
        "lakefs_data_path": str(lock.data),
        "data_manifest_sha256": lock.data_manifest_sha256,
    }


def _read_lock(folder: Path, commit: str | None) -> Lock | None:
    """Return lakefs.lock of a Git commit, or of the working tree for None; None if it has none."""
    name = LOCK_NAME
    text = git_utils.show_file(folder, f"{commit}:./{name}") if commit else None
    path = code_files.lock_path(folder)
    if commit is None and path.is_file():
        text = path.read_text(encoding="utf-8")
    return None if text is None else parse_lock(text, f"{commit or folder}:{name}")
