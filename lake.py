"""Versions of the data in lakeFS, as Git has them for code: push, pull, status, diff, log, tag, revert, branches, verify.

python lake.py status                              # the data folder and lakefs.lock against the branch
python lake.py push -m "better masks"              # commit the data folder
python lake.py push --to http://lakefs:8000        # all of the embedded store into a real server
python lake.py pull main~1                         # an older version into the data folder
python lake.py pull lock                           # data and model of this Git commit
python lake.py diff main~1 main                    # paths, and what changed per class
python lake.py import s3://photos/2026/ --to data/  # objects of a bucket into lakeFS: references, no copies
python lake.py setup                               # a new server: first user, repository, quality gate, protection

REF: a branch, tag, commit id or its beginning, main~1, lakefs://REPOSITORY/REF/data/, or the word lock (lakefs.lock)
"""

from __future__ import annotations

import argparse
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from config import ROOT, Settings, load_settings
from core.console import add_common_options, table
from core.errors import UsageError
from core.i18n import tr
from core.process import run_script
from core.reporting import notify

if TYPE_CHECKING:
    from utils.lakefs_utils import LakeFS

# What real lakeFS and the embedded one both take, less the marks that have a meaning in REF.
TAG_NAME = re.compile(r"(?!.*\.\.)[^\x00-\x20~^:?*\[\\/@$]+(?<!\.)(?<!\.lock)")


