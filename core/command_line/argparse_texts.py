"""The texts of Python's argparse in the language of the console.

argparse translates its texts with two functions of `gettext`, which read the catalogues of the operating system. They are
replaced by the ones that read this project's catalogue, which has the texts below.
"""

from __future__ import annotations

import argparse

from core.i18n import mark, tr

# As in Python 3.11 to 3.14; a text of another version is shown in English.
TEXTS = (
    mark("usage: "),
    mark("options"),
    mark("positional arguments"),
    mark("show this help message and exit"),
    mark("subcommands"),
    mark(" (default: %(default)s)"),
    mark("argument %(argument_name)s: %(message)s"),
    mark("%(heading)s:"),
    mark("invalid %(type)s value: %(value)r"),
    mark("expected one argument"),
    mark("expected at most one argument"),
    mark("expected at least one argument"),
    mark("expected %s argument"),
    mark("expected %s arguments"),
    mark("the following arguments are required: %s"),
    mark("one of the arguments %s is required"),
    mark("not allowed with argument %s"),
    mark("ignored explicit argument %r"),
    mark("unrecognized arguments: %s"),
)


def translate() -> None:
    """Let argparse take its texts from `tr`, in whatever language is set when it shows one."""
    vars(argparse).update(_=_translated, ngettext=_translated_number)


def _translated(text: str) -> str:
    return tr(text) if text in TEXTS else text


def _translated_number(singular: str, plural: str, number: int) -> str:
    return _translated(singular if number == 1 else plural)
