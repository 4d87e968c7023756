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
from core.errors import AppError, BelowThreshold, UsageError, one_line
from core.i18n import tr
from core.locks import held
from core.reporting import notify, warn
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
    return held(lock, tr("waiting for another registration to end"))


def require_registrable(run: Run, settings: Settings) -> None:
    """Raises UsageError for a run that is not finished or lacks the metric."""
    metric = settings.register_metric
    if run.info.status != "FINISHED" or run.data.tags.get("smoke") == "true":
        state = "--smoke" if run.data.tags.get("smoke") == "true" else run.info.status
        raise UsageError(
            tr(
                "run {run_id} is {state}: only a FINISHED training can be registered",
                run_id=run.info.run_id,
                state=state,
            )
        )
    if metric not in run.data.metrics:
        known = ", ".join(sorted(run.data.metrics)) or tr("none")
        raise UsageError(
            tr(
                "run {run_id} has no metric '{metric}' (there is: {known})",
                run_id=run.info.run_id,
                metric=metric,
                known=known,
            )
        )


def require_threshold(run: Run, settings: Settings) -> None:
    """Raises BelowThreshold for a run that is not good enough to be registered at all."""
    metric, threshold = settings.register_metric, settings.register_threshold
    value = run.data.metrics[metric]
    if not value >= threshold:  # NaN is not good enough either
        raise BelowThreshold(
            tr(
                "run {run_id}: {metric} {value:.4f} < threshold {threshold:.4f}: not registered",
                run_id=run.info.run_id,
                metric=metric,
                value=value,
                threshold=threshold,
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
        notify(
            tr(
                "already registered: {name} v{version} (run {run_id})",
                name=name,
                version=there.version,
                run_id=run.info.run_id,
            )
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
        reason = tr(
            "no comparison with the champion v{version}: {error}", version=champion.version, error=one_line(error)
        )
        reasons = (*verdict.reasons, reason)
        verdict = dataclasses.replace(verdict, reasons=reasons, against=str(champion.version))
    if there is not None and ROLLED_BACK in there.tags:
        was = json.loads(there.tags[ROLLED_BACK])
        reason = tr("taken out of use on {at} by {by}, in favour of v{to}", at=was["at"], by=was["by"], to=was["to"])
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
    with mlflow_utils.explained(settings, tr("registering the model")):
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

    with mlflow_utils.explained(settings, tr("registering the model")):
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
        notify(
            tr(
                "finishing a registration that was cut off: {name} v{version}",
                name=version.name,
                version=version.version,
            )
        )
        try:
            finish(client, lake, settings, version)
        except AppError as error:
            warn(
                tr(
                    "{name} v{version} stays unfinished: {error}",
                    name=version.name,
                    version=version.version,
                    error=one_line(error),
                )
            )
        else:
            finished.append(version)
    return finished


def finish(client: MlflowClient, lake: LakeFS, settings: Settings, version: ModelVersion) -> None:
    """Do what the version's verdict says: tag in lakeFS, aliases, links, and last the mark that it is done."""
    with mlflow_utils.explained(settings, tr("reading the version")):
        version = client.get_model_version(version.name, str(version.version))
    verdict, number = json.loads(version.tags[GATE]), str(version.version)
    if verdict["decision"] == CHAMPION and not _promote(client, lake, settings, version, verdict["against"]):
        now = versions.aliases(client, settings, version.name).get(CHAMPION)
        reason = tr(
            "the champion changed from v{against} to v{now} meanwhile: compare again by --run-id",
            against=verdict["against"],
            now=now,
        )
        verdict |= {"decision": CHALLENGER, "reasons": [*verdict["reasons"], reason]}
        set_tag(client, settings, version, GATE, json.dumps(verdict, ensure_ascii=False))
    if verdict["decision"] == CHALLENGER:
        set_alias(client, settings, version, CHALLENGER)
    with mlflow_utils.explained(settings, tr("recording the run")):
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
        of = (
            tr(
                ", {confidence:.0%} interval [{low:+.4f}, {high:+.4f}]",
                confidence=verdict["confidence"],
                low=interval[0],
                high=interval[1],
            )
            if interval
            else ""
        )
        notify(
            tr(
                "on the same {compared} pictures of {split}: {figure} {champion:.4f}, champion "
                "{champion2:.4f}, gain {gain:+.4f}{of}",
                compared=compared,
                split=verdict["split"],
                figure=figure,
                champion=verdict["champion"] + verdict["gain"],
                champion2=verdict["champion"],
                gain=verdict["gain"],
                of=of,
            )
        )
    if verdict.get("forced"):
        forced = verdict["forced"]
        notify(tr("forced by {by}, {at}: {why}", by=forced["by"], at=forced["at"], why=forced["why"]))
    if verdict["reasons"]:
        notify(tr("what speaks against champion:"))
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
        notify(tr("the lakeFS tag {taken} is another model's: took {tag}", taken=taken, tag=tag))
        lake.tag_with_metadata(tag, lineage.model_path, message, metadata)
    set_tag(client, settings, version, "lakefs_tag", tag)


def lakefs_tag(version: ModelVersion) -> str:
    """`model-<name>-v<N>`, with '-' for what lakeFS does not allow in a tag."""
    name = re.sub(r"[^\w-]+", "-", version.name)
    return f"model-{name}-v{version.version}"


def set_champion(client: MlflowClient, settings: Settings, version: ModelVersion) -> None:
    """Point `champion` at a version, and take back what said that it is not."""
    set_alias(client, settings, version, CHAMPION)
    with mlflow_utils.explained(settings, tr("recording the version")):
        if versions.aliases(client, settings, version.name).get(CHALLENGER) == str(version.version):
            client.delete_registered_model_alias(version.name, CHALLENGER)
        if ROLLED_BACK in client.get_model_version(version.name, str(version.version)).tags:
            client.delete_model_version_tag(version.name, str(version.version), ROLLED_BACK)


def set_alias(client: MlflowClient, settings: Settings, version: ModelVersion, alias: str) -> None:
    """Point an alias at this version and say so."""
    with mlflow_utils.explained(settings, tr("setting the alias")):
        client.set_registered_model_alias(version.name, alias, str(version.version))
    notify(tr("{alias}: {name} v{version}", alias=alias, name=version.name, version=version.version))


def set_tag(client: MlflowClient, settings: Settings, version: ModelVersion, key: str, value: str) -> None:
    with mlflow_utils.explained(settings, tr("recording the version")):
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
            tr(
                "{registered_model} has no champion: run register_model.py first",
                registered_model=settings.registered_model,
            )
        )
    if to is not None and to.name != now.name:
        raise UsageError(
            tr(
                "{name} v{version} is no version of {now_name}: run with REGISTERED_MODEL={name}",
                name=to.name,
                version=to.version,
                now_name=now.name,
            )
        )
    before = _replaced_by(now)
    target = to or _version_before(client, settings, now, before)
    if target.version == now.version:
        notify(tr("already champion: {name} v{version}", name=now.name, version=now.version))
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
            tr(
                "{name} v{version} replaced no champion: name one by --rollback VERSION",
                name=version.name,
                version=version.version,
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
