"""How figures are written: a value reads the same in the console, in reports, on pages and in commit messages.

Messages of the catalogue write figures by the same formats, `{value:.4f}` and `{gain:+.4f}`.
"""

from __future__ import annotations


def format_figure(value: float) -> str:
    """Return a metric, threshold or fraction of 0 to 1 as '0.8651'."""
    return f"{value:.4f}"


def format_gain(value: float) -> str:
    """Return a difference of metrics as '+0.0272'."""
    return f"{value:+.4f}"


def format_share(fraction: float) -> str:
    """Return a share of pixels as '12.34%'."""
    return f"{fraction:.2%}"


def format_confidence(fraction: float) -> str:
    """Return the confidence of an interval as '95%'."""
    return f"{fraction:.0%}"
