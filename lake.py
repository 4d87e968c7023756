# PYTHON_ARGCOMPLETE_OK
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
python lake.py shards main --to shards-1           # images in few large objects, for more than a million files
python lake.py setup                               # a new server: first user, repository, quality gate, protection

REF: a branch, tag, commit id or its beginning, main~1, lakefs://REPOSITORY/REF/data/, or the word lock (lakefs.lock)
"""

from __future__ import annotations

import argparse

from config import Settings, load_settings
from core.command_line.actions import DEFAULT, Actions
from core.command_line.common import add_common_options, make_parser, parse_command_line
from core.command_line.parser import CommandParser
from core.command_line.setting_options import add_setting_options, settings_without_option
from core.command_line.values import http_url, path, positive_int
from core.errors import ExitCode, UsageError
from core.i18n import tr
from core.process import run_script

# Of each command: what its actions use.
ACTIONS = {
    "push": Actions({"--to": "", DEFAULT: "--message --keep-remote --replace --data-dir"}),
    "pull": Actions({"--merge": "REF --prefer --data-dir", DEFAULT: "REF --force --data-dir"}),
    "import-labels": Actions({DEFAULT: "SOURCE --to --update --format --strict --selection"}),
    "status": Actions({DEFAULT: "--data-dir --json"}),
    "diff": Actions({DEFAULT: "LEFT RIGHT --json"}),
    "log": Actions({DEFAULT: "REF -n --json --long"}),
    "tag": Actions({"--delete": "NAME", "NAME": "REF", DEFAULT: "--json"}, needs={"--delete": "NAME"}),
    "revert": Actions({DEFAULT: "COMMIT"}),
    "branches": Actions({DEFAULT: "--json"}),
    "trace": Actions({DEFAULT: "WHAT --json --long"}),
    "verify": Actions({DEFAULT: "REF --json"}),
    "import": Actions({DEFAULT: "s3://BUCKET/PREFIX --to --replace"}),
    "shards": Actions({DEFAULT: "REF --to --shard-mb"}),
    "setup": Actions({DEFAULT: "--require-passed"}),
}
TAG_LISTING = "list"  # a tag of this name would be a mistake for `lake.py tag`


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command and its options; those that are not given are None."""
    parser = make_parser("lake.py", __doc__, settings=settings_without_option(Settings))
    commands = _Commands(parser)
    add_data_commands(commands)
    add_history_commands(commands)
    add_server_commands(commands)
    options = parse_command_line(parser, arguments, ACTIONS)
    if options.command == "pull" and not options.merge and options.ref is None:
        raise UsageError(tr("pull: name a version REF, such as the branch"))
    if options.command == "tag" and options.name == TAG_LISTING and not options.delete:
        raise UsageError(tr("tag list: did you mean {meant}?", meant="lake.py tag"))
    return options


class _Commands:
    """The commands of a parser; each accepts the options of all scripts too."""

    def __init__(self, parser: CommandParser) -> None:
        self.group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        self.parsers = parser.commands
        self.settings = parser.settings

    def add(self, name: str, help: str, on_data: bool = False, listing: bool = False) -> CommandParser:
        """Add a command; `on_data`: it takes --data-dir; `listing`: it takes --json."""
        meant = "--data-dir" if on_data else None
        parser = self.group.add_parser(name, help=help, description=help, settings=self.settings, meant=meant)
        self.parsers[name] = parser
        add_common_options(parser, of_command=True)
        if on_data:
            add_setting_options(parser, Settings, ["data_dir"])
        if listing:
            parser.add_argument("--json", action="store_true", help=tr("print only a JSON object"))
        return parser


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
        type=http_url,
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
    labels.add_argument("source", metavar="SOURCE", type=path, help=tr("directory of the export"))
    labels.add_argument("--to", dest="target", type=path, metavar="DIR", help=tr("data directory (default: DATA_DIR)"))
    labels.add_argument(
        "--update", action="store_true", help=tr("add to the data that is there, and replace the masks of its images")
    )
    labels.add_argument("--format", metavar="NAME", help=tr("format of the export (default: detected)"))
    labels.add_argument("--strict", action="store_true", help=tr("refuse overlapping annotations"))
    labels.add_argument(
        "--selection",
        type=path,
        metavar="DIR",
        help=tr("directory of infer.py --select that the images are from (default: selection.json in the export)"),
    )
    commands.add(
        "status",
        tr("compare the data directory, the branch and lakefs.lock; exit code 1 if they do not fit together"),
        on_data=True,
        listing=True,
    )


