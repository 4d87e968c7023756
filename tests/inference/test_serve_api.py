"""The paths of `infer.py --serve` for programs: forms, errors in one language, OpenAPI, health, metrics, the example."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from core.hashing import file_sha256
from core.i18n import set_language
from inference.server import Service
from inference.serving import forms
from segmentation.model_file import load_model
from tests.inference.test_serve_limits import Address, serving
from tests.support.data_directories import make_flat
from tests.support.ensembles import make_members, write_ensemble
from tests.support.images import png_of_size
from tests.support.models import CPU

HANGUL = re.compile("[가-힣]")
Response = urllib3.BaseHTTPResponse


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one image in its test split."""
    root = make_flat(tmp_path_factory.mktemp("example"))
    names = sorted(path.stem for path in (root / "images").iterdir())
    (root / "splits").mkdir(exist_ok=True)
    for split, chosen in (("train", names[2:]), ("val", names[1:2]), ("test", names[:1])):
        (root / "splits" / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
    return root


@pytest.fixture(scope="module")
def running(data: Path) -> Iterator[tuple[Address, Service]]:
    with serving(serve_max_mb=0.5, example_data=data) as (address, service, _):
        yield address, service


@pytest.fixture(scope="module")
def url(running: tuple[Address, Service]) -> str:
    return "http://{}:{}/".format(*running[0])


@pytest.fixture(scope="module")
def image() -> bytes:
    return png((32, 32))


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(url: str, method: str = "GET", **options: Any) -> Response:
    return urllib3.request(method, url, retries=False, timeout=60, **options)


def error_of(answer: Response) -> str:
    content = json.loads(answer.data)
    assert list(content) == ["error"] and "\n" not in content["error"]
    return str(content["error"])


# Forms


@pytest.mark.parametrize("field", ["file", "image"])
def test_form_gives_the_same_mask_as_the_body(url: str, image: bytes, field: str) -> None:
    raw = ask(f"{url}predict", "POST", body=image)
    form = ask(f"{url}predict", "POST", fields={field: ("사진.png", image), "comment": "with a field"})
    assert raw.status == form.status == 200, form.data
    assert form.data == raw.data


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"file": "not a file"}, "found files: 0, other fields: 1"),
        ({"a": ("a.png", b"1"), "b": ("b.png", b"2")}, "found files: 2"),
        ({f"f{number}": "x" for number in range(100)}, "cannot be read"),
        ({"file": "x" * 510_000}, "cannot be read"),
    ],
)
def test_form_without_exactly_one_file_says_what_was_expected(url: str, fields: dict[str, Any], words: str) -> None:
    answer = ask(f"{url}predict", "POST", fields=fields)
    assert answer.status == 400
    assert words in error_of(answer) and "a form with one image file" in error_of(answer)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=x", "Multipart/Form-Data;"]
)
def test_form_that_cannot_be_read_is_refused(url: str, image: bytes, content_type: str) -> None:
    answer = ask(f"{url}predict", "POST", body=image, headers={"Content-Type": content_type})
    assert answer.status == 400 and "a form with one image file" in error_of(answer)


def test_form_may_be_as_large_as_a_body_and_its_frame(url: str) -> None:
    limit = 500_000
    for size, status in ((limit, 400), (limit + 1, 413), (limit + forms.OVERHEAD_BYTES + 1, 413)):
        for unit in (b"x", b"\r\n", b"\r\n--"):
            content = (unit * size)[:size]
            answer = ask(f"{url}predict", "POST", fields={"file": ("x.png", content)})
            assert answer.status == status, (unit, answer.data)
            words = f"unreadable, {size:,} bytes" if status == 400 else "at most 500,000 bytes"
            assert words in error_of(answer)


def test_the_answer_of_an_ensemble_names_its_members(image: bytes, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, make_members(2, (32, 32)))
    model = load_model(path, file_sha256(path), CPU)
    with serving(model=model) as ((host, port), service, _):
        answer = json.loads(
            ask(f"http://{host}:{port}/predict", "POST", body=image, headers={"Accept": "application/json"}).data
        )
        schema = json.loads(ask(f"http://{host}:{port}/openapi.json").data)["components"]["schemas"]["Prediction"]
    assert (
        answer["ensemble"]
        == [{"file": m.file, "sha256": m.sha256} for m in model.members]
        == service.origin["ensemble"]
    )
    Draft202012Validator(schema).validate(answer)


# Errors


