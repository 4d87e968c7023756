"""What train.py does: check, train, resume, reproduce, overfit."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, SETTINGS, Settings, load_settings
from core import git
from core.command_line.setting_options import given_options
from core.errors import AppError, ExitCode, UsageError
from core.i18n import tr
from core.reporting import notify
from core.reporting import result as report_result
from core.settings import name_origins
from train.parallel import distributed

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dataset.data import SegmentationData
    from train.mlflow_train import MlflowTrain
    from train.resume import Interrupted
    from train.tracking.publication import Publication
    from train.tracking.result import Result
    from train.tracking.run_tracker import RunFacts
    from utils.lakefs_utils import LakeFS, LakePath


def run(options: argparse.Namespace) -> int:
    """Do what the options ask; return the exit code. Under torchrun, every process calls this."""
    alone = {"--overfit": options.overfit is not None, "--reproduce": options.reproduce}
    alone["--audit-labels"] = options.audit_labels
    single = next((option for option, given in alone.items() if given), None)
    if single and distributed.world_size() > 1:
        if not distributed.is_main():
            return ExitCode.DONE  # the main process reports it; torchrun would stop it if this one failed first
        raise UsageError(tr("{option} uses one process: start train.py without torchrun", option=single))
    try:
        with name_origins(SETTINGS, given_options(options, Settings), ROOT / ".env"), distributed.process_group():
            return _run_main_process(options) if distributed.is_main() else _run_other_process(options)
    except distributed.OtherProcessFailed as error:
        if not error.already_reported:
            raise
        return error.exit_code


def _run_other_process(options: argparse.Namespace) -> int:
    """In a torchrun process that is not the main one: train with it."""
    if not options.check_only:
        from train.parallel.workers import run_worker

        run_worker(load_settings(**given_options(options, Settings)))
    return ExitCode.DONE


def _run_main_process(options: argparse.Namespace) -> int:
    given = given_options(options, Settings)
    settings = load_settings(**given)
    if options.check_only:
        check(settings, options)
        return ExitCode.DONE
    check_before_work(settings, options)
    prepare_directory(settings, options)
    if options.overfit is not None:
        overfit(settings, options)
    elif options.audit_labels:
        audit(settings, options)
    elif options.reproduce:
        from train.reproduce import TOLERANCE, reproduce

        tolerance = TOLERANCE if options.tolerance is None else options.tolerance
        return reproduce(settings, options.reproduce, tolerance, options.trust_patch)
    else:
        train(settings, given, options)
    return ExitCode.DONE


def check_before_work(settings: Settings, options: argparse.Namespace) -> None:
    """Raise UsageError for settings that cannot be trained with, before data, servers or directories are touched."""
    if options.audit_labels:
        from train.audit.ranking import require_cleanlab

        require_cleanlab()
    from train.setup import check_device, check_request

    if options.resume or options.reproduce:  # network and sizes are those of the run
        check_device(settings)
    else:
        check_request(settings)


def prepare_directory(settings: Settings, options: argparse.Namespace) -> None:
    """Check that the data directory can be used, before anything else; download the public data set of --dataset.

    Raises UsageError for one that was named and has no data, unless an option fills it or the data comes from a commit.
    """
    from versioning.data_directory import advise_ignoring, require_data, require_place

    if not (options.dataset or options.sample):
        if not (options.data_ref or options.resume or options.reproduce):
            require_data(settings)
            advise_ignoring(settings)
        return
    require_place(settings)
    advise_ignoring(settings)
    if options.dataset:
        from dataset.sources import public

        public.fetch(options.dataset, settings.data_dir, settings.seed)


def check(settings: Settings, options: argparse.Namespace) -> None:
    """Check the data and report it; writes only check.html, and needs no server unless the data is there."""
    from train import data_check

    with data_check.json_output(settings) if options.json else contextlib.nullcontext():
        prepare_directory(settings, options)
        data_check.check(settings, options.data_ref, options.json)


def overfit(settings: Settings, options: argparse.Namespace) -> None:
    """Check that the model can overfit a few images; records nothing."""
    from train.overfit_check import overfit_check
    from utils.lakefs_utils import connect
    from versioning.checkout import checked_data

    with connect(settings) as lake:
        _, data = checked_data(settings, lake, options.data_ref, options.sample)
    overfit_check(settings, data, options.overfit)


def audit(settings: Settings, options: argparse.Namespace) -> None:
    """Rank the masks that look wrong; records nothing, and needs no server unless the data is there."""
    from dataset.decoding.options import options_of
    from dataset.summary import summary
    from dataset.validation import check_data
    from train.audit.command import audit_labels
    from train.data_check import find_directory

    folder = find_directory(settings, options.data_ref)
    data = check_data(folder, settings.seed, False, options_of(settings), settings.split_group)
    notify(summary(data))
    audit_labels(settings, data)


def train(settings: Settings, given: dict[str, Any], options: argparse.Namespace) -> None:
    """Train, publish, and report; with --git-commit or --git-tag, commit and tag the result too."""
    from segmentation.networks.registry import check_network
    from train.release import publish
    from utils import mlflow_utils
    from utils.lakefs_utils import connect

    interrupted = None
    if options.resume:
        settings, interrupted = interrupted_run(settings, given, options)
    check_network(settings.model, settings.pretrained)  # of a resumed run
    releasing = options.git_commit or options.git_tag
    with connect(settings, create=bool(options.git_tag)) as lake:
        if releasing:
            publish.require_ready(lake, options.git_tag, ROOT, settings.data_dir)
        client = mlflow_utils.connect(settings)
        job = _resumed_job(settings, lake, interrupted) if interrupted else _new_job(settings, lake, options)
        training, publication, result = train_and_publish(settings, lake, client, job)
        report(settings, lake, result, job.facts.smoke)
        try:
            if releasing:
                parameters = client.get_run(result.run_id).data.params
                publish.release(lake, result, options.git_tag, parameters)
            if not job.facts.smoke and not options.git_tag:
                suggest_release(settings, lake, result, committed=options.git_commit)
        except AppError:  # the run is complete: a refused release can be done by hand; after a kill, --resume does it
            if releasing:
                suggest_release(settings, lake, result)
            publication.remove_working_files(training.best_file, training.checkpoint_file)
            raise
    publication.remove_working_files(training.best_file, training.checkpoint_file)


@dataclass(frozen=True)
class Job:
    """The checked data of a training and what is known of its run."""

    data: SegmentationData
    pinned: LakePath | None  # the lakeFS commit that the data comes from; None: it is published
    facts: RunFacts
    interrupted: Interrupted | None = None
    replace: bool = False  # whether the data may undo changes of the branch


def train_and_publish(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job
) -> tuple[MlflowTrain, Publication, Result]:
    """Commit the data, train, commit the model, all within one MLflow run. Raises AppError."""
    from train.mlflow_train import MlflowTrain
    from train.parallel.workers import WorkerJob, broadcast_job
    from train.reports import figures
    from train.setup import prepare_training
    from train.tracking.publication import Publication
    from train.tracking.run_tracker import RunTracker

    if job.interrupted is None:
        tracker = RunTracker.start(client, settings, job.facts)
    else:
        tracker = RunTracker.reopen(client, settings, job.facts, job.interrupted)
    publication = Publication(lake, tracker, job.data, job.replace)
    with tracker.closing():
        state = job.interrupted.state if job.interrupted else None
        data = publication.commit_data(job.pinned)
        if job.interrupted is None:
            images = {split: len(job.data.split(split)) for split in job.data.pixel_counts}
            tracker.log_data(data.path, data.manifest_sha256, images, list(job.data.classes.names))
            tracker.log_warnings(job.data.warnings)
        broadcast_job(WorkerJob(settings.reproducible_settings(), job.facts.smoke, data.path, state), job.data)
        training = MlflowTrain(prepare_training(settings, job.data, job.facts.smoke), tracker, data)
        if job.interrupted is None:
            training.record_setup()
        best = training.fit(state)
        tracker.background.finish()
        with tempfile.TemporaryDirectory() as folder:
            samples = figures.draw_all(Path(folder), training)
            result = publication.commit_model(training.best_file, best, training.test, data)
            training.log_report(result, Path(folder), samples)
    return training, publication, result


def _new_job(settings: Settings, lake: LakeFS, options: argparse.Namespace) -> Job:
    from train.setup import check_classes
    from train.tracking.publication import hash_files
    from train.tracking.run_tracker import RunFacts
    from versioning.checkout import checked_data, warn_of_unreachable_lock
    from versioning.data_directory import record_directory
    from versioning.push import require_publishable

    if options.experiment_branch:
        lake.require_experiment_name(options.experiment_branch)
    if not options.data_ref:  # a server that is down is reported at once; the data of a commit may be cached
        lake.check()
    pinned, data = checked_data(settings, lake, options.data_ref, options.sample)
    check_classes(settings, data.classes)
    lake.ensure_repository(settings)  # not before: faulty data creates nothing
    if pinned is None:
        record_directory(settings)
    warn_of_unreachable_lock(lake)
    if pinned is None and not options.replace:
        branch = options.experiment_branch
        existing = branch if branch and lake.has_branch(branch) else None  # a new one starts from the target
        require_publishable(settings, lake, hash_files(data), existing)
    if options.experiment_branch:
        lake.start_experiment(options.experiment_branch)
    target = settings.lakefs_branch if options.experiment_branch else None
    facts = RunFacts(git.read_facts(ROOT, settings.data_dir), lake.repo, lake.branch, target, options.smoke)
    return Job(data, pinned, facts, replace=options.replace)


def interrupted_run(
    settings: Settings, given: dict[str, Any], options: argparse.Namespace
) -> tuple[Settings, Interrupted]:
    """Return the run that --resume names, and its settings. Raises UsageError for options that would change the run."""
    from train import resume

    interrupted = resume.find(settings.model_path.parent, options.resume)
    record = interrupted.record
    conflicts = {
        "--data-dir": options.data_dir,
        "--data-ref": options.data_ref,
        "--experiment-branch": options.experiment_branch,
        "--smoke": options.smoke and not record.smoke,
    }
    option = next((name for name, value in conflicts.items() if value), None)
    if option is not None:
        raise UsageError(
            tr(
                "{option}: --resume uses that of run {run_id}: leave the option out",
                option=option,
                run_id=record.run_id,
            )
        )
    resume.warn_of_other_code(record, git.read_facts(ROOT, settings.data_dir), distributed.world_size())
    return resume.settings_of(record, settings, given), interrupted


def _resumed_job(settings: Settings, lake: LakeFS, interrupted: Interrupted) -> Job:
    """Return the interrupted run's job, with the data of its commit."""
    from dataset.classes import ClassMap
    from train.tracking.run_tracker import RunFacts
    from versioning.checkout import checked_data

    record = interrupted.record
    pinned, data = checked_data(settings, lake, str(record.data_path))
    if data.classes != ClassMap.from_dict(record.classes):
        raise AppError(
            tr(
                "{data_path}: not the classes that run {run_id} was started with: "
                "resume with the code that started the run",
                data_path=record.data_path,
                run_id=record.run_id,
            )
        )
    if record.target_branch:
        lake.start_experiment(record.branch)
    facts = RunFacts(record.git, lake.repo, lake.branch, record.target_branch, record.smoke)
    return Job(data, pinned, facts, interrupted)


