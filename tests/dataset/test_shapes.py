"""Polygons, run lengths and contours against pycocotools, exact areas and themselves."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from dataset.classes import InvalidFileError
from dataset.shapes import rle
from dataset.shapes.canvas import Canvas
from dataset.shapes.contours import bridge, trace
from dataset.shapes.polygon import Bool, Points, as_points, count_outside, ellipse, fill, rectangle, rotate
from dataset.shapes.rle import decode_brush, decode_coco, decompress, encode_brush, encode_coco

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24))


def reference(rings: list[Points], height: int, width: int) -> Bool:
    """Return what pycocotools makes of the polygons of one object."""
    parts = coco.frPyObjects([ring.ravel().tolist() for ring in rings], height, width)
    decoded: Bool = coco.decode(coco.merge(parts)).astype(np.bool_)
    return decoded


def star(seed: int) -> Points:
    """Return an object outline of 3 to 60 corners, partly outside a 320x240 image."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 60)))
    radius = random.uniform(20, 160, len(angles))
    return np.stack([160 + radius * np.cos(angles), 120 + radius * np.sin(angles)], axis=1)


# --- polygons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_polygon_differs_from_pycocotools_in_less_than_half_a_percent(seed: int) -> None:
    found = fill([star(seed)], 240, 320).draw(240, 320)
    assert (found != reference([star(seed)], 240, 320)).mean() <= 0.005


def test_rectangle_on_pixel_borders_is_exact() -> None:
    found = fill([rectangle(3, 2, 7, 5)], 8, 10).draw(8, 10)
    expected = np.zeros((8, 10), np.bool_)
    expected[2:5, 3:7] = True
    assert np.array_equal(found, expected)


def test_neighbours_with_a_common_edge_neither_overlap_nor_leave_a_gap() -> None:
    corners = as_points([[0, 0], [9.5, 0], [9.5, 7], [0, 7]])
    halves = [fill([corners[[0, 1, 2]]], 7, 9), fill([corners[[0, 2, 3]]], 7, 9)]
    assert np.array_equal(sum(half.draw(7, 9).astype(int) for half in halves), np.ones((7, 9), int))


def test_hole_is_not_filled() -> None:
    found = fill([rectangle(0, 0, 8, 8), rectangle(2, 2, 4, 5)], 8, 8)
    assert found.pixels.sum() == 64 - 6


@pytest.mark.parametrize("shift", [(-500, 0), (500, 0), (0, -500), (0, 500)])
def test_polygon_outside_the_image_has_no_pixel(shift: tuple[int, int]) -> None:
    region = fill([star(0) + shift], 240, 320)
    assert not region.draw(240, 320).any()
    assert count_outside(star(0) + shift, 240, 320) == len(star(0))


def test_outline_with_too_many_crossings_is_an_error() -> None:
    zigzag = np.stack([np.arange(20_000) % 500, np.arange(20_000) % 2 * 500.0], axis=1)
    with pytest.raises(InvalidFileError, match="crosses at most"):
        fill([zigzag], 500, 500)


def test_ellipse_has_the_area_of_the_ellipse() -> None:
    region = fill([ellipse(100, 80, 60, 30)], 160, 200)
    assert region.pixels.sum() == pytest.approx(np.pi * 60 * 30, rel=0.005)


@pytest.mark.parametrize("radius", [1e300, 1e12, float("nan"), float("inf")])
def test_radius_that_is_not_one_of_an_image_is_an_error(radius: float) -> None:
    with pytest.raises(InvalidFileError, match="coordinates of an image"):
        ellipse(0, 0, 1, radius)


