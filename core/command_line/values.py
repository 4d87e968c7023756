"""The types of option values; each raises UnexpectedValue, from which the parser makes an error with option and value."""

from __future__ import annotations

import math
from pathlib import Path

from core.i18n import tr
from core.settings import is_http_url


class UnexpectedValue(Exception):
    """Value that an option does not accept; the message is what was expected."""


def positive_int(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UnexpectedValue(tr("a whole number of at least 1"))
    return int(text)


def positive_number(text: str) -> float:
    """Return a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UnexpectedValue(tr("a number greater than {above}", above=0))
    return number


def number_from_zero(text: str) -> float:
    """Return a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UnexpectedValue(tr("at least {minimum}", minimum=0))
    return number


def port(text: str) -> int:
    """Return the number of a TCP port; 0 stands for any free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise UnexpectedValue(tr("0 to 65535"))
    return int(text)


def path(text: str) -> Path:
    """Return a path; an empty one, of an unset shell variable, would be the current directory."""
    if not text.strip():
        raise UnexpectedValue(tr("a path"))
    return Path(text)


def reason(text: str) -> str:
    """Return a text that is not blank."""
    if not text.strip():
        raise UnexpectedValue(tr("a reason"))
    return text


def http_url(text: str) -> str:
    """Return the URL of a server; config.py refuses one with a password, without showing it."""
    if "@" not in text and not is_http_url(text):
        raise UnexpectedValue("http(s)://HOST[:PORT]")
    return text
