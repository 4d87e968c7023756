"""All pages in Chromium: slider, filter, dark mode, small screens, accessibility, one language, no errors."""

from __future__ import annotations

import contextlib
import gettext
import importlib.resources
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from core import i18n
from tests.inference.test_serve_limits import serving
from tests.support.data_directories import make_flat
from tests.support.pages import PAGES, write_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)")
ALL = (*PAGES, "serve", "api")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# Words that are the same in every language: metrics, names of the test's classes, models, splits, files and settings.
SAME = re.compile(
    r"mIoU|IoU|[0-9a-f]{6,}|lakefs://\S+|python train\.py \S+ \S+|setting_\d|a\.png|HTTP|API|PNG|compact_fpn|model|None|"
    r"unet|train|val|test|brightness|directory|cam|"  # of slices, as they are set and found
    r"sky|road|building|pedestrian|bicyclist|pavement|vegetation|vehicle|/\S+|masks/\S+|MLflow|SHA|Git|data"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each page: files on disk, and the pages of `infer.py --serve`."""
    with every_page(tmp_path_factory.mktemp("pages")) as found:
        yield found


@contextlib.contextmanager
def every_page(folder: Path) -> Iterator[dict[str, str]]:
    files = {name: path.as_uri() for name, path in write_pages(folder).items()}
    data = make_flat(folder / "served")
    (data / "splits").mkdir(exist_ok=True)
    (data / "splits" / "test.txt").write_text("a0\n", encoding="utf-8")
    with serving(example_data=data, serve_max_mb=0.5) as ((host, port), _, _):
        yield files | {"serve": f"http://{host}:{port}/", "api": f"http://{host}:{port}/docs"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        with playwright.chromium.launch(executable_path=CHROMIUM, args=options) as started:
            yield started


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page; at the end, nothing may have been reported to the console or requested from elsewhere."""
    errors: list[str] = []
    contexts = []

    def open_page(address: str, viewport: dict[str, int] = DESK, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport=viewport, **options))  # type: ignore[arg-type]
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)  # milliseconds: a missing element fails the test, and does not hang it
        # Chromium also reports a refused request, which the page of `--serve` shows to its user.
        page.on("console", lambda message: None if "a status of 4" in message.text else errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        own = (address.rpartition("/")[0], "data:", "blob:")
        page.on("request", lambda sent: None if sent.url.startswith(own) else errors.append(f"requested: {sent.url}"))
        page.goto(address)
        if page.locator("#result").count():
            page.locator("#result").wait_for()  # the example of --serve
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core that the Python package contains."""
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ALL)
def test_page_has_no_serious_accessibility_finding(
    pages: dict[str, str], show: Callable[..., Page], axe: str, name: str, scheme: str
) -> None:
    page = show(pages[name], color_scheme=scheme)
    # Through the debugger: the page's policy forbids scripts that it does not know.
    page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": axe})
    found = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    assert page.evaluate("[...document.images].every(image => image.alt.length > 1)")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 60) == (scheme == "dark"), background


@pytest.mark.parametrize("name", ALL)
def test_page_fits_a_phone_and_its_tables_scroll_in_their_box(
    pages: dict[str, str], show: Callable[..., Page], name: str
) -> None:
    page = show(pages[name], PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate("[...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth)"
                         ".every(t => t.parentElement.matches('.scroll[tabindex=\"0\"]'))")  # fmt: skip
    assert wide, "a table that is wider than its box can be scrolled, also by keyboard"
    widths = page.evaluate("[...document.querySelectorAll('.long th, .long td')].map(cell => cell.clientWidth)")
    assert all(width > 60 for width in widths if width > 1), "no column of words is a few letters wide"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main", "the first stop skips the head"


@pytest.mark.parametrize("name", (*PAGES, "serve"))
def test_slider_compares_two_panels_by_keyboard(pages: dict[str, str], show: Callable[..., Page], name: str) -> None:
    page = show(pages[name])
    page.get_by_label("side by side").focus()
    page.keyboard.press("ArrowRight")
    slider = page.locator(".slider input").first
    assert slider.is_visible() and not page.locator(".panels").first.is_visible()
    page.locator("[name=left]").select_option(index=1)
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator(".stage").first.evaluate("e => e.style.getPropertyValue('--at')") == "53%"
    page.keyboard.press("End")
    assert page.locator(".stage").first.evaluate("e => e.style.getPropertyValue('--at')") == "100%"
    shown = page.locator(".slider span").all_inner_texts()[:2]
    assert slider.get_attribute("aria-label") == " | ".join(shown) and len(set(shown)) == 2
    assert page.evaluate("[...document.querySelectorAll('.stage img')].every(i => i.complete && i.naturalWidth > 0)")
    page.get_by_label("side by side").check()
    assert page.locator(".panels").first.is_visible() and not slider.is_visible()


@pytest.mark.parametrize("name", ["report", "gallery", "compare"])
def test_images_are_filtered_by_name_and_class(pages: dict[str, str], show: Callable[..., Page], name: str) -> None:
    page = show(pages[name])
    names = page.locator(".card:visible h3")
    assert names.count() == 4 and page.locator("[data-count]").inner_text() == "4 / 4"
    page.get_by_label("search").fill("00")
    page.get_by_label("search").fill("002")
    assert names.all_inner_texts() == ["002"] and page.locator("[data-count]").inner_text() == "1 / 4"
    page.get_by_label("search").fill("")
    page.get_by_label("sort by").select_option("name")
    assert names.all_inner_texts() == ["000", "001", "002", "003"]
    page.locator("[name=class]").select_option("road")
    assert set(names.all_text_contents()) >= {"000", "001", "002"}
    assert page.locator(".card:visible .legend").first.locator("li", has_text="road").count() == 1


@pytest.mark.parametrize("name", ["report", "gallery"])
def test_worst_image_is_first_with_its_score(pages: dict[str, str], show: Callable[..., Page], name: str) -> None:
    page = show(pages[name])
    scores = [float(re.findall(r"mIoU ([\d.]+)", text)[0]) for text in page.locator(".card p").all_inner_texts()]
    assert len(scores) == 4 and scores == sorted(scores)
    figures = page.locator(".card .legend").first.locator("li").all_inner_texts()
    assert figures[0].startswith("IoU") and re.fullmatch(r"sky 0\.\d{4}( \(\d+\.\d%\))?", figures[1]), (
        "named, same decimals"
    )


def test_largest_difference_is_first_in_a_comparison(pages: dict[str, str], show: Callable[..., Page]) -> None:
    page = show(pages["compare"])
    gains = [abs(float(re.findall(r"\(([+-][\d.]+)\)", text)[0])) for text in page.locator(".card p").all_inner_texts()]
    assert len(gains) == 4 and gains == sorted(gains, reverse=True)
    assert page.locator(".card").first.locator("figcaption").all_inner_texts() == [
        "image", "label", "unet v1", "unet v2", "difference"
    ]  # fmt: skip
    assert "[" not in page.locator("table").first.inner_text() and "unet v2" in page.locator("h1").inner_text()


def test_charts_follow_dark_mode(pages: dict[str, str], show: Callable[..., Page]) -> None:
    strokes = set()
    for scheme in ("light", "dark"):
        page = show(pages["report"], color_scheme=scheme)
        assert page.locator(".chart .legend li").count() == 6 and not page.locator("img[src*=curves]").count()
        strokes.add(page.locator(".chart > svg path.line").first.evaluate("e => getComputedStyle(e).stroke"))
    assert len(strokes) == 2


def test_another_language_is_not_mixed_with_english(
    tmp_path: Path, show: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text of a page goes through the catalogue: one that has only the letter 가 leaves no English word."""

    class Pseudo(gettext.NullTranslations):
        def gettext(self, message: str) -> str:
            fields = re.split(r"(\{[^}]*\})", message)
            return "".join(part if part.startswith("{") else re.sub(r"[A-Za-z]+", "가", part) for part in fields)

        def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
            return self.gettext(msgid1 if n == 1 else msgid2)

    monkeypatch.setattr(i18n, "_catalogue", lambda language: Pseudo())
    i18n.set_language("ko")
    with every_page(tmp_path) as pages:
        for name in (*PAGES, "serve"):  # most of `api` are names of HTTP and JSON
            page = show(pages[name], locale="ko-KR")
            if name == "serve":
                page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
                page.wait_for_selector(".notice.bad")
            assert page.evaluate("document.documentElement.lang") == "ko"
            page.evaluate("document.querySelectorAll('code, pre').forEach(e => e.remove())")  # commands and JSON
            texts = page.evaluate("[document.title, document.body.innerText, ...[...document.querySelectorAll('[aria-label]')]"
                                  ".map(e => e.getAttribute('aria-label'))].join('\\n')")  # fmt: skip
            assert re.findall(r"[A-Za-z]{3,}", SAME.sub("", texts)) == [], name


def test_uploaded_image_is_shown_with_its_mask_and_classes(pages: dict[str, str], show: Callable[..., Page]) -> None:
    page = show(pages["serve"])
    assert "example" in page.locator("#source").inner_text(), "before the first upload"
    assert page.locator("header .legend li").all_inner_texts() == ["sky", "road"]
    page.locator("#file").focus()
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid", (
        "seen by keyboard"
    )
    for name, content in (
        ("<img src=x onerror=alert(1)>.png", _image((300, 200), "PNG")),
        ("photo.tif", _image((30, 20), "TIFF")),
    ):
        page.set_input_files("#file", {"name": name, "mimeType": "image/*", "buffer": content})
        page.locator("h3", has_text=name).wait_for()
        kinds = ["image", "mask", "prediction"] if name.endswith("png") else ["mask"]
        images = page.locator("#result .panels img")
        assert images.evaluate_all("all => all.map(image => image.alt)") == [f"{kind}: {name}" for kind in kinds]
        assert images.evaluate_all("all => all.every(image => image.naturalWidth > 0)")
        assert re.fullmatch(r"(sky|road) \d+\.\d%", page.locator("#areas li").nth(1).inner_text())
    assert "only the mask" in page.locator("#source").inner_text() and page.locator("#opacity").is_disabled()


def test_opacity_changes_the_prediction_that_the_page_draws(pages: dict[str, str], show: Callable[..., Page]) -> None:
    page = show(pages["serve"])
    before = page.locator("[data-panel=prediction] img").get_attribute("src")
    page.locator("#opacity").focus()
    page.keyboard.press("End")
    page.locator(f"[data-panel=prediction] img:not([src='{before}'])").wait_for()


@pytest.mark.parametrize(
    ("content", "words"), [(b"no image", "cannot be read|cannot identify"), (b"0" * 600_000, "too large")]
)
def test_refused_upload_is_explained_in_the_box_of_all_pages(
    pages: dict[str, str], show: Callable[..., Page], content: bytes, words: str
) -> None:
    page = show(pages["serve"])
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})
    box = page.locator("#status.notice.bad")
    box.wait_for()
    assert re.search(words, box.inner_text()) and not page.locator("#result").is_visible(), box.inner_text()


def _image(size: tuple[int, int], image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, image_format)
    return buffer.getvalue()
