"""HTML pages and CSV files with hostile names: nothing of them runs, loads or is taken for a formula."""

from __future__ import annotations

import ast
import base64
import contextlib
import csv
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import config
from core.git import GitFacts
from core.pages.cards import Card, Gallery
from core.safety import html
from core.safety.spreadsheet import csv_bytes
from core.safety.terminal import escape_line
from dataset.classes import ClassMap, build_classes
from dataset.faults import DataFaults, DataWarning
from dataset.overlay import panel
from inference.gallery import write_gallery
from inference.outputs import OutputDirectory
from inference.serving import pages
from inference.serving.openapi import describe_api
from segmentation.metrics import ConfusionMatrix
from tests.support.data_directories import make_flat, put_pair, write_classes
from tests.support.project import SOURCE
from train import data_check
from train.audit import report as audit
from train.audit.ranking import Suspicion
from train.base_train import EpochResult, Validation
from train.reports import history
from train.reports.html import write_report
from train.tracking.result import Result, RunSummary
from train.tracking.used_settings import UsedSetting
from utils.lakefs_utils import LakePath

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=//evil.example/x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)' onclick='alert(1)",
    "{{ 7*7 }}{% raw %}`${alert(1)}`",
    "--><svg onload=alert(1)>",
    "javascript:alert(1)",
    b"bytes-\xff".decode("utf-8", "surrogateescape"),
)
FORMULAS = ("=HYPERLINK(1)", "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1", "\n@x")


def classes_of(names: tuple[str, ...] = HOSTILE) -> ClassMap:
    return build_classes((value, name, None, False) for value, name in enumerate(names))


