"""The parser of all scripts: errors are one line that names what was typed, and the nearest option that exists."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from core.command_line import argparse_texts
from core.command_line.values import UnexpectedValue
from core.errors import UsageError
from core.i18n import tr

argparse_texts.translate()


class CommandParser(argparse.ArgumentParser):
    """Parser without abbreviated options, whose errors are UsageErrors of one line.

    `meant` names the option that a value without one probably belongs to, such as "--input"; `settings` are the names, in
    lower case, of the settings that have no option.
    """

    def __init__(self, *, meant: str | None = None, settings: Collection[str] = (), **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)
        self.meant, self.settings = meant, settings
        self.commands: dict[str, CommandParser] = {}

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Raises UsageError."""
        options, unknown = self.parse_known_args(list(arguments))
        if unknown:
            raise self.parser_of(options)._unknown_argument(unknown)
        return options

    def parser_of(self, options: argparse.Namespace) -> CommandParser:
        """Return the parser of the command that was parsed, or this one."""
        return self.commands.get(getattr(options, "command", None) or "", self)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message and where the options are explained."""
        raise UsageError(self._with_help(message))

    def _with_help(self, message: str) -> str:
        return tr("{message} (see {program} --help)", message=message, program=self.prog)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return a value of the action's type; argparse calls it for each value. Raises UsageError."""
        try:
            return super()._get_value(action, arg_string)
        except UnexpectedValue as error:
            raise _unexpected(action, arg_string, str(error)) from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise UsageError for a value that is not one of the action's choices; argparse calls it for each value."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if action.option_strings:
            raise _unexpected(action, str(value), tr("one of {choices}", choices=", ".join(known)))
        near = nearest(str(value), {choice: choice for choice in known})
        if near is not None:
            raise UsageError(tr("unknown command '{command}': did you mean {near}?", command=str(value), near=near))
        raise UsageError(
            tr("unknown command '{command}': available: {known}", command=str(value), known=", ".join(known))
        )

    def options_by_name(self) -> dict[str, str]:
        """Return the ways to write an option, without dashes at its beginning -> the option."""
        names: dict[str, str] = {}
        for action in self._actions:
            if action.option_strings and action.help is not argparse.SUPPRESS:
                option = action.option_strings[-1]
                names |= {text.lstrip("-"): option for text in (action.dest.replace("_", "-"), *action.option_strings)}
        return names

    def _unknown_argument(self, unknown: Sequence[str]) -> UsageError:
        typed = unknown[0]
        if typed.startswith("-") and typed.strip("-"):
            return self._unknown_option(typed.partition("=")[0])
        values = list(unknown[: next((i for i, text in enumerate(unknown) if text.startswith("-")), None)])
        shown = shlex.join(values)
        names = self.options_by_name()
        option = names.get(typed.lower().replace("_", "-"))
        if option is None and self.meant is None:
            near = nearest(typed, names)
            option = near if near is not None and len(typed) > 1 else None
        if option is not None:
            meant = shlex.join([option, *values[1:]])
        elif self.meant is not None:
            meant = f"{self.meant} {shown}"
        else:
            return UsageError(self._with_help(tr("unexpected argument: {argument}", argument=shown)))
        return UsageError(tr("unexpected argument: {argument}: did you mean {meant}?", argument=shown, meant=meant))

    def _unknown_option(self, typed: str) -> UsageError:
        key = typed.lstrip("-").lower().replace("-", "_")
        if key in self.settings:
            text = tr("unknown option {option}: set {key} in the environment or in .env", option=typed, key=key.upper())
            return UsageError(text)
        near = nearest(typed, self.options_by_name())
        if near is None:
            return UsageError(self._with_help(tr("unknown option {option}", option=typed)))
        return UsageError(tr("unknown option {option}: did you mean {near}?", option=typed, near=near))


def _unexpected(action: argparse.Action, text: str, expected: str) -> UsageError:
    origin = f"{option_name(action)} {shlex.quote(text)}"
    return UsageError(tr("{origin}: expected {expected}", origin=origin, expected=expected))


def nearest(typed: str, known: Mapping[str, str]) -> str | None:
    """Return what was probably meant: the value of the only name that begins so, or of the most similar one, or None."""
    import difflib

    plain = typed.lstrip("-").lower().replace("_", "-")
    begins = {option for name, option in known.items() if name.startswith(plain)}
    if len(begins) == 1:
        return begins.pop()
    close = difflib.get_close_matches(plain, list(known), n=1, cutoff=0.6)
    return known[close[0]] if close else None


def given(options: argparse.Namespace, actions: Iterable[argparse.Action]) -> set[str]:
    """Return the names of the options and arguments that the command line has, see `option_name`."""
    return {option_name(action) for action in actions if _is_given(action, getattr(options, action.dest, None))}


def _is_given(action: argparse.Action, value: object) -> bool:
    if value is None or value is False or value == action.default:
        return False
    return action.nargs != 0 or action.const is None or value == action.const  # several options may set one value


def option_name(action: argparse.Action) -> str:
    """Return how the table of actions names an option: its longest form, or the metavar of an argument without one."""
    if action.option_strings:
        return max(action.option_strings, key=len)
    return str(action.metavar or action.dest)
