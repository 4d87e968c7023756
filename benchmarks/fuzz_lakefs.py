"""Send seeded random requests to the embedded lakeFS server, valid and broken, with and without its keys.

    python benchmarks/fuzz_lakefs.py --seconds 300 --seed 1
    python benchmarks/fuzz_lakefs.py --seed 1 --case 4711     # send one case again and show what it answers

Each case is one connection. A fault is: a status 5xx except 501, an answer that is not valid HTTP, success without the
keys, a secret or a path of the server in an answer, a server that no longer answers, or a store that is damaged
afterwards. Exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import local_lakefs
from utils.local_lakefs.http_server.server import LocalServer
from utils.local_lakefs.maintenance import fsck
from utils.local_lakefs.store import Store

SHOWN_FAULTS = 20
REPO = "fuzzed"
TEXTS = [
    "", "a", "main", "dev", "v1", "HEAD", "main~1", "main^2", "main@", "main$", "~", "^", "@", "main~999999999", "..",
    "../../secret.txt", "/etc/passwd", "a/b", "a\0b", "\0", "%00", "%2e%2e%2f", "한글", "é", "\U0010ffff", "\ud7ff",
    "-1", "0", "1", "1000", "99999999999999999999", "true", "null", "x" * 300, "x" * 2000, "' OR 1=1 --", "a\r\nX: y",
    "local://x", "file:///etc/passwd", "object", "common_prefix", "reset", "two_dot", "source-wins", "%", "_", "*",
]  # fmt: skip
VALUES: list[object] = [
    *TEXTS, 0, 1, -1, 2**31, 2**63, 10**30, 1.5, float("inf"), True, False, None, [], {}, ["a"], [1], [["a"]], {"a": "b"},
    {"a": 1}, {"a": {"b": "c"}}, {"message": "m", "metadata": {"k": "v"}}, "\ud800", ["a"] * 1001,
]  # fmt: skip
FIELDS = [
    "name", "source", "storage_namespace", "storage_id", "default_branch", "read_only", "sample_data", "hidden", "force",
    "id", "ref", "message", "metadata", "date", "allow_empty", "strategy", "squash_merge", "parent_number", "keys",
    "commit_overrides", "type", "path", "paths", "src_path", "src_ref",
]  # fmt: skip
QUERIES = [
    "path", "prefix", "after", "amount", "delimiter", "force", "ref", "type", "show_hidden", "first_parent", "limit",
    "prefixes", "dest_path", "presign", "since", "stop_at", "objects", "bare", "source_metarange",
]  # fmt: skip
# Requests that can succeed: method, path ({} is the name of a branch, tag or commit), query, body
REQUESTS: list[tuple[str, str, str, object]] = [
    ("GET", "/healthcheck", "", None), ("GET", "/config", "", None), ("GET", "/repositories", "", None),
    ("POST", "/repositories", "", {"name": "other", "storage_namespace": "local://x"}), ("GET", "", "", None),
    ("GET", "/metadata", "", None), ("POST", "/metadata", "", {"metadata": {"a": "b"}}),
    ("DELETE", "/metadata", "", {"keys": ["a"]}), ("GET", "/branches", "", None), ("GET", "/branches/{}", "", None),
    ("POST", "/branches", "", {"name": "new", "source": "main"}), ("DELETE", "/branches/new", "", None),
    ("POST", "/tags", "", {"id": "t", "ref": "main"}), ("GET", "/tags/{}", "", None), ("DELETE", "/tags/t", "", None),
    ("POST", "/branches/{}/objects", "path=a", b"hello"), ("POST", "/branches/{}/objects", "path=b", b""),
    ("DELETE", "/branches/{}/objects", "path=a", None), ("POST", "/branches/{}/objects/delete", "", {"paths": ["a"]}),
    ("POST", "/branches/{}/objects/copy", "dest_path=c", {"src_path": "a", "src_ref": "v1"}),
    ("POST", "/branches/{}/commits", "", {"message": "m", "metadata": {"k": "v"}, "date": 0, "allow_empty": True}),
    ("POST", "/branches/{}/revert", "", {"ref": "main", "parent_number": 0}),
    ("POST", "/branches/{}/cherry-pick", "", {"ref": "dev", "commit_overrides": {"message": "m"}}),
    ("PUT", "/branches/{}", "", {"type": "reset", "path": "a"}), ("PUT", "/branches/{}/hard_reset", "ref=v1", None),
    ("GET", "/branches/{}/diff", "delimiter=/", None), ("GET", "/commits/{}", "", None),
    ("GET", "/refs/{}/commits", "amount=3", None), ("GET", "/refs/{}/merge/{}", "", None),
    ("POST", "/refs/{}/merge/{}", "", {"strategy": "source-wins", "allow_empty": True}),
    ("GET", "/refs/{}/diff/{}", "type=two_dot", None), ("GET", "/refs/{}/objects", "path=a", None),
    ("GET", "/refs/{}/objects/stat", "path=a", None), ("GET", "/refs/{}/objects/ls", "amount=2", None),
    ("GET", "/actions/runs", "", None), ("DELETE", "", "", None),
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE", "get", "G\0T"]
HEADERS = [
    "Content-Type: multipart/form-data; boundary=x", "Content-Type: multipart/form-data; boundary=é",
    "Content-Type: multipart/form-data", "Content-Type: application/json", "Content-Type: text/plain\rX: y",
    "Content-Type: é", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Length: 5", "Content-Length: -1",
    "Content-Length : 5", "Content-Length: 5, 5", "Range: bytes=0-1", "Range: bytes=-0", "Range: bytes=5-1",
    "Range: bytes=99999999999999999999-", "If-None-Match: *", "Expect: 100-continue", "Connection: close",
    "Connection: Upgrade", "Upgrade: h2c", "Host: evil.example", "Host:", "x-lakefs-meta-a: é", "x-lakefs-meta-: b",
    "X-Note: a\0b", " folded: x", "no colon", ": empty", "X: " + "y" * 70_000,
]  # fmt: skip
HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e]*")


@dataclass
class Report:
    """What was sent and answered; `faults` are the first faults, as text."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # of faults
    faults: list[str] = field(default_factory=list)

    def add_fault(self, kind: str, case: str, detail: object) -> None:
        self.kinds[kind] += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(f"{kind}: {case}: {str(detail)[:300]}")


