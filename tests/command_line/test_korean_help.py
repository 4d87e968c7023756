"""`--help` of every script and subcommand is in the language of the console, descriptions and comments included."""

from __future__ import annotations

import importlib
import re

import pytest

from core.command_line import description
from core.i18n import current_language, language_scope, set_language
from tools import catalogue, command_options

SCRIPTS = (*command_options.SCRIPTS, "utils.minio_utils", "utils.local_lakefs.__main__")
ENGLISH = re.compile(r"\b[A-Za-z]?[a-z]+(?: [a-z]+){2,}\b")  # three words in a row
COMMAND = re.compile(r"^\s*(?:python|torchrun) .*?(?= # |$)|`[^`]*`|pip install [a-z-]+", re.MULTILINE)


def helps_of(script: str) -> dict[str, str]:
    """Return the help texts of a script and of its subcommands."""
    parser = command_options.parser_of(script)
    commands = {name: sub.format_help() for name, _, sub in command_options.commands_of(script)}
    return {script: parser.format_help(), **commands}


@pytest.mark.parametrize("script", SCRIPTS)
def test_korean_help_has_no_english_sentence(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = command_options._load
    monkeypatch.setattr(
        command_options, "_load", lambda name: load(name) if name.endswith(".py") else importlib.import_module(name)
    )
    monkeypatch.setenv("COLUMNS", "200")
    before = current_language()
    set_language("ko")
    try:
        helps = helps_of(script)
    finally:
        set_language(before)
    for command, text in helps.items():
        assert "사용법: " in text, command
        found = [line for line in COMMAND.sub("", text.partition("\n\n")[2]).splitlines() if ENGLISH.search(line)]
        assert found == [], command


def test_messages_of_a_docstring_are_its_paragraphs_and_comments() -> None:
    docstring = """Do one thing.

    python x.py --all                  # all of it; a # stays
python x.py --nothing

Two lines
of a paragraph.
"""
    assert description.messages_of(docstring) == ["Do one thing.", "all of it; a # stays", "Two lines\nof a paragraph."]
    with language_scope("en"):
        assert description.translated(docstring) == docstring.rstrip()


def test_catalogue_has_the_docstrings_that_are_shown() -> None:
    source = '"""Do it.\n\npython x.py  # now\n"""\n{} = make_parser("x.py", __doc__, meant=None)\n'
    assert catalogue.description_messages(source.format("parser")) == ["Do it.", "now"]
    assert catalogue.description_messages('"""Do it."""\nparser = make_parser("x.py", None)\n') == []