def report(settings: Settings, lake: LakeFS, result: Result, smoke: bool) -> None:
    """Report the block for the Git commit; write it to a file and, except for two batches of a smoke run, lakefs.lock."""
    from core.files import write_atomically
    from train.release.commit_message import commit_message, report_block
    from train.release.publish import next_tag
    from utils.identifiers import RunId, Sha256
    from versioning.lockfile import EMBEDDED, Lock, write_lock

    block = report_block(result)
    message = commit_message(result, next_tag(lake, result))
    write_atomically(_message_file(settings), message.encode())
    report_result("\n" + block + "\n")
    if smoke:  # two batches make no result to return to
        return
    server = settings.lakefs_endpoint or EMBEDDED
    lock = Lock(
        result.data_path,
        Sha256(result.data_manifest_sha256),
        result.model_path,
        Sha256(result.model_sha256),
        RunId(result.run_id),
        server,
    )
    write_lock(ROOT, lock)


def suggest_release(settings: Settings, lake: LakeFS, result: Result, committed: bool = False) -> None:
    """Report the commands that commit lakefs.lock and tag it, in the order in which they work when they are pasted."""
    from core.provenance.code_files import LOCK_NAME
    from train.release.commit_message import tag_command
    from train.release.publish import next_tag

    tag = tag_command(result, next_tag(lake, result))
    message_file = shlex.quote(str(_message_file(settings)))
    commands = [] if committed else [f"git add {LOCK_NAME} && git commit -F {message_file}"]
    notify(tr("to keep this result in Git:") + "\n" + "\n".join([*commands, tag]))


def _message_file(settings: Settings) -> Path:
    return settings.model_path.parent / "git_commit_message.txt"
