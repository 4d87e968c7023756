"""What train.py does: check, train, resume, reproduce, overfit."""

from __future__ import annotations

import argparse
import contextlib

from config import ROOT, SETTINGS, Settings, load_settings
from core.command_line.setting_options import given_options
from core.errors import ExitCode, UsageError
from core.i18n import tr
from core.reporting import notify
from core.settings import name_origins
from train.parallel import distributed


def run(options: argparse.Namespace) -> int:
    """Do what the options ask; return the exit code. Under torchrun, every process calls this."""
    alone = {"--overfit": options.overfit is not None, "--reproduce": options.reproduce}
    alone |= {"--audit-labels": options.audit_labels, "--folds": options.folds is not None}
    alone["--sweep"] = options.sweep
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
    if options.check_only:
        check(options)
        return ExitCode.DONE
    given = given_options(options, Settings)
    settings = load_settings(**given)
    check_before_work(settings, options)
    if options.sweep:
        from train.sweep.command import sweep

        sweep(settings, given, options, lambda: prepare_directory(settings, options))
        return ExitCode.DONE
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
        from train.jobs.training import train

        train(settings, given, options)
    return ExitCode.DONE


def check_before_work(settings: Settings, options: argparse.Namespace) -> None:
    """Raise UsageError for settings that cannot be trained with, before data, servers or directories are touched."""
    if options.audit_labels:
        from train.audit.ranking import require_cleanlab

        require_cleanlab()
    if options.sweep:
        from train.sweep.storage import require_optuna

        require_optuna()
    if distributed.on_several_machines():
        from train.parallel.workers import require_servers

        require_servers(settings)
    from train.jobs.request import check_partners, check_request
    from train.setup import check_device

    if options.resume or options.reproduce or options.sweep:  # network and sizes are those of the run, or of sweep.yaml
        check_device(settings)
    else:
        check_request(settings)
        if not options.audit_labels:  # it decides about settings itself
            check_partners(settings)


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


def check(options: argparse.Namespace) -> None:
    """Check the data and report it; writes only check.html, and needs no server unless the data is there."""
    from train import data_check

    def output(place: str, expected: str) -> contextlib.AbstractContextManager[None]:
        return data_check.json_output(place, expected) if options.json else contextlib.nullcontext()

    with output("", tr("valid settings")):
        settings = load_settings(**given_options(options, Settings))
    place = options.data_ref or str(settings.data_dir)
    with output(place, tr("a version of the data") if options.data_ref else tr("a directory with data")):
        prepare_directory(settings, options)
        data_check.check(settings, options.data_ref, options.json)


def overfit(settings: Settings, options: argparse.Namespace) -> None:
    """Check that the model can overfit a few images; records nothing."""
    from train.overfit_check import overfit_check
    from train.warm_start.resolve import resolve_initial
    from utils.lakefs_utils import connect
    from versioning.checkout import checked_data

    with connect(settings) as lake:
        settings, initial = resolve_initial(settings, lake)
        _, data = checked_data(settings, lake, options.data_ref, options.sample)
        overfit_check(settings, data, options.overfit, initial)


def audit(settings: Settings, options: argparse.Namespace) -> None:
    """Rank the masks that look wrong; records nothing, and needs no server unless the data is there, or made by --sample."""
    from dataset.decoding.options import options_of
    from dataset.summary import summary
    from dataset.validation import check_data
    from train.audit.command import audit_labels
    from train.data_check import open_files

    if options.sample:
        from utils.lakefs_utils import connect
        from versioning.checkout import fill_if_empty

        with connect(settings) as lake:
            fill_if_empty(settings, lake, sample=True)
    with open_files(settings, options.data_ref) as (folder, source):
        data = check_data(folder, settings.seed, False, options_of(settings), settings.split_group, source)
        notify(summary(data))
        audit_labels(settings, data)
