"""Export a data directory to other formats, import it again by lake.py import-labels, and compare every bit.

    python benchmarks/round_trip.py ../shared/camvid                    # all formats
    python benchmarks/round_trip.py ../shared/camvid --formats cvat voc

An image is equal if its bytes are, a mask if every pixel has the class that it had, or is ignored as it was. `voc` has
VOC's own palette with 255 for ignored pixels and its names in class_names.txt, `voc-labelmap` the palette of the data
and a labelmap.txt, `coco-rle` compressed run lengths of pycocotools for each class of an image. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.console import format_table
from core.i18n import set_language
from dataset.classes import IGNORE_INDEX, UInt8
from dataset.data import Pair, SegmentationData
from dataset.decoding.mask import read_mask
from dataset.formats.raster.voc import voc_color
from dataset.validation import check_data
from tests.support.exports.raster import (
    Labelled,
    labelled_pairs,
    palette_of,
    write_coco_rle,
    write_cvat,
    write_labelmap,
    write_voc,
)

Exporter = Callable[[Path, SegmentationData, Sequence[Labelled]], object]


def all_classes(data: SegmentationData) -> list[tuple[int, str, tuple[int, int, int]]]:
    """Return (id, name, colour) of the classes; ignored ones are called void."""
    known = data.classes
    rows = list(zip(known.ids, known.names, known.colors, strict=True))
    rows += [
        (value, "void" if number == 0 else f"void {number}", color)
        for number, (value, color) in enumerate(zip(known.ignore_ids, known.ignore_colors, strict=True))
    ]
    rows.sort()
    if [value for value, _, _ in rows] != list(range(len(rows))) or len(known.ignore_ids) > 1:
        raise SystemExit("expected ids without gaps from 0, and at most one ignored id: colour lists have no other ids")
    return rows


def export_cvat(root: Path, data: SegmentationData, items: Sequence[Labelled]) -> None:
    rows = all_classes(data)
    write_cvat(root, items, [name for _, name, _ in rows], [color for _, _, color in rows])


def export_voc_labelmap(root: Path, data: SegmentationData, items: Sequence[Labelled]) -> None:
    rows = all_classes(data)
    colors = [color for _, _, color in rows]
    write_voc(root, items, palette_of(colors))
    write_labelmap(root, [name for _, name, _ in rows], colors)


def export_voc(root: Path, data: SegmentationData, items: Sequence[Labelled]) -> None:
    palette = palette_of([voc_color(index) for index in range(data.classes.num_classes)])
    encoded = [Labelled(i.name, i.split, i.image, data.classes.encode(i.ids)) for i in items]
    write_voc(root, encoded, palette, data.classes.names)


def export_coco_rle(root: Path, data: SegmentationData, items: Sequence[Labelled]) -> None:
    rows = all_classes(data)
    write_coco_rle(root, items, [name for _, name, _ in rows], [color for _, _, color in rows])


EXPORTERS: dict[str, Exporter] = {
    "cvat": export_cvat,
    "voc": export_voc,
    "voc-labelmap": export_voc_labelmap,
    "coco-rle": export_coco_rle,
}


def compare(before: SegmentationData, after: SegmentationData) -> list[object]:
    """Return the numbers of images and masks that differ, of pixels that differ, and of splits that differ."""
    was, now = ({pair.name: pair for pair in data.pairs} for data in (before, after))
    missing = len(was.keys() ^ now.keys())
    images = masks = pixels = splits = 0
    for name in was.keys() & now.keys():
        images += was[name].image.read_bytes() != now[name].image.read_bytes()
        different = int((indices(was[name], before) != indices(now[name], after)).sum())
        masks += different > 0
        pixels += different
        splits += was[name].split != now[name].split
    names = before.classes.names == after.classes.names
    return [missing, images, masks, pixels, splits, "same" if names else "differ"]


def indices(pair: Pair, data: SegmentationData) -> UInt8:
    return read_mask(pair.mask, data.classes, data.reading)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--formats", nargs="+", choices=EXPORTERS, default=list(EXPORTERS))
    options = parser.parse_args(arguments)
    set_language("en")
    before = check_data(options.data, 0, make_split=False)
    items = labelled_pairs(before)
    pixels = sum(item.ids.size for item in items)
    ignored = sum(int((indices(pair, before) == IGNORE_INDEX).sum()) for pair in before.pairs)
    print(f"{len(items)} pairs, {pixels:,} pixels, {ignored:,} of them ignored")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.formats:
            export, target = Path(folder, name), Path(folder, f"{name}-imported")
            EXPORTERS[name](export, before, items)
            start = time.monotonic()
            command = [sys.executable, str(ROOT / "lake.py"), "import-labels", str(export), "--to", str(target)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - start
            rows.append([name, *compare(before, check_data(target, 0, make_split=False)), f"{seconds:.1f}"])
    headers = ("format", "missing", "images", "masks", "pixels", "splits", "names", "import [s]")
    print("differences:\n" + format_table(headers, [tuple(map(str, row)) for row in rows]))
    return int(any(row[1:7] != [0, 0, 0, 0, 0, "same"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
