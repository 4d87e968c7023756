"""The parent run of a sweep: it has the data, sweep.yaml and the result; the trials are its children."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from config import SETTINGS as SETTINGS_TABLE
from core import git
from core.errors import UsageError, describe_error
from core.i18n import tr
from core.machine.identity import ProcessIdentity
from core.process import defer_interrupt
from core.reporting import notify, warn
from segmentation.networks.search import read_tensors
from train.jobs.job import Job
from train.sweep.plan import SweepPlan
from train.sweep.pruning import EPOCH
from train.sweep.study import SILENT_S, SharedStudy
from train.sweep.trial import SWEEP_TAG, Sweep
from train.tracking import liveness
from train.tracking.publication import Publication
from train.tracking.run_tracker import ERROR_LIMIT, RunFacts, RunTracker
from train.warm_start.initial import InitialWeights
from train.warm_start.load import load_initial
from train.warm_start.network import build_start
from train.warm_start.resolve import resolve_initial
from utils import mlflow_utils
from utils.lakefs_utils import LakePath
from utils.lineage import require_repository
from versioning.streaming.shards import source_of
from versioning.versions import committed_files, data_manifest, find_data, hashes_of, local_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from utils.lakefs_utils import LakeFS

FILE = "sweep.yaml"  # artifact of the parent run
# User attributes of the study.
SETTINGS, EXPLICIT, GIVEN, PARENT, PREPARING = "settings", "explicit", "given", "parent_run_id", "preparing"
BRANCH, TARGET, DATA_PATH, MANIFEST, FINISHED = "branch", "target_branch", "data_path", "data_manifest", "finished"
UNIT = "compared_by"  # of the steps that trials report; earlier versions always counted epochs
PLACES = "data_options"  # where the data came from, and where the result goes
PLACE_OPTIONS = ("data_dir", "data_ref", "dataset", "sample", "experiment_branch")
START_OPTIONS = {"init", "weights"}  # settings that name a model or a file, each by many names
POLL_S = 2.0


@dataclass(frozen=True)
class Start:
    """What a process needs to open a sweep."""

    settings: Settings  # with those that are fixed for all trials
    given: Mapping[str, Any]  # settings of the command line
    study: SharedStudy
    options: argparse.Namespace
    prepare_directory: Callable[[], None]  # called if the sweep is new
    command: str  # that resumes the sweep

    @property
    def plan(self) -> SweepPlan:
        """The plan of the sweep."""
        return self.study.plan


def open_sweep(start: Start, lake: LakeFS, client: MlflowClient) -> Sweep:
    """Return the sweep with its checked data: the first process commits the data, all others get it from the commit."""
    from versioning.checkout import checked_data

    job = None
    with start.study.locked():
        _wait_for_preparation(start.study)
        if start.study.attribute(DATA_PATH) is None:
            settings, job = _prepare(start, lake, client)
        else:
            require_same_places(start, lake)
            require_same_start(start, lake)
            settings = recorded_settings(start.settings, start.given, start.study)
    recorded = start.study.attribute
    _compare_trials(start.study, settings)
    data_path = LakePath.parse_recorded(recorded(DATA_PATH))
    if job is None:
        if recorded(TARGET):
            lake.start_experiment(recorded(BRANCH))
        _, data = checked_data(settings, lake, str(data_path))
    else:
        data = job.data
    initial = job.initial if job else load_initial(settings, lake)
    code = git.read_facts(ROOT, settings.data_dir)
    facts = RunFacts(code, lake.repo, recorded(BRANCH), recorded(TARGET), False, resume_command=start.command)
    return Sweep(settings, lake, client, start.study, facts, recorded(PARENT), data, data_path, initial)


def _compare_trials(study: SharedStudy, settings: Settings) -> None:
    """Let the trials of a study be compared as they were from its beginning: two units of steps cannot be mixed."""
    recorded = study.attribute(UNIT)
    study.compare_by(recorded or EPOCH)
    if recorded is None and study.plan.pruner.type != "none" and study.plan.compared_by(settings.epochs) != EPOCH:
        warn(
            tr(
                "sweep '{name}' was started by an earlier version: trials of different lengths are compared at the same "
                "epoch, which favours short ones: give the search another name to compare them at the same progress",
                name=study.plan.name,
            )
        )


def _wait_for_preparation(study: SharedStudy) -> None:
    """Wait while a process of another machine prepares the sweep."""
    reported = False
    while study.attribute(DATA_PATH) is None:
        identity, _, since = (study.attribute(PREPARING) or "").partition("|")
        owner = ProcessIdentity.parse(identity)
        if owner is None or owner.is_alive() is False or time.time() - float(since) > SILENT_S:
            return
        if not reported:
            notify(tr("another process prepares the sweep: waiting"))
            reported = True
        time.sleep(POLL_S)


def _prepare(start: Start, lake: LakeFS, client: MlflowClient) -> tuple[Settings, Job]:
    """Check and commit the data within a new parent run; record both in the study."""
    from train.jobs.training import new_job

    study = start.study
    if start.settings.weights is not None and any(one.setting == "pretrained" for one in start.plan.space):
        raise UsageError(
            tr(
                "sweep '{name}': space.pretrained varies, but WEIGHTS={weights} is for all trials: leave one of them out",
                name=start.plan.name,
                weights=start.settings.weights,
            )
        )
    study.set_attributes({PREPARING: f"{ProcessIdentity.of_this_process()}|{time.time():.0f}"})
    start.prepare_directory()
    settings, initial = resolve_initial(start.settings, lake)
    job = new_job(settings, lake, start.options, initial)
    _require_network(settings, start.plan, job)
    tags = {SWEEP_TAG: start.plan.name, "mlflow.runName": start.plan.name}
    facts = dataclasses.replace(job.facts, more_tags=tags, resume_command=start.command)
    tracker = RunTracker.start(client, settings, facts)
    with tracker.closing():
        data = Publication(lake, tracker, job.data, job.replace).commit_data(job.pinned)
        images = {split: len(job.data.split(split)) for split in job.data.pixel_counts}
        tracker.log_data(data.path, data.manifest_sha256, images, list(job.data.classes.names))
        tracker.log_warnings(job.data.warnings)
        _record_plan(tracker, start.plan)
    tracker.release()
    study.set_attributes(
        {
            SETTINGS: _plain(settings.reproducible_settings()),
            EXPLICIT: sorted(settings.explicit),
            GIVEN: _plain(start.given),
            PLACES: _places(start),
            BRANCH: job.facts.branch,
            TARGET: job.facts.target_branch,
            PARENT: tracker.run_id,
            UNIT: start.plan.compared_by(settings.epochs),
            MANIFEST: data.manifest_sha256,
            DATA_PATH: str(data.path),  # last: now the sweep is prepared
        }
    )
    return settings, job


def _require_network(settings: Settings, plan: SweepPlan, job: Job) -> None:
    """Raise AppError for a network or weights that no trial could be trained with."""
    if isinstance(job.initial, InitialWeights):
        read_tensors(job.initial.file)
    if not any(parameter.setting in ("model", "pretrained") for parameter in plan.space):
        build_start(settings, job.data.classes.names, job.data.reading, job.initial)


def _places(start: Start) -> dict[str, Any]:
    """Return the options of this call that say which data is used and where the result goes."""
    given = {name: getattr(start.options, name) for name in PLACE_OPTIONS}
    chosen = {name: value for name, value in given.items() if value}
    return _plain(chosen | {"data_dir": start.settings.data_dir} if "data_ref" not in chosen else chosen)


def require_same_places(start: Start, lake: LakeFS) -> None:
    """Raise UsageError for an option by which other data, or another branch, is asked for than the sweep has.

    Data is compared by its content: a commit and a directory have many names, and what a branch names moves on with the
    models of the sweep.
    """
    recorded = start.study.attribute(PLACES)
    if recorded is None:  # a sweep of an earlier version
        return
    now, path = _places(start), LakePath.parse_recorded(start.study.attribute(DATA_PATH))
    for name in PLACE_OPTIONS:
        if not getattr(start.options, name):
            continue
        if name in ("data_ref", "data_dir"):
            found, manifest = _named_data(start, lake, path)
            if manifest != start.study.attribute(MANIFEST):
                raise _differs(start.study, f"--{name.replace('_', '-')}", path, found)
        elif now[name] != recorded.get(name):
            raise _differs(start.study, f"--{name.replace('_', '-')}", recorded.get(name, "-"), now[name])


def _named_data(start: Start, lake: LakeFS, path: LakePath) -> tuple[LakePath | Path, str]:
    """Return what --data-ref or --data-dir names now, and the hash of its data; `path` is the commit of the sweep."""
    ref, cache = start.options.data_ref, start.settings.cache_dir
    if not ref:
        return start.settings.data_dir, data_manifest(hashes_of(local_files(start.settings)), path.path)
    found = find_data(lake, ref, cache)
    found = source_of(lake, found) or found
    if found == path:
        return found, start.study.attribute(MANIFEST)
    return found, data_manifest(committed_files(lake, found, cache), path.path)


def require_same_start(start: Start, lake: LakeFS) -> None:
    """Raise UsageError for a --init or --pretrained that names other weights now than those the sweep starts from."""
    recorded = start.study.attribute(SETTINGS)
    for name in sorted(START_OPTIONS & start.given.keys()):
        text, key = start.given[name], "init_sha256" if name == "init" else name
        if recorded[name] is not None:
            named, _ = resolve_initial(dataclasses.replace(start.settings, **{key: None} | {name: text}), lake)
        if recorded[name] is None or getattr(named, key) != recorded[key]:
            raise _differs(start.study, SETTINGS_TABLE[name].option or "--pretrained", recorded[name] or "-", text)


def _differs(study: SharedStudy, option: str, recorded: object, given: object) -> UsageError:
    return UsageError(
        tr(
            "{option}: sweep '{name}' was started with {recorded}, now {given}: leave the option out, or give the new "
            "search another name",
            option=option,
            name=study.plan.name,
            recorded=recorded,
            given=given,
        )
    )


def recorded_settings(settings: Settings, given: Mapping[str, Any], study: SharedStudy) -> Settings:
    """Return the settings with which the sweep was started. Raises UsageError for an option that differs."""
    known, first = settings.reproducible_settings(), study.attribute(GIVEN)
    recorded = {name: _from_json(value) for name, value in study.attribute(SETTINGS).items() if name in known}
    for name in (given.keys() & recorded.keys()) - START_OPTIONS:
        started = _from_json(first.get(name, recorded[name]))
        if given[name] != started:
            raise _differs(study, SETTINGS_TABLE[name].option or name.upper(), started, given[name])
    data = LakePath.parse_recorded(study.attribute(DATA_PATH))
    require_repository(settings.lakefs_repo, study.attribute(PARENT), data.repo)
    branch = study.attribute(TARGET) or study.attribute(BRANCH)
    explicit = frozenset(study.attribute(EXPLICIT))
    return dataclasses.replace(settings, **recorded, explicit=explicit, lakefs_branch=branch)


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _record_plan(tracker: RunTracker, plan: SweepPlan) -> None:
    record = {f"sweep_{key}": value for key, value in plan.record().items() if value is not None}
    params = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
    tracker.log_params({**params, "sweep_sha256": plan.sha256})
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, FILE).write_bytes(plan.content)
        tracker.log_artifacts(Path(folder))


def show_as_running(sweep: Sweep) -> None:
    """Show the parent run as RUNNING, by this process: another one that ended may have taken itself for the last."""
    client, run_id = sweep.client, sweep.parent_id
    with mlflow_utils.convert_errors(sweep.settings, tr("opening the run")):
        run = mlflow_utils.get_run(client, sweep.settings, run_id)
        for key, value in liveness.process_tags().items():
            client.set_tag(run_id, key, value)
        if "error" in run.data.tags:
            client.delete_tag(run_id, "error")
        client.update_run(run_id, status="RUNNING")


@contextlib.contextmanager
def working(sweep: Sweep) -> Iterator[None]:
    """Keep the parent run RUNNING while this process works; close it if this process ends as the last one, interrupted."""
    show_as_running(sweep)
    heartbeat = liveness.Heartbeat(sweep.client, sweep.parent_id)
    try:
        yield
    except BaseException as error:
        heartbeat.stop()
        warn(tr("to resume: {command}", command=sweep.facts.resume_command))
        _close_after(sweep, error)
        raise
    heartbeat.stop()


def _close_after(sweep: Sweep, error: BaseException) -> None:
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    try:
        with defer_interrupt():
            sweep.study.release()  # first: of two processes that end at once, one has to see that it is the last
            if not sweep.study.running_elsewhere() and not sweep.study.attribute(FINISHED):
                sweep.client.set_tag(sweep.parent_id, "error", describe_error(error)[:ERROR_LIMIT])
                sweep.client.set_terminated(sweep.parent_id, status)
    except Exception as second:  # the first error is the one to show
        warn(
            tr(
                "could not close run {run_id} as {status}: {error}",
                run_id=sweep.parent_id,
                status=status,
                error=describe_error(second),
            )
        )
