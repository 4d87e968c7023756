"""Localization: English source texts, translated by a gettext catalogue."""

from __future__ import annotations

import contextlib
import functools
import gettext
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path, PurePath

from core.errors import AppError
from core.safety.terminal import escape_line

LANGUAGES = ("ko", "en")
DOMAIN = "messages"
CATALOGUES = Path(__file__).resolve().parent.parent / "locale"

_language = "en"
_scoped_language: ContextVar[str | None] = ContextVar("scoped_language", default=None)


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
    return _scoped_language.get() or _language


@contextlib.contextmanager
def language_scope(language: str) -> Iterator[None]:
    """Use another language in this context (a request, its tasks), one of `LANGUAGES`; the process keeps its own."""
    token = _scoped_language.set(language)
    try:
        yield
    finally:
        _scoped_language.reset(token)


class Message(str):
    """Field of `tr` that this program composed: it may have several lines. Names in it are escaped already."""


def tr(message: str, /, **fields: object) -> str:
    """Translate an English message into the current language, then insert the fields by `str.format`.

    Fields are names, paths and errors of any origin: none can start a new line or contain control characters, unless it
    is a Message or an AppError.
    """
    language = current_language()
    text = message if language == "en" else _catalogue(language).gettext(message)
    return text.format(**{name: _escaped(value) for name, value in fields.items()}) if fields else text


def trn(singular: str, plural: str, count: int, /, **fields: object) -> str:
    """Translate like `tr`, by the form of the message that the language has for `count`, which is a field too."""
    language = current_language()
    catalogue = gettext.NullTranslations() if language == "en" else _catalogue(language)
    text = catalogue.ngettext(singular, plural, count)
    return text.format(count=count, **{name: _escaped(value) for name, value in fields.items()})


def _escaped(value: object) -> object:
    """Return a field that is a text without control characters; numbers keep their format."""
    if isinstance(value, Message | AppError) or not isinstance(value, str | PurePath | BaseException):
        return value
    return escape_line(str(value))


def mark(message: str) -> str:
    """Mark a message for extraction where it is defined before the language is known; `tr` translates it later."""
    return message


@functools.cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, CATALOGUES, [language])