def test_get_of_predict_explains_itself(url: str) -> None:
    answer = ask(f"{url}predict")
    assert answer.status == 405 and answer.headers["allow"] == "POST"
    text = error_of(answer)
    assert f"curl -F file=@photo.png {url}predict" in text and f"{url}docs" in text
    assert ask(f"{url}nothing").status == 404 and f"{url}docs" in error_of(ask(f"{url}nothing"))
    assert "expected" in error_of(ask(f"{url}docs", "DELETE"))


def failures(url: str) -> Iterator[functools.partial[Response]]:
    """Requests that fail, one for each kind of error that a client can cause."""
    yield functools.partial(ask, f"{url}predict")
    yield functools.partial(ask, f"{url}nothing")
    for body in (b"", b"no image", png_of_size(500, 500), b"II*\0 no TIFF", b"x" * 600_000, b"GIF89a"):
        yield functools.partial(ask, f"{url}predict", "POST", body=body)
    yield functools.partial(ask, f"{url}predict", "POST", fields={"a": "b"})


@pytest.mark.parametrize(
    ("wanted", "console"), [("en-GB,en;q=0.9", "ko"), (None, "en"), ("fr, en;q=0.1", "ko"), ("*", "en")]
)
def test_no_error_in_english_has_korean(url: str, wanted: str | None, console: str) -> None:
    set_language(console)
    headers = {} if wanted is None else {"Accept-Language": wanted}
    for fails in failures(url):
        answer = fails(headers=headers)
        assert answer.status >= 400 and answer.headers["content-language"] == "en"
        assert not HANGUL.search(error_of(answer))


@pytest.mark.parametrize(
    ("wanted", "language"),
    [
        ("ko", "ko"),
        ("en;q=0.2, ko-KR;q=0.8", "ko"),
        ("ko;q=0, en", "en"),
        ("ko;q=x", "en"),
        ("," * 10_000 + "ko", "en"),
    ],
)
def test_language_is_the_one_that_the_client_prefers(url: str, wanted: str, language: str) -> None:
    answer = ask(url, headers={"Accept-Language": wanted})
    assert answer.headers["content-language"] == language and f'<html lang="{language}">' in answer.data.decode()


def test_korean_errors_have_no_reasons_in_english(url: str) -> None:
    for body in (b"no image", png_of_size(500, 500), b"II*\0 no TIFF", b"GIF89a"):
        text = error_of(ask(f"{url}predict", "POST", body=body, headers={"Accept-Language": "ko"}))
        assert not re.search(r"cannot|identify|file|truncated|unable", text), text


def test_host_of_another_site_is_refused_in_one_line() -> None:
    with serving(hosts=("localhost", "::1")) as (address, _, _):
        url = "http://{}:{}/".format(*address)
        for host in ("localhost:1", "LOCALHOST", "[::1]:80"):
            assert ask(url, headers={"Host": host}).status == 200, host
        for host in ("rebound.example", "localhost.evil.example", "[", "", "::1"):
            answer = ask(url, headers={"Host": host})
            assert answer.status == 400 and "expected ::1, localhost" in error_of(answer), host
        assert ask(f"{url}example", headers={"Host": "localhost"}).status == 404, "no directory was given"


# Description


@pytest.mark.parametrize("language", ["en", "ko"])
def test_description_is_valid_and_the_answers_follow_it(url: str, image: bytes, language: str) -> None:
    headers = {"Accept-Language": language, "Accept": "application/json"}
    api = json.loads(ask(f"{url}openapi.json", headers=headers).data)
    validate(api)
    answers = {
        "Prediction": ask(f"{url}predict", "POST", body=image, headers=headers),
        "Health": ask(f"{url}healthz", headers=headers),
        "Example": ask(f"{url}example", headers=headers),
        "Error": ask(f"{url}predict", "POST", body=b"", headers=headers),
    }
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": api["components"]}
        Draft202012Validator(schema).validate(json.loads(answer.data))
    for path, methods in api["paths"].items():
        for method in set(methods) - {"post"}:
            assert ask(url + path[1:], method.upper(), headers=headers).status == 200, path


def test_pages_load_nothing_from_elsewhere(url: str) -> None:
    for path in ("", "docs"):
        answer = ask(url + path)
        page, policy = answer.data.decode(), answer.headers["content-security-policy"]
        assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", page)
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    for text in ("POST /predict", "curl -F file=@photo.png", "curl --data-binary @photo.png", "503", "mask_png_base64"):
        assert text in ask(f"{url}docs").data.decode(), text


