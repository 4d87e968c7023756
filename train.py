"""Check the data, commit it to lakeFS, train, commit the model, record the run in MLflow, print what goes into Git.

python train.py                                    # the whole job; an empty data/ gets a sample set
python train.py --check-only                       # only look at the data
python train.py --data-dir ../photos --epochs 30 --image-size 180 240
python train.py --smoke                            # two batches of everything, end to end
python train.py --data-ref lock                    # the data of lakefs.lock, whatever lies in data/
python train.py --experiment-branch wider          # leaves the result on that branch of lakeFS
python train.py --git-tag                          # commits lakefs.lock, tags Git and lakeFS: v1.1-acc90
torchrun --nproc_per_node=4 train.py               # four processes, one GPU each
python train.py --resume last                      # goes on with the newest run that was cut off
python train.py --reproduce RUN_ID                 # trains a run again from what it recorded, and compares
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import CHOICES, FIELDS, ROOT, Settings, load_settings
from core.console import add_common_options
from core.errors import AppError, UsageError
from core.i18n import tr
from core.process import run_script
from core.reporting import notify

DATASETS = ("oxford-iiit-pet", "voc2012")  # of dataset/public.py, whose imports --help must not pay for

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from train.mlflow_train import MlflowTrain
    from train.result import Result
    from train.resume import Interrupted
    from utils.lakefs_utils import LakeFS


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options win over the environment and .env; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=tr("images and masks (default: data)"),
    )
    source.add_argument(
        "--data-ref",
        metavar="REF",
        help=tr("data of lakeFS (lakefs://REPO/REF/data/, REF or lock)"),
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        help=tr("download this data set into the empty data folder"),
    )
    parser.add_argument(
        "--experiment-branch",
        metavar="NAME",
        help=tr("leave the result on this branch of lakeFS"),
    )
    add_training_options(parser)
    parser.add_argument(
        "--resume",
        metavar="last|RUN_ID|PATH",
        help=tr("go on with a run that was cut off"),
    )
    parser.add_argument(
        "--reproduce",
        metavar="RUN_ID",
        help=tr("train this run again and compare the figures"),
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help=tr("of --reproduce (default: 0.001)"),
    )
    parser.add_argument("--check-only", action="store_true", help=tr("only check the data"))
    parser.add_argument(
        "--overfit",
        type=int,
        metavar="N",
        help=tr("whether N pictures can be learnt by heart (mIoU 0.95)"),
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help=tr("two batches of everything, end to end"),
    )
    parser.add_argument(
        "--git-commit",
        action="store_true",
        help=tr("commit lakefs.lock to Git at the end"),
    )
    parser.add_argument(
        "--git-tag",
        nargs="?",
        const="auto",
        metavar="auto|NAME",
        help=tr("commit, and tag the result in Git and lakeFS (auto: v1.1-acc90)"),
    )
    add_common_options(parser)
    options = parser.parse_args(arguments)
    if options.smoke and (options.git_commit or options.git_tag):
        parser.error(tr("--smoke: not allowed with --git-commit and --git-tag"))
    return options


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The settings of a training, by their names in config.py; what they leave open comes from the data."""
    add, size = parser.add_argument, ("H", "W")
    add("--epochs", type=int, metavar="N", help=tr("passes over the data (default: 10)"))
    add(
        "--max-seconds",
        type=float,
        metavar="N",
        help=tr("train for so long instead, validation left out"),
    )
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=tr("pictures a step (default: from the data)"),
    )
    add("--lr", dest="learning_rate", type=float, metavar="X", help=tr("peak learning rate"))
    add(
        "--image-size",
        type=int,
        nargs=2,
        metavar=size,
        help=tr("input size (default: from the data)"),
    )
    add(
        "--crop-size",
        type=int,
        nargs=2,
        metavar=size,
        help=tr("part that a training step sees"),
    )
    add("--model", metavar="NAME", help=tr("network (default: compact_fpn)"))
    add(
        "--pretrained",
        action="store_true",
        default=None,
        help=tr("start from published weights"),
    )
    add("--loss", metavar="|".join(CHOICES["loss"]), help=tr("loss (default: ce)"))
    add("--class-weights", metavar="auto|none|'1 2.5 …'", help=tr("default: auto"))
    add(
        "--augmentation",
        metavar="|".join(CHOICES["augmentation"]),
        help=tr("strength (default: auto)"),
    )
    add(
        "--ema",
        type=float,
        metavar="SHARE",
        help=tr("average of the weights (default: 0.02)"),
    )
    add("--clip-norm", type=float, metavar="X", help=tr("longest gradient (0: no limit)"))
    add("--accumulate", type=int, metavar="N", help=tr("batches a step of the optimiser"))
    add(
        "--precision",
        metavar="|".join(CHOICES["precision"]),
        help=tr("number format (default: auto)"),
    )
    add("--seed", type=int, metavar="N", help=tr("random seed (default: 0)"))
    add("--device", metavar="|".join(CHOICES["device"]), help=tr("device (default: auto)"))
    add(
        "--workers",
        dest="num_workers",
        type=int,
        metavar="N",
        help=tr("processes that read pictures (default: 0)"),
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help=tr("end after N epochs without gain (default 0: never)"),
    )


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that stand on the command line."""
    given = {name: value for name, value in vars(options).items() if name in FIELDS and value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def main(arguments: list[str]) -> int:
    """Returns the exit code; under torchrun, that of one of the processes."""
    options = parse(arguments)
    from train import distributed

    try:
        with distributed.process_group():
            return main_process(options) if distributed.is_main() else other_process(options)
    except distributed.OtherProcessFailed as error:
        if not error.said:
            raise
        return error.exit_code  # the process that failed has told the user


def main_process(options: argparse.Namespace) -> int:
    """What the options ask for; returns the exit code."""
    given = given_settings(options)
    settings = load_settings(**given)
    if options.dataset:
        fetch(settings, options)
    if options.check_only:
        return check_only(settings, options.data_ref)
    if options.overfit is not None:
        return overfit(settings, options.data_ref, options.overfit)
    if options.reproduce:
        from train.reproduce import TOLERANCE, reproduce

        return reproduce(settings, options.reproduce, TOLERANCE if options.tolerance is None else options.tolerance)

    from segmentation.networks import check_network
    from train.release import publish as release
    from utils import mlflow_utils
    from utils.lakefs_utils import connect

    interrupted = None
    if options.resume:
        settings, interrupted = resumed(settings, given, options)
    check_network(settings.model, settings.pretrained)  # before anything is uploaded
    with connect(settings, create=not options.data_ref or bool(options.git_tag)) as lake:
        if options.git_commit or options.git_tag:
            release.require_ready(lake, options.git_tag)
        client = mlflow_utils.connect(settings)
        training = go_on(settings, lake, client, interrupted) if interrupted else start(settings, lake, client, options)
        result = training.run()
        report(settings, lake, result, training.smoke)
        try:
            if options.git_commit or options.git_tag:
                parameters = client.get_run(result.run_id).data.params
                release.release(lake, result, options.git_tag, parameters)
        except AppError:  # the run is whole, and what was refused can be done by hand; after a kill, --resume does it
            training.clean_up()
            raise
    training.clean_up()
    return 0


def other_process(options: argparse.Namespace) -> int:
    """A process of torchrun that is not the main one: it only trains along."""
    if not options.check_only and not options.reproduce:
        from train.workers import follow

        follow(load_settings(**given_settings(options)))
    return 0


def start(settings: Settings, lake: LakeFS, client: MlflowClient, options: argparse.Namespace) -> MlflowTrain:
    """A new run on checked data."""
    from core import git
    from train.mlflow_train import MlflowTrain
    from versioning.checkout import checked_data

    pinned, data = checked_data(settings, lake, options.data_ref)
    if (
        pinned
    ):  # which needed neither server nor repository; what comes of it does, and that is said before the training
        lake.ensure_repository(settings)
    if options.experiment_branch:
        lake.start_experiment(options.experiment_branch)
    return MlflowTrain(
        settings,
        options.smoke,
        data=data,
        lake=lake,
        client=client,
        git=git.read_facts(ROOT),
        pinned=pinned,
        target_branch=settings.lakefs_branch if options.experiment_branch else None,
    )


def resumed(settings: Settings, given: dict[str, Any], options: argparse.Namespace) -> tuple[Settings, Interrupted]:
    """The run that --resume names, and its settings. Raises UsageError for options that would make another run of it."""
    from core import git
    from train import distributed, resume

    interrupted = resume.find(settings.model_path.parent, options.resume)
    record = interrupted.record
    others = {
        "--data-dir": options.data_dir,
        "--data-ref": options.data_ref,
        "--experiment-branch": options.experiment_branch,
        "--smoke": options.smoke and not record.smoke,
    }
    for option in (name for name, value in others.items() if value):
        raise UsageError(
            tr(
                "{option}: --resume takes that of run {run_id}: leave the option out",
                option=option,
                run_id=record.run_id,
            )
        )
    resume.warn_of_other_code(record, git.read_facts(ROOT), distributed.world_size())
    return resume.settings_of(record, settings, given), interrupted


def go_on(settings: Settings, lake: LakeFS, client: MlflowClient, interrupted: Interrupted) -> MlflowTrain:
    """The interrupted run, on the data of its commit."""
    from train.mlflow_train import MlflowTrain
    from versioning.checkout import checked_data

    record = interrupted.record
    pinned, data = checked_data(settings, lake, str(record.data_path))
    if data.classes.to_dict() != record.classes:
        raise AppError(
            tr(
                "{data_path}: not the classes that run {run_id} was started with: go on with the code of then",
                data_path=record.data_path,
                run_id=record.run_id,
            )
        )
    if record.target_branch:
        lake.start_experiment(record.branch)
    return MlflowTrain(
        settings,
        record.smoke,
        data=data,
        lake=lake,
        client=client,
        git=record.git,
        pinned=pinned,
        target_branch=record.target_branch,
        interrupted=interrupted,
    )


def check_only(settings: Settings, data_ref: str | None) -> int:
    """Print what there is; makes nothing, and needs no server unless the data lie there."""
    from dataset.summary import summary
    from dataset.validation import check_data
    from versioning.checkout import checked_data

    if data_ref is None:
        print(summary(check_data(settings.data_dir, settings.seed, make_split=False)))
        return 0
    from utils.lakefs_utils import connect

    with connect(settings) as lake:
        checked_data(settings, lake, data_ref)
    return 0


def fetch(settings: Settings, options: argparse.Namespace) -> None:
    """Download what --dataset names, where it is not there yet."""
    from dataset import public

    for option in (name for name in ("data_ref", "resume", "reproduce") if getattr(options, name)):
        shown = option.replace("_", "-")
        raise UsageError(tr("--{shown} names the data: leave out --dataset", shown=shown))
    public.fetch(options.dataset, settings.data_dir, settings.seed)


def overfit(settings: Settings, data_ref: str | None, count: int) -> int:
    """Try whether training can learn anything at all; records nothing."""
    from train.overfit_check import learn_by_heart
    from utils.lakefs_utils import connect
    from versioning.checkout import checked_data

    with connect(settings, create=not data_ref) as lake:
        _, data = checked_data(settings, lake, data_ref)
    learn_by_heart(settings, data, count)
    return 0


def report(settings: Settings, lake: LakeFS, result: Result, smoke: bool) -> None:
    """Write lakefs.lock and the message for Git, print the report and the tag command."""
    from core.files import write_atomically
    from train.release.commit_message import report_block, tag_command
    from train.release.publish import next_tag
    from versioning.lockfile import Lock, write_lock

    block = report_block(result)
    message_file = settings.model_path.parent / "git_commit_message.txt"
    write_atomically(message_file, (block + "\n").encode())
    print("\n" + block + "\n")
    print(tag_command(result, next_tag(lake, result)))
    if smoke:  # the figures of two batches are nothing to come back to
        notify(tr("(as a file: git commit -F {message_file})", message_file=message_file))
        return
    lock = write_lock(
        ROOT,
        Lock(result.data_path, result.data_manifest_sha256, result.model_path, result.model_sha256, result.run_id),
    )
    notify(
        tr(
            "(to commit with it: git add {name} && git commit -F {message_file})",
            name=lock.name,
            message_file=message_file,
        )
    )


if __name__ == "__main__":
    run_script(main)
