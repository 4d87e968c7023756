"""The fields of JSON request bodies: which ones a request may have, of which type, and with which defaults."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from .store import Json, LakeFSError

MAX_NUMBER = 2**63 - 1  # as in lakeFS, and what SQLite can store


class Field(NamedTuple):
    """A field without default: `kind` is its type, and `required` tells whether None stands for a missing one."""

    kind: type
    required: bool = True


class Fields(dict[str, object]):
    """The fields of an object inside the body."""


TEXT, NUMBER = Field(str), Field(int)  # required
OPTIONAL_NUMBER, OPTIONAL_METADATA = Field(int, required=False), Field(dict, required=False)


def read_fields(data: bytes, wanted: Mapping[str, object]) -> Json:
    """Return the fields of a JSON body; no bytes at all are an empty object. Raise LakeFSError (400).

    `wanted` has a Field, Fields, or the default of each field, which gives its type. Objects (metadata) and lists
    contain nothing but text. Other fields of the body are ignored, as in lakeFS.
    """
    try:
        body = json.loads(data) if data else {}
    except RecursionError:
        raise LakeFSError(400, "the request body is nested too deeply") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise LakeFSError(400, f"the request body is not JSON: {error}") from None
    return _check_fields(body, wanted, "request body")


def _check_fields(body: object, wanted: Mapping[str, object], place: str) -> Json:
    if not isinstance(body, dict):
        raise LakeFSError(400, f"{place}: expected a JSON object, found {type(body).__name__}")
    return {name: _check_field(body.get(name), source, f"{place}: {name}") for name, source in wanted.items()}


def _check_field(value: object, source: object, place: str) -> object:
    """Return a valid value or its default."""
    if isinstance(source, Fields):
        return _check_fields({} if value is None else value, source, place)
    field = source if isinstance(source, Field) else Field(type(source))
    if value is None and not isinstance(source, Field):
        return source
    if value is None and not field.required:
        return None
    if type(value) is not field.kind or not _is_storable(value):
        raise LakeFSError(400, f"{place} is missing or is not a valid {field.kind.__name__}")
    return value


def _is_storable(value: object) -> bool:
    """Return whether a value is a number of 64 bits, Unicode text, or a list or object of nothing but text."""
    if isinstance(value, dict):
        return all(_is_unicode(key) and _is_unicode(text) for key, text in value.items())
    if isinstance(value, list):
        return all(map(_is_unicode, value))
    return abs(value) <= MAX_NUMBER if isinstance(value, int) else _is_unicode(value)


def _is_unicode(value: object) -> bool:
    """Return whether a value is text that can be encoded; JSON can express halves of surrogate pairs."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False
