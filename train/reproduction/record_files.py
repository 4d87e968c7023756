"""Parsers of the recorded files of a run: only what is known is accepted, so that nothing else reaches a process."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from typing import Any

from config import FIELDS, Settings
from core.errors import UsageError
from core.i18n import tr
from core.safety.json_object import JsonObject
from segmentation.networks.registry import check_network
from train.tracking import environment

MAX_TEXT = 1000  # characters of a recorded setting
MAX_THREADS = 4096
PACKAGE = re.compile(r"[A-Za-z0-9._-]{1,100}==[A-Za-z0-9._+!-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class Measured:
    """What the recorded code measured when it trained again, and where."""

    figures: dict[str, list[float]]  # metric -> one value for each epoch
    environment: dict[str, Any]
    packages: list[str]  # NAME==VERSION


def irreproducible(run_id: str, reason: str) -> UsageError:
    """Return the error of a run that cannot be reproduced."""
    return UsageError(tr("run {run_id} cannot be reproduced: {reason}", run_id=run_id, reason=reason))


def _load(run_id: str, name: str, content: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise irreproducible(run_id, tr("{name} is not JSON ({error})", name=name, error=error)) from error
    if not isinstance(loaded, dict):
        raise irreproducible(run_id, tr("{name} is not a JSON object", name=name))
    return loaded


def parse_settings(run_id: str, content: bytes, now: Settings) -> tuple[dict[str, Any], bool]:
    """Return the recorded settings and whether it was a smoke test.

    Raises UsageError for a name that is not a setting of a training's result - servers, keys and environment variables
    are not -, and for a value that the setting does not allow.
    """
    recipe = _load(run_id, environment.SETTINGS, content)
    recorded, smoke = recipe.get("settings"), recipe.get("smoke")
    if not isinstance(recorded, dict) or not isinstance(smoke, bool):
        raise irreproducible(run_id, tr("{name} has no settings", name=environment.SETTINGS))
    known = now.reproducible_settings().keys()
    unknown = sorted(recorded.keys() - known)
    if unknown:
        names = ", ".join(ascii(name)[:80] for name in unknown[:5])
        raise irreproducible(run_id, tr("{names}: not a setting that decides a training's result", names=names))
    values = {name: _typed(run_id, name, value) for name, value in recorded.items()}
    try:
        dataclasses.replace(now, **values)  # validates them
        check_network(values.get("model", now.model), values.get("pretrained", False))
    except UsageError as error:
        raise irreproducible(run_id, str(error)) from error
    return values, smoke


def _typed(run_id: str, name: str, value: Any) -> Any:
    """Return a value of JSON with the type of its setting. Raises UsageError."""
    hint = FIELDS[name]
    if value is None:
        if typing.get_type_hints(Settings)[name] != hint:
            return None  # the setting may be unset
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint is str and isinstance(value, str) and value.isprintable() and len(value) <= MAX_TEXT:
        return value
    elif typing.get_origin(hint) is tuple and isinstance(value, list) and [type(part) for part in value] == [int, int]:
        return tuple(value)
    elif hint in (int, bool) and type(value) is hint:
        return value
    shown = ascii(value)[:80] if isinstance(value, str | int | float | bool) else type(value).__name__
    raise irreproducible(run_id, tr("{key}={value}: not a value of this setting", key=name.upper(), value=shown))


def parse_environment(run_id: str, content: bytes) -> dict[str, Any]:
    """Return the recorded machine: `threads` is a number, the others are only shown. Raises UsageError."""
    loaded = _load(run_id, environment.ENVIRONMENT, content)
    threads = loaded.get("threads")
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise irreproducible(
            run_id, tr("{name}: threads: expected 1 to {limit}", name=environment.ENVIRONMENT, limit=MAX_THREADS)
        )
    if len(loaded) > 50 or not all(_is_shown(value) for value in (*loaded, *loaded.values())):
        raise irreproducible(
            run_id, tr("{name} has values that train.py does not record", name=environment.ENVIRONMENT)
        )
    return loaded


def _is_shown(value: Any) -> bool:
    """Return whether a value can be shown: a number, a short text, or a list of them."""
    if isinstance(value, list):
        return len(value) <= 1024 and all(not isinstance(part, list) and _is_shown(part) for part in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    return value is None or isinstance(value, int | float)


def parse_packages(run_id: str, content: bytes) -> list[str]:
    """Return the recorded packages as NAME==VERSION; they are only compared. Raises UsageError."""
    rows = content.decode("utf-8", "replace").splitlines()
    strange = next((row for row in rows if row and not PACKAGE.fullmatch(row)), None)
    if strange is not None:
        raise irreproducible(
            run_id, tr("{name}: {found}, expected NAME==VERSION", name=environment.PACKAGES, found=ascii(strange)[:80])
        )
    return [row for row in rows if row]


def parse_measurements(run_id: str, content: bytes) -> Measured:
    """Return what the recorded code, which may be a stranger's, wrote of its training. Raises UsageError."""
    fix = tr("its code is not that of train.py")
    found = JsonObject.parse(
        content, tr("the result of the recorded code of run {run_id}", run_id=run_id), fix, UsageError
    )
    machine = found.child("environment").content
    if len(machine) > 50 or not all(_is_shown(value) for value in (*machine, *machine.values())):
        raise found.invalid("environment", tr("numbers and short texts"))
    packages = "\n".join(found.texts("packages")).encode()
    figures = found.child("figures")
    return Measured(
        figures={name: list(figures.numbers(name)) for name in figures.content},
        environment=machine,
        packages=parse_packages(run_id, packages),
    )
