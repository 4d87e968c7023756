"""index.html of an output directory: one page to browse the predictions, without a server or external files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.i18n import current_language, tr
from core.safety import html
from dataset.classes import ClassMap
from segmentation.means import Coverage, format_mean

TEMPLATE = Path(__file__).with_name("gallery.html")
BESIDE = "'self' file:"  # the images of the directory, from a web server or a disk


def write_gallery(path: Path, listing: dict[str, Any], classes: ClassMap) -> None:
    """Write the page for the content of predictions.json; the browser loads images when they are scrolled to."""
    content = {
        "language": current_language(),
        "title": str(listing["model_version"] or tr("run") + f" {listing['run_id']}"),
        "text": _texts(),
        "measured": "miou" in listing,
        "origin": {key: value for key, value in listing.items() if key != "images"},
        "classes": [
            {"name": name, "color": f"rgb{color}", "iou": listing.get("iou", {}).get(name)}
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        "images": [
            {
                "name": record["mask"].removesuffix(Path(record["mask"]).suffix),
                # Browsers do not show TIFF files.
                "mask": record["mask"] if record["mask"].endswith(".png") else record["overlay"],
                "overlay": record["overlay"],
                "width": record["width"],
                "height": record["height"],
                "miou": record.get("miou"),
                "measured": _describe_mean(record),
                "shares": list(record["class_shares"].values()),
            }
            for record in listing["images"]
        ],
    }
    html.write_page(path, TEMPLATE, BESIDE, data=content)


def _describe_mean(record: dict[str, Any]) -> str:
    """Return the mIoU of an image with the number of classes that it is of; empty for an image without a mask."""
    if record.get("miou") is None:
        return ""
    return f"mIoU {format_mean(record['miou'], Coverage.parse(record.get('classes')), 3)}"


def _texts() -> dict[str, str]:
    return {
        "find": tr("search"),
        "show": tr("show"),
        "order": tr("sort by"),
        "overlay": tr("overlay"),
        "mask": tr("mask"),
        "name": tr("name"),
        "worst": tr("lowest mIoU first"),
        "most": tr("largest share of"),
        "origin": tr("origin of the predictions"),
    }
