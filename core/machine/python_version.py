"""The Python that the project needs. This module, and what is imported before it, can be read by Python 3.7."""

from __future__ import annotations

import os
import sys

OLDEST = (3, 11)
OLDEST_WITH_CATALOGUE = (3, 9)  # that core.i18n runs with


def require() -> None:
    """End the process with one line if Python is too old: a script would end in a syntax error instead."""
    version = sys.version_info[:2]
    if version >= OLDEST:
        return
    text = "error: Python {oldest} or later is needed, this is {found}: activate the virtual environment, or make one"
    if version >= OLDEST_WITH_CATALOGUE:
        from core.i18n import language_of_locale, mark, set_language, tr

        set_language(os.environ.get("APP_LANG") or language_of_locale())
        mark(
            "error: Python {oldest} or later is needed, this is {found}: activate the virtual environment, or make one"
        )
        text = tr(text)
    oldest, found = (".".join(str(part) for part in numbers) for numbers in (OLDEST, version))
    sys.exit(text.format(oldest=oldest, found=found))
