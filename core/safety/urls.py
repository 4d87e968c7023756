"""Redact user, password and keys in URLs: the only function for URLs that are shown, logged or recorded."""

from __future__ import annotations

import re
from urllib.parse import unquote

from core.safety.key_names import is_key_name, is_secret_name

MASK = "***"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
# A server without its scheme, such as user:password@host:5000/path; not git@host:path, name@alias or a regular expression.
_BARE = re.compile(r"[\w.+%~-]+:(?![/\\])[^@]*@(?=[\w.-]+(?::\d+)?(?:[/?#]|$))", re.DOTALL)
_PARAMETER = re.compile(r"(?<=[?&#;])([^=&#;\s]+)=([^&#;\s]+)")
_TOKEN_LENGTH = 16  # characters from which a user name without a password is a token


def without_credentials(url: str) -> str:
    """Return a URL without user and password, and with masked keys in its query; other texts stay as they are.

    A password may contain any character, unquoted ones such as `/`, `@`, `:`, `#` and `?` included: where it is not clear
    what ends it, everything up to the last `@` is removed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        bare = _BARE.match(url)
        return url[bare.end() :] if bare else url
    return scheme + separator + _PARAMETER.sub(_mask_key, rest[len(_user_info(rest)) :])


def redact_urls(text: str) -> str:
    """Return a text in which every URL is `without_credentials`."""
    return _URL.sub(lambda match: without_credentials(match[0]), text) if "://" in text else text


def credentials(text: str) -> list[str]:
    """Return the passwords and tokens in the URLs of a text, as written and unquoted."""
    found = set()
    for match in _URL.finditer(text):
        rest = match[0].partition("://")[2]
        user, colon, password = _user_info(rest)[:-1].partition(":")
        found |= {password} if colon else {user} if len(user) >= _TOKEN_LENGTH else set()
        found |= {value for name, value in _PARAMETER.findall(rest) if is_secret_name(name) or is_key_name(name)}
    return sorted(found | {unquote(part) for part in found} - {""})


def _user_info(rest: str) -> str:
    """Return the part of a URL after its scheme that ends with the `@` of user and password; empty if it has none."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A colon before the first slash is that of a port, or of a password that contains the slash.
    return rest[: rest.rindex("@") + 1] if "@" in rest and ("@" in authority or ":" in authority) else ""


def _mask_key(match: re.Match[str]) -> str:
    return f"{match[1]}={MASK}" if is_secret_name(match[1]) or is_key_name(match[1]) else match[0]
