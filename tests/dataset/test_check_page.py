"""check.html: what train.py --check-only draws into the data directory."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import config
from dataset.directory import data_files
from dataset.faults import DataFaults
from dataset.validation import check_data
from tests.support.data_directories import make_flat, put_image, put_mask, write_classes
from train import data_check


def check(root: Path, **changes: object) -> str:
    """Check the directory as --check-only does, faults or not; return the page."""
    settings = config.load_settings(data_dir=root, app_lang="en", **changes)
    with contextlib.suppress(DataFaults):
        data_check.check(settings, None, as_json=False)
    page = root / "check.html"
    return page.read_text(encoding="utf-8") if page.exists() else ""


def drawn(page: str) -> list[np.ndarray]:
    urls = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url))).convert("RGB")) for url in urls]


def test_first_six_pairs_are_drawn_with_names_and_legend(tmp_path: Path) -> None:
    make_flat(tmp_path)
    write_classes(tmp_path, [{"id": 0, "name": "<b>sky</b>", "color": [1, 2, 3]}, {"id": 1, "name": "road"}])
    page = check(tmp_path)
    shown = re.findall(r'<h3>(\w+) <span class="muted">(\w+)</span>', page)
    assert shown == [(pair.name, pair.split) for pair in check_data(tmp_path, 0, make_split=False).pairs[:6]]
    pictures = drawn(page)
    assert len(pictures) == 18 and {picture.shape for picture in pictures} == {(6, 8, 3)}
    assert pictures[1][0, 0].tolist() == [1, 2, 3], "a mask in the colours of its classes"
    assert "0: &lt;b&gt;sky&lt;/b&gt;" in page and "<b>sky" not in page and "#010203" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|<script src|url\(""", page), (
        "nothing is loaded from elsewhere"
    )


def test_page_tells_the_result_the_pairs_and_the_classes(tmp_path: Path) -> None:
    make_flat(tmp_path)
    page = html.unescape(check(tmp_path))
    assert "No faults" in page and "Images and masks (6 of 10)" in page
    pairs = check_data(tmp_path, 0, make_split=False)
    for split, counts in pairs.pixel_counts.items():
        assert f"pairs in {split}<b>{len(pairs.split(split))}</b>" in page
        assert f'<td class="number">{counts[0] / sum(counts):.2%}</td>' in page
    put_mask(tmp_path / "masks/a9.png", size=(8, 6))
    page = html.unescape(check(tmp_path))
    assert "No faults" not in page and "Faults (1 of 1)" in page


def test_pairs_with_a_fault_come_first_and_say_what_is_wrong(tmp_path: Path) -> None:
    make_flat(tmp_path)
    put_mask(tmp_path / "masks/a9.png", size=(8, 6))
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[2, 2] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "masks/a8.png")
    page = html.unescape(check(tmp_path))
    assert re.findall(r"<h3>(a\d) ", page)[:2] == ["a8", "a9"]
    assert "expected 8x6 (size of the image), found 6x8" in page and "unknown colours #000000, #010203" in page
    image, mask, other, tall, over = drawn(page)[:5]
    assert image.shape == (6, 8, 3) and mask.tolist() == pixels.tolist(), "an unreadable mask is shown as a viewer does"
    assert other.shape == (6, 8, 3) and tall.shape == (8, 6, 3) and over.shape == (6, 8, 3)


def test_ignored_pixels_are_striped(tmp_path: Path) -> None:
    make_flat(tmp_path)
    for number in range(10):
        put_mask(tmp_path / f"masks/a{number}.png", (0, 1, 255))
    page = check(tmp_path)
    assert 'class="swatch striped"' in page
    mask = drawn(page)[1]
    values = np.resize(np.array([0, 1, 255], np.uint8), (6, 8))
    assert {tuple(pixel) for pixel in mask[values == 255].tolist()} == {(96, 96, 96), (176, 176, 176)}


def test_unknown_values_stand_out(tmp_path: Path) -> None:
    make_flat(tmp_path)
    put_mask(tmp_path / "masks/a3.png", (0, 7))
    write_classes(tmp_path, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    assert drawn(check(tmp_path))[1][0, 1].tolist() == [255, 0, 255]


def test_page_is_never_data_and_is_written_again(tmp_path: Path) -> None:
    make_flat(tmp_path)
    before = data_files(tmp_path)
    first = check(tmp_path)
    assert data_files(tmp_path) == before and (tmp_path / "check.html").exists()
    put_image(tmp_path / "images/a0.png", key="another")
    assert check(tmp_path) not in ("", first)


def test_file_of_the_user_stays_and_is_versioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_flat(tmp_path)
    (tmp_path / "check.html").write_text("<p>mine", encoding="utf-8")
    assert check(tmp_path) == "<p>mine" and "check.html" in data_files(tmp_path)
    assert "not written by train.py" in "".join(capsys.readouterr())


def test_large_images_are_drawn_small(tmp_path: Path) -> None:
    make_flat(tmp_path)
    put_image(tmp_path / "images/a0.png", size=(900, 1600))
    put_mask(tmp_path / "masks/a0.png", size=(900, 1600))
    write_classes(tmp_path, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    assert max(max(picture.shape) for picture in drawn(check(tmp_path))) <= 480
