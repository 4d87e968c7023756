"""From a run to a registered version, and from a version to champion.

A version is created with the gate's verdict and the tag `registration: pending` in one request. What follows from the
verdict (tag in lakeFS, aliases, links) can be repeated without harm, and only then the tag becomes `done`: a
registration that was interrupted at any step is finished by the next call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from config import ROOT, Settings
from core import git
from core.errors import AppError, UsageError, describe_error
from core.i18n import tr
from core.locks import file_lock
from core.machine.heap import keep_freed_memory
from core.reporting import notify, warn
from registry.experiment_branch import merge_experiment
from registry.lakefs_tags import tag_model_commit
from registry.records import (
    DONE,
    GATE,
    PENDING,
    REGISTERED,
    REPLACED,
    ROLLED_BACK,
    STATE,
    is_archived,
    rollback_of,
    verdict_of,
    version_lineage,
)
from registry.release import release
from registry.state import RegistryState, is_registered_here, read_state
from registry.verdict_report import report_verdict
from registry.versions import Registry
from utils import mlflow_utils
from utils.lakefs_utils import LakeFS
from utils.run_names import CHAMPION
from versioning.provenance.verdict import CHALLENGER, PROMOTE_BY, Forced, Verdict

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from utils.lineage import Lineage


def lock_registry(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Lock the registry for this project: two calls at once could both promote, or register one run twice."""
    return file_lock(settings.lakefs_local_dir / "register.lock", tr("waiting for another registration to end"))


