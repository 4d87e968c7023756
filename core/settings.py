"""Settings from one table: each field of a dataclass says its type, default, bounds, choices and help once.

From that table come the parsing and validation of values, the command-line options (core/command_line), `.env.example`
and the settings table of the README.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.dotenv_file import line_of
from core.errors import UsageError
from core.i18n import Message, tr

_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_KEY = "setting"  # of dataclasses.field's metadata


@dataclass(frozen=True)
class Setting:
    """Description of one setting; texts are English messages that `tr` translates.

    A value v is valid if minimum <= v <= maximum, above < v < below, it is one of `choices`, and it matches `pattern`
    entirely; None, where the type allows it, is always valid. `rule` describes the pattern.
    """

    help: str
    unset: str = ""  # what happens without a value
    option: str | None = None  # command-line option, such as --lr
    metavar: str | tuple[str, str] | None = None
    optional_value: str | None = None  # of a switch: the setting that gets the value after its option, if there is one
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    rule: str = ""
    secret: bool = False
    runtime_only: bool = False  # does not affect the result of a training


def setting(default: Any, help: str, **facts: Any) -> Any:
    """Return a dataclass field with a default and the facts of `Setting`."""
    info = Setting(help, **facts)
    return dataclasses.field(default=default, repr=not info.secret, metadata={_KEY: info})


def runtime_setting(default: Any, help: str, **facts: Any) -> Any:
    """Return the field of a setting that does not change the trained model."""
    return setting(default, help, runtime_only=True, **facts)


def table_of(cls: type) -> dict[str, Setting]:
    """Return setting -> facts, in the order of definition; other fields are not settings."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(cls) if _KEY in field.metadata}


def defaults_of(cls: type) -> dict[str, Any]:
    """Return setting -> default."""
    return {field.name: field.default for field in dataclasses.fields(cls) if _KEY in field.metadata}


def types_of(cls: type) -> dict[str, Any]:
    """Return setting -> type, without None."""
    hints = typing.get_type_hints(cls)
    return {name: _without_none(hints[name]) for name in table_of(cls)}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def default_text(default: Any) -> str:
    """Return a default as it is written in `.env`; empty for None."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


class InvalidSetting(UsageError):
    """Setting with a wrong value; `key` is its name in the environment.

    The error states what was expected, or another `problem` with the value.
    """

    def __init__(self, key: str, value: object, expected: str = "", problem: str = "") -> None:
        self.key, self.value = key, value
        self.problem = Message(problem or tr("expected {expected}", expected=Message(expected)))
        super().__init__(tr("{origin}: {problem}", origin=f"{key}={value!r}", problem=self.problem))

    def at(self, origin: str) -> UsageError:
        """Return the error for a value that was set elsewhere, such as "--epochs 0"."""
        return UsageError(tr("{origin}: {problem}", origin=origin, problem=self.problem))


@contextlib.contextmanager
def name_origins(table: Mapping[str, Setting], typed: Mapping[str, Any], dotenv: Path) -> Iterator[None]:
    """Let errors of settings in the block name the option, or the line of `.env`, that the value is from.

    `typed` are the settings of the command line, `dotenv` is the `.env` file. Raises UsageError.
    """
    try:
        yield
    except InvalidSetting as error:
        raise _at_origin(error, table, typed, dotenv) from None


def _at_origin(
    error: InvalidSetting, table: Mapping[str, Setting], typed: Mapping[str, Any], dotenv: Path
) -> UsageError:
    name = error.key.lower()
    value = typed.get(name)
    if value is not None:
        words = [str(part) for part in (value if isinstance(value, tuple) else (value,))]
        option = table[name].option
        return error.at(f"{option} {shlex.join(words)}") if option else error
    text = os.environ.get(error.key)
    if text is not None:
        return error if isinstance(error.value, str) else error.at(f"{error.key}={text.strip()}")
    number = line_of(dotenv, error.key)
    if number is None:
        return error
    fields = {"path": dotenv, "number": number, "key": error.key, "value": error.value}
    return error.at(Message(tr("{path}, line {number}: {key}={value}", **fields)))


# --- values -----------------------------------------------------------------------------------------------------------


def read_values(hints: Mapping[str, Any], typed: Mapping[str, Any], dotenv: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that are set: on the command line, else in the environment, else in `.env`."""
    values = {}
    for name, hint in hints.items():
        text = os.environ.get(name.upper(), dotenv.get(name.upper()))  # an empty one cancels that of .env
        if typed.get(name) is not None:
            values[name] = typed[name]
        elif text and text.strip():
            values[name] = parse_value(name.upper(), text.strip(), hint)
    return values


def parse_value(key: str, text: str, hint: Any) -> Any:
    """Return the text as the field's type. Raises UsageError with key, value and what was expected."""
    try:
        if hint is bool:
            return _TRUTH[text.lower()]
        if hint is int:
            return int(text)
        if hint is float:
            return float(text)
        if hint is Path:
            return Path(text).expanduser()
        if typing.get_origin(hint) is tuple:
            height, width = text.replace(",", " ").replace("x", " ").split()
            return int(height), int(width)
    except (KeyError, ValueError):
        raise InvalidSetting(key, text, _type_rule(hint)) from None
    return text


def _type_rule(hint: Any) -> str:
    if hint is bool:
        return tr("true or false")
    if hint is int:
        return tr("a whole number")
    if hint is float:
        return tr("a number")
    return tr("height and width, such as 180 240")


def validate(settings: Any) -> None:
    """Check every value against its facts. Raises UsageError for the first invalid one."""
    for name, info in table_of(type(settings)).items():
        validate_value(name.upper(), getattr(settings, name), info)