class Page(HTMLParser):
    """What a page contains: its tags, attributes, inline elements and policy."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str]] = []
        self.policy = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = self.tags[-1]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[0] in ("script", "style") and "type" not in self._open[1]:
            self.inline.append((self._open[0], data))

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def require_safe(text: str, scripts: int = 1, styles: int = 1, policy: str = "") -> None:
    """Check that a page has only its own style and scripts, which its policy allows by hash, and loads nothing else."""
    page = Page(text)
    policy = policy or page.policy
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives["default-src"] == "'none'" and "unsafe" not in policy and "http" not in policy
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    assert [kind for kind, _ in page.inline] == ["style"] * styles + ["script"] * scripts
    for kind, content in page.inline:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in directives[f"{kind}-src"]
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#", "https://lake.example/", "https://code.example/")), (
                value
            )
    assert not {"iframe", "object", "embed", "base", "link", "form"} & {tag for tag, _ in page.tags}
    assert "49" not in re.findall(
        r"\b49\b", re.sub(r"data:[^\"]*|sha256-[^']*|pytest-\d+|<style>.*?</style>", "", text, flags=re.DOTALL)
    )
    assert text.encode("utf-8")


def test_check_page_with_hostile_names(tmp_path: Path) -> None:
    make_flat(tmp_path)
    for name in ("<img src=x onerror=alert(1)>", "a' onclick='x", "</style><script>1<"):
        with contextlib.suppress(OSError):
            put_pair(tmp_path, name.replace("/", "\u2215"))
    write_classes(tmp_path, [{"id": i, "name": name} for i, name in enumerate(HOSTILE[:-1])])
    settings = config.load_settings(data_dir=tmp_path, app_lang="en")
    with contextlib.suppress(DataFaults):
        data_check.check(settings, None, as_json=False)
    require_safe((tmp_path / "check.html").read_text(encoding="utf-8"))


def gallery(tmp_path: Path) -> str:
    record = {"mask": "a.png", "overlay": "a.jpg", "width": 1, "height": 1, "class_shares": dict.fromkeys(HOSTILE, 0.1)}
    images = [{**record, "mask": f"{name}.png", "overlay": f"{name}.jpg"} for name in HOSTILE]
    listing = {"model_version": HOSTILE[1], "run_id": "r", "images": images, **dict.fromkeys(HOSTILE, HOSTILE[2])}
    previews = {str(images[0]["mask"]): [panel("image", HOSTILE[0], np.zeros((2, 2, 3), np.uint8))]}
    write_gallery(tmp_path / "index.html", listing, classes_of(), previews)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_gallery_with_hostile_names(tmp_path: Path) -> None:
    require_safe(gallery(tmp_path), scripts=2, styles=2)


def test_served_page_with_hostile_names() -> None:
    origin = {"model_version": HOSTILE[1], "run_id": HOSTILE[0], **dict.fromkeys(HOSTILE, HOSTILE[2])}
    page = pages.render_serve(classes_of(HOSTILE[:-1]), origin, 1, 1, example=True)
    for text in page.texts.values():
        require_safe(text.replace(HOSTILE[-1], "").replace('href="docs"', ""), scripts=2, styles=2, policy=page.policy)
    described = pages.render_api({"en": describe_api(HOSTILE[1], 1, 1, 1)})
    require_safe(re.sub(r'href="(openapi.json|[.])"', "", described.texts["en"]), policy=described.policy)


def summary() -> RunSummary:
    names = HOSTILE
    validation = Validation(1.0, 0.5, 0.5, dict.fromkeys(names, 0.5))
    path = LakePath.parse(f"lakefs://repo/{'a' * 64}/data/")
    result = Result("run-id", path, "m", path, "s", validation, validation)
    epoch = EpochResult(0, 1.0, validation, 1.0, 1.0, 0.1, True)
    confusion = ConfusionMatrix(len(names))
    confusion.counts += 1
    return RunSummary(
        result,
        (UsedSetting("model", HOSTILE[0], True), *(UsedSetting(name, HOSTILE[2], False) for name in names)),
        GitFacts(HOSTILE[0], HOSTILE[1], HOSTILE[2], "true", "javascript:alert(1)"),
        "https://lake.example/run",
        "https://lake.example",
        (epoch,),
        epoch,
        classes_of(),
        {"train": (1,) * len(names), HOSTILE[2]: (1,) * len(names)},
        {"train": 1, HOSTILE[2]: 1},
        confusion,
        tuple(DataWarning("kind", name) for name in names),
    )


def test_report_with_hostile_names(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    names = [*enumerate(HOSTILE)]
    cards = [Card(n, [panel("image", n, pixels)], 0.5, {str(i): 0.5}, n, n, [n], [("", n)]) for i, n in names]
    samples = Gallery("samples", HOSTILE[0], cards, HOSTILE, [("", HOSTILE[0])], ("image", "image"), [("first", "x")])
    write_report(tmp_path / "report.html", summary(), samples)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    require_safe(text)
    assert "&lt;script&gt;alert(1)" in text and "javascript:alert(1)/commit" not in text


def audited(tmp_path: Path, names: tuple[str, ...]) -> tuple[Any, Any, list[Suspicion]]:
    pairs = [SimpleNamespace(split=name, name=name, mask=tmp_path / "masks" / name.replace("/", "")) for name in names]
    data: Any = SimpleNamespace(pairs=pairs, root=tmp_path, classes=classes_of(names))
    image, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    predicted: Any = SimpleNamespace(
        images=SimpleNamespace(arrays=lambda index: (image, mask, mask)),
        probabilities=np.zeros((len(names), len(names), 2, 2), np.float16),
    )
    return data, predicted, [Suspicion(index, 0.5, name, -0.25) for index, name in enumerate(names)]


def test_audit_page_with_hostile_names(tmp_path: Path) -> None:
    data, predicted, ranked = audited(tmp_path, HOSTILE)
    audit.write_page(tmp_path / "audit.html", data, predicted, ranked)
    require_safe((tmp_path / "audit.html").read_text(encoding="utf-8"))


def test_every_template_has_its_policy_and_static_style_and_scripts() -> None:
    packages = [path.parent for path in SOURCE.glob("*/__init__.py")]
    templates = [path for package in packages for path in package.rglob("*.html") if package.name != "tests"]
    assert len(templates) >= 5 and "{{ policy }}" in (html.SHARED / "base.html").read_text(encoding="utf-8")
    for path in templates:
        text = path.read_text(encoding="utf-8")
        shared = path.parent.name == "pages" or text.startswith('{% extends "base.html" %}')
        assert shared or path.name == "serve.html", f"{path}: not in the shared design, whose base has the policy"
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text
        for match in re.finditer(r"<(style|script)>(.*?)</\1>", text, re.DOTALL):
            assert not re.search(r"\{\{|\{%|\{#", match[2]), f"{path}: an expression in an inline element"
        assert "policy" in html.render.__doc__ if html.render.__doc__ else False


def test_only_one_module_makes_html_environments_and_csv_writers() -> None:
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE).as_posix()
        if relative.startswith(("tests/", "benchmarks/", "tools/", ".", "core/safety/")) or "/" not in relative:
            continue
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)}
        assert not calls & {"csv.writer", "csv.DictWriter", "jinja2.Environment", "jinja2.Template"}, relative


# --- CSV ------------------------------------------------------------------------------------------------------------------


def cells(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_formula_is_quoted_in_a_cell(text: str) -> None:
    assert cells(csv_bytes([[text, "plain"]])) == [[escape_line(f"'{text}"), "plain"]]


def test_numbers_and_ordinary_texts_stay_as_they_are() -> None:
    row = [-1, -0.5, 1e-9, np.float32(-2), np.int64(-3), None, True, "-4", "+5.5e-3", "도로", "a=b", "it's", "a-b"]
    assert cells(csv_bytes([row])) == [["" if value is None else str(value) for value in row]]


def test_every_table_quotes_hostile_class_and_file_names(tmp_path: Path) -> None:
    names = tuple(name for name in FORMULAS if not name.startswith(("\t", "\r", "\n", " ")))
    classes = classes_of(names)
    confusion = ConfusionMatrix(len(names))
    validation = Validation(1.0, 0.5, 0.5, dict.fromkeys(names, 0.5))
    history.write_history(tmp_path / "history.csv", [EpochResult(0, -1.5, validation, 1.0, 1.0, 0.1, True)])
    history.write_classes(tmp_path / "per_class.csv", confusion, classes)
    data, _, ranked = audited(tmp_path, names)
    audit.write_table(tmp_path / "audit.csv", data, ranked)
    record = {"input": names[0], "height": 1, "width": 10, "class_shares": dict.fromkeys(names, 0.1)}
    (tmp_path / "areas.csv").write_bytes(OutputDirectory._areas(SimpleNamespace(), [record]))  # type: ignore[arg-type]
    for table in sorted(tmp_path.glob("*.csv")):
        found = cells(table.read_bytes())
        assert not [
            cell
            for row in found
            for cell in row
            if cell.startswith(("=", "+", "@", "-", "\uff1d")) and not re.fullmatch(r"-?[\d.]+", cell)
        ], table
        assert any(f"'{names[0]}" in row for row in found) or table.name == "history.csv"
    assert cells((tmp_path / "history.csv").read_bytes())[1][1] == "-1.5"
    assert cells((tmp_path / "audit.csv").read_bytes())[1][5] == "-0.2500"
