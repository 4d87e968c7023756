"""The options that every script has, and the one function that all scripts parse their command line with."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from core.command_line.actions import Actions
from core.command_line.description import translated
from core.command_line.parser import CommandParser
from core.console import print_result
from core.console_reporter import ConsoleReporter
from core.i18n import tr
from core.reporting import use_reporter


def make_parser(program: str, docstring: str | None, **arguments: Any) -> CommandParser:
    """Return a parser with the options that every script has; `docstring` of the script is the description of `--help`."""
    layout = argparse.RawDescriptionHelpFormatter
    description = translated(docstring or "")
    parser = CommandParser(prog=program, description=description, formatter_class=layout, **arguments)
    add_common_options(parser)
    return parser


def add_common_options(parser: argparse.ArgumentParser, of_command: bool = False) -> None:
    """Add the options that every script has; with `of_command` once more, to be accepted behind the command's name too."""
    texts = {
        "--debug": tr("show the traceback of an error"),
        "--quiet": tr("print only results, warnings and errors"),
        "--version": tr("print the version and the Git commit"),
    }
    for option, text in texts.items():
        facts: dict[str, Any] = {"action": "store_true", "help": argparse.SUPPRESS if of_command else text}
        if option == "--version":
            facts |= {"action": _ShowVersion, "nargs": 0}
        if of_command:
            facts["default"] = argparse.SUPPRESS  # that of the script, which may precede the command
        parser.add_argument(option, **facts)


class _ShowVersion(argparse.Action):
    """Print the version and end the process."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from core.command_line import version  # it runs Git

        print_result(version.describe())
        parser.exit()


def parse_command_line(
    parser: CommandParser, arguments: Sequence[str], actions: Actions | Mapping[str, Actions] | None = None
) -> argparse.Namespace:
    """Parse the options, check them against the table of actions, and install the reporter that they ask for.

    `actions` is the table of the parser, or those of its commands; None: the caller checks. Raises UsageError.
    """
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for the words that can follow
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse(arguments)
    table = actions[options.command] if isinstance(actions, Mapping) else actions
    if table is not None:
        table.check(parser.parser_of(options), options)
    use_reporter(ConsoleReporter(to_stderr=getattr(options, "json", False), quiet=options.quiet))
    return options