def validate_value(key: str, value: Any, info: Setting) -> None:
    """Raise InvalidSetting for a value that is neither None nor valid."""
    if value is not None and not _is_valid(value, info):
        raise InvalidSetting(key, value, _rule(value, info))


def _is_valid(value: Any, info: Setting) -> bool:
    if info.choices:
        return value in info.choices
    if info.pattern:
        return bool(re.fullmatch(info.pattern, value, re.ASCII))
    if isinstance(value, (str, Path)):
        return True
    return all(_in_bounds(number, info) for number in (value if isinstance(value, tuple) else (value,)))


def _in_bounds(number: float, info: Setting) -> bool:
    """Return whether a number is finite and within the bounds; NaN never is."""
    return (
        (-float("inf") if info.minimum is None else info.minimum)
        <= number
        <= (float("inf") if info.maximum is None else info.maximum)
        and (info.above is None or number > info.above)
        and (info.below is None or number < info.below)
        and abs(number) < float("inf")
    )


def _rule(value: Any, info: Setting) -> str:
    if info.choices:
        return ", ".join(info.choices)
    if info.rule:
        return tr(info.rule)
    bounds: dict[str, Any] = {"minimum": _plain(info.minimum), "maximum": _plain(info.maximum)}
    if isinstance(value, tuple):
        return tr("sides of {minimum} to {maximum} pixels", **bounds)
    if info.above is not None:
        return tr("a number greater than {above}", above=_plain(info.above))
    if info.below is not None:
        return tr("at least {minimum}, below {below}", minimum=_plain(info.minimum), below=_plain(info.below))
    if info.maximum is not None:
        return tr("a number from {minimum} to {maximum}", **bounds)
    return tr("at least {minimum}", minimum=_plain(info.minimum))


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


def parse_minimums(key: str, text: str | None) -> tuple[float | None, dict[str, float]]:
    """Parse "0.2", "road=0.5 car=0.3" or both into the minimum for all names and those for single ones.

    Raises UsageError for anything else.
    """
    everywhere: float | None = None
    single: dict[str, float] = {}
    for part in (text or "").replace(",", " ").split():
        name, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1 or bool(name) != bool(equals):
            raise InvalidSetting(key, part, tr("a number from 0 to 1, or CLASS=NUMBER"))
        if name:
            single[name] = value
        else:
            everywhere = value
    return everywhere, single


def require_expression(key: str, text: str | None) -> None:
    """Raise UsageError unless it is a regular expression with at least one group."""
    if text is None:
        return
    try:
        groups = re.compile(text).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidSetting(key, text, tr("a regular expression ({error})", error=error)) from None
    if not groups:
        raise InvalidSetting(key, text, tr("a regular expression with a group in parentheses"))


def require_keys(settings: Any, endpoint: str, *keys: str) -> None:
    """Raise UsageError for an endpoint without its keys: it is a mistake, not a reason to fall back."""
    url = getattr(settings, endpoint)
    if url is None:
        return
    name = endpoint.upper()
    if "@" in url:  # not shown: it may contain a password
        keys_text = tr(" and ").join(key.upper() for key in keys)
        raise UsageError(
            tr("{endpoint}: no user and password in the URL: put them into {keys}", endpoint=name, keys=keys_text)
        )
    if not is_http_url(url):
        raise InvalidSetting(name, url, "http(s)://HOST[:PORT]")
    missing = ", ".join(key.upper() for key in keys if not getattr(settings, key))
    if missing:
        raise UsageError(
            tr(
                "{endpoint}={url} is set but {missing} is not: put it into the environment or .env",
                endpoint=name,
                url=url,
                missing=missing,
            )
        )


def require_servers(settings: Any) -> None:
    """Raise UsageError for a server without its keys, or a URL that cannot work, with what was probably meant."""
    require_keys(settings, "lakefs_endpoint", "lakefs_access_key_id", "lakefs_secret_access_key")
    require_keys(settings, "minio_endpoint", "minio_access_key", "minio_secret_key")
    lakefs_endpoint, tracking_uri = settings.lakefs_endpoint, settings.mlflow_tracking_uri
    root, found, rest = (lakefs_endpoint or "").partition("/api/v1")
    if found and not rest.strip("/"):  # as the files of lakectl have it
        raise UsageError(
            tr("LAKEFS_ENDPOINT={url}: leave out /api/v1: LAKEFS_ENDPOINT={root}", url=lakefs_endpoint, root=root)
        )
    meant = _meant_uri(tracking_uri or "databricks")
    if meant:
        shown = str(tracking_uri).rpartition("@")[2]  # without user and password
        raise UsageError(
            tr(
                "MLFLOW_TRACKING_URI={uri} is not a URL: did you mean MLFLOW_TRACKING_URI={meant}?",
                uri=shown,
                meant=meant,
            )
        )


def _meant_uri(uri: str) -> str | None:
    """Return what was probably meant by a tracking URI without scheme or host; None if it has them."""
    scheme, colons, _ = uri.partition("://")
    if colons and (scheme.lower() not in ("http", "https") or is_http_url(uri)):
        return None  # other schemes: a database, or the store of a plugin
    if uri.partition(":")[0].lower() in ("databricks", "databricks-uc", "uc", "file"):
        return None
    host = re.sub(r"(?i)^https?[:/]+", "", uri).rpartition("@")[2]
    if not colons and re.match(r"[/.~\\]|[A-Za-z]:[/\\]|.*\.(db|sqlite3?)$", uri):
        return f"sqlite:///{uri}"
    return f"http://{host}" if re.match(r"[\w\[]", host) and not host.isdigit() else "http(s)://HOST[:PORT]"


def is_http_url(url: str) -> bool:
    """Return whether it is http(s)://HOST with a valid port, if any."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
