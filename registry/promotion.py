"""From a run to a registered version, and from a version to champion: each step can be cut off, and the next call ends it.

A version is made with the gate's verdict and the mark `registration: pending` in one request; what follows from the
verdict (tag in lakeFS, aliases, links) can be done twice without harm, and only then the mark becomes `done`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from core import git as git_utils
from core.console import say, warn
from core.errors import AppError, BelowThreshold, UsageError, one_line
from core.i18n import t
from core.locks import held
from registry import versions
from registry.experiment_branch import _merge_experiment
from registry.versions import CHALLENGER, CHAMPION
from utils import mlflow_utils
from utils.lakefs_client.refs import TagTaken
from utils.lakefs_utils import LakeFS, LakePath
from utils.lineage import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from registry.gate import Verdict

STATE, PENDING, DONE = "registration", "pending", "done"  # tag of a version, and its values
GATE = "gate"  # tag of a version: the verdict, as JSON
REPLACED = "replaced"  # tag of a version: number of the champion whose place it took; empty: there was none
ROLLED_BACK = "rolled_back"  # tag of a version that a person took out of use: when, who, to which version


def alone(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """One call at a time changes the registry from this project: two at once could both promote, or register one run twice."""
    lock = settings.lakefs_local_dir / "register.lock"
    return held(lock, "다른 등록이 끝나기를 기다립니다", "waiting for another registration to end")


def require_registrable(run: Run, settings: Settings) -> None:
    """Raises UsageError for a run that is not finished or lacks the metric."""
    metric = settings.register_metric
    if run.info.status != "FINISHED" or run.data.tags.get("smoke") == "true":
        state = "--smoke" if run.data.tags.get("smoke") == "true" else run.info.status
        raise UsageError(
            t(
                f"실행 {run.info.run_id} 은(는) {state} 입니다: FINISHED 인 학습만 등록할 수 있습니다",
                f"run {run.info.run_id} is {state}: only a FINISHED training can be registered",
            )
        )
    if metric not in run.data.metrics:
        known = ", ".join(sorted(run.data.metrics)) or t("없음", "none")
        raise UsageError(
            t(
                f"실행 {run.info.run_id} 에 지표 '{metric}' 이(가) 없습니다 (있는 것: {known})",
                f"run {run.info.run_id} has no metric '{metric}' (there is: {known})",
            )
        )


def require_threshold(run: Run, settings: Settings) -> None:
    """Raises BelowThreshold for a run that is not good enough to be registered at all."""
    metric, threshold = settings.register_metric, settings.register_threshold
    value = run.data.metrics[metric]
    if not value >= threshold:  # NaN is not good enough either
        raise BelowThreshold(
            t(
                f"실행 {run.info.run_id}: {metric} {value:.4f} < 기준 {threshold:.4f}: 등록하지 않았습니다",
                f"run {run.info.run_id}: {metric} {value:.4f} < threshold {threshold:.4f}: not registered",
            )
        )


# --- the branch of an experiment ------------------------------------------------------------------------------------


# --- registering ----------------------------------------------------------------------------------------------------


def register(
    client: MlflowClient, lake: LakeFS, settings: Settings, run: Run, force: str | None = None
) -> ModelVersion:
    """Judge a run's model and make it a version: champion when it passes the gate, else challenger. Raises AppError.

    `force` is a person's reason to make it champion whatever the gate says. A run that has a version keeps it, and is
    judged again unless it is champion already. The file's bytes must have the hash of the run: it is read, not believed.
    """
    name, there = settings.registered_model, versions.registered(client, settings).get(run.info.run_id)
    champion = versions.champion(client, settings)
    if there is not None:
        say(
            f"이미 등록되어 있습니다: {name} v{there.version} (실행 {run.info.run_id})",
            f"already registered: {name} v{there.version} (run {run.info.run_id})",
        )
        if champion is not None and champion.version == there.version:
            return there
    lineage = mlflow_utils.run_lineage(run)
    verdict = _judge(settings, lake, lineage, champion, there, force)
    if verdict.decision == CHAMPION:
        _merge_experiment(lake, run)  # before the version: a conflict must not leave one that nobody can finish
    if there is None:
        _ensure_model(client, settings, name)
        version = _create(client, settings, lineage, run, verdict)
    else:
        version = there
        for key, value in (
            (GATE, verdict.to_tag()),
            (STATE, PENDING),
        ):  # pending is the newest verdict, never an old one
            set_tag(client, settings, version, key, value)
    finish(client, lake, settings, version)
    return version


def _judge(
    settings: Settings,
    lake: LakeFS,
    lineage: Lineage,
    champion: ModelVersion | None,
    there: ModelVersion | None,
    force: str | None,
) -> Verdict:
    """The gate's verdict, or a person's, with the gate's reasons kept beside it."""
    import dataclasses

    from config import cache_folder
    from registry import gate
    from segmentation.preprocess import choose_device

    device, cache = choose_device(settings.device), cache_folder(settings)
    try:
        against = versions.version_lineage(champion) if champion else None
        verdict = gate.judge(settings, lake, lineage, against, device, cache)
    except AppError as error:
        if force is None or champion is None:
            raise
        verdict = gate.judge(settings, lake, lineage, None, device, cache)  # fails again where it is not the champion
        reason = t(
            f"챔피언 v{champion.version} 와 비교할 수 없습니다: {one_line(error)}",
            f"no comparison with the champion v{champion.version}: {one_line(error)}",
        )
        reasons = (*verdict.reasons, reason)
        verdict = dataclasses.replace(verdict, reasons=reasons, against=str(champion.version))
    if there is not None and ROLLED_BACK in there.tags:
        was = json.loads(there.tags[ROLLED_BACK])
        reason = t(
            f"{was['at']} 에 {was['by']} 이(가) v{was['to']} (으)로 되돌린 버전입니다",
            f"taken out of use on {was['at']} by {was['by']}, in favour of v{was['to']}",
        )
        verdict = dataclasses.replace(verdict, decision=CHALLENGER, reasons=(*verdict.reasons, reason))
    if force is None:
        return verdict
    return dataclasses.replace(verdict, decision=CHAMPION, forced={**who_and_when(), "why": force[:1000]})