class Fuzzer:
    """Cases by their number: the same seed and number give the same bytes for the same keys."""

    def __init__(self, server: LocalServer, seed: int) -> None:
        self.server, self.seed = server, seed
        self.keys = base64.b64encode(f"{server.access_key_id}:{server.secret_access_key}".encode()).decode()

    def make(self, number: int) -> tuple[bytes, bool]:
        """Return the bytes of a case, and whether any of its requests has the keys."""
        rng = random.Random(f"{self.seed}/{number}")
        allowed = rng.random() < 0.75
        sent = b"".join(self._request(rng, allowed) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        if rng.random() < 0.3:
            sent = self._mutate(rng, sent)
        return sent, allowed

    def _request(self, rng: random.Random, allowed: bool) -> bytes:
        method, path, query, valid = rng.choice(REQUESTS)
        odd = rng.random() < 0.5  # otherwise this request is valid
        repo = rng.choice((REPO, REPO, REPO, self._name(rng, odd))) if odd else REPO
        path = re.sub(r"\{\}", lambda _: self._name(rng, odd), path)
        outside = path in ("/healthcheck", "/config", "/repositories")
        if odd and rng.random() < 0.5:
            method = rng.choice(METHODS)
        if odd and rng.random() < 0.5:
            pairs = [(name, rng.choice(TEXTS).encode()) for name in rng.sample(QUERIES, rng.randrange(3))]
            query = urllib.parse.urlencode([*urllib.parse.parse_qsl(query), *pairs][:: rng.choice((1, -1))])
        body = self._body(rng, valid, odd)
        keys = {True: self.keys, False: rng.choice(("", "eDp5", self.keys[:-4], self.keys.lower()))}[allowed]
        headers = ["Host: 127.0.0.1", f"Authorization: {rng.choice(('Basic', 'basic'))} {keys}"]
        headers += [f"Content-Length: {len(body)}"] * (not odd or rng.random() < 0.9)
        headers += rng.sample(HEADERS, rng.choice((0, 0, 1, 1, 2)) if odd else 0)
        rng.shuffle(headers)
        target = f"/api/v1{path}" if outside else f"/api/v1/repositories/{repo}{path}"
        line = f"{method} {target}{'?' * bool(query)}{query} HTTP/1.1"
        return "\r\n".join([line, *headers, "", ""]).encode() + body

    def _name(self, rng: random.Random, odd: bool) -> str:
        names = TEXTS[:40] if odd else ["main", "dev", "v1", "main~1"]
        return urllib.parse.quote(rng.choice(names).encode(), safe="")

    def _body(self, rng: random.Random, valid: object, odd: bool) -> bytes:
        """Return a valid body, or one with some other fields, a form, chunks, or anything."""
        kind = rng.randrange(12) if odd else 0
        if isinstance(valid, dict) and kind < 7:
            fields = dict(valid)
            for name in rng.sample(FIELDS, rng.randrange(4)) + rng.sample(sorted(fields), 1) if odd else ():
                fields[name] = rng.choice(VALUES)
            return json.dumps(fields).encode()
        if kind < 5:
            return valid if isinstance(valid, bytes) else b""
        if kind < 8:
            name = rng.choice(('name="content"', 'name="content"; filename="é"', "name*=utf-8''content", 'name="x"'))
            lines = [f"--{rng.choice('xxxy')}", f"Content-Disposition: form-data; {name}"]
            lines += rng.sample(
                ["Content-Type: a\rb", "Content-Type: é", "Content-Type: a/b", " folded"], rng.randrange(2)
            )
            return "\r\n".join([*lines, "", "hello", "--x--", ""]).encode()
        if kind == 8:
            return b"".join(b"%x\r\n%s\r\n" % (n, b"x" * n) for n in rng.sample(range(9), 3)) + b"0\r\n\r\n"
        return rng.choice(
            [b"", b"hello", b"[" * rng.choice((5, 5000, 50_000)), b'{"a":' * 3000, b"\xff\xfe", b"x" * 70_000]
        )

    def _mutate(self, rng: random.Random, sent: bytes) -> bytes:
        data = bytearray(sent)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data) + 1)
            step = rng.randrange(5)
            if step == 0:
                data[at : at + rng.randrange(1, 9)] = b""
            elif step == 1:
                data[at:at] = rng.choice(
                    (b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\xff", b":", b"/../", b"\r\n\r\n")
                )
            elif step == 2 and at < len(data):
                data[at] = rng.randrange(256)
            elif step == 3:
                data[at:at] = data[at : at + rng.randrange(60)]
            else:
                del data[at:]
        return bytes(data)

    def send(self, sent: bytes) -> bytes:
        """Send the bytes on a new connection, end it, and return everything that comes back."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.server.server_address[1]), timeout=60) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(1 << 16):
                    received += data
            except TimeoutError:
                raise
            except OSError:
                pass  # the server has refused the rest
        return received


def split_responses(received: bytes, sent: bytes) -> list[tuple[int, bytes]]:
    """Return status and complete bytes of each response. Raise ValueError for an answer that is not valid HTTP."""
    found = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+", line)
        if not match or not separator or not all(map(HEADER_LINE.fullmatch, headers)):
            raise ValueError(f"invalid head: {head[:300]!r}")
        sizes = [int(header[16:]) for header in headers if header.startswith(b"Content-Length: ")]
        size = sizes[0] if sizes else 0
        if b"HEAD " in sent and (not rest or rest.startswith(b"HTTP/1.1 ")):
            size = 0
        if len(rest) < size:
            raise ValueError(f"{len(rest)} of {size} bytes of the body")
        found.append((int(match[1]), head + rest[:size]))
        received = rest[size:]
    return found


def prepare(fuzzer: Fuzzer) -> None:
    """Make the repository, branches, a tag and objects that the cases meet."""
    for method, path, body in (
        ("POST", "", {"name": REPO, "storage_namespace": "local://fuzz"}),
        ("POST", f"/{REPO}/branches/main/objects?path=a", {"some": "content"}),
        ("POST", f"/{REPO}/branches/main/commits", {"message": "one"}),
        ("POST", f"/{REPO}/branches", {"name": "dev", "source": "main"}),
        ("POST", f"/{REPO}/tags", {"id": "v1", "ref": "main"}),
    ):
        data = json.dumps(body).encode()
        head = f"{method} /api/v1/repositories{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {fuzzer.keys}"
        received = fuzzer.send(f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        assert received.startswith((b"HTTP/1.1 201 ", b"HTTP/1.1 409 ")) or b"no changes" in received, received


def judge(report: Report, case: str, sent: bytes, allowed: bool, received: bytes, secrets: list[bytes]) -> None:
    """Add the answers to one case, and their faults, to the report."""
    try:
        responses = split_responses(received, sent)
    except ValueError as error:
        report.add_fault("not HTTP", case, error)
        return
    report.statuses.update(status for status, _ in responses)
    for status, response in responses:
        if status >= 500 and status != 501:
            report.add_fault("5xx", case, response)
        if not allowed and status < 300 and not (status == 204 and b"healthcheck" in sent):
            report.add_fault("success without keys", case, response)
        # What was sent may come back, for example as a message.
        for secret in secrets:
            if secret in response and secret not in sent:
                report.add_fault("leak", case, response)


def fuzz(folder: Path, seconds: float, seed: int) -> Report:
    """Fuzz a server on `folder/store` for a time."""
    report, canary = Report(), f"canary-{seed}-of-a-file-outside"
    (folder / "secret.txt").write_text(canary)
    with local_lakefs.start(folder / "store") as server:
        fuzzer = Fuzzer(server, seed)
        secrets = [canary.encode(), str(folder).encode(), server.secret_access_key.encode(), b"Traceback", b"root:x:0"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if report.cases % 50 == 0:
                prepare(fuzzer)  # again, because cases delete repositories
            sent, allowed = fuzzer.make(report.cases)
            judge(report, f"case {report.cases}", sent, allowed, fuzzer.send(sent), secrets)
            report.cases += 1
        try:
            prepare(fuzzer)
        except (AssertionError, OSError) as error:
            report.add_fault("the server does not answer", "at the end", error)
    for fault in fsck(Store(folder / "store")):
        report.add_fault("damage", "fsck", fault)
    return report


def show_case(folder: Path, seed: int, number: int) -> None:
    """Send one case to a new server and print both sides."""
    with local_lakefs.start(folder / "store") as server:
        fuzzer = Fuzzer(server, seed)
        prepare(fuzzer)
        sent, allowed = fuzzer.make(number)
        print(
            f"sent, {'with' if allowed else 'without'} keys:\n{sent[:3000]!r}\nreceived:\n{fuzzer.send(sent)[:3000]!r}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--case", type=int, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.case is not None:
            show_case(Path(name), options.seed, options.case)
            return 0
        report = fuzz(Path(name), options.seconds, options.seed)
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(report.statuses.items()))
    print(f"{report.cases:,} connections, {report.statuses.total():,} responses ({statuses})")
    print(f"{threading.active_count()} threads at the end; faults: {dict(report.kinds) or 'none'}")
    print("\n".join(report.faults))
    return 1 if report.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