def add_history_commands(commands: _Commands) -> None:
    """Add the commands that work on commits, tags and branches."""
    default_branch = tr("default: the target branch")
    diff = commands.add("diff", tr("show the differences between two versions"), listing=True)
    diff.add_argument("left", metavar="LEFT")
    diff.add_argument("right", metavar="RIGHT")
    log = commands.add("log", tr("show the commits of a branch"), listing=True)
    log.add_argument("ref", metavar="REF", nargs="?", help=default_branch)
    log.add_argument("-n", type=positive_int, default=10, metavar="N", help=tr("number of commits (default: 10)"))
    tag = commands.add("tag", tr("list tags, or name a version"), listing=True)
    tag.add_argument("name", nargs="?", metavar="NAME")
    tag.add_argument("ref", nargs="?", metavar="REF", help=default_branch)
    tag.add_argument("-d", "--delete", action="store_true", help=tr("delete the tag"))
    revert = commands.add("revert", tr("revert one commit by a new one"))
    revert.add_argument("ref", metavar="COMMIT")
    commands.add("branches", tr("list branches"), listing=True)
    trace = commands.add("trace", tr("follow and verify the chain from prediction to code"), listing=True)
    for table in (log, trace):
        table.add_argument("--long", action="store_true", help=tr("show full IDs and texts, however wide"))
    trace.add_argument("target", metavar="WHAT", help=tr("prediction, model file, run, version, commit or tag"))
    verify = commands.add("verify", tr("read every file again and verify its checksum"), listing=True)
    verify.add_argument("ref", metavar="REF", nargs="?", help=default_branch)


def add_server_commands(commands: _Commands) -> None:
    """Add the commands that prepare a server or use its bucket."""
    importing = commands.add("import", tr("import objects of a bucket into lakeFS without copying them"))
    importing.add_argument("uri", metavar="s3://BUCKET/PREFIX")
    importing.add_argument(
        "--to", dest="destination", default="data/", metavar="PATH/", help=tr("path in lakeFS (default: data/)")
    )
    importing.add_argument("--replace", action="store_true", help=tr("replace the files at that path"))
    shards = commands.add("shards", tr("write the images of a version into few large objects (needs webdataset)"))
    shards.add_argument("ref", metavar="REF")
    shards.add_argument("--to", dest="branch", required=True, metavar="BRANCH", help=tr("new branch for their commit"))
    shards.add_argument(
        "--shard-mb", type=positive_int, default=256, metavar="N", help=tr("10^6 bytes of an object (default: 256)")
    )
    setup = commands.add("setup", tr("prepare a real server: user, repository, gate, protection"))
    setup.add_argument(
        "--require-passed", action="store_true", help=tr("also refuse to merge models below the threshold")
    )


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code: 1 if status, verify or trace finds a fault."""
    options = parse(arguments)
    settings = load_settings(data_dir=getattr(options, "data_dir", None), lakefs_endpoint=getattr(options, "to", None))
    if options.command == "trace":
        from lineage.trace import trace_command

        return trace_command(settings, options.target, options.long)
    if options.command == "import-labels":
        from versioning.label_import import import_labels

        target = options.target or settings.data_dir
        import_labels(options.source, target, options.format, options.strict, options.update, options.selection)
        return ExitCode.DONE
    from versioning.commands import run

    return run(settings, options)


if __name__ == "__main__":
    run_script(main)