def _create(client: MlflowClient, settings: Settings, lineage: Lineage, run: Run, verdict: Verdict) -> ModelVersion:
    """The version with all its tags, in one request: there is no version without verdict and lineage."""
    folder = LakePath(lineage.model_path.repo, lineage.model_path.ref, lineage.model_path.path.rsplit("/", 1)[0])
    tags = {
        **_version_tags(lineage, run),
        "registered_by_metric": settings.register_metric,
        GATE: verdict.to_tag(),
        STATE: PENDING,
    }
    with mlflow_utils.explained(settings, t("모델 등록", "registering the model")):
        return client.create_model_version(
            settings.registered_model,
            source=str(folder),  # a folder: MLflow takes a file for an empty one
            run_id=run.info.run_id,
            tags=tags,
            description=f"{lineage.model_path}\n\n{lineage.data_path}\n\nGit {lineage.git_commit}",
            await_creation_for=0,
        )


def _version_tags(lineage: Lineage, run: Run) -> dict[str, str]:
    """All of the lineage once more: deleting a run must not cut a version from its data and code."""
    git = {key: value for key, value in run.data.tags.items() if key.startswith("git_")}
    metrics = {f"metric.{key}": repr(value) for key, value in lineage.metrics.items() if key.startswith("best_")}
    return {
        **git,
        **metrics,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
        "lakefs_model_commit": lineage.model_path.ref,
        "lakefs_data_commit": lineage.data_path.ref,
        "model_sha256": lineage.model_sha256,
    }


def _ensure_model(client: MlflowClient, settings: Settings, name: str) -> None:
    from mlflow.exceptions import MlflowException

    with mlflow_utils.explained(settings, t("모델 등록", "registering the model")):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


# --- what follows from a verdict ------------------------------------------------------------------------------------


def finish_pending(client: MlflowClient, lake: LakeFS, settings: Settings) -> list[ModelVersion]:
    """Finish the registrations that were cut off, oldest first; returns them.

    One that cannot be finished is said, and stands in nobody's way: a rollback must work on the worst day.
    """
    pending = [
        version
        for version in reversed(versions.versions(client, settings, settings.registered_model))
        if version.tags.get(STATE) == PENDING
    ]
    finished = []
    for version in pending:
        say(
            f"중단된 등록을 마칩니다: {version.name} v{version.version}",
            f"finishing a registration that was cut off: {version.name} v{version.version}",
        )
        try:
            finish(client, lake, settings, version)
        except AppError as error:
            warn(
                f"{version.name} v{version.version} 의 등록을 마치지 못했습니다: {one_line(error)}",
                f"{version.name} v{version.version} stays unfinished: {one_line(error)}",
            )
        else:
            finished.append(version)
    return finished


