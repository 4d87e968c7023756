"""Line charts as SVG: geometry for the macro `line_chart`, whose colours follow the page's light or dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.figures import format_figure

WIDTH, HEIGHT, LEFT = 440, 270, 48  # units of the SVG: about CSS pixels on a small screen
TOP, RIGHT, BOTTOM = 8, 8, 40
MOST_DOTS = 60  # points of a series; lines of more have none


@dataclass(frozen=True)
class Series:
    """A line: the path of SVG, and (x, y, text) of each point."""

    name: str
    path: str
    points: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A chart in units of the SVG; `mark` is the x of a vertical line, 0: none."""

    title: str
    x_label: str
    series: Sequence[Series]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    mark: float = 0
    mark_label: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    diagonal: str = ""  # path of a line to compare with

    @property
    def description(self) -> str:
        """Text for those who do not see the chart: its title and the last value of each line."""
        ends = [f"{series.name}: {series.points[-1][2]}" for series in self.series if series.points]
        return "; ".join([self.title, *ends])


def line_chart(
    title: str,
    x_label: str,
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    top: float | None = None,
    mark: int = 0,
    mark_label: str = "",
) -> Chart:
    """Return a chart of values at x = 1, 2, ...; values that are not finite are left out.

    `top`: highest value of the y axis, which starts at 0; None: from the values. `mark`: x of a vertical line; 0: none.
    """
    finite = [value for _, values in series for value in values if math.isfinite(value)]
    count = max((len(values) for _, values in series), default=1)
    step = _nice_step((top or max(finite, default=1.0)) / 4)
    limit = top or step * max(1, math.ceil(max(finite, default=1.0) / step - 1e-9))

    def x_of(x: int) -> float:
        fraction = (x - 1) / (count - 1) if count > 1 else 0.5
        return round(LEFT + 10 + fraction * (WIDTH - LEFT - RIGHT - 20), 1)

    def y_of(y: float) -> float:
        return round(HEIGHT - BOTTOM - min(max(y / limit, 0), 1) * (HEIGHT - BOTTOM - TOP), 1)

    lines = [_series(name, [(x_of(x), y_of(v), f"{v:.4g}") for x, v in _finite(values)]) for name, values in series]
    every = max(1, round(_nice_step(count / 8)))
    x_ticks = [(x_of(x), str(x)) for x in range(1, count + 1) if x == 1 or x % every == 0]
    digits = max(len(f"{i * step:.3g}".partition(".")[2]) for i in range(round(limit / step) + 1))
    y_ticks = [(y_of(i * step), f"{i * step:.{digits}f}") for i in range(round(limit / step) + 1)]
    return Chart(title, x_label, lines, x_ticks, y_ticks, x_of(mark) if mark else 0, mark_label)


def reliability_chart(title: str, x_label: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Chart:
    """Return a chart of (confidence, accuracy), both 0 to 1, under a diagonal, on which they are equal."""

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = WIDTH - LEFT - RIGHT - 20, HEIGHT - BOTTOM - TOP
        return round(LEFT + 10 + x * across, 1), round(HEIGHT - BOTTOM - min(max(y, 0), 1) * up, 1)

    lines = [
        _series(name, [(*place(x, y), f"{format_figure(x)}: {format_figure(y)}") for x, y in points])
        for name, points in curves
    ]
    (left, bottom), (right, top) = place(0, 0), place(1, 1)
    ticks = [(value / 4, f"{value / 4:.2f}") for value in range(5)]
    x_ticks, y_ticks = ([(place(v, v)[axis], text) for v, text in ticks] for axis in (0, 1))
    return Chart(title, x_label, lines, x_ticks, y_ticks, diagonal=f"M{left} {bottom}L{right} {top}")


def _finite(values: Sequence[float]) -> list[tuple[int, float]]:
    return [(x, value) for x, value in enumerate(values, 1) if math.isfinite(value)]


def _series(name: str, points: list[tuple[float, float, str]]) -> Series:
    path = " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y, _) in enumerate(points))
    return Series(name, path, points if len(points) <= MOST_DOTS else points[-1:])


def _nice_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `least`."""
    if not math.isfinite(least) or least <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= least * (1 - 1e-9)), 10 * power)
