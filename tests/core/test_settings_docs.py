"""The generated documentation of the settings."""

from __future__ import annotations

import re

import pytest

from config import SETTINGS
from core.dotenv_file import read_dotenv
from core.i18n import current_language
from tools import settings_docs


def test_generated_documentation_is_current() -> None:
    assert settings_docs.problems() == []


def test_env_example_lists_every_setting_once() -> None:
    text = (settings_docs.ROOT / ".env.example").read_text(encoding="utf-8")
    listed = [name.lower() for name in re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)]
    assert {name: listed.count(name) for name in SETTINGS} == dict.fromkeys(SETTINGS, 1)


def test_env_example_sets_no_more_than_keys() -> None:
    values = read_dotenv(settings_docs.ROOT / ".env.example")
    assert not any(values.values())


@pytest.mark.parametrize("language", ["en", "ko"])
def test_readme_table_leaves_the_language_unchanged(language: str) -> None:
    before = current_language()
    assert len(settings_docs.table_lines(language)) == len(SETTINGS) + 2
    assert current_language() == before