# Page and example


def test_page_names_the_classes_before_an_image_is_sent(url: str) -> None:
    page = ask(url).data.decode()
    legend = page[page.index('<ul class="legend"') :]
    legend = legend[: legend.index("</ul>")]
    assert "sky" in legend and "road" in legend and legend.count("<svg") == 2


def test_example_is_the_test_image_of_the_data_directory(url: str, data: Path) -> None:
    found = json.loads(ask(f"{url}example").data)
    file = data / found["name"]
    assert found["split"] == "test" and file == min((data / "images").iterdir())
    with Image.open(io.BytesIO(base64.b64decode(found["image_png_base64"]))) as shown, Image.open(file) as stored:
        assert shown.size == stored.size and shown.convert("RGB").tobytes() == stored.convert("RGB").tobytes()
    mask = ask(f"{url}predict", "POST", body=file.read_bytes()).data
    assert base64.b64decode(found["mask_png_base64"]) == mask


@pytest.mark.parametrize("content", [None, b"no image"])
def test_data_directory_without_a_readable_image_has_no_example(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        for path in (make_flat(tmp_path) / "images").iterdir():
            path.write_bytes(content)
    with serving(example_data=tmp_path) as (address, _, _):
        answer = ask("http://{}:{}/example".format(*address))
        assert answer.status == 404 and "no example" in error_of(answer)


# Health and metrics


def test_health_fails_while_a_prediction_hangs(image: bytes) -> None:
    with serving(serve_timeout_s=0.3) as (address, service, _):
        url = "http://{}:{}/".format(*address)
        release = threading.Event()
        service._predict = lambda *_: release.wait(60)  # type: ignore[method-assign, assignment]
        try:
            assert ask(f"{url}predict", "POST", body=image).status == 503
            assert ask(f"{url}healthz").status == 503
            assert "not finished within 0.3 s" in error_of(ask(f"{url}healthz"))
        finally:
            release.set()
        service._thread.submit(int).result(60)
        assert ask(f"{url}healthz").status == 200


def test_metrics_count_requests_images_and_seconds(image: bytes) -> None:
    with serving() as (address, _, _):
        url = "http://{}:{}/".format(*address)
        ask(f"{url}predict", "POST", body=image)
        ask(f"{url}predict", "POST", body=b"")
        for number in range(5):
            ask(f"{url}invented{number}", "PROPFIND")
        families = {
            family.name: family for family in text_string_to_metric_families(ask(f"{url}metrics").data.decode())
        }
        requests = {
            (sample.labels["method"], sample.labels["path"], sample.labels["status"]): sample.value
            for sample in families["segmentation_http_requests"].samples
            if sample.name.endswith("_total")
        }
        assert requests == {
            ("POST", "/predict", "200"): 1,
            ("POST", "/predict", "400"): 1,
            ("other", "other", "404"): 5,
        }
        (images, *_) = families["segmentation_predicted_images"].samples
        assert images.value == 1
        counts = [
            s for s in families["segmentation_http_request_duration_seconds"].samples if s.name.endswith("_count")
        ]
        assert {sample.labels["path"]: sample.value for sample in counts} == {"/predict": 2, "other": 5}
        (info,) = families["segmentation_model_info"].samples
        assert info.labels["model_version"] == "m v1" and info.labels["model_sha256"] == "a" * 64


def test_metrics_without_their_package_name_the_command(monkeypatch: pytest.MonkeyPatch, image: bytes) -> None:
    monkeypatch.setattr("inference.serving.metrics.find_spec", lambda _: None)
    with serving() as (address, _, _):
        url = "http://{}:{}/".format(*address)
        answer = ask(f"{url}metrics")
        assert answer.status == 501 and "pip install prometheus-client" in error_of(answer)
        assert ask(f"{url}predict", "POST", body=image).status == 200


def test_fault_of_the_program_is_an_error_of_one_line(
    image: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (address, service, _):
        url = "http://{}:{}/".format(*address)
        monkeypatch.setattr(service, "_predict", lambda *_: 1 / 0)
        answer = ask(f"{url}predict", "POST", body=image, headers={"Accept-Language": "ko"})
        assert answer.status == 500 and answer.headers["content-language"] == "ko" and error_of(answer)
    assert "ZeroDivisionError" in caplog.text, "the console has the traceback"
