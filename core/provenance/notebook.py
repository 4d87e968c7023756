"""Jupyter notebooks without outputs, which are results and may hold anything that was printed."""

from __future__ import annotations

import json

_KEPT_METADATA = ("kernelspec", "language_info")


def strip_outputs(content: bytes) -> bytes | None:
    """Return a notebook with its cells only, in a fixed form; None if it is not a notebook."""
    try:
        notebook = json.loads(content)
        cells = [_strip_cell(cell) for cell in notebook["cells"]]
        metadata = {key: notebook["metadata"][key] for key in _KEPT_METADATA if key in notebook["metadata"]}
        stripped = {**notebook, "cells": cells, "metadata": metadata}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (json.dumps(stripped, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")


def _strip_cell(cell: dict[str, object]) -> dict[str, object]:
    if cell["cell_type"] == "code":
        return {**cell, "metadata": {}, "outputs": [], "execution_count": None}
    return {key: value for key, value in cell.items() if key != "attachments"} | {"metadata": {}}
