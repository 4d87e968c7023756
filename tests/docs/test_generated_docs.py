"""The generated documentation of the settings."""

from __future__ import annotations

import re

import pytest

from config import SETTINGS
from core.dotenv_file import read_dotenv
from core.i18n import current_language
from tools import command_options, settings_docs


def test_generated_documentation_is_current() -> None:
    assert settings_docs.problems() == []


def test_env_example_lists_every_setting_once() -> None:
    text = (settings_docs.ROOT / ".env.example").read_text(encoding="utf-8")
    listed = [name.lower() for name in re.findall(r"^#?([A-Z0-9_]+)=", text, re.MULTILINE)]
    assert {name: listed.count(name) for name in SETTINGS} == dict.fromkeys(SETTINGS, 1)


def test_env_example_sets_no_more_than_keys() -> None:
    values = read_dotenv(settings_docs.ROOT / ".env.example")
    assert not any(values.values())


@pytest.mark.parametrize("language", ["en", "ko"])
def test_tables_are_in_the_language_and_leave_the_current_one(language: str) -> None:
    before = current_language()
    rows = settings_docs.in_language(language, settings_docs.table_lines)
    assert len(rows) == len(SETTINGS) + 2 and ("이름" in rows[0]) == (language == "ko")
    assert current_language() == before


def test_every_command_has_its_options_in_the_reference() -> None:
    text = (settings_docs.ROOT / "docs/options.md").read_text(encoding="utf-8")
    for script in command_options.SCRIPTS:
        for command, _, parser in command_options.commands_of(script):
            section = text.partition(f"### `{command}`\n")[2].partition("\n##")[0]
            for action in parser._actions:
                shown = action.help != "==SUPPRESS==" and "--help" not in action.option_strings
                assert not shown or all(name in section for name in action.option_strings), (command, action.dest)
