"""JSON objects that others may have written or changed, read field by field with the type that each must have."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any, Self

from core.errors import AppError, one_line
from core.i18n import tr
from core.safety.checksummed_json import parse_json
from core.safety.terminal import escape_line

MAX_TEXT = 100_000  # characters of one value
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60


class JsonObject:
    """A JSON object whose values are checked when they are read.

    Any other content raises `error`, in one line: `where` it was read, the field, what was expected and found, and the
    `fix`, which completes the sentence. A field that is null counts as absent.
    """

    def __init__(self, content: object, where: object, fix: str, error: type[AppError] = AppError) -> None:
        self.where, self.fix, self.error = str(where), fix, error
        if not isinstance(content, dict):
            raise self._invalid(None, tr("a JSON object"), content)
        self.content: dict[str, Any] = content

    @classmethod
    def parse(cls, text: str | bytes, where: object, fix: str, error: type[AppError] = AppError) -> Self:
        """Parse the text of a file or tag. Raises `error` for text that is not a JSON object."""
        try:
            content = parse_json(text)
        except ValueError as reason:
            raise error(
                escape_line(
                    tr("{where}: not JSON ({reason}): {fix}", where=where, reason=one_line(reason, 200), fix=fix)
                )
            ) from None
        return cls(content, where, fix, error)

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def text(self, name: str) -> str:
        """Return a text without lone surrogates, which neither a terminal nor a server can take."""
        found = self.content.get(name)
        if not _is_text(found):
            raise self._invalid(name, tr("a text"), found)
        return str(found)

    def number(self, name: str) -> float:
        """Return a number, which may be NaN."""
        found = self.content.get(name)
        if not _is_number(found):
            raise self._invalid(name, tr("a number"), found)
        return float(self.content[name])

    def count(self, name: str) -> int:
        """Return an integer from 0 to 2**53."""
        found = self.content.get(name)
        if type(found) is not int or not 0 <= found <= 1 << 53:
            raise self._invalid(name, tr("a number of things"), found)
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty if it is absent."""
        found = self.items(name)
        if not all(map(_is_text, found)):
            raise self._invalid(name, tr("a list of texts"), found)
        return tuple(map(str, found))

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers, empty if it is absent."""
        found = self.items(name)
        if not all(map(_is_number, found)):
            raise self._invalid(name, tr("a list of numbers"), found)
        return tuple(map(float, found))

    def named_numbers(self, name: str) -> dict[str, float | None]:
        """Return an object of numbers or nulls."""
        found = self.child(name).content
        if not all(_is_text(key) and (value is None or _is_number(value)) for key, value in found.items()):
            raise self._invalid(name, tr("numbers by name"), found)
        return {key: None if value is None else float(value) for key, value in found.items()}

    def child(self, name: str) -> JsonObject:
        """Return an object inside of this one, empty if it is absent."""
        found = self.content.get(name)
        return JsonObject({} if found is None else found, f"{self.where}: {name}", self.fix, self.error)

    def objects(self, name: str) -> Iterator[JsonObject]:
        """Yield the objects of a list, which is empty if it is absent."""
        for number, found in enumerate(self.items(name), 1):
            yield JsonObject(found, f"{self.where}: {name} {number}", self.fix, self.error)

    def items(self, name: str) -> list[Any]:
        """Return a list, empty if it is absent."""
        found = self.content.get(name)
        if found is not None and not isinstance(found, list):
            raise self._invalid(name, tr("a list"), found)
        return found or []

    def invalid(self, name: str, expected: str) -> AppError:
        """Return the error for a field whose value has the right type but is not one of those expected."""
        return self._invalid(name, expected, self.content.get(name))

    def _invalid(self, name: str | None, expected: str, found: object) -> AppError:
        place = self.where if name is None else f"{self.where}: {name}"
        shown = tr("nothing") if found is None and name is not None else _SHOWN.repr(found)
        text = tr(
            "{place}: expected {expected}, found {found}: {fix}",
            place=place,
            expected=expected,
            found=shown,
            fix=self.fix,
        )
        return self.error(escape_line(text))


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: object) -> bool:
    if type(value) is float:
        return True
    return type(value) is int and abs(value) < 1 << 64
