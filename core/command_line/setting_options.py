"""Settings as command-line options: parsed and checked like the values of the environment, with errors that name the option."""

from __future__ import annotations

import argparse
import shlex
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from core.errors import UsageError
from core.i18n import tr
from core.settings import (
    InvalidSetting,
    Setting,
    default_text,
    defaults_of,
    parse_value,
    table_of,
    types_of,
    validate_value,
)


def add_setting_options(parser: argparse._ActionsContainer, cls: type, names: Iterable[str]) -> None:
    """Add the options of these settings; an option that is not given leaves None."""
    table, hints, defaults = table_of(cls), types_of(cls), defaults_of(cls)
    for name in names:
        info, hint = table[name], hints[name]
        if info.option is None:
            raise ValueError(f"{name} has no command-line option")
        arguments: dict[str, Any] = {"dest": name, "default": None, "help": help_text(info, defaults[name])}
        if hint is bool and info.optional_value:
            arguments |= {
                "action": _StoreSwitch,
                "nargs": "?",
                "metavar": info.metavar,
                "value_of": info.optional_value,
            }
            parser.set_defaults(**{info.optional_value: None})
        elif hint is bool:
            arguments["action"] = "store_true"
        else:
            arguments |= {"action": _StoreSetting, "hint": hint, "info": info}
            arguments["metavar"] = info.metavar or "|".join(info.choices) or None
            if typing.get_origin(hint) is tuple:
                arguments["nargs"] = len(typing.get_args(hint))
        parser.add_argument(info.option, **arguments)


def settings_without_option(cls: type) -> list[str]:
    """Return the settings that only the environment and `.env` can set."""
    return [name for name, info in table_of(cls).items() if info.option is None]


def _require_text(option: str | None, words: Sequence[str]) -> str:
    """Return an option with its words, as they were typed. Raises UsageError if these are empty."""
    origin = f"{option} {shlex.join(words)}"
    if not " ".join(words).strip():
        raise UsageError(tr("{origin}: expected a value, found an empty text", origin=origin))
    return origin


class _StoreSetting(argparse.Action):
    """Store a setting. Raises UsageError that names the option and the value as they were typed."""

    def __init__(self, *arguments: Any, hint: Any, info: Setting, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.hint, self.info = hint, info
        self.choices = info.choices or None  # for the shell's completion, too

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = [values] if isinstance(values, str) else [str(value) for value in values or ()]
        text = " ".join(words).strip()
        origin = _require_text(option_string, words)
        try:
            value = parse_value(self.dest.upper(), text, self.hint)
            validate_value(self.dest.upper(), value, self.info)
        except InvalidSetting as error:
            raise error.at(origin) from None
        setattr(namespace, self.dest, value)


class _StoreSwitch(argparse.Action):
    """Store a switch, and the value after it in another setting. Raises UsageError for an empty value."""

    def __init__(self, *arguments: Any, value_of: str, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.value_of = value_of

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values is not None:
            _require_text(option_string, [str(values)])
        setattr(namespace, self.dest, True)
        setattr(namespace, self.value_of, values)


def help_text(info: Setting, default: Any) -> str:
    """Return the translated help with the default, such as "number of epochs (default: 10)"."""
    shown = tr(info.unset) if info.unset else default_text(default)
    help = tr(info.help)
    return (tr("{help} (default: {default})", help=help, default=shown) if shown else help).replace("%", "%%")


def given_options(options: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Return the settings that are set on the command line."""
    names = table_of(cls)
    return {name: value for name, value in vars(options).items() if name in names and value is not None}
