"""Fast import of lakefs-sdk: a command uses about 5 of its 200 calls and should not prepare the others."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def import_sdk() -> None:
    """Import lakefs_sdk in a third of the usual time: argument validators are built when a call is first used.

    The SDK builds a pydantic model for every call at import: 0.8 of 1.2 CPU seconds, more than the rest of a `lake.py
    push` without changes. The validation itself is unchanged. This patches `pydantic.v1.validate_arguments`, which the
    generated code uses as a decorator, for the duration of the import; it is not thread-safe.
    """
    if "lakefs_sdk" in sys.modules:
        return
    import pydantic.v1

    build = pydantic.v1.validate_arguments

    def validate_lazily(function: Callable[..., Any]) -> Callable[..., Any]:
        checked = functools.cache(lambda: build(function))

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            return checked()(*arguments, **options)

        return call

    pydantic.v1.validate_arguments = validate_lazily  # type: ignore[assignment]
    try:
        import lakefs_sdk  # noqa: F401
    finally:
        pydantic.v1.validate_arguments = build
