"""`infer.py --serve` as a process, with requests as a browser and curl send them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from PIL import Image

from tests.support.images import png_of_size
from tests.support.project import SIGINT, Project, finish, wait_for_line

Response = urllib3.BaseHTTPResponse


@pytest.fixture(scope="module")
def url(once_trained: Project) -> Iterator[str]:
    """Start the server with small limits; at the end Ctrl-C must stop it in spite of an incomplete request."""
    limits = {"SERVE_MAX_MB": "0.5", "SERVE_MAX_MEGAPIXELS": "1", "SERVE_TIMEOUT_S": "20"}
    server = Project(once_trained.folder, once_trained.env | limits).start("infer.py", "--serve", "--port", "0")
    lines = wait_for_line(server, lambda line: line.startswith("serving at "))
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", lines[-1])
    assert found and not any("warning" in line for line in lines), lines
    with socket.create_connection(("127.0.0.1", int(found[1]))) as incomplete:
        incomplete.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nhalf")
        yield found[0]
        code, rest = finish(server, SIGINT)
    assert code == 130 and "Traceback" not in rest, rest


def post(url: str, data: bytes, **headers: str) -> Response:
    return urllib3.request("POST", f"{url}predict", body=data, headers=headers, retries=False, timeout=60)


def test_the_served_mask_equals_that_of_a_batch_job(url: str, once_trained: Project, tmp_path: Path) -> None:
    image = next((once_trained.folder / "data/images").iterdir())
    done = once_trained.run("infer.py", "--input", str(image), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    wanted = (tmp_path / f"{image.stem}.png").read_bytes()
    answer = post(url, image.read_bytes())
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.data == wanted, "values, colours and origin"
    record = json.loads((tmp_path / "predictions.json").read_text())["images"][0]
    told = json.loads(post(url, image.read_bytes(), Accept="application/json").data)
    assert base64.b64decode(told["mask_png_base64"]) == wanted
    assert told["class_shares"] == record["class_shares"] and told["input_sha256"] == record["input_sha256"]
    assert told["mask_sha256"] == hashlib.sha256(wanted).hexdigest()
    assert told["run_id"] == once_trained.runs()[0].info.run_id


def test_invalid_requests_are_rejected(url: str) -> None:
    big = io.BytesIO()
    Image.new("1", (1100, 1000)).save(big, "PNG")
    noise = b"x" * 500_001
    cases = [
        (b"", 400, "an empty file"),
        (b"no image", 400, "unreadable"),
        (png_of_size(500, 500), 400, "unreadable"),
        (big.getvalue(), 413, "at most 1,000,000 pixels"),
        (png_of_size(100_000, 100_000), 413, "at most 1,000,000 pixels"),
        (noise, 413, "at most 500,000 bytes"),
    ]
    for data, status, words in cases:
        answer = post(url, data)
        assert answer.status == status and words in json.loads(answer.data)["error"], (answer.status, answer.data)
    unsized = urllib3.request("POST", f"{url}predict", body=iter([noise[:300_000]] * 2), retries=False)
    assert unsized.status == 413, "also without Content-Length"
    assert urllib3.request("GET", f"{url}predict", retries=False).status == 405


def test_the_page_loads_nothing_external_and_checks_the_host(url: str) -> None:
    answer = urllib3.request("GET", url)
    page, policy = answer.data.decode(), answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", page)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        for own in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            assert base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() in policy
    foreign = urllib3.request("GET", url, headers={"Host": "rebound.example"}, retries=False)
    assert foreign.status == 400, "DNS rebinding"


def test_other_loopback_addresses_accept_only_their_own_host(once_trained: Project) -> None:
    try:
        socket.create_server(("127.0.0.2", 0)).close()
    except OSError:
        pytest.skip("this system has only 127.0.0.1")
    server = once_trained.start("infer.py", "--serve", "--host", "127.0.0.2", "--port", "0")
    own = wait_for_line(server, lambda line: line.startswith("serving at "))[-1].split()[2]
    assert urllib3.request("GET", own, retries=False).status == 200
    assert urllib3.request("GET", own, headers={"Host": "rebound.example"}, retries=False).status == 400
    assert finish(server, SIGINT)[0] == 130


def test_invalid_options_are_usage_errors(once_trained: Project, url: str) -> None:
    port = url.rstrip("/").rsplit(":", 1)[1]
    taken = once_trained.run("infer.py", "--serve", "--port", port)
    assert taken.returncode == 2 and f"cannot listen at 127.0.0.1:{port}" in taken.stderr, taken.stderr
    for arguments, words in (
        (("--serve", "--resume"), "--resume cannot be used with --serve"),
        (("--port", "1"), "--port: only with --serve"),
        (("--seconds", "1"), "--seconds: only with --camera"),
        (("--serve", "--seconds", "1"), "--seconds cannot be used with --serve"),
        (("--camera", "0", "--resume"), "--resume cannot be used with --camera"),
        (("--camera", "0", "--seconds", "0"), "expected a number greater than 0"),
        (("--serve", "--port", "70000"), "0 to 65535"),
    ):
        done = once_trained.run("infer.py", *arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
