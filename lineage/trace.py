"""From anything that the project leaves behind to the rest of its chain; every hash is computed again, none believed.

prediction -> registered version -> run -> model file and data in lakeFS -> code in Git. What each of them says of the
others must be the same: a link that was changed contradicts its neighbours, and is named.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core import git as git_utils
from core.console import format_table
from core.errors import UsageError
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify
from lineage import predictions
from lineage.links import EXPORTS, METRICS, MLMODEL, Chain, Link, commit_facts, leads_to
from registry.versions import Registry
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS, LakePath, connect
from versioning.lockfile import Lock, parse_lock
from versioning.migrate import ORIGIN as OLD_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_RUNS = 20  # that are followed from one commit of data
HASHES = ("model_sha256", *(f"{kind}_sha256" for kind in EXPORTS))  # tags of a run by which its files are found
# Files that no run knows by their hash: what they are by their name.
HASH_OF = {name: f"{name}_sha256" for name in (METRICS, MLMODEL)}
HASH_OF |= {"model.onnx": "onnx_sha256", "model.pt": "torchscript_sha256"}
SUFFIXES = (".png", ".jpg", ".npz", ".csv", ".json", ".mp4", ".pth", ".onnx", ".pt")  # of files that can be traced


def trace(settings: Settings, lake: LakeFS, client: MlflowClient, target: str) -> bool:
    """Print the chain that `target` belongs to; whether all of it is as it was written. Raises UsageError."""
    start, runs = Finder(settings, lake, client).find(target)
    if len(runs) > MOST_RUNS:
        notify(tr("{count} runs: following the newest {most_runs}", count=len(runs), most_runs=MOST_RUNS))
    chain, whole = Chain(settings, lake, client), True
    for run_id in runs[:MOST_RUNS]:
        links = [*start, *chain.links(run_id, start)]
        contradictions(links)
        show(links)
        whole = whole and not any(link.faults for link in links)
    return whole


def trace_command(settings: Settings, target: str) -> int:
    """Trace a target with the servers of the settings; return the exit code: 1 if a link is broken."""
    with connect(settings) as lake:
        lake.check()  # a server that is down is not a broken link of the chain
        return 0 if trace(settings, lake, mlflow_utils.connect(settings), target) else 1


def show(links: list[Link]) -> None:
    """Report the chain as a table, and below it what is wrong with each link."""
    good, bad = tr("ok"), tr("BROKEN")
    rows = [(link.kind, link.name, bad if link.faults else good, link.note) for link in links]
    notify(format_table((tr("link"), tr("name"), tr("state"), ""), rows))
    for link in links:
        for fault in link.faults:
            notify(f"  {link.kind} {link.name}: {fault}")
    broken = sum(bool(link.faults) for link in links)
    notify(tr("{broken} of {count} links broken", broken=broken, count=len(links)))


def contradictions(links: list[Link]) -> None:
    """Note where a link says something else of the chain than most of the links that speak of it.

    Of two that contradict each other, the one that was hashed again and is sound is believed: files and commits in lakeFS.
    """
    sound = {id(link) for link in links if link.hashed and not link.faults}
    for fact in sorted({fact for link in links for fact in link.facts}):
        said = [(link, link.facts[fact]) for link in links if fact in link.facts]
        values = [value for _, value in said]
        hashed = {value for link, value in said if id(link) in sound}
        usual = max(values, key=lambda value: (values.count(value), value in hashed))
        for link, value in said:
            if value != usual:
                others = ", ".join(other.kind for other, theirs in said if theirs == usual)
                link.faults.append(
                    tr(
                        "{fact}: says {value}, where others ({others}) say {usual}",
                        fact=fact,
                        value=value,
                        others=others,
                        usual=usual,
                    )
                )


@dataclass
class Finder:
    """Finds what a person names: a file, a run, a version, a commit of lakeFS or of Git."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient

    def find(self, target: str) -> tuple[list[Link], list[str]]:
        """The links that lead from it to runs, and those runs' ids, newest first. Raises UsageError."""
        path = Path(target)
        if path.is_dir():
            path = predictions.record_of(path) or path
        if path.is_file():
            link = predictions.prediction(path)
            return self.file(path) if link is None else ([link], [link.facts["run_id"]])
        if target.startswith("lakefs://"):
            place = LakePath.parse(target if target.count("/") > 3 else target + "/")
            return self.commit(place.repo, place.ref)
        if re.fullmatch(r"[0-9a-f]{32}", target):
            mlflow_utils.get_run(self.client, self.settings, target)
            return [], [target]
        in_git = git_utils.resolve(ROOT, target)
        if in_git:
            return self.git(target, in_git)
        if re.fullmatch(r"[^/]*@[^/]*|[^/@]+/v?\d+|v?\d{1,9}", target) or target in self._aliases():
            registry = Registry(self.client, self.settings)
            version = registry.find(registry.qualify(target))
            return [], [str(version.run_id or version.tags.get("run_id"))]
        if path.suffix.lower() in SUFFIXES or "/" in target or "\\" in target:
            what = tr("a folder without predictions") if path.is_dir() else tr("no such file")
            raise UsageError(f"{target}: {what}")
        return self.commit(self.lake.repo, target)

    def _aliases(self) -> dict[str, str]:
        return Registry(self.client, self.settings).aliases()

    def file(self, path: Path) -> tuple[list[Link], list[str]]:
        """A model file, an exported one, metrics.json or MLmodel: by its hash, else by what lies beside it."""
        sha256 = file_sha256(path)
        known = ((tag, self.runs_with(tag, sha256)) for tag in HASHES)
        fact, runs = next(((tag, ids) for tag, ids in known if ids), (HASH_OF.get(path.name, "model_sha256"), []))
        link = Link(tr("file"), str(path), facts={fact: sha256})
        link.export = next((kind for kind in EXPORTS if fact == f"{kind}_sha256"), None)
        if not runs:
            runs = self._beside(path)
            link.note = tr("no run knows its hash: its run by what lies beside it")
        if not runs:
            raise UsageError(
                tr(
                    "{path}: no run knows its SHA-256 {sha256}, and no {listing} above it lists it",
                    path=path,
                    sha256=sha256,
                    listing=predictions.LISTING,
                )
            )
        return [link], runs

    def _beside(self, path: Path) -> list[str]:
        """The run that metrics.json beside a file names, an export's folder, or lakefs.lock for the model in its place."""
        try:
            report = json.loads(path.with_name(METRICS).read_text(encoding="utf-8"))
            return [str(report["mlflow_run_id"])]
        except (OSError, ValueError, KeyError, TypeError):
            lock = _lock_at(ROOT, None)
            if lock and path.resolve() == self.settings.model_path.resolve():
                return [lock.run_id]
            model = path.absolute().parent.name  # of exports/<SHA-256 of model.pth>/
            return self.runs_with("model_sha256", model) if re.fullmatch("[0-9a-f]{64}", model) else []

    def commit(self, repo: str, ref: str) -> tuple[list[Link], list[str]]:
        """A commit of data or model; tags and branches are followed to theirs, a copied commit is known by its old id too."""
        commit_id = self.lake.resolve(ref, repo)
        commit = self.lake.commit(commit_id, repo)
        metadata = dict(commit.metadata or {})
        link = Link("lakeFS", f"lakefs://{repo}/{commit_id}", note=(commit.message.splitlines() or [""])[0][:60])
        ids = [commit_id, *([metadata[OLD_ID]] if OLD_ID in metadata else [])]
        found = (self.runs_with(tag, name) for tag in ("lakefs_model_commit", "lakefs_data_commit") for name in ids)
        runs = next(filter(None, found), [])
        if not runs and "mlflow_run_id" in metadata:
            runs = [metadata["mlflow_run_id"]]
            link.facts = commit_facts(metadata)
        if not runs:
            raise UsageError(tr("{name}: no run names this commit, and it names none", name=link.name))
        return [link], runs

    def git(self, name: str, commit: str) -> tuple[list[Link], list[str]]:
        """A tag or commit of Git: by its lakefs.lock, else by the runs of that code."""
        link = Link("Git", name if name == commit else f"{name} ({commit[:12]})")
        lock = _lock_at(ROOT, commit)
        runs = self.runs_with("git_commit", commit)
        if lock is not None and (name in git_utils.list_tags(ROOT) or not runs):
            link.note, link.facts = "lakefs.lock", _lock_facts(lock)
            runs = [lock.run_id]
        if lock is not None:
            tag = dict(self.lake.list_refs("tags", lock.model.repo)).get(name)
            if tag is not None and not leads_to(self.lake, tag, lock.model):
                link.faults.append(
                    tr("the tag of this name in lakeFS is {tag}, lakefs.lock names {ref}", tag=tag, ref=lock.model.ref)
                )
        if not runs:
            raise UsageError(tr("Git {name}: it has no lakefs.lock, and no run was made with it", name=name))
        return [link], runs

    def runs_with(self, tag: str, value: str) -> list[str]:
        """Ids of the runs of all experiments with this tag, newest first."""
        experiments = [e.experiment_id for e in mlflow_utils.list_experiments(self.client, self.settings)]
        with mlflow_utils.convert_errors(self.settings, tr("searching runs")):
            found = self.client.search_runs(
                experiments, f"tags.{tag} = '{value}'", max_results=1000, order_by=["attributes.start_time DESC"]
            )
        return [run.info.run_id for run in found]


def _lock_facts(lock: Lock) -> dict[str, str]:
    return {
        "run_id": lock.run_id,
        "lakefs_model_path": str(lock.model),
        "model_sha256": lock.model_sha256,
        "lakefs_data_path": str(lock.data),
        "data_manifest_sha256": lock.data_manifest_sha256,
    }


def _lock_at(folder: Path, commit: str | None) -> Lock | None:
    """lakefs.lock of a Git commit, or of the working tree; None where there is none."""
    name = git_utils.LOCK_NAME
    text = git_utils.show_file(folder, f"{commit}:./{name}") if commit else None
    if commit is None and (folder / name).is_file():
        text = (folder / name).read_text(encoding="utf-8")
    return None if text is None else parse_lock(text, f"{commit or folder}:{name}")
