"""Which texts hold a secret, and which only mention one."""

from __future__ import annotations

import base64
from urllib.parse import quote, quote_plus

import pytest

from core.safety.secret_scan import contains_secret, secret_lines
from tests.safety.planted import HARMLESS, PLANTED
from tests.support.project import SOURCE


@pytest.mark.parametrize("name", PLANTED)
def test_every_line_of_a_secret_is_found(name: str) -> None:
    text, secret = PLANTED[name]
    text = f"# before\n\n{text}\n\nx = 1\n"
    found, lines = secret_lines(text), text.split("\n")
    assert found and 1 not in found and len(lines) - 1 not in found
    assert secret not in "\n".join(line for number, line in enumerate(lines, 1) if number not in found)


@pytest.mark.parametrize("text", HARMLESS)
def test_code_that_mentions_secrets_is_no_secret(text: str) -> None:
    assert not contains_secret(text)


def test_the_code_of_this_project_has_no_secret() -> None:
    files = [path for package in ("core", "train") for path in (SOURCE / package).rglob("*.py")]
    assert [path for path in files if secret_lines(path.read_text(encoding="utf-8"))] == []


def test_known_value_is_found_in_any_encoding() -> None:
    value = "plain words/한 글+x"  # nothing by which it could be recognized
    raw = value.encode()
    forms = [value, quote(value), quote(value, safe=""), quote_plus(value), raw.hex(), raw.hex().upper()]
    for before in ("", "a", "ab", "abc"):
        for after in ("", "z", "zy"):
            text = before.encode() + raw + after.encode()
            forms += [base64.b64encode(text).decode(), base64.urlsafe_b64encode(text).decode()]
    forms += [base64.b64encode(value.encode("utf-16-le")).decode()]
    forms += ['"plain wo" \\\n    "rds/한 글" + "+x"', "plain words\n/한 글+x", base64.encodebytes(raw * 9).decode()]
    for form in forms:
        assert contains_secret(f"x\n{form}\n", [value]), form
    for form in (value, quote(value), raw.hex()):
        assert not contains_secret(f"x\n{form}\n", ["another one/9"]), form
