"""Options of the commands, read from their parsers: the tables of docs/options.md, and what the commands of the docs may use."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

from core.command_line.parser import CommandParser
from core.i18n import mark, tr

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train.py", "register_model.py", "infer.py", "lake.py")
HEADERS = (mark("option"), mark("meaning"))


class _ParserBuiltError(Exception):
    """Carrier of the parser that a script has built."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{Path(script).stem}", ROOT / script)
    assert spec is not None and spec.loader is not None  # the file exists
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def parser_of(script: str) -> argparse.ArgumentParser:
    """Return the parser of a script, with the help texts of the current language."""

    def built(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _ParserBuiltError(parser)

    module = _load(script)
    with mock.patch.object(CommandParser, "parse", built):
        try:
            module.parse([])
        except _ParserBuiltError as found:
            return found.parser
    raise AssertionError(f"{script}: parse() does not call the method parse of CommandParser")


def commands_of(script: str) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield (command, help, parser) of a script: itself, or each of its sub-commands."""
    parser = parser_of(script)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((f"{script} {name}", helps.get(name, ""), sub) for name, sub in action.choices.items())
            return
    yield script, "", parser


def option_lines() -> list[str]:
    """Return the tables of all options in Markdown, one heading per command, in the current language."""
    lines: list[str] = []
    for script in SCRIPTS:
        for command, help, parser in commands_of(script):
            rows = [_row(action, parser) for action in parser._actions if _is_shown(action)]
            lines += [f"### `{command}`", ""]
            lines += [f"{help[:1].upper()}{help[1:]}.", ""] if help else []
            if rows:
                lines += markdown_table([tuple(tr(name) for name in HEADERS), ("---",) * 2, *rows])
                lines.append("")
    return lines[:-1]


def markdown_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in rows]


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    metavar = parser._get_formatter()._format_args(action, str(action.metavar or action.dest.upper()))
    name = " ".join([", ".join(action.option_strings), metavar]).strip() if action.option_strings else metavar
    choices = "" if action.choices is None else ", ".join(map(str, action.choices))
    if action.metavar is None or action.metavar == choices.replace(", ", "|"):
        choices = ""  # they are in the name already
    return f"`{name}`", (action.help or "").replace("%%", "%") + (f" ({choices})" if choices else "")
