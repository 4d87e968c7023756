# PYTHON_ARGCOMPLETE_OK
"""Register a run's model; it becomes champion when it is better than the champion on the same images, else challenger.

    python register_model.py                           # the best run since the last registration
    python register_model.py --run-id ID --min-gain 0.01
    python register_model.py --list                    # versions, aliases, figures, where they come from
    python register_model.py --rollback                # the champion before this one; or --rollback 3
    python register_model.py --compare 2 3             # tables, and images side by side in models/compare/
    python register_model.py --make-signing-key KEY   # make KEY and KEY.pub; --signing-key KEY signs what is promoted
    python register_model.py --manual                  # choose from a table; with --rollback or --compare too

Exit code 3: below the threshold and not registered, or registered (or an interrupted registration finished) as challenger.
"""

from __future__ import annotations

import argparse

from config import Settings, load_settings
from core.command_line.actions import DEFAULT, Actions
from core.command_line.common import make_parser, parse_command_line
from core.command_line.setting_options import add_setting_options, given_options, settings_without_option
from core.command_line.values import path, reason
from core.errors import UsageError
from core.i18n import tr
from core.process import run_script

ACTIONS = Actions(
    {
        "--list": "--json --long --metric",
        "--make-signing-key": "",
        "--compare": "--manual --output",
        "--rollback": "--manual --signing-key",
        DEFAULT: "--run-id --manual --metric --threshold --min-gain --confidence --accept-warnings "
        "--signing-key --force --keep-branch",
    },
    exclusive=("--manual --run-id", "--force --threshold"),
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = make_parser("register_model.py", __doc__, settings=settings_without_option(Settings))
    parser.add_argument("--run-id", metavar="ID", help=tr("register this run; at least 4 characters of its ID"))
    parser.add_argument("--list", action="store_true", help=tr("show versions and where they come from"))
    parser.add_argument("--json", action="store_true", help=tr("with --list: print only a JSON object"))
    parser.add_argument("--long", action="store_true", help=tr("with --list: show all columns and full IDs"))
    parser.add_argument(
        "--rollback",
        nargs="?",
        const="",
        metavar="VERSION",
        help=tr("make an earlier version champion (default: the one before)"),
    )
    parser.add_argument(
        "--compare", nargs="*", metavar="A B", help=tr("compare two versions or runs on the same images")
    )
    parser.add_argument(
        "--make-signing-key", type=path, metavar="FILE", help=tr("make a key that signs models, and FILE.pub")
    )
    parser.add_argument("--manual", action="store_true", help=tr("choose from a table"))
    add_setting_options(
        parser,
        Settings,
        [
            *("register_metric", "register_threshold", "register_min_gain", "register_confidence"),
            *("register_accept_warnings", "signing_key"),
        ],
    )
    parser.add_argument(
        "--force",
        type=reason,
        metavar="WHY",
        help=tr("champion whatever the gate says; recorded with who and why"),
    )
    parser.add_argument(
        "--keep-branch", action="store_true", help=tr("keep the branch of an experiment after its merge")
    )
    parser.add_argument(
        "--output", type=path, metavar="DIR", help=tr("directory of --compare (default: models/compare)")
    )
    options = parse_command_line(parser, arguments, ACTIONS)
    if options.compare is not None and len(options.compare) != (0 if options.manual else 2):
        raise UsageError(tr("--compare takes A and B (none with --manual)"))
    if options.rollback and options.manual:
        raise UsageError(tr("--rollback {version} cannot be used with --manual", version=options.rollback))
    return options


def main(arguments: list[str]) -> int:
    """Register, roll back or compare as the options ask; return the exit code."""
    options = parse(arguments)
    settings = load_settings(**given_options(options, Settings))
    from registry.commands import run

    return run(settings, options)


if __name__ == "__main__":
    run_script(main)
