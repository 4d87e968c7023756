"""index.html in a folder of predictions: one page to look through them, which needs no server and loads nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import write_atomically
from core.html import render
from core.i18n import current_language, tr
from dataset.classes import ClassMap

TEMPLATE = Path(__file__).with_name("gallery.html")


def write_gallery(path: Path, listing: dict[str, Any], classes: ClassMap) -> None:
    """Write the page for what predictions.json lists: the pictures are loaded as one scrolls to them."""
    content = {
        "language": current_language(),
        "title": str(listing["model_version"] or tr("run") + f" {listing['run_id']}"),
        "text": _words(),
        "measured": "miou" in listing,
        "origin": {key: value for key, value in listing.items() if key != "images"},
        "classes": [
            {"name": name, "color": f"rgb{color}", "iou": listing.get("iou", {}).get(name)}
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        "pictures": [
            {
                "name": record["mask"].removesuffix(".png"),
                "mask": record["mask"],
                "overlay": record["overlay"],
                "width": record["width"],
                "height": record["height"],
                "miou": record.get("miou"),
                "shares": list(record["class_shares"].values()),
            }
            for record in listing["images"]
        ],
    }
    write_atomically(path, render(TEMPLATE, data=content).encode())


def _words() -> dict[str, str]:
    return {
        "find": tr("find"),
        "show": tr("show"),
        "order": tr("order"),
        "overlay": tr("overlay"),
        "mask": tr("mask"),
        "name": tr("name"),
        "worst": tr("lowest mIoU first"),
        "most": tr("most"),
        "origin": tr("where these come from"),
    }