def finish(client: MlflowClient, lake: LakeFS, settings: Settings, version: ModelVersion) -> None:
    """Do what the version's verdict says: tag in lakeFS, aliases, links, and last the mark that it is done."""
    with mlflow_utils.explained(settings, t("버전 읽기", "reading the version")):
        version = client.get_model_version(version.name, str(version.version))
    verdict, number = json.loads(version.tags[GATE]), str(version.version)
    if verdict["decision"] == CHAMPION and not _promote(client, lake, settings, version, verdict["against"]):
        now = versions.aliases(client, settings, version.name).get(CHAMPION)
        reason = t(
            f"비교하는 동안 챔피언이 v{verdict['against']} 에서 v{now} (으)로 바뀌었습니다: --run-id 로 다시 비교하세요",
            f"the champion changed from v{verdict['against']} to v{now} meanwhile: compare again by --run-id",
        )
        verdict |= {"decision": CHALLENGER, "reasons": [*verdict["reasons"], reason]}
        set_tag(client, settings, version, GATE, json.dumps(verdict, ensure_ascii=False))
    if verdict["decision"] == CHALLENGER:
        set_alias(client, settings, version, CHALLENGER)
    with mlflow_utils.explained(settings, t("실행 기록", "recording the run")):
        client.set_tag(str(version.run_id), "registered_version", f"{version.name} v{number}")
    set_tag(client, settings, version, STATE, DONE)
    show_verdict(verdict)


def _promote(
    client: MlflowClient, lake: LakeFS, settings: Settings, version: ModelVersion, against: str | None
) -> bool:
    """Make a version champion, if the champion is still the one that it was compared with; False where it is not.

    MLflow moves an alias without a condition. So it is read again afterwards: another machine may have been later.
    """
    number, now = str(version.version), versions.aliases(client, settings, version.name).get(CHAMPION)
    if now not in (number, against):
        return False
    mark_in_lakefs(client, lake, settings, version)
    if now != number:
        set_tag(client, settings, version, REPLACED, now or "")
    set_champion(client, settings, version)
    return versions.aliases(client, settings, version.name).get(CHAMPION) == number


def show_verdict(verdict: dict[str, Any]) -> None:
    """Say the figures and the reasons of a gate's record."""
    compared, figure = verdict.get("compared"), verdict["figure"]
    if compared:
        interval = verdict.get("interval")
        of = t(
            f", {verdict['confidence']:.0%} 구간 [{interval[0]:+.4f}, {interval[1]:+.4f}]",
            f", {verdict['confidence']:.0%} interval [{interval[0]:+.4f}, {interval[1]:+.4f}]",
        ) if interval else ""  # fmt: skip
        say(
            f"{verdict['split']} 의 같은 사진 {compared}장: {figure} {verdict['champion'] + verdict['gain']:.4f}, "
            f"챔피언 {verdict['champion']:.4f}, 차이 {verdict['gain']:+.4f}{of}",
            f"on the same {compared} pictures of {verdict['split']}: {figure} {verdict['champion'] + verdict['gain']:.4f}, "
            f"champion {verdict['champion']:.4f}, gain {verdict['gain']:+.4f}{of}",
        )
    if verdict.get("forced"):
        forced = verdict["forced"]
        say(
            f"강제 승격: {forced['by']}, {forced['at']}: {forced['why']}",
            f"forced by {forced['by']}, {forced['at']}: {forced['why']}",
        )
    if verdict["reasons"]:
        say("챔피언이 되지 못하는 이유:", "what speaks against champion:")
        print("\n".join(f"  - {reason}" for reason in verdict["reasons"]))


def mark_in_lakefs(client: MlflowClient, lake: LakeFS, settings: Settings, version: ModelVersion) -> None:
    """Name the model in lakeFS by a tag, on a commit of the same files whose metadata name the version."""
    lineage = versions.version_lineage(version)
    metadata = {
        **{key: value for key, value in version.tags.items() if key.startswith("git_")},
        "mlflow_run_id": lineage.run_id,
        "registered_model": version.name,
        "model_version": str(version.version),
        "model_sha256": lineage.model_sha256,
        "lakefs_model_path": str(lineage.model_path),
        "lakefs_data_path": str(lineage.data_path),
    }
    server = settings.mlflow_tracking_uri
    if server and server.startswith("http"):
        link = f"{git_utils.without_credentials(server).rstrip('/')}/#/models/{version.name}/versions/{version.version}"
        metadata["::lakefs::MLflow::url[url:ui]"] = link
    tag, message = lakefs_tag(version), f"{version.name} v{version.version}"
    try:
        lake.tag_with_metadata(tag, lineage.model_path, message, metadata)
    except TagTaken:  # numbers start again with a new MLflow, and count apart in two of them over one lakeFS
        taken, tag = tag, f"{tag}-{lineage.model_path.ref[:8]}"
        say(
            f"lakeFS 태그 {taken} 은(는) 다른 모델의 것입니다: {tag} 을(를) 씁니다",
            f"the lakeFS tag {taken} is another model's: took {tag}",
        )
        lake.tag_with_metadata(tag, lineage.model_path, message, metadata)
    set_tag(client, settings, version, "lakefs_tag", tag)


