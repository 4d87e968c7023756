"""From anything that the project leaves behind to the rest of its chain; every hash is computed again, none believed.

prediction -> registered version -> run -> model file and data in lakeFS -> code in Git. What each of them says of the
others must be the same: a link that was changed contradicts its neighbours, and is named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from utils import git_utils, mlflow_utils, registry, seal
from utils.console import AppError, UsageError, progress, say, t, table
from utils.files import file_sha256, inside, parallel
from utils.lakefs_utils import LakeFS, LakePath
from utils.lock import Lock, parse_lock
from utils.versions import data_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

LISTING = "predictions.json"
MOST_RUNS = 20  # that are followed from one commit of data


@dataclass
class Link:
    """One thing in the chain: `facts` is what it says of the others, `faults` what is wrong with it itself."""

    kind: str
    name: str
    note: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    hashed: bool = False  # whether it lies in lakeFS, and all of it was hashed again


def trace(settings: Settings, lake: LakeFS, client: MlflowClient, target: str) -> bool:
    """Print the chain that `target` belongs to; whether all of it is as it was written. Raises UsageError."""
    start, runs = Finder(settings, lake, client).find(target)
    if len(runs) > MOST_RUNS:
        say(
            f"실행 {len(runs)}개 중 최근 {MOST_RUNS}개를 봅니다",
            f"{len(runs)} runs: following the newest {MOST_RUNS}",
        )
    whole = True
    for run_id in runs[:MOST_RUNS]:
        links = [*start, *Chain(settings, lake, client).links(run_id, start)]
        contradictions(links)
        show(links)
        whole = whole and not any(link.faults for link in links)
    return whole


def show(links: list[Link]) -> None:
    """The chain as a table, and below it what is wrong with each link."""
    good, bad = t("정상", "ok"), t("손상", "BROKEN")
    rows = [(link.kind, link.name, bad if link.faults else good, link.note) for link in links]
    print(table((t("고리", "link"), t("이름", "name"), t("상태", "state"), ""), rows))
    for link in links:
        for fault in link.faults:
            print(f"  {link.kind} {link.name}: {fault}")
    broken = sum(bool(link.faults) for link in links)
    say(f"고리 {len(links)}개 중 {broken}개 손상", f"{broken} of {len(links)} links broken")


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
                    t(
                        f"{fact}: 여기에는 {value}, 다른 고리({others})에는 {usual}",
                        f"{fact}: says {value}, where others ({others}) say {usual}",
                    )
                )


# --- from what a person names to runs -------------------------------------------------------------------------------


@dataclass
class Finder:
    """Finds what a person names: a file, a run, a version, a commit of lakeFS or of Git."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient

    def find(self, target: str) -> tuple[list[Link], list[str]]:
        """The links that lead from it to runs, and those runs' ids, newest first. Raises UsageError."""
        path = Path(target)
        if path.is_dir() and (path / LISTING).is_file():
            path = path / LISTING
        if path.is_file():
            return self.prediction(path) or self.model_file(path)
        if target.startswith("lakefs://"):
            place = LakePath.parse(target if target.count("/") > 3 else target + "/")
            return self.commit(place.repo, place.ref)
        if re.fullmatch(r"[0-9a-f]{32}", target):
            mlflow_utils.get_run(self.client, self.settings, target)
            return [], [target]
        in_git = git_utils.resolve(ROOT, target)
        if in_git:
            return self.git(target, in_git)
        if re.search(r"[@/]", target) or re.fullmatch(r"v?\d{1,9}", target) or target in self._aliases():
            spec = registry.spelled(self.settings, target)
            version = registry.find_version(self.client, self.settings, spec)
            return [], [str(version.run_id or version.tags.get("run_id"))]
        return self.commit(self.lake.repo, target)

    def _aliases(self) -> dict[str, str]:
        return registry.aliases(self.client, self.settings, self.settings.registered_model)

    def prediction(self, path: Path) -> tuple[list[Link], list[str]] | None:
        """A predictions.json, or a file that one lists; None for anything else."""
        listing = next((folder / LISTING for folder in path.absolute().parents if (folder / LISTING).is_file()), None)
        if path.name == LISTING:
            listing = path.absolute()
        if listing is None:
            return None
        link = Link(t("예측", "prediction"), str(path))
        try:
            content: dict[str, Any] = json.loads(listing.read_text(encoding="utf-8"))
            link.facts = {key: str(content[key]) for key in FACTS}
            records = [dict(record) for record in content["images"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                t(f"{listing}: 읽을 수 없는 목록 ({error})", f"{listing}: not a readable listing ({error})")
            ) from error
        if path.absolute() != listing:
            name = path.absolute().relative_to(listing.parent).as_posix()
            records = [record for record in records if name in (record.get("mask"), record.get("overlay"))]
            if not records:
                return None
        if content.get("model_version"):
            link.facts["version"] = str(content["model_version"])
        whole = seal.is_whole(content)
        if whole is False:
            link.faults.append(t(f"{listing}: 쓴 뒤에 바뀌었습니다", f"{listing}: changed since it was written"))
        link.note = t(f"그림 {len(records)}장", f"{len(records)} pictures")
        link.note += t(", 목록의 해시 없음", ", the listing has no hash") if whole is None else ""
        link.faults += [fault for record in records for fault in _broken_files(listing.parent, record)]
        return [link], [str(content["run_id"])]

    def model_file(self, path: Path) -> tuple[list[Link], list[str]]:
        """A model file, by its hash; one that no run knows by what lies beside it."""
        sha256 = file_sha256(path)
        link = Link(t("모델 파일", "model file"), str(path), facts={"model_sha256": sha256})
        runs = self.runs_with("model_sha256", sha256)
        if not runs:
            run_id = self._beside(path)
            if run_id is None:
                raise UsageError(
                    t(
                        f"{path}: SHA-256 {sha256}: 이 해시를 아는 실행이 없습니다",
                        f"{path}: no run knows its SHA-256 {sha256}",
                    )
                )
            link.note = t("metrics.json 이나 lakefs.lock 의 실행", "its run is that of metrics.json or lakefs.lock")
            runs = [run_id]
        return [link], runs

    def _beside(self, path: Path) -> str | None:
        """The run that metrics.json beside a model file names, or lakefs.lock for the model in its usual place."""
        try:
            report = json.loads(path.with_name("metrics.json").read_text(encoding="utf-8"))
            return str(report["mlflow_run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            lock = _lock_at(ROOT, None)
            return lock.run_id if lock and path.resolve() == self.settings.model_path.resolve() else None

    def commit(self, repo: str, ref: str) -> tuple[list[Link], list[str]]:
        """A commit of data or model; tags and branches are followed to theirs."""
        commit_id = self.lake.resolve(ref, repo)
        commit = self.lake.sdk.commits_api.get_commit(repo, commit_id)
        metadata = dict(commit.metadata or {})
        link = Link("lakeFS", f"lakefs://{repo}/{commit_id}", note=(commit.message.splitlines() or [""])[0][:60])
        runs = self.runs_with("lakefs_model_commit", commit_id) or self.runs_with("lakefs_data_commit", commit_id)
        if not runs and "mlflow_run_id" in metadata:
            runs = [metadata["mlflow_run_id"]]
            link.facts = _commit_facts(metadata)
        if not runs:
            raise UsageError(
                t(
                    f"{link.name}: 이 커밋을 쓴 실행이 없습니다",
                    f"{link.name}: no run names this commit, and it names none",
                )
            )
        return [link], runs

    def git(self, name: str, commit: str) -> tuple[list[Link], list[str]]:
        """A tag or commit of Git: by its lakefs.lock, else by the runs of that code."""
        kind = t("Git", "Git")
        link = Link(kind, name if name == commit else f"{name} ({commit[:12]})")
        lock = _lock_at(ROOT, commit)
        runs = self.runs_with("git_commit", commit)
        if lock is not None and (name in git_utils.tags(ROOT) or not runs):
            link.note, link.facts = "lakefs.lock", _lock_facts(lock)
            runs = [lock.run_id]
        tag = dict(self.lake.named("tags")).get(name)
        if tag is not None and lock is not None:
            parents = self.lake.sdk.commits_api.get_commit(self.lake.repo, tag).parents
            if lock.model.ref not in (tag, *parents):
                link.faults.append(
                    t(
                        f"lakeFS 의 같은 태그는 {tag}, lakefs.lock 은 {lock.model.ref}",
                        f"the tag of this name in lakeFS is {tag}, lakefs.lock names {lock.model.ref}",
                    )
                )
        if not runs:
            raise UsageError(
                t(
                    f"Git {name}: lakefs.lock 도, 이 코드의 실행도 없습니다",
                    f"Git {name}: it has no lakefs.lock, and no run was made with it",
                )
            )
        return [link], runs

    def runs_with(self, tag: str, value: str) -> list[str]:
        """Ids of the runs of all experiments with this tag, newest first."""
        experiments = [e.experiment_id for e in mlflow_utils.experiments(self.client, self.settings)]
        with mlflow_utils.explained(self.settings, t("실행 검색", "searching runs")):
            found = self.client.search_runs(
                experiments, f"tags.{tag} = '{value}'", max_results=1000, order_by=["attributes.start_time DESC"]
            )
        return [run.info.run_id for run in found]


FACTS = ("run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit")


def _broken_files(folder: Path, record: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the files of one picture."""
    for key in ("mask", "overlay"):
        expected = record.get(f"{key}_sha256")
        if expected is None:
            continue
        path = inside(folder, str(record[key]))
        found = file_sha256(path) if path.is_file() else t("없음", "missing")
        if found != expected:
            yield _differs(str(path), expected, found)


def _differs(name: str, expected: str, found: str) -> str:
    return t(
        f"{name}: SHA-256 기대 {expected}, 실제 {found}",
        f"{name}: SHA-256 expected {expected}, found {found}",
    )


def _commit_facts(metadata: dict[str, str]) -> dict[str, str]:
    names = {"mlflow_run_id": "run_id"}
    facts = {names.get(key, key): value for key, value in metadata.items()}
    return {key: facts[key] for key in FACTS if key in facts}


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
    text = git_utils.show(folder, f"{commit}:./{name}") if commit else None
    if commit is None and (folder / name).is_file():
        text = (folder / name).read_text(encoding="utf-8")
    return None if text is None else parse_lock(text, f"{commit or folder}:{name}")


# --- from a run to everything ---------------------------------------------------------------------------------------


@dataclass
class Chain:
    """Follows a run to its versions, files, data and code, and reads all of them again."""

    settings: Settings
    lake: LakeFS
    client: MlflowClient

    def links(self, run_id: str, start: list[Link]) -> Iterator[Link]:
        """The links around a run; where MLflow does not know it any more, what `start` or a version says is followed."""
        run, versions = self.run(run_id), list(self.versions(run_id))
        known = next((link.facts for link in [run, *versions, *start] if "lakefs_model_path" in link.facts), {})
        yield from versions
        yield run
        if "lakefs_model_path" in known:
            yield self.model(LakePath.parse(known["lakefs_model_path"]))
        if "lakefs_data_path" in known:
            yield self.data(LakePath.parse(known["lakefs_data_path"]))
        yield self.code(known.get("git_commit", git_utils.NONE))

    def run(self, run_id: str) -> Link:
        """The run as MLflow knows it."""
        link = Link(t("실행", "run"), run_id)
        try:
            run = mlflow_utils.get_run(self.client, self.settings, run_id)
            lineage = mlflow_utils.run_lineage(run)
        except AppError as error:
            link.faults.append(str(error))
            return link
        link.note = f"{run.info.run_name}, {run.info.status}, {mlflow_utils.when(run.info.start_time)}"
        link.facts = {
            "run_id": run_id,
            "lakefs_model_path": str(lineage.model_path),
            "model_sha256": lineage.model_sha256,
            "lakefs_data_path": str(lineage.data_path),
            "git_commit": lineage.git_commit,
        }
        if "data_manifest_sha256" in run.data.tags:
            link.facts["data_manifest_sha256"] = run.data.tags["data_manifest_sha256"]
        return link

    def versions(self, run_id: str) -> Iterator[Link]:
        """The registered versions that were made from a run."""
        name = self.settings.registered_model
        named = registry.aliases(self.client, self.settings, name)
        for version in registry.versions(self.client, self.settings, name):
            if run_id not in (version.run_id, version.tags.get("run_id")):
                continue
            aliases = [alias for alias, number in named.items() if number == str(version.version)]
            link = Link(t("버전", "version"), f"{name} v{version.version}", ", ".join(sorted(aliases)))
            try:
                registry.version_lineage(version)
                link.facts = {key: version.tags[key] for key in FACTS if key in version.tags}
            except AppError as error:
                link.faults.append(str(error))
            link.faults += self._source(version)
            yield link

    def _source(self, version: ModelVersion) -> Iterator[str]:
        """What is wrong with a version's source, and with its tag in lakeFS."""
        model = version.tags.get("lakefs_model_path", "")
        if version.source != model.rsplit("/", 1)[0]:
            yield t(f"source {version.source}, 태그 {model}", f"its source is {version.source}, its tag names {model}")
        tag = version.tags.get("lakefs_tag")
        if tag is None or not model:
            return
        place = LakePath.parse(model)
        commit = dict(self.lake.named("tags", place.repo)).get(tag)
        parents = self.lake.sdk.commits_api.get_commit(place.repo, commit).parents if commit else []
        if commit is None or place.ref not in (commit, *parents):
            found = commit or t("없음", "none")
            yield t(
                f"lakeFS 태그 {tag}: {found}, 기대 {place.ref}",
                f"the lakeFS tag {tag} is {found}, expected on {place.ref}",
            )

    def model(self, path: LakePath) -> Link:
        """The model file in lakeFS, read again, and what its commit and metrics.json say."""
        link = Link(t("모델", "model"), str(path), hashed=True)
        try:
            remote = next(
                (file for file in self.lake.objects(path.ref, path.path, path.repo) if file.path == path.path), None
            )
            if remote is None:
                raise AppError(t("lakeFS 에 없습니다", "not in lakeFS"))
            digest = hashlib.sha256()
            for chunk in self.lake.transfer.read(path.repo, path.ref, remote):
                digest.update(chunk)
            metadata = dict(self.lake.sdk.commits_api.get_commit(path.repo, path.ref).metadata or {})
        except AppError as error:
            link.faults.append(str(error))
            return link
        found = digest.hexdigest()
        if remote.sha256 and remote.sha256 != found:
            link.faults.append(_differs(path.path, remote.sha256, found))
        said = _commit_facts(metadata)
        if "model_sha256" in said and said["model_sha256"] != found:
            link.faults.append(_differs(t("커밋의 메타데이터", "the commit's metadata"), said["model_sha256"], found))
        link.facts = {**{k: v for k, v in said.items() if k != "lakefs_model_path"}, "model_sha256": found}
        return link

    def data(self, path: LakePath) -> Link:
        """Every file of the data in lakeFS, read again; the hash over all of them."""
        link = Link(t("데이터", "data"), str(path), hashed=True)
        try:
            remote = list(self.lake.objects(path.ref, path.path, path.repo))
        except AppError as error:
            link.faults.append(str(error))
            return link
        results = parallel(lambda file: self.lake.broken(path, file), remote)
        for file, result in progress(results, len(remote), t("데이터 검증", "verifying the data"), "files"):
            if result is not None:
                link.faults.append(f"{file.path}: {result}")
        link.note = t(f"파일 {len(remote)}개", f"{len(remote)} files")
        if not remote:
            link.faults.append(t("lakeFS 에 파일이 없습니다", "no files in lakeFS"))
        if all(file.sha256 for file in remote):
            hashes = {file.path.removeprefix(path.path): str(file.sha256) for file in remote}
            link.facts["data_manifest_sha256"] = data_manifest(hashes, path.path)
        return link

    def code(self, commit: str) -> Link:
        """The code in Git, its objects hashed again by Git itself."""
        link = Link(t("코드", "code"), commit)
        if commit == git_utils.NONE:
            link.note = t("Git 기록 없음", "no Git when it ran")
            return link
        problem = git_utils.problem_of(ROOT, commit)
        if problem:
            link.faults.append(problem)
        else:
            tags = git_utils.tags(ROOT, commit)
            link.note = ", ".join(tags)
        return link