def parse(arguments: list[str]) -> argparse.Namespace:
    """One sub-command and its options; those that are not given are None."""
    parser = argparse.ArgumentParser(
        prog="lake.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common, folder = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    folder.add_argument("--data-dir", type=Path, metavar="DIR", help=tr("default: data"))

    def command(name: str, help: str, on_folder: bool = False) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, parents=[common, folder] if on_folder else [common], help=help, description=help
        )

    push = command("push", tr("commit the data folder"), True)
    push.add_argument("-m", "--message", help=tr("message of the commit"))
    push.add_argument(
        "--keep-remote",
        action="store_true",
        help=tr("keep files on the branch that are not here"),
    )
    push.add_argument(
        "--to",
        metavar="URL",
        help=tr(
            "not the data folder, but the whole history of the embedded store, to this "
            "lakeFS server (keys: the settings')"
        ),
    )
    pull = command("pull", tr("make the data folder that of a version"), True)
    pull.add_argument("ref", metavar="REF")
    pull.add_argument("--force", action="store_true", help=tr("drop files that no commit holds"))
    command("status", tr("the data folder, the branch and lakefs.lock"), True)
    diff = command("diff", tr("what differs between two versions"))
    diff.add_argument("left", metavar="REF")
    diff.add_argument("right", metavar="REF")
    log = command("log", tr("the commits of a branch"))
    log.add_argument("ref", metavar="REF", nargs="?", help=tr("default: the target branch"))
    log.add_argument("-n", type=at_least_one, default=10, metavar="N", help=tr("how many (default: 10)"))
    tag = command("tag", tr("list tags, or name a version"))
    tag.add_argument("name", nargs="?", metavar="NAME")
    tag.add_argument("ref", nargs="?", metavar="REF", help=tr("default: the target branch"))
    tag.add_argument("-d", "--delete", action="store_true", help=tr("delete the tag"))
    revert = command("revert", tr("undo one commit by a new one"))
    revert.add_argument("ref", metavar="COMMIT")
    importing = command("import", tr("bring objects into lakeFS without copying them"))
    importing.add_argument("uri", metavar="s3://BUCKET/PREFIX")
    importing.add_argument(
        "--to",
        dest="destination",
        default="data/",
        metavar="PATH/",
        help=tr("place in lakeFS (default: data/)"),
    )
    importing.add_argument(
        "--replace",
        action="store_true",
        help=tr("take the place of the files that are there"),
    )
    command("branches", tr("list branches"))
    trace = command("trace", tr("follow and check the chain from prediction to code"))
    trace.add_argument(
        "target",
        metavar="WHAT",
        help=tr("prediction, model file, run, version, commit or tag"),
    )
    verify = command("verify", tr("read and hash every file again"))
    verify.add_argument("ref", metavar="REF", nargs="?", help=tr("default: the target branch"))
    setup = command("setup", tr("prepare a real server: user, repository, gate, protection"))
    setup.add_argument(
        "--require-passed",
        action="store_true",
        help=tr("also refuse to merge models below the threshold"),
    )
    options = parser.parse_args(arguments)
    if options.command == "tag" and options.delete and (options.name is None or options.ref):
        tag.error(tr("-d takes the name of one tag"))
    return options


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(tr("'{text}': a whole number of at least 1", text=text))
    return int(text)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where status finds a disagreement or verify a broken file."""
    options = parse(arguments)
    settings = load_settings(data_dir=getattr(options, "data_dir", None), lakefs_endpoint=getattr(options, "to", None))
    if options.command == "setup":
        from versioning.server_setup import setup

        setup(settings, options.require_passed)
        return 0
    if options.command == "import":
        from versioning.bucket_import import import_prefix

        import_prefix(settings, options.uri, options.destination, options.replace)
        return 0
    if getattr(options, "to", None):
        from versioning.migrate import copy_history

        if options.message or options.keep_remote or options.data_dir:
            raise UsageError(
                tr("--to copies the history, not the data folder: it goes without -m, --keep-remote and --data-dir")
            )
        copy_history(settings, options.to)
        return 0
    from utils.lakefs_utils import connect

    with connect(settings, create=options.command == "push") as lake:
        return run(options, settings, lake)


def run(options: argparse.Namespace, settings: Settings, lake: LakeFS) -> int:
    """The sub-command on a connected repository."""
    from versioning import status, sync

    match options.command:
        case "push":
            sync.push(settings, lake, options.message, options.keep_remote)
        case "pull":
            sync.pull(settings, lake, options.ref, options.force)
        case "status":
            return 0 if status.status(settings, lake) else 1
        case "verify":
            return 0 if status.verify(lake, options.ref or lake.branch) else 1
        case "diff":
            diff(lake, settings, options.left, options.right)
        case "log":
            log(lake, options.ref or lake.branch, options.n)
        case "tag":
            tag(lake, options)
        case "revert":
            revert(lake, options.ref)
        case "branches":
            branches(lake)
        case "trace":
            from lineage.trace import trace
            from utils import mlflow_utils

            lake.check()  # a server that is down is no broken link of the chain
            return 0 if trace(settings, lake, mlflow_utils.connect(settings), options.target) else 1
    return 0


def diff(lake: LakeFS, settings: Settings, left_ref: str, right_ref: str) -> None:
    """Paths that differ; for changed masks the pixels and pictures of each class."""
    from config import cache_folder
    from core.files import inside
    from dataset.classes import CLASSES_FILE
    from dataset.mask_diff import compare_masks, is_mask
    from versioning.versions import find_data

    left, right = find_data(lake, left_ref), find_data(lake, right_ref)
    if left.repo != right.repo:
        raise UsageError(tr("not in one repository: {left}, {right}", left=left, right=right))
    words = {"added": tr("added"), "removed": tr("removed"), "changed": tr("changed")}
    masks: list[str] = []
    counts = dict.fromkeys(words, 0)
    for change in lake.differences(left.ref, right.ref, repo=left.repo):
        counts[change.type] += 1
        print(f"{words[change.type]:8} {change.path}")
        name = change.path.removeprefix(left.path)
        if change.path.startswith(left.path) and is_mask(name):
            masks.append(name)
    print(", ".join(f"{words[kind]} {count}" for kind, count in counts.items()))
    if not masks:
        return
    wanted = {left.path + name for name in [*masks, CLASSES_FILE]}
    trees = []
    for side in (left, right):
        if any(True for _ in lake.objects(side.ref, side.path, side.repo)):
            lake.download(side, cache_folder(settings), wanted.__contains__)
        trees.append(inside(cache_folder(settings) / "commits" / side.repo / side.ref, side.path))
    print("\n" + compare_masks(trees[0], trees[1], masks))


def log(lake: LakeFS, ref: str, count: int) -> None:
    """The newest commits: what goes into one publication stands in one line."""
    from itertools import islice

    from versioning.versions import find_data

    source = find_data(lake, ref)
    rows = []
    for commit in islice(lake.log(source.ref, repo=source.repo), count):
        metadata = commit.metadata or {}
        date = datetime.fromtimestamp(int(metadata.get("embedded_creation_date", commit.creation_date))).strftime(
            "%Y-%m-%d %H:%M:%S"
        )
        git = metadata.get("git_commit", "none")[:12] + "+" * (metadata.get("git_dirty") == "true")
        message = (commit.message.splitlines() or [""])[0]
        short = message if len(message) <= 60 else message[:59] + "…"
        rows.append((commit.id[:12], date, short, git, metadata.get("mlflow_run_id", "")))
    print(table((tr("commit"), tr("date"), tr("message"), "Git", tr("run")), rows))


def tag(lake: LakeFS, options: argparse.Namespace) -> None:
    """List, make or delete tags."""
    from versioning.versions import find_data

    if options.name is None:
        print(table((tr("tag"), tr("commit")), list(lake.named("tags"))))
        return
    if options.delete:
        lake.delete_tag(options.name)
        notify(tr("deleted the tag {name}", name=options.name))
        return
    if not TAG_NAME.fullmatch(options.name):
        raise UsageError(
            tr(
                "tag name '{name}': expected none of blanks, ~ ^ : ? * [ \\ / @ $ and '..', and "
                "no '.' or '.lock' at its end",
                name=options.name,
            )
        )
    target = find_data(lake, options.ref or lake.branch)
    if target.repo != lake.repo:
        raise UsageError(tr("in another repository: {target}", target=target))
    lake.set_tag(options.name, target.ref)
    notify(tr("tag {name}: {ref}", name=options.name, ref=target.ref))


def revert(lake: LakeFS, ref: str) -> None:
    """Undo one commit on the target branch; the data folder stays as it is."""
    from core.git import read_facts

    commit_id = lake.resolve(ref)
    metadata = {**read_facts(ROOT).metadata(), "reverted_commit": commit_id}
    head = lake.revert(commit_id, f"revert {commit_id[:12]}", metadata)
    notify(
        tr(
            "reverted {commit_id} on {branch}: {head} (to have it here: lake.py pull {branch})",
            commit_id=commit_id[:12],
            branch=lake.branch,
            head=head,
        )
    )


def branches(lake: LakeFS) -> None:
    """All branches; the target has a star, and `sync-…` or `copy-…` is a push that was cut off or is going on."""
    rows = []
    for name, commit_id in lake.named("branches"):
        commit = next(lake.log(commit_id))
        rows.append(("*" * (name == lake.branch) + name, commit_id[:12], (commit.message.splitlines() or [""])[0]))
    print(table((tr("branch"), tr("commit"), tr("message")), rows))


if __name__ == "__main__":
    run_script(main)
