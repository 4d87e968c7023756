"""Read `.env` files: encodings, lines that are not KEY=value, variables inside of values, and misspelled keys."""

from __future__ import annotations

import codecs
import difflib
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr

_BYTE_ORDER_MARKS = (  # that of UTF-32 begins with that of UTF-16
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
# What the libraries below this project read from the environment, and users put into .env: certificates, proxies, MLflow's.
_LIBRARY_VARIABLES = frozenset(
    {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
_LIBRARY_PREFIX = "MLFLOW_"
# Keys of other programs: docker-compose.yml reads the same file.
_STORE_KEYS = "ROOT_ IMAGE BROWSER SERVER_"
_SERVER_KEYS = "INSTALLATION_ DATABASE_ BLOCKSTORE_ AUTH_ LOGGING_ STATS_ LISTEN_ IMAGE"
_FOREIGN_PREFIXES = (*(f"LAKEFS_{k}" for k in _SERVER_KEYS.split()), *(f"MINIO_{k}" for k in _STORE_KEYS.split()))
_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_VARIABLE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")  # ${NAME} and ${NAME:-default}
_SECRET = re.compile(r"KEY|SECRET|PASSWORD|TOKEN|CREDENTIAL")


@dataclass(frozen=True)
class _Line:
    """One assignment; `literal`: its value is in single quotes, so that nothing in it is a variable."""

    key: str
    value: str
    number: int
    literal: bool


def load_dotenv(path: Path, settings: Collection[str], own: tuple[str, ...]) -> dict[str, str]:
    """Return the keys and values of a `.env` file; set the variables of libraries that it has, unless they are set already.

    `settings` are names in lower case; `own` are prefixes, see `_check_known_keys`. Proxy variables count
    as set in lower case, too. Raises UsageError as `read_dotenv`, and for a misspelled key.
    """
    values = read_dotenv(path, settings)
    _check_known_keys(path, values, settings, own)
    for key, value in values.items():
        if key.lower() not in settings and _is_of_library(key) and key.lower() not in os.environ:
            os.environ.setdefault(key, value)
    return values


def peek_dotenv(path: Path, key: str) -> str | None:
    """Return the value of a key of a `.env` file; None also if the file is invalid, which `load_dotenv` reports."""
    try:
        return read_dotenv(path).get(key)
    except UsageError:
        return None


def line_of(path: Path, key: str) -> int | None:
    """Return the number of the line that sets a key, the last one if there are several; None if there is none."""
    return max((line.number for line in _parse(path, _read_text(path)) if line.key == key), default=None)


def read_dotenv(path: Path, settings: Collection[str] = ()) -> dict[str, str]:
    """Return the keys and values of a `.env` file; none if there is no such file.

    ${NAME} in the values of settings (names in lower case) and of variables of libraries is replaced, as by a shell, but
    not within single quotes. Raises UsageError, in
    one line with the file and the line number, for an encoding that cannot be read, a line that is not KEY=value, an
    unknown variable, and a variable in a secret, which is more likely a part of the secret.
    """
    values: dict[str, str] = {}
    for line in _parse(path, _read_text(path)):
        is_used = line.key.lower() in settings or _is_of_library(line.key)
        values[line.key] = _expand(path, line, values) if is_used and not line.literal else line.value
    return values


def _is_of_library(key: str) -> bool:
    return key.upper() in _LIBRARY_VARIABLES or key.startswith(_LIBRARY_PREFIX)


def _read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or of one with a byte order mark, as Windows tools write it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(tr("{path}: cannot be read ({reason})", path=path, reason=error.strerror)) from None
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _encoding_error(path, number) from None
    if "\0" in text:  # UTF-16 without a mark
        raise _encoding_error(path, text.count("\n", 0, text.index("\0")) + 1)
    return text


def _encoding_error(path: Path, number: int) -> UsageError:
    return UsageError(
        tr(
            "{path}, line {number}: expected UTF-8, found another encoding, such as CP949: save the file as UTF-8 in your "
            "editor",
            path=path,
            number=number,
        )
    )


def _parse(path: Path, text: str) -> Iterator[_Line]:
    """Yield the assignments of a text. Raises UsageError for a line that is none."""
    if not text.strip():
        return  # --help works without any package
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        source = binding.original.string.lstrip()
        number = binding.original.line + binding.original.string[: -len(source) or None].count("\n")
        if binding.key is None and not binding.error:
            continue  # a comment, or blank lines at the end
        if binding.error or binding.value is None or not _KEY.fullmatch(binding.key or ""):
            # The line itself may be a secret: it is not shown.
            raise UsageError(
                tr(
                    "{path}, line {number}: expected KEY=value: correct the line, or begin it with # if it is a comment",
                    path=path,
                    number=number,
                )
            )
        yield _Line(str(binding.key), binding.value, number, bool(re.match(r"[^=]*=\s*'", source)))


def _expand(path: Path, line: _Line, known: Mapping[str, str]) -> str:
    """Return the value with its variables replaced by those of the file or of the environment."""

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if _SECRET.search(line.key):
            raise UsageError(
                tr(
                    "{path}, line {number}: {key} contains ${{{name}}}: put the value into single quotes if that is a part "
                    "of it, or set {key} in the environment",
                    path=path,
                    number=line.number,
                    key=line.key,
                    name=name,
                )
            )
        value = known.get(name, os.environ.get(name, default))
        if value is None:
            raise UsageError(
                tr(
                    "{path}, line {number}: {key} contains ${{{name}}}, which is not set: set it, or put the value into "
                    "single quotes if that is a part of it",
                    path=path,
                    number=line.number,
                    key=line.key,
                    name=name,
                )
            )
        return value

    return _VARIABLE.sub(replace, line.value)


def _check_known_keys(path: Path, keys: Iterable[str], settings: Iterable[str], own: tuple[str, ...]) -> None:
    """Raise UsageError for an unknown key that looks like one of `settings`: it is probably misspelled.

    Keys of other programs are accepted; those that start with a prefix in `own` are always checked.
    """
    known = [name.upper() for name in settings]
    for key in keys:
        if key in known or key.startswith(_FOREIGN_PREFIXES):
            continue
        near = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.85)
        # MLflow has many variables of its own: only a nearly equal name counts as misspelled.
        ratio = difflib.SequenceMatcher(None, key, near[0]).ratio() if near else 0.0
        if key.startswith(own) or (near and (not key.startswith("MLFLOW_") or ratio > 0.9)):
            near = near or difflib.get_close_matches(key.upper(), known, n=1, cutoff=0)
            raise UsageError(
                tr("{path}: unknown key '{key}': did you mean '{near}'?", path=path, key=key, near=near[0])
            )
