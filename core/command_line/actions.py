"""Which options belong to which action of a script: one table per script, checked in one place.

An option that an action does not use would be accepted and do nothing. The table must name every option of the parser, so
that a new option has to be placed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

from core.command_line.parser import CommandParser, given, option_name
from core.errors import UsageError
from core.i18n import tr

COMMON = ("--help", "--version", "--debug", "--quiet")  # every script and action has them
DEFAULT = ""  # what a script does without an option that selects another action


class Actions:
    """Table of a parser: action -> names of the options it uses, separated by blanks.

    An action is named by the option, or the argument, that selects it; `DEFAULT` is selected by none of the others. Of
    several that are given, the first in the table counts, and the others are options that it does not use.
    `exclusive` are groups of names of which only one can be given; `needs` maps a name to those of which one
    must be given with it.
    """

    def __init__(
        self, table: Mapping[str, str], exclusive: Sequence[str] = (), needs: Mapping[str, str] | None = None
    ) -> None:
        self.table = {action: {action, *names.split()} - {DEFAULT} for action, names in table.items()}
        self.exclusive, self.needs = [group.split() for group in exclusive], needs or {}

    def check(self, parser: CommandParser, options: argparse.Namespace) -> None:
        """Raise UsageError for options that have no effect together, ValueError if the table lacks an option."""
        self._require_complete(parser._actions)
        found = given(options, parser._actions) - {*COMMON}
        action = next((action for action in self.table if action in found), DEFAULT)
        for name in sorted(found - self.table[action]):
            raise UsageError(self._refusal(name, action))
        for group in self.exclusive:
            together = [name for name in group if name in found]
            if len(together) > 1:
                raise UsageError(_not_with(together[1], together[0]))
        for name, needed in self.needs.items():
            if name in found and found.isdisjoint(needed.split()):
                raise UsageError(_only_with(name, tr(" or ").join(needed.split())))

    def _require_complete(self, actions: Iterable[argparse.Action]) -> None:
        placed = set[str]().union(*self.table.values())
        names = {option_name(action) for action in actions} - {*COMMON, ""}
        if placed != names:
            raise ValueError(f"not in the table of actions: {names - placed}; not in the parser: {placed - names}")

    def _refusal(self, name: str, action: str) -> str:
        """Return why an option is refused: what it cannot be used with, or what it needs."""
        users = [user for user, names in self.table.items() if name in names]
        if action == DEFAULT and DEFAULT not in users:
            return _only_with(name, tr(" or ").join(users))
        return _not_with(name, action or tr(" or ").join(users))


def _not_with(option: str, other: str) -> str:
    return tr("{option} cannot be used with {other}", option=option, other=other)


def _only_with(option: str, others: str) -> str:
    return tr("{option}: only with {others}", option=option, others=others)
