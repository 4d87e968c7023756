"""A few seconds of the fuzzer of benchmarks/fuzz_lakefs.py."""

from pathlib import Path

import pytest

from benchmarks import fuzz_lakefs


def test_seconds_of_fuzzing_find_no_fault(tmp_path: Path) -> None:
    report = fuzz_lakefs.fuzz(tmp_path, seconds=5, seed=20261130)
    assert report.faults == []
    assert report.cases > 20 and {200, 201, 204, 400, 401, 404} <= report.statuses.keys()


@pytest.mark.parametrize(
    ("received", "allowed", "kind"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", True, "5xx"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, "success without keys"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, "success without keys"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", True, "leak"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: a\rb\r\nContent-Length: 0\r\n\r\n", True, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx", True, "not HTTP"),
        (b"Traceback", True, "not HTTP"),
    ],
)
def test_fuzzer_recognizes_faults(received: bytes, allowed: bool, kind: str) -> None:
    report = fuzz_lakefs.Report()
    fuzz_lakefs.judge(report, "case", b"GET / HTTP/1.1\r\n\r\n", allowed, received, [b"secret"])
    assert list(report.kinds) == [kind]


def test_same_seed_gives_same_requests(tmp_path: Path) -> None:
    from utils import local_lakefs

    with local_lakefs.start(tmp_path) as server:
        first, second = (fuzz_lakefs.Fuzzer(server, 7) for _ in range(2))
        assert [first.make(number) for number in range(50)] == [second.make(number) for number in range(50)]
