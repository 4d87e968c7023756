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
python train.py --resume last                      # resume the newest interrupted run
python train.py --reproduce RUN_ID                 # train a run again from its records, and compare
python train.py --audit-labels                     # rank masks that look wrong, with a page to look at them
"""

from __future__ import annotations

import argparse

from config import TRAINING_OPTIONS, Settings
from core.console import ArgumentParser, add_common_options
from core.i18n import tr
from core.process import run_script
from core.settings import add_setting_options

DATASETS = ("oxford-iiit-pet", "voc2012")  # of dataset/public.py, whose imports --help must not pay for


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = ArgumentParser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    add_setting_options(source, Settings, ["data_dir"])
    source.add_argument(
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
    add_setting_options(parser, Settings, TRAINING_OPTIONS)
    parser.add_argument("--resume", metavar="last|RUN_ID|PATH", help=tr("resume an interrupted run"))
    parser.add_argument("--reproduce", metavar="RUN_ID", help=tr("train this run again and compare the metrics"))
    parser.add_argument(
        "--tolerance", type=float, metavar="X", help=tr("largest difference for --reproduce (default: 0.001)")
    )
    parser.add_argument(
        "--trust-patch", action="store_true", help=tr("with --reproduce: apply code changes of other machines unasked")
    )
    parser.add_argument("--check-only", action="store_true", help=tr("only check the data"))
    parser.add_argument("--json", action="store_true", help=tr("with --check-only: print only a JSON object"))
    parser.add_argument(
        "--overfit", type=int, metavar="N", help=tr("sanity check: can the model overfit N images? (mIoU 0.95)")
    )
    parser.add_argument(
        "--audit-labels", action="store_true", help=tr("rank suspicious masks in models/audit/ (needs cleanlab)")
    )
    parser.add_argument("--smoke", action="store_true", help=tr("two batches of everything, end to end"))
    parser.add_argument("--git-commit", action="store_true", help=tr("commit lakefs.lock to Git at the end"))
    parser.add_argument(
        "--git-tag",
        nargs="?",
        const="auto",
        metavar="auto|NAME",
        help=tr("commit, and tag the result in Git and lakeFS (auto: v1.1-acc90)"),
    )
    add_common_options(parser)
    options = parser.parse_args(arguments)
    reject_combinations(parser, options)
    return options


def reject_combinations(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options that contradict each other."""
    if options.sample and (options.dataset or options.check_only):
        other = "--dataset" if options.dataset else "--check-only"
        parser.error(tr("--sample: not allowed with {option}", option=other))
    if options.trust_patch and not options.reproduce:
        parser.error(tr("--trust-patch: only with --reproduce"))
    if options.json and not options.check_only:
        parser.error(tr("--json: only with --check-only"))
    if options.smoke and (options.git_commit or options.git_tag):
        parser.error(tr("--smoke: not allowed with --git-commit and --git-tag"))
    if options.audit_labels:
        others = ("check_only", "overfit", "reproduce", "resume", "smoke", "git_commit", "git_tag", "experiment_branch")
        wrong = next((name for name in others if getattr(options, name) not in (None, False)), None)
        if wrong is not None:
            parser.error(tr("--audit-labels: not allowed with --{option}", option=wrong.replace("_", "-")))


def main(arguments: list[str]) -> int:
    """Train as the options ask; return the exit code."""
    options = parse(arguments)
    from train.commands import run

    return run(options)


if __name__ == "__main__":
    run_script(main)
