"""Redact texts of any origin: credentials in URLs, and the values of this process's secrets."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

from core.safety.key_names import is_key_name, is_secret_name
from core.safety.urls import MASK, credentials, redact_urls

SHORTEST = 6  # characters; a shorter value is also part of ordinary words
_BASE64_STARTS = (0, 2, 3)  # characters that depend on the bytes before, by their number modulo 3
# What examples and images have in place of a secret; as words they are everywhere.
_PLACEHOLDER = re.compile(
    r"pass(word|wd)|secret|change-?me|example|default|(dis|en)abled|required|optional|redacted|postgres|private|public|string"
)

_settings_values: set[str] = set()


def add_secrets(values: Iterable[str]) -> None:
    """Redact these values, those of the settings, from now on."""
    _settings_values.update(filter(_is_specific, values))


def secret_values(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the secrets that this process knows, longest first: of the settings and of the environment.

    Of the environment these are the variables whose name stands for a key, and the credentials in URLs.
    """
    found = set(_settings_values)
    for name, value in environment.items():
        if (is_secret_name(name) or (is_key_name(name) and not _is_word(value))) and not _is_path(value):
            found.add(value)
        found.update(credentials(value))
    return sorted(filter(_is_specific, found), key=lambda value: (-len(value), value))


def encoded_forms(value: str) -> set[str]:
    """Return a value as it may stand in files: as it is, quoted for URLs and JSON, as hexadecimal digits and as base64.

    Of base64, what does not depend on the text before and after: a value may start at any of three positions.
    """
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]}
    for data in (value.encode("utf-8", "surrogateescape"), value.encode("utf-16-le", "surrogatepass")):
        forms |= {data.hex(), data.hex().upper()} if len(data) >= SHORTEST else set()
        for shift, start in enumerate(_BASE64_STARTS):
            text = base64.b64encode(bytes(shift) + data).decode()[start : (shift + len(data)) * 8 // 6]
            forms |= {text, text.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= SHORTEST}


def redact(text: str) -> str:
    """Return the text with `***` in place of credentials in URLs, and of this process's secrets."""
    for value in secret_values():
        for form in sorted(encoded_forms(value), key=len, reverse=True):
            if form in text:
                text = text.replace(form, MASK)
    return redact_urls(text)


def _is_specific(value: str) -> bool:
    return len(value) >= SHORTEST and not _PLACEHOLDER.fullmatch(value.lower()) and not value.isspace()


def _is_word(value: str) -> bool:
    """Return whether a value looks like an ordinary name: that of a variable called KEY need not be a secret."""
    return re.fullmatch(r"[a-z]+([._/-][a-z]+)*|[A-Z][a-z]+|\d+", value) is not None


def _is_path(value: str) -> bool:
    """Return whether a value names a file: SSH_AUTH_SOCK, GOOGLE_APPLICATION_CREDENTIALS."""
    return value.startswith(("/", "~", ".", "\\")) and os.path.lexists(os.path.expanduser(value))
