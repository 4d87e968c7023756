"""Train, resume and publish, as train.py does without another command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from core import git
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify
from dataset.checks.few_images import propose_folds
from train.jobs.job import Job, train_and_publish
from train.jobs.report import report, suggest_release
from train.parallel import distributed

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient

    from dataset.data import SegmentationData
    from train.folds.division import Division
    from train.resume import Interrupted
    from train.tracking.publication import Publication
    from train.tracking.result import Result
    from train.warm_start.initial import Initial
    from utils.lakefs_utils import LakeFS


def train(settings: Settings, given: dict[str, Any], options: argparse.Namespace) -> None:
    """Train, publish, and report; with --git-commit or --git-tag, commit and tag the result too."""
    from segmentation.networks.registry import check_network
    from train.release import publish
    from train.warm_start.load import load_initial
    from train.warm_start.resolve import resolve_initial
    from utils import mlflow_utils
    from utils.lakefs_utils import connect

    interrupted = None
    if options.resume:
        settings, interrupted = interrupted_run(settings, given, options)
    check_network(settings.model, settings.pretrained)  # of a resumed run
    releasing = options.git_commit or options.git_tag
    with connect(settings, create=bool(options.git_tag)) as lake:
        if releasing:
            publish.require_ready(lake, options.git_tag, ROOT, settings.data_dir, options.experiment_branch)
        # Before anything is created: an unknown name is an error.
        settings, initial = (settings, load_initial(settings, lake)) if interrupted else resolve_initial(settings, lake)
        client = mlflow_utils.connect(settings)
        job = (
            resumed_job(settings, lake, interrupted, initial)
            if interrupted
            else new_job(settings, lake, options, initial)
        )
        result, publication, working_files = _train_and_publish(settings, lake, client, job)
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
            publication.remove_working_files(*working_files)
            raise
    publication.remove_working_files(*working_files)


def _train_and_publish(
    settings: Settings, lake: LakeFS, client: MlflowClient, job: Job
) -> tuple[Result, Publication, list[Path]]:
    """Train and publish one model or those of all folds; return the files too that only an interrupted run needs."""
    if job.folds is None:
        training, publication, result = train_and_publish(settings, lake, client, job)
        return result, publication, [training.best_file, training.checkpoint_file]
    from train.folds.job import train_folds

    trainings, publication, result = train_folds(settings, lake, client, job)
    return result, publication, [trainings.checkpoint_file, trainings.ensemble_file, *trainings.member_files]


def new_job(settings: Settings, lake: LakeFS, options: argparse.Namespace, initial: Initial | None = None) -> Job:
    """Return the job of a new run, with its data checked: a commit of the lake, or the directory to publish."""
    from train.setup import check_data
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
    check_data(settings, data, initial)
    folds = _divide(settings, lake, data, initial, store=pinned is None)
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
    return Job(data, pinned, facts, folds=folds, replace=options.replace, initial=initial)


def _divide(
    settings: Settings, lake: LakeFS, data: SegmentationData, initial: Initial | None, store: bool = False
) -> Division | None:
    """Return train and val in folds; None without --folds. `store` the folds beside the splits.

    Raises UsageError where the folds and what the training starts from do not fit, also in a run of an earlier version.
    """
    from train.warm_start.initial import require_single

    if settings.folds is None:
        require_single(initial)
        if store and (proposal := propose_folds(data)):
            notify(proposal)
        return None
    if distributed.world_size() > 1:  # of a resumed run, or set in the environment
        raise UsageError(tr("{option} uses one process: start train.py without torchrun", option="FOLDS"))
    from train.folds.division import relevant_warnings
    from train.folds.start import divide_unseen

    if store and len(relevant_warnings(data)) < len(data.warnings):
        notify(tr("with --folds, the warnings about val do not count: all images of train and val judge the model"))
    return divide_unseen(settings, lake, data, initial, store)


def interrupted_run(
    settings: Settings, given: dict[str, Any], options: argparse.Namespace
) -> tuple[Settings, Interrupted]:
    """Return the run that --resume names, and its settings. Raises UsageError for options that would change the run."""
    from train import resume
    from train.setup import check_device

    interrupted = resume.find(settings.model_path.parent, options.resume)
    record = interrupted.record
    if record.resume_command:
        raise UsageError(
            tr(
                "run {run_id} is part of a larger job, which resumes it: {command}",
                run_id=record.run_id,
                command=record.resume_command,
            )
        )
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
    settings = resume.settings_of(record, settings, given)
    return settings, resume.on_device(interrupted, check_device(settings).type)


def resumed_job(settings: Settings, lake: LakeFS, interrupted: Interrupted, initial: Initial | None = None) -> Job:
    """Return the interrupted run's job, with the data of its commit."""
    from dataset.classes import ClassMap
    from train.tracking.run_tracker import RunFacts
    from versioning.checkout import checked_data

    record = interrupted.record
    pinned, data = checked_data(settings, lake, record.shards or str(record.data_path))
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
    return Job(data, pinned, facts, interrupted, folds=_divide(settings, lake, data, initial), initial=initial)
