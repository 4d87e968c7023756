"""Localization: English source texts, translated by a gettext catalogue."""

from __future__ import annotations

import functools
import gettext
import os
from pathlib import Path

LANGUAGES = ("ko", "en")
DOMAIN = "messages"
CATALOGUES = Path(__file__).resolve().parent.parent / "locale"

_language = "en"


def language_of_locale() -> str:
    """Return the language of the environment's locale (LC_ALL, LC_MESSAGES, LANG): Korean for ko*, else English."""
    names = (os.environ.get(key) for key in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "ko" if next(filter(None, names), "").lower().startswith("ko") else "en"


def set_language(language: str) -> None:
    """Set the language of `tr`; a name that is not in `LANGUAGES` selects English."""
    global _language
    _language = language if language in LANGUAGES else "en"


def current_language() -> str:
    """Return the language of `tr`, one of `LANGUAGES`."""
    return _language


def tr(message: str, /, **fields: object) -> str:
    """Translate an English message into the current language, then insert the fields by `str.format`."""
    text = message if _language == "en" else _catalogue(_language).gettext(message)
    return text.format(**fields) if fields else text


def mark(message: str) -> str:
    """Mark a message for extraction where it is defined before the language is known; `tr` translates it later."""
    return message


@functools.cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, CATALOGUES, [language])
