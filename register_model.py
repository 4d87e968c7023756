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
from pathlib import Path

from config import Settings, load_settings
from core.console import ArgumentParser, add_common_options
from core.i18n import tr
from core.process import run_script
from core.settings import add_setting_options, given_options


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; those that are not given are None."""
    parser = ArgumentParser(
        prog="register_model.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run-id", metavar="ID", help=tr("register this run"))
    what.add_argument("--list", action="store_true", help=tr("show versions and where they come from"))
    what.add_argument(
        "--rollback",
        nargs="?",
        const="",
        metavar="VERSION",
        help=tr("make an earlier version champion (default: the one before)"),
    )
    what.add_argument("--compare", nargs="*", metavar="A B", help=tr("compare two versions or runs on the same images"))
    what.add_argument(
        "--make-signing-key", type=Path, metavar="FILE", help=tr("make a key that signs models, and FILE.pub")
    )
    parser.add_argument("--manual", action="store_true", help=tr("choose from a table"))
    add_setting_options(
        parser,
        Settings,
        ["register_metric", "register_threshold", "register_min_gain", "register_accept_warnings", "signing_key"],
    )
    parser.add_argument("--force", metavar="WHY", help=tr("champion whatever the gate says; recorded with who and why"))
    parser.add_argument(
        "--keep-branch", action="store_true", help=tr("keep the branch of an experiment after its merge")
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=tr("directory of --compare (default: models/compare)")
    )
    add_common_options(parser)
    options = parser.parse_args(arguments)
    if options.compare is not None and len(options.compare) != (0 if options.manual else 2):
        parser.error(tr("--compare takes A and B (none with --manual)"))
    if options.manual and options.run_id:
        parser.error(tr("--manual: not allowed with --run-id"))
    if options.force is not None and not options.force.strip():
        parser.error(tr("--force needs a reason"))
    return options


def main(arguments: list[str]) -> int:
    """Register, roll back or compare as the options ask; return the exit code."""
    options = parse(arguments)
    settings = load_settings(**given_options(options, Settings))
    from registry.commands import run

    return run(settings, options)


if __name__ == "__main__":
    run_script(main)