def test_rotation_is_clockwise_in_the_image() -> None:
    turned = rotate(rectangle(0, 0, 4, 2), 90, 0, 0)
    assert np.allclose(turned, [(0, 0), (0, 4), (-2, 4), (-2, 0)])


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1, 2, 3], "abc", [[1, "x"], [2, 3], [3, 4]], None, [[0, 0], [1, 1], 3]]
)
def test_malformed_corners_are_an_error(values: object) -> None:
    with pytest.raises(InvalidFileError):
        as_points(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_coordinate_that_is_not_one_of_an_image_is_an_error(value: float) -> None:
    with pytest.raises(InvalidFileError, match="coordinates of an image"):
        as_points([0, 0, 5, value, 5, 5])


# --- run lengths -------------------------------------------------------------------------------------------


@given(masks)
def test_compressed_runs_decode_as_by_pycocotools(mask: Bool) -> None:
    text = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")
    assert np.array_equal(decode_coco(text, *mask.shape), mask)


@given(masks)
def test_plain_runs_and_brush_data_come_back(mask: Bool) -> None:
    assert np.array_equal(decode_coco(encode_coco(mask), *mask.shape), mask)
    assert np.array_equal(decode_brush(encode_brush(mask), *mask.shape), mask)


def test_long_runs_of_a_brush_come_back() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[20:250] = True
    assert np.array_equal(decode_brush(encode_brush(mask), 300, 400), mask)


@pytest.mark.parametrize("counts", [[3, 4], [5, -1, 8], [12.0], "0", "\x7f", "o", [True, 11], None, [1 << 60]])
def test_damaged_runs_are_an_error(counts: object) -> None:
    with pytest.raises(InvalidFileError):
        decode_coco(counts, 3, 4)


def compressed(runs: list[int]) -> str:
    """Return run lengths as COCO's compressed string, of any size and sign."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@pytest.mark.parametrize("extra", [0, 12])
def test_runs_whose_sum_exceeds_64_bits_are_an_error(extra: int) -> None:
    large = (1 << 40) - 1
    rising = [large * step for step in range(1, 1 << 12) for _ in range(2)]
    runs = [0, *rising, (1 << 64) - sum(rising) + extra]
    assert sum(runs) % (1 << 64) == extra  # np.repeat allocates this many pixels, and writes all
    for counts in (compressed(runs), runs):
        with pytest.raises(InvalidFileError, match="run lengths"):
            decode_coco(counts, 3, 4)


def test_runs_of_which_each_is_valid_may_not_exceed_64_bits_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rle, "MAX_RUN", 1 << 63)
    with pytest.raises(InvalidFileError, match="12 pixels"):
        decode_coco([1 << 62, 1 << 62, 1 << 62, 1 << 62, 12], 3, 4)


@given(st.text(max_size=12))
def test_any_text_as_runs_is_numbers_or_an_error(text: str) -> None:
    with contextlib.suppress(InvalidFileError):
        assert decompress(text).dtype == np.int64


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_as_a_brush_are_a_mask_or_an_error(values: list[int]) -> None:
    with contextlib.suppress(InvalidFileError):
        assert decode_brush(values, 2, 3).shape == (2, 3)


# --- painting ----------------------------------------------------------------------------------------------


def test_later_shape_covers_an_earlier_one() -> None:
    canvas = Canvas(4, 4, 0)
    canvas.paint(fill([rectangle(0, 0, 3, 3)], 4, 4), 1, "first")
    canvas.paint(fill([rectangle(2, 2, 4, 4)], 4, 4), 2, "second")
    assert canvas.values[2, 2] == 2
    assert np.bincount(canvas.values.ravel()).tolist() == [4, 8, 4]
    assert not canvas.complete


def test_strict_canvas_refuses_an_overlap_of_two_classes_only() -> None:
    canvas = Canvas(4, 4, 0, strict=True)
    canvas.paint(fill([rectangle(0, 0, 3, 3)], 4, 4), 1, "first")
    canvas.paint(fill([rectangle(0, 0, 2, 2)], 4, 4), 1, "same class")
    with pytest.raises(InvalidFileError, match="second covers 1 pixel of class 1"):
        canvas.paint(fill([rectangle(2, 2, 4, 4)], 4, 4), 2, "second")


# --- contours ----------------------------------------------------------------------------------------------


@given(masks)
def test_traced_outlines_fill_exactly_the_same_pixels(mask: Bool) -> None:
    with_holes, bridged = np.zeros_like(mask), np.zeros_like(mask)
    for rings in trace(mask):
        with_holes |= fill(rings, *mask.shape).draw(*mask.shape)
        bridged |= fill([bridge(rings)], *mask.shape).draw(*mask.shape)
    assert np.array_equal(with_holes, mask)
    assert np.array_equal(bridged, mask)


@given(masks)
def test_bridged_outlines_are_what_pycocotools_reads(mask: Bool) -> None:
    outlines = [bridge(rings) for rings in trace(mask)]
    if outlines:
        assert np.array_equal(reference(outlines, *mask.shape), mask)
