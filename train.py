# PYTHON_ARGCOMPLETE_OK
"""Check the data, commit it to lakeFS, train, commit the model, record the run in MLflow, print what goes into Git.

python train.py                                    # the whole job; an empty data/ gets a sample set
python train.py --check-only                       # only check the data; --json for programs
python train.py --sample --data-dir ../sample      # make a sample set in a new directory, and train on it
python train.py --data-dir ../photos --epochs 30 --image-size 180 240
python train.py --smoke                            # two batches of everything, end to end
python train.py --data-ref lock                    # the data of lakefs.lock, whatever is in data/
python train.py --experiment-branch wider          # keep the result on that lakeFS branch
python train.py --git-tag                          # commit lakefs.lock, tag Git and lakeFS: v1.1-acc90
torchrun --nproc_per_node=4 train.py               # four processes, one GPU each
python train.py --folds 5                          # five models that each hold out a part, for small data sets
python train.py --resume last                      # resume the newest interrupted run
python train.py --reproduce RUN_ID                 # train a run again from its records, and compare
python train.py --init-env                         # make .env, with random keys for servers of your own
python train.py --sweep sweep.yaml                 # search for the best settings (needs Optuna)
python train.py --audit-labels                     # rank masks that look wrong, with a page to look at them
"""

from __future__ import annotations

import argparse

from config import ROOT, TRAINING_OPTIONS, Settings
from core.command_line.actions import DEFAULT, Actions
from core.command_line.common import make_parser, parse_command_line
from core.command_line.setting_options import add_setting_options, settings_without_option
from core.command_line.values import number_from_zero, positive_int
from core.errors import ExitCode
from core.i18n import tr
from core.process import run_script

DATASETS = ("oxford-iiit-pet", "voc2012")  # of dataset/sources/public.py, whose imports --help must not pay for

# What decides how the data is read and split, and what decides how a network is trained on it.
READING = "--raw-orientation --allow-truncated --seed --split-group --stream"
TRAINING = (
    f"{READING} --batch-size --lr --image-size --crop-size --model --pretrained --loss --class-weights --clip-norm "
    "--accumulate --precision --device --workers"
)
VALIDATION = "--validate-every --patience"
LENGTH = "--epochs --max-seconds --augmentation --ema"
RELEASE = "--git-commit --git-tag"
ACTIONS = Actions(
    {
        "--init-env": "",
        "--check-only": f"{READING} --data-dir --data-ref --dataset --json",
        "--audit-labels": f"{TRAINING} {LENGTH} --data-dir --data-ref --dataset --sample",
        "--overfit": f"{TRAINING} --patience --init --data-dir --data-ref --dataset --sample",
        "--sweep": f"{TRAINING} {VALIDATION} --init {LENGTH} --data-dir --data-ref --dataset --sample --replace "
        "--experiment-branch",
        "--reproduce": "--tolerance --trust-patch --device --workers --stream",
        "--resume": f"{TRAINING} {VALIDATION} {LENGTH} {RELEASE} --smoke --folds",
        DEFAULT: f"{TRAINING} {VALIDATION} --init --folds {LENGTH} {RELEASE} --data-dir --data-ref --dataset --sample "
        "--replace --smoke --experiment-branch",
    },
    exclusive=(
        "--data-ref --data-dir",
        "--data-ref --dataset --sample",
        "--data-ref --replace",
        "--epochs --max-seconds",
        "--init --pretrained",
        "--smoke --git-commit",
        "--smoke --git-tag",
    ),
    needs={"--stream": "--data-ref --resume --reproduce"},
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = make_parser("train.py", __doc__, meant="--data-dir", settings=settings_without_option(Settings))
    add_data_options(parser)
    add_setting_options(parser, Settings, TRAINING_OPTIONS)
    add_action_options(parser)
    parser.add_argument("--smoke", action="store_true", help=tr("two batches of everything, end to end"))
    parser.add_argument("--git-commit", action="store_true", help=tr("commit lakefs.lock to Git at the end"))
    parser.add_argument(
        "--git-tag",
        nargs="?",
        const="auto",
        metavar="auto|NAME",
        help=tr("commit, and tag the result in Git and lakeFS (auto: v1.1-acc90)"),
    )
    return parse_command_line(parser, arguments, ACTIONS)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which data is used, and where the result is kept."""
    add_setting_options(parser, Settings, ["data_dir"])
    parser.add_argument(
        "--data-ref",
        metavar="REF",
        help=tr("train on this data of lakeFS (lakefs://REPO/REF/data/, REF or lock)"),
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, help=tr("download this public data set into the empty data directory")
    )
    parser.add_argument(
        "--sample",
        action="store_true",
        help=tr("make the sample set in the data directory, which must be empty or new"),
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help=tr("make the branch's data equal to the directory, even if that undoes changes of others"),
    )
    parser.add_argument("--experiment-branch", metavar="NAME", help=tr("keep the result on this lakeFS branch"))


def add_action_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select something else than a new training, and those that belong to them."""
    parser.add_argument("--resume", metavar="last|RUN_ID|PATH", help=tr("resume an interrupted run"))
    parser.add_argument(
        "--reproduce",
        metavar="RUN",
        help=tr("train this run again and compare the metrics; also lock, a tag, a version"),
    )
    parser.add_argument(
        "--tolerance",
        type=number_from_zero,
        metavar="X",
        help=tr("largest difference for --reproduce (default: 0.001)"),
    )
    parser.add_argument(
        "--trust-patch", action="store_true", help=tr("with --reproduce: apply code changes of other machines unasked")
    )
    parser.add_argument("--check-only", action="store_true", help=tr("only check the data"))
    parser.add_argument("--json", action="store_true", help=tr("with --check-only: print only a JSON object"))
    parser.add_argument(
        "--overfit",
        type=positive_int,
        metavar="N",
        help=tr("sanity check: can the model overfit N images? (mIoU 0.95)"),
    )
    parser.add_argument(
        "--audit-labels", action="store_true", help=tr("rank suspicious masks in models/audit/ (needs cleanlab)")
    )
    parser.add_argument(
        "--sweep", metavar="FILE", help=tr("search for the best settings as this YAML file says (needs optuna)")
    )
    parser.add_argument(
        "--init-env", action="store_true", help=tr("make .env from .env.example, with random keys for your own servers")
    )


def main(arguments: list[str]) -> int:
    """Train as the options ask; return the exit code."""
    options = parse(arguments)
    if options.init_env:
        from core.command_line.init_env import init_env

        init_env(ROOT)
        return ExitCode.DONE
    from train.commands import run

    return run(options)


if __name__ == "__main__":
    run_script(main)
