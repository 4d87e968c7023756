"""ensemble.json: written in one form only, and read as what a stranger may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import AppError
from tests.safety.test_arbitrary_json import VALUES, accepts, as_bytes, changed, places
from utils.ensemble_file import ENSEMBLE_FILE, Ensemble, Member, is_ensemble, parse_ensemble, read_ensemble
from utils.identifiers import InvalidValue

A, B, C = "a" * 64, "b" * 64, "c" * 64
ENSEMBLE = Ensemble((Member("fold-1.pth", A, (C, B)), Member("fold-2.pth", B)))
VALID = json.loads(ENSEMBLE.to_json())


def test_the_written_form_is_canonical_and_read_back() -> None:
    same = Ensemble((Member("fold-1.pth", A, (B, C, C)), Member("fold-2.pth", B)))
    assert ENSEMBLE.to_json() == same.to_json()
    assert VALID == {
        "format": 1,
        "members": [
            {"file": "fold-1.pth", "held_out": [B, C], "sha256": A},
            {"file": "fold-2.pth", "held_out": [], "sha256": B},
        ],
    }
    read = parse_ensemble(ENSEMBLE.to_json(), ENSEMBLE_FILE)
    assert read.members[0] == Member("fold-1.pth", A, (B, C)) and read.to_json() == ENSEMBLE.to_json()


def member(**changes: Any) -> dict[str, Any]:
    return {"file": "fold-1.pth", "sha256": A, "held_out": [], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2, "members": [member()]}, "x/ensemble.json: format: expected 1, found 2"),
        ({"format": True, "members": [member()]}, "x/ensemble.json: format: expected 1, found True"),
        ({"members": [member()]}, "x/ensemble.json: format: expected 1, found nothing"),
        ({"format": 1}, "number of members: expected 1 to 100 members, found 0"),
        ({"format": 1, "members": [member()] * 101}, "number of members: expected 1 to 100 members, found 101"),
        ({"format": 1, "members": [3] * 100_000}, "number of members: expected 1 to 100 members, found 100000"),
        ({"format": 1, "members": [member()] * 2}, "file of a member: expected each member once, found 'fold-1.pth'"),
        ({"format": 1, "members": [member(), member(file="FOLD-1.pth")]}, "expected each member once"),
        (
            {"format": 1, "members": [member(), member(file="../x.pth")]},
            "members 2: file of a member: expected letters",
        ),
        ({"format": 1, "members": [member(sha256="x")]}, "members 1: SHA-256: expected 64 hex digits, found 'x'"),
        ({"format": 1, "members": [member(held_out=["x"])]}, "members 1: SHA-256: expected 64 hex digits, found 'x'"),
        ({"format": 1, "members": [member(held_out=A)]}, "members 1: held_out: expected a list"),
        ({"format": 1, "members": [member(weight=2)]}, "members 1: weight: expected only file, held_out, sha256"),
        ({"format": 1, "members": ["fold-1.pth"]}, "members 1: expected a JSON object, found 'fold-1.pth'"),
    ],
)
def test_a_hostile_ensemble_is_refused_in_one_line(content: Any, message: str) -> None:
    with pytest.raises(AppError) as caught:
        parse_ensemble(json.dumps(content).encode(), "x/ensemble.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".pth", "../fold-1.pth", "a/b.pth", "/a.pth", "a\\b.pth", "C:a.pth", "a\0.pth", "a.pth\n", "model.onnx",
     "ensemble.json", "-a.pth", "a..pth", "é.pth", "a" * 61 + ".pth", "a b.pth"],
)  # fmt: skip
def test_a_member_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(InvalidValue, match="file of a member: expected letters"):
        Member(name, A)


def test_a_file_that_cannot_be_read_or_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="No such file"):
        read_ensemble(tmp_path / ENSEMBLE_FILE)
    with pytest.raises(AppError, match="larger than 67,108,864 bytes"):
        parse_ensemble(b" " * ((64 << 20) + 1), ENSEMBLE_FILE)


def test_the_name_of_a_path_says_whether_it_is_an_ensemble() -> None:
    assert is_ensemble("models/ensemble.json") and is_ensemble(Path("x") / "ensemble.json")
    assert not is_ensemble("models/model.pth") and not is_ensemble("ensemble.json/model.pth")


def test_each_field_may_be_missing_and_any_bytes_may_be_there() -> None:
    def read(content: bytes) -> bool:
        return accepts(parse_ensemble, content, ENSEMBLE_FILE)

    assert read(ENSEMBLE.to_json())
    for place in places(VALID):
        read(json.dumps(changed(VALID, place)).encode())
    for damaged in (b"", b"{", b"null", b"[" * 100_000, b"\xff\xfe", b"\0", as_bytes('{"\ud800": 1, "format": 1}')):
        assert not read(damaged)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_json_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from([(), *places(VALID)]))
    accepts(parse_ensemble, json.dumps(changed(VALID, place, data.draw(VALUES))).encode(), ENSEMBLE_FILE)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    accepts(parse_ensemble, content, ENSEMBLE_FILE)
