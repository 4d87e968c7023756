"""lakefs-sdk without its slow start: a command uses five of its 200 calls, and should not wait for the other 195."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def import_sdk() -> None:
    """Import lakefs_sdk, in a third of its time: each call's argument checks are built when it is first made.

    As it comes, the SDK builds a pydantic model for every call while it is imported, 0.8 of the 1.2 CPU seconds that
    this takes, more than all else that `lake.py push` does when nothing changed. What is checked stays the same.
    """
    if "lakefs_sdk" in sys.modules:
        return
    import pydantic.v1

    build = pydantic.v1.validate_arguments

    def when_called(function: Callable[..., Any]) -> Callable[..., Any]:
        checked = functools.cache(lambda: build(function))

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            return checked()(*arguments, **options)

        return call

    pydantic.v1.validate_arguments = when_called  # type: ignore[assignment]
    try:
        import lakefs_sdk  # noqa: F401
    finally:
        pydantic.v1.validate_arguments = build
