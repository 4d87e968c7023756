"""core.i18n."""

from __future__ import annotations

LANGUAGES = ("ko", "en")
_language = "ko"


def set_language(language: str) -> None:
    """Choose the console's language, one of `LANGUAGES`."""
    global _language
    _language = language


def t(korean: str, english: str) -> str:
    """The text in the console's language; both stand at the place of use, so that they change together."""
    return english if _language == "en" else korean
