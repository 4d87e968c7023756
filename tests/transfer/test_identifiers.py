"""The types of what servers, files and users name: what they accept, and that a joined path stays inside."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import AppError, UsageError
from core.files import safe_join
from utils.identifiers import (
    Branch,
    Checksum,
    CommitId,
    GitCommit,
    Identifier,
    InvalidValue,
    ObjectPath,
    PathPrefix,
    Ref,
    Repository,
    RunId,
    Sha256,
    Tag,
    parse_size,
    parse_time,
)
from utils.lakefs_utils import LakePath

NAMES: list[type[Identifier]] = [Repository, Ref, CommitId, Branch, Tag, Sha256, RunId, GitCommit]
HOSTILE = [
    *(
        "",
        ".",
        "..",
        "../x",
        "../../x",
        "/abs",
        "/abs/dir",
        "a/../b",
        "a/..",
        "a\0b",
        "a\\b",
        "C:/x",
        "C:x",
        "a b",
        "a\nb",
    ),
    *("a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", " " + "a" * 64, "a" * 64 + "/..", "\ud800" * 64),
    *("٣" * 64, "a" * 63 + "٣", "x" * 2000),
    *(None, 64, ["a" * 64], {"id": "a" * 64}, True, b"a" * 64),
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_value_is_no_commit_hash_or_run(value: object) -> None:
    for kind in (CommitId, Sha256, RunId, GitCommit):
        with pytest.raises(InvalidValue) as caught:
            kind(value)
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value) and len(str(caught.value)) < 400


def test_names_that_lakefs_permits_are_accepted() -> None:
    """Those of pkg/graveler/validate_test.go of lakeFS, and its other way round."""
    for name in ("valid-branch", "valid_branch", "valid123", "Valid123", "123valid", "_x", "a"):
        assert Branch(name) == name and Ref(name) == name and Tag(name) == name
    for name in (
        "invalid~char",
        "invalid1.0",
        "a..b",
        "a.",
        "a/b",
        "a//b",
        "a?b",
        "a@b",
        "a:b",
        "a\\b",
        "a[b]",
        "a{b}",
        "-a",
    ):
        with pytest.raises(InvalidValue):
            Branch(name)
    for name in ("~tag", "tag", "v1.0", "v1.0-acc85", "a@b", "모델-1", "a#b", "a%2e", "$", "a{b}"):
        assert Tag(name) == name and Ref(name) == name
    for name in (
        "",
        "tag.",
        "tag.lock",
        "a tag",
        "a\x01tag",
        "more/tags",
        "a..b",
        "more@{tags}",
        "@",
        "tag?",
        "t:t",
        "t\\t",
        "t[g]",
    ):
        with pytest.raises(InvalidValue):
            Tag(name)
    for name in ("abc", "0-repo", "r" * 63, "a--"):
        assert Repository(name) == name
    for name in ("ab", "r" * 64, "-abc", "Abc", "a_b", "a.b", "a/b", "..."):
        with pytest.raises(InvalidValue):
            Repository(name)
    for name in ("main~1", "main^2", "main@", "main$", "a" * 12, "a" * 64):
        assert Ref(name) == name


def test_paths_that_lakefs_permits_are_accepted() -> None:
    for path in (
        "a",
        "data/한글 파일 #1?.png",
        "..a/b..",
        "a/...",
        "10:00:00.png",
        "data/12:00.png",
        "-",
        "~",
        "x" * 1024,
    ):
        assert (
            ObjectPath(path) == path and PathPrefix(path) == path and PathPrefix(path[:1000] + "/") == path[:1000] + "/"
        )
    for path in (
        "/a",
        "a//b",
        "a/./b",
        "a/..",
        "../a",
        "a/../b",
        ".",
        "..",
        "a\\b",
        "C:/x",
        "C:x",
        "data/c:x",
        "a\0",
        "x" * 1025,
    ):
        for kind in (ObjectPath, PathPrefix):
            with pytest.raises(InvalidValue):
                kind(path)
    assert PathPrefix("") == ""
    for path in ("", "a/"):
        with pytest.raises(InvalidValue):
            ObjectPath(path)
    with pytest.raises(InvalidValue):
        ObjectPath("가" * 342)  # 1,026 bytes


@given(st.one_of(st.text(max_size=40), st.text("./\\:aC\0 ", max_size=12)))
def test_accepted_path_stays_in_the_directory_that_it_is_joined_to(path: str) -> None:
    root = Path("/root-of-test")
    try:
        joined = safe_join(root, ObjectPath(path))
    except InvalidValue:
        return
    assert joined != root and joined.is_relative_to(root) and ".." not in joined.parts
    assert joined.relative_to(root).as_posix() == path, "two accepted paths are never the same file"


@given(st.text(max_size=40), st.sampled_from(NAMES))
def test_accepted_name_is_one_part_of_a_path(name: str, kind: type[Identifier]) -> None:
    try:
        value = kind(name)
    except InvalidValue:
        return
    joined = Path("/root-of-test") / value
    assert joined.parent == Path("/root-of-test") and joined.name == value == name


@given(st.from_regex(Tag.pattern, fullmatch=True))
def test_every_tag_is_a_reference(name: str) -> None:
    if Tag.accepts(name):
        assert Ref.accepts(name)


@pytest.mark.parametrize(
    "uri",
    [
        "lakefs://../main/x",
        "lakefs://repo/../x",
        "lakefs://repo/./x",
        "lakefs://repo/main/../x",
        "lakefs://repo/main//x",
        "lakefs://repo/main/a\\b",
        "lakefs://Repo/main/x",
        "lakefs://repo/a b/x",
        "lakefs://repo/main/a/../../../../x",
        "lakefs://repo/main/x\0",
        "lakefs:///main/x",
        "lakefs://repo//x",
        "file:///etc/passwd",
        "lakefs://repo/main",
    ],
)
def test_path_of_lakefs_that_could_leave_its_place_is_wrong_use(uri: str) -> None:
    with pytest.raises(UsageError, match="not a lakeFS path") as caught:
        LakePath.parse(uri)
    assert caught.value.exit_code == 2
    with pytest.raises(InvalidValue):
        LakePath.parse_recorded(uri)


def test_recorded_path_names_a_full_commit() -> None:
    uri = f"lakefs://repo/{'a' * 64}/models/model.pth"
    assert LakePath.parse_recorded(uri).commit == "a" * 64 and str(LakePath.parse_recorded(uri)) == uri
    for ref in ("main", "a" * 12, "A" * 64):
        with pytest.raises(InvalidValue, match="full commit ID"):
            LakePath.parse_recorded(f"lakefs://repo/{ref}/models/model.pth")
    for other in (None, 7, [uri]):
        with pytest.raises(InvalidValue):
            LakePath.parse_recorded(other)


@pytest.mark.parametrize("value", [-1, 1 << 63, 1.5, "5", True, [5]])
def test_size_and_time_are_whole_numbers_in_bounds(value: object) -> None:
    for parse in (parse_size, parse_time):
        with pytest.raises(InvalidValue):
            parse(value)
    assert parse_size(None) == 0 and parse_time(None) is None and parse_size(5) == parse_time(5) == 5


def test_checksum_is_short_printable_text() -> None:
    for text in ("", "d41d8cd98f00b204e9800998ecf8427e", "0x8DC", "d41d8cd98f00b204e9800998ecf8427e-12"):
        assert Checksum(text) == text
    for bad in ("\x1b[2J", "a\nb", "x" * 2000, None, "é"):
        with pytest.raises(InvalidValue):
            Checksum(bad)


def test_link_inside_a_directory_must_not_lead_out_of_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "root"), Path(folder, "outside")
        (root / "real").mkdir(parents=True)
        outside.mkdir()
        (root / "out").symlink_to(outside)
        (root / "in").symlink_to("real")
        (root / "file").symlink_to(outside / "x")
        (Path(folder) / "alias").symlink_to(root)
        assert safe_join(root, "in/x").resolve() == (root / "real/x").resolve()
        assert safe_join(Path(folder) / "alias", "real/x").name == "x"
        for path in ("out/x", "out", "file", "out/../root/real/x"):
            with pytest.raises(AppError, match=r"outside|leads out"):
                safe_join(root, path)