@dataclass(frozen=True)
class Promotion:
    """Registers models of one lakeFS repository and decides which version is champion."""

    registry: Registry
    lake: LakeFS
    options: tuple[str, ...] = ()  # of this call of register_model.py, which a command that continues must repeat

    def register(self, run: Run, force: str | None = None) -> ModelVersion:
        """Judge a run's model and register it: champion if it passes the gate, else challenger. Raises AppError.

        `force` is a person's reason to make it champion whatever the gate says. A run that has a version keeps it, and
        is judged again unless it is champion already. The model file must have the SHA-256 of the run.
        """
        existing, champion = self.registry.versions_by_run().get(run.info.run_id), self.registry.champion()
        if existing is not None:
            notify(
                tr(
                    "already registered: {name} v{version} (run {run_id})",
                    name=self.registry.name,
                    version=existing.version,
                    run_id=run.info.run_id,
                )
            )
            if champion is not None and champion.version == existing.version:
                return existing
        lineage = mlflow_utils.run_lineage(run)
        verdict = self._judge(lineage, champion, existing, force)
        if verdict.decision == CHAMPION:
            merge_experiment(self.lake, run)  # before the version: a conflict must not leave one that nobody can finish
        tags = {GATE: verdict.to_tag(), STATE: PENDING}  # pending is the newest verdict, never an old one
        if existing is None:
            metric = self.registry.settings.register_metric
            version = self.registry.create_version(lineage, run, {"registered_by_metric": metric, **tags})
        else:
            version = existing
            for key, value in tags.items():
                self.registry.set_tag(version, key, value)
        self.finish(version)
        return version

    def _judge(
        self, lineage: Lineage, champion: ModelVersion | None, existing: ModelVersion | None, force: str | None
    ) -> Verdict:
        """Return the gate's verdict, or a person's with the gate's reasons beside it."""
        from registry.judging import gate
        from segmentation.preprocess import choose_device

        settings = self.registry.settings
        device, cache = choose_device(settings.device), settings.cache_dir
        if device.type == "cpu":
            keep_freed_memory()
        try:
            against = version_lineage(champion) if champion else None
            verdict = gate.judge(settings, self.lake, lineage, against, device, cache)
        except AppError as error:
            if champion is not None and force is None and not is_registered_here(champion):
                raise read_state(self.registry).no_champion() from error
            if force is None or champion is None:
                raise
            # Fails again if the cause is not the champion.
            verdict = gate.judge(settings, self.lake, lineage, None, device, cache)
            reason = tr(
                "no comparison with the champion v{version}: {error}",
                version=champion.version,
                error=describe_error(error),
            )
            verdict = dataclasses.replace(verdict, reasons=(*verdict.reasons, reason), against=str(champion.version))
        was = rollback_of(existing) if existing is not None else None
        if was is not None:
            reason = tr("taken out of use on {at} by {by}, in favour of v{to}", at=was.at, by=was.by, to=was.to)
            record = {key: value for key, value in verdict.record.items() if key != PROMOTE_BY}
            reasons = (*verdict.reasons, reason)
            verdict = dataclasses.replace(verdict, decision=CHALLENGER, reasons=reasons, record=record)
        if force is None:
            return verdict
        return dataclasses.replace(verdict, decision=CHAMPION, forced=Forced(**audit_stamp(), why=force[:1000]))

    def finish_pending(self) -> list[ModelVersion]:
        """Finish the interrupted registrations, oldest first; return the finished ones.

        Failures are reported and do not block other operations: a rollback must always be possible.
        """
        finished = []
        for version in reversed(self.registry.versions()):
            if version.tags.get(STATE) != PENDING:
                continue
            name = {"name": version.name, "version": version.version}
            notify(tr("finishing an interrupted registration: {name} v{version}", **name))
            try:
                self.finish(version)
            except AppError as error:
                warn(tr("{name} v{version} stays unfinished: {error}", **name, error=describe_error(error)))
            else:
                finished.append(version)
        return finished

    def finish(self, version: ModelVersion) -> None:
        """Carry out the version's verdict: tag in lakeFS, aliases and links; last, mark it as done."""
        version = self.registry.reload(version)
        verdict = verdict_of(version)
        if verdict is None:
            raise AppError(
                tr(
                    "{name} v{version}: expected the gate's verdict in tag {key}, found none: judge it again by "
                    "python register_model.py --run-id {run_id}",
                    name=version.name,
                    version=version.version,
                    key=GATE,
                    run_id=version.run_id,
                )
            )
        if verdict.decision == CHAMPION and not self._promote(version, verdict.against):
            reason = tr(
                "the champion changed from v{against} to v{now} meanwhile: compare again by --run-id",
                against=verdict.against,
                now=self.registry.aliases(version.name).get(CHAMPION),
            )
            verdict = dataclasses.replace(verdict, decision=CHALLENGER, reasons=(*verdict.reasons, reason))
            self.registry.set_tag(version, GATE, json.dumps(verdict.content(), ensure_ascii=False))
        if verdict.decision == CHALLENGER:
            self.registry.set_alias(version, CHALLENGER)
        with mlflow_utils.convert_errors(self.registry.settings, tr("recording the run")):
            self.registry.client.set_tag(str(version.run_id), REGISTERED, f"{version.name} v{version.version}")
        self.registry.describe(version, verdict)
        self.registry.set_tag(version, STATE, DONE)
        report_verdict(verdict, str(version.run_id), self.options)

    def _promote(self, version: ModelVersion, against: str | None) -> bool:
        """Make a version champion if the champion is still the one it was compared with; return whether it is.

        MLflow moves an alias without a condition. So it is read again afterwards: another machine may have been later.
        """
        number, champion = str(version.version), self.registry.champion()
        current = str(champion.version) if champion else None  # not an alias of a deleted version
        if current not in (number, against):
            return False
        tag_model_commit(self.registry, self.lake, version)
        release(self.registry, self.lake, version)
        if current != number:
            self.registry.set_tag(version, REPLACED, current or "")
        self.registry.set_champion(version)
        return self.registry.aliases(version.name).get(CHAMPION) == number

    def rollback(self, target: ModelVersion | None) -> ModelVersion:
        """Make an earlier version champion again, by default the one that the champion replaced. Raises AppError.

        Its file is verified first. The former champion is marked, so that no later call promotes it unasked.
        """
        state = read_state(self.registry)
        current = state.named_champion
        if target is not None and target.name != self.registry.name:
            raise UsageError(
                tr(
                    "{name} v{version} is not a version of {current}: run with REGISTERED_MODEL={name}",
                    name=target.name,
                    version=target.version,
                    current=self.registry.name,
                )
            )
        previous = _replaced_version(current) if current else None
        target = target or _version_before(state, current, previous)
        if current is not None and target.version == current.version:
            notify(tr("already champion: {name} v{version}", name=current.name, version=current.version))
            self.registry.set_champion(current)  # an interrupted call may have left its marks
            tag_model_commit(self.registry, self.lake, current)
            release(self.registry, self.lake, current)  # a champion of an earlier version has none, or no signature
            return current
        lineage = version_lineage(target)
        self.lake.verified_file(lineage.model_path, lineage.model_sha256, self.registry.settings.cache_dir)
        tag_model_commit(self.registry, self.lake, target)  # a challenger that is chosen here has no tag yet
        if current is not None:
            self.registry.set_tag(current, ROLLED_BACK, json.dumps({**audit_stamp(), "to": str(target.version)}))
        if current is not None and str(target.version) != previous:
            # A choice, not a step back: the next step back leads here.
            self.registry.set_tag(target, REPLACED, str(current.version))
        self.registry.set_champion(target)
        release(self.registry, self.lake, target)  # last: it must not keep anybody from going back
        return target


def _version_before(state: RegistryState, current: ModelVersion | None, number: str | None) -> ModelVersion:
    """Return the version that the champion replaced. Raises UsageError if one has to be named instead."""
    if current is None:
        raise state.no_champion()
    name = {"name": current.name, "version": current.version}
    if number is None:
        others = [version for version in state.usable() if version.version != current.version]
        if others or not is_registered_here(current):
            raise state.no_champion(tr("{name} v{version} replaced no champion", **name))
        raise UsageError(
            tr("{name} v{version} replaced no champion, and there is no other version: run train.py first", **name)
        )
    found = next((version for version in state.usable() if str(version.version) == number), None)
    if found is None or is_archived(found):
        raise state.no_champion(
            tr("{name} v{version} replaced v{number}, which was deleted or archived", **name, number=number)
        )
    return found


def _replaced_version(version: ModelVersion) -> str | None:
    """Return the number of the champion that a version replaced; older records know only what it was compared with."""
    if REPLACED in version.tags:
        return version.tags[REPLACED] or None
    verdict = verdict_of(version)
    return verdict.against if verdict else None


def audit_stamp() -> dict[str, str]:
    """Return who decides (account and machine, with Git's e-mail address if it is set) and the time in UTC."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        account = "unknown"
    email = git.read_config(ROOT, "user.email")
    by = f"{account}@{socket.gethostname()}" + (f" <{email}>" if email else "")
    return {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