def lakefs_tag(version: ModelVersion) -> str:
    """`model-<name>-v<N>`, with '-' for what lakeFS does not allow in a tag."""
    name = re.sub(r"[^\w-]+", "-", version.name)
    return f"model-{name}-v{version.version}"


def set_champion(client: MlflowClient, settings: Settings, version: ModelVersion) -> None:
    """Point `champion` at a version, and take back what said that it is not."""
    set_alias(client, settings, version, CHAMPION)
    with mlflow_utils.explained(settings, t("버전 기록", "recording the version")):
        if versions.aliases(client, settings, version.name).get(CHALLENGER) == str(version.version):
            client.delete_registered_model_alias(version.name, CHALLENGER)
        if ROLLED_BACK in client.get_model_version(version.name, str(version.version)).tags:
            client.delete_model_version_tag(version.name, str(version.version), ROLLED_BACK)


def set_alias(client: MlflowClient, settings: Settings, version: ModelVersion, alias: str) -> None:
    """Point an alias at this version and say so."""
    with mlflow_utils.explained(settings, t("별칭 지정", "setting the alias")):
        client.set_registered_model_alias(version.name, alias, str(version.version))
    say(f"{alias}: {version.name} v{version.version}", f"{alias}: {version.name} v{version.version}")


def set_tag(client: MlflowClient, settings: Settings, version: ModelVersion, key: str, value: str) -> None:
    with mlflow_utils.explained(settings, t("버전 기록", "recording the version")):
        client.set_model_version_tag(version.name, str(version.version), key, value)


# --- going back -----------------------------------------------------------------------------------------------------


def rollback(client: MlflowClient, lake: LakeFS, settings: Settings, to: ModelVersion | None) -> ModelVersion:
    """Make an earlier version champion again, by default the one that the champion replaced. Raises AppError.

    Its file is read and compared first. The version that goes is marked, so that no later call brings it back unasked.
    """
    from config import cache_folder

    now = versions.champion(client, settings)
    if now is None:
        raise UsageError(
            t(
                f"{settings.registered_model} 에 챔피언이 없습니다: register_model.py 를 먼저 실행하세요",
                f"{settings.registered_model} has no champion: run register_model.py first",
            )
        )
    if to is not None and to.name != now.name:
        raise UsageError(
            t(
                f"{to.name} v{to.version} 은(는) 모델 {now.name} 의 버전이 아닙니다: REGISTERED_MODEL={to.name} 으로 실행하세요",
                f"{to.name} v{to.version} is no version of {now.name}: run with REGISTERED_MODEL={to.name}",
            )
        )
    before = _replaced_by(now)
    target = to or _version_before(client, settings, now, before)
    if target.version == now.version:
        say(
            f"이미 챔피언입니다: {now.name} v{now.version}",
            f"already champion: {now.name} v{now.version}",
        )
        set_champion(client, settings, now)  # a call that was cut off may have left its marks
        return now
    lineage = versions.version_lineage(target)
    lake.verified_file(lineage.model_path, lineage.model_sha256, cache_folder(settings))
    mark_in_lakefs(client, lake, settings, target)  # a challenger that is chosen here has none yet
    set_tag(client, settings, now, ROLLED_BACK, json.dumps({**who_and_when(), "to": str(target.version)}))
    if str(target.version) != before:  # a choice, not a step back: the next step back leads here
        set_tag(client, settings, target, REPLACED, str(now.version))
    set_champion(client, settings, target)
    return target


def _replaced_by(version: ModelVersion) -> str | None:
    """Number of the champion whose place a version took; older records know only which one it was compared with."""
    compared = json.loads(version.tags.get(GATE, "{}")).get("against")
    return version.tags.get(REPLACED, compared) or None


def _version_before(
    client: MlflowClient, settings: Settings, version: ModelVersion, number: str | None
) -> ModelVersion:
    if number is None:
        raise UsageError(
            t(
                f"{version.name} v{version.version} 이전의 챔피언이 없습니다: --rollback VERSION 으로 지정하세요",
                f"{version.name} v{version.version} replaced no champion: name one by --rollback VERSION",
            )
        )
    return versions.find_version(client, settings, f"{version.name}/{number}")


def who_and_when() -> dict[str, str]:
    """Who decides: the account and machine, with Git's e-mail where it is set; and the time, in UTC."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        account = "unknown"
    email = git_utils.config(ROOT, "user.email")
    by = f"{account}@{socket.gethostname()}" + (f" <{email}>" if email else "")
    return {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
