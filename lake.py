"""Versions of the data in lakeFS, like Git for code: push, pull, status, diff, log, tag, revert, branches, verify.

python lake.py status                              # the data directory and lakefs.lock against the branch
python lake.py push -m "better masks"              # commit the data directory
python lake.py push --to http://lakefs:8000        # all of the embedded store into a real server
python lake.py pull main~1                         # an older version into the data directory
python lake.py pull lock                           # data and model of this Git commit
python lake.py pull --merge                        # what others pushed since, into the directory; your changes stay
python lake.py diff main~1 main                    # paths, and what changed per class
python lake.py import s3://photos/2026/ --to data/  # objects of a bucket into lakeFS: references, no copies
python lake.py import-labels export/ --to data/    # an export of CVAT, VOC, COCO, ... into the data directory
python lake.py setup                               # a new server: first user, repository, quality gate, protection

REF: a branch, tag, commit id or its beginning, main~1, lakefs://REPOSITORY/REF/data/, or the word lock (lakefs.lock)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from config import Settings, load_settings
from core.console import ArgumentParser, add_common_options
from core.i18n import tr
from core.process import run_script
from core.settings import add_setting_options


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command and its options; those that are not given are None."""
    parser = ArgumentParser(prog="lake.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    commands = _Commands(parser)
    add_data_commands(commands)
    add_history_commands(commands)
    add_server_commands(commands)
    options = parser.parse_args(arguments)
    if options.command == "tag" and options.delete and (options.name is None or options.ref):
        parser.error(tr("tag -d takes the name of one tag"))
    if options.command == "pull":
        check_pull(parser, options)
    return options


def check_pull(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options of pull that do not belong together."""
    if not options.merge and options.ref is None:
        parser.error(tr("pull: name a version REF, such as the branch"))
    if not options.merge and options.prefer:
        parser.error(tr("--prefer cannot be used without --merge"))
    if options.merge and options.force:
        parser.error(tr("--force cannot be used with --merge: use --prefer"))


class _Commands:
    """The sub-commands of a parser; each accepts --debug too."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        self.common, self.data = ArgumentParser(add_help=False), ArgumentParser(add_help=False)
        self.common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add_setting_options(self.data, Settings, ["data_dir"])

    def add(self, name: str, help: str, on_data: bool = False) -> argparse.ArgumentParser:
        """Add a command; `on_data`: it takes --data-dir."""
        parents = [self.common, self.data] if on_data else [self.common]
        return self.commands.add_parser(name, parents=parents, help=help, description=help)


def add_data_commands(commands: _Commands) -> None:
    """Add the commands that work on the data directory."""
    push = commands.add("push", tr("commit the data directory"), on_data=True)
    push.add_argument("-m", "--message", help=tr("commit message"))
    push.set_defaults(mode="default")
    modes = push.add_mutually_exclusive_group()
    modes.add_argument(
        "--keep-remote",
        dest="mode",
        action="store_const",
        const="keep-remote",
        help=tr("publish only what was changed here; the other files of the branch stay as they are"),
    )
    modes.add_argument(
        "--replace",
        dest="mode",
        action="store_const",
        const="replace",
        help=tr("make the branch equal to the directory, even if that undoes changes of others"),
    )
    push.add_argument(
        "--to",
        metavar="URL",
        help=tr("copy the whole history of the embedded store to this lakeFS server instead (keys: from the settings)"),
    )
    pull = commands.add("pull", tr("replace the data directory by a version"), on_data=True)
    pull.add_argument("ref", metavar="REF", nargs="?", help=tr("with --merge, the default is the target branch"))
    pull.add_argument("--force", action="store_true", help=tr("discard files that are in no commit"))
    pull.add_argument(
        "--merge",
        action="store_true",
        help=tr("bring the changes of the version into the directory, and keep your own"),
    )
    pull.add_argument(
        "--prefer",
        choices=("local", "branch"),
        help=tr("with --merge: whose version of a file that both changed is kept"),
    )
    labels = commands.add("import-labels", tr("convert an export of an annotation tool into a data directory"))
    labels.add_argument("source", metavar="SOURCE", type=Path, help=tr("directory of the export"))
    labels.add_argument("--to", dest="target", type=Path, metavar="DIR", help=tr("data directory (default: DATA_DIR)"))
    labels.add_argument(
        "--update", action="store_true", help=tr("add to the data that is there, and replace the masks of its images")
    )
    labels.add_argument("--format", metavar="NAME", help=tr("format of the export (default: detected)"))
    labels.add_argument("--strict", action="store_true", help=tr("refuse overlapping annotations"))
    labels.add_argument(
        "--selection",
        type=Path,
        metavar="DIR",
        help=tr("directory of infer.py --select that the images are from (default: selection.json in the export)"),
    )
    commands.add("status", tr("compare the data directory, the branch and lakefs.lock"), on_data=True)


def add_history_commands(commands: _Commands) -> None:
    """Add the commands that work on commits, tags and branches."""
    default_branch = tr("default: the target branch")
    diff = commands.add("diff", tr("show the differences between two versions"))
    diff.add_argument("left", metavar="REF")
    diff.add_argument("right", metavar="REF")
    log = commands.add("log", tr("show the commits of a branch"))
    log.add_argument("ref", metavar="REF", nargs="?", help=default_branch)
    log.add_argument("-n", type=positive_int, default=10, metavar="N", help=tr("number of commits (default: 10)"))
    tag = commands.add("tag", tr("list tags, or name a version"))
    tag.add_argument("name", nargs="?", metavar="NAME")
    tag.add_argument("ref", nargs="?", metavar="REF", help=default_branch)
    tag.add_argument("-d", "--delete", action="store_true", help=tr("delete the tag"))
    revert = commands.add("revert", tr("revert one commit by a new one"))
    revert.add_argument("ref", metavar="COMMIT")
    commands.add("branches", tr("list branches"))
    trace = commands.add("trace", tr("follow and verify the chain from prediction to code"))
    trace.add_argument("target", metavar="WHAT", help=tr("prediction, model file, run, version, commit or tag"))
    verify = commands.add("verify", tr("read every file again and verify its checksum"))
    verify.add_argument("ref", metavar="REF", nargs="?", help=default_branch)


def add_server_commands(commands: _Commands) -> None:
    """Add the commands that prepare a server or use its bucket."""
    importing = commands.add("import", tr("import objects of a bucket into lakeFS without copying them"))
    importing.add_argument("uri", metavar="s3://BUCKET/PREFIX")
    importing.add_argument(
        "--to", dest="destination", default="data/", metavar="PATH/", help=tr("path in lakeFS (default: data/)")
    )
    importing.add_argument("--replace", action="store_true", help=tr("replace the files at that path"))
    setup = commands.add("setup", tr("prepare a real server: user, repository, gate, protection"))
    setup.add_argument(
        "--require-passed", action="store_true", help=tr("also refuse to merge models below the threshold")
    )


def positive_int(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(tr("'{text}': expected a whole number of at least 1", text=text))
    return int(text)


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code: 1 if status, verify or trace finds a fault."""
    options = parse(arguments)
    settings = load_settings(data_dir=getattr(options, "data_dir", None), lakefs_endpoint=getattr(options, "to", None))
    if options.command == "trace":
        from lineage.trace import trace_command

        return trace_command(settings, options.target)
    if options.command == "import-labels":
        from versioning.label_import import import_labels

        target = options.target or settings.data_dir
        import_labels(options.source, target, options.format, options.strict, options.update, options.selection)
        return 0
    from versioning.commands import run

    return run(settings, options)


if __name__ == "__main__":
    run_script(main)
