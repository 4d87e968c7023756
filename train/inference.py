"""Predictions of a model for pictures: palette PNG, overlay, and predictions.json that names data, code and run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from train.checkpoint import Model
from train.classes import UInt8
from train.dataset import SPLITS, is_picture, pictures_below
from train.figures import overlay
from train.metrics import ConfusionMatrix
from train.pictures import read_image, read_mask
from train.preprocess import EVAL_BATCH, native_logits, resize_image
from utils.console import UsageError, progress, t, warn
from utils.files import inside, write_atomically
from utils.lakefs_utils import LakeFS, LakePath
from utils.mlflow_utils import Lineage

LISTING = "predictions.json"


@dataclass(frozen=True)
class Item:
    """A picture to predict: `name` is its output's path without suffix, `mask` its label where there is one."""

    name: str
    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What `predict` wrote: accuracy and mIoU are None without masks; `broken` are the pictures that were left out."""

    written: int
    broken: list[str]
    accuracy: float | None
    miou: float | None
    iou: dict[str, float | None]


# --- what to predict ------------------------------------------------------------------------------------------------


def committed_items(lake: LakeFS, source: LakePath, split: str | None, cache: Path) -> tuple[str, list[Item]]:
    """The pictures and masks of one split of a data commit, and its name; unset: test where there is one, else val.

    Only that split is downloaded. Raises AppError for a commit or split that is not there.
    """
    files = [file.path.removeprefix(source.path) for file in lake.objects(source.ref, source.path, source.repo)]
    names = _split_names(lake, source, files, cache)
    wanted = split or next((s for s in ("test", "val") if names.get(s)), None)
    if not wanted or not names.get(wanted):
        there = ", ".join(s for s in SPLITS if names.get(s)) or t("없음", "none")
        split = split or "test/val"
        raise UsageError(
            t(
                f"{source}: 분할 '{split}' 이(가) 없습니다 (있는 것: {there})",
                f"{source}: no split '{split}' (there is: {there})",
            )
        )
    prefix = "" if any(path.startswith("images/") for path in files) else f"{wanted}/"
    images, masks = (pictures_below(files, f"{prefix}{part}/") for part in ("images", "masks"))
    chosen = {name: (images[name][0], masks[name][0]) for name in sorted(names[wanted])}
    keep = {source.path + path for pair in chosen.values() for path in pair}
    tree = lake.download(source, cache, keep.__contains__)
    root = inside(tree, source.path)
    return wanted, [Item(name, inside(root, image), inside(root, mask)) for name, (image, mask) in chosen.items()]


def _split_names(lake: LakeFS, source: LakePath, files: Sequence[str], cache: Path) -> dict[str, list[str]]:
    """split -> names of its pairs, for both layouts."""
    if not any(path.startswith("images/") for path in files):
        return {split: list(pictures_below(files, f"{split}/images/")) for split in SPLITS}
    from train.splits import read_splits

    tree = lake.download(source, cache, lambda path: path.startswith(f"{source.path}splits/"))
    splits = read_splits(inside(tree, source.path))
    return {split: [name for s, _, name in splits.lines if s == split] if splits else [] for split in SPLITS}


def input_items(inputs: Sequence[Path]) -> list[Item]:
    """Pictures from files and folders (searched below, sub-folders kept in the names). Raises UsageError for none."""
    found: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            below = sorted(
                p for p in path.rglob("*") if is_picture(p.name) and not p.name.startswith(".") and p.is_file()
            )
            found += [(p.relative_to(path), p) for p in below]
        elif path.is_file():
            found.append((Path(path.name), path))
        else:
            raise UsageError(t(f"{path}: 파일이나 폴더가 없습니다", f"{path}: no such file or folder"))
    if not found:
        where = ", ".join(map(str, inputs))
        raise UsageError(t(f"{where}: 그림 파일이 없습니다", f"{where}: no pictures"))
    return _with_unique_names(found)


def _with_unique_names(found: Sequence[tuple[Path, Path]]) -> list[Item]:
    """`a.jpg` beside `a.png` keep their suffixes in the name, a second `a.png` gets a number: none overwrites another."""
    stems = [str(relative.with_suffix("").as_posix()) for relative, _ in found]
    names: list[str] = []
    taken: set[str] = set()
    for (relative, _), stem in zip(found, stems, strict=True):
        base = stem if stems.count(stem) == 1 else relative.as_posix()
        name = next(n for n in (base, *(f"{base}-{k}" for k in range(2, len(found) + 2))) if n not in taken)
        taken.add(name)
        names.append(name)
    return [Item(name, path) for name, (_, path) in zip(names, found, strict=True)]


# --- prediction -----------------------------------------------------------------------------------------------------


def predict(
    model: Model, items: Sequence[Item], output: Path, lineage: Lineage, split: str | None, device: torch.device
) -> Outcome:
    """Predict every picture at its own size and write <name>.png, <name>_overlay.jpg and predictions.json below `output`.

    A picture that cannot be read is named and left out. What an earlier call listed there is removed first, so that the
    folder never mixes two models. Raises UsageError where an output would overwrite an input.
    """
    inputs = {item.image.resolve() for item in items}
    for item in items:
        if any(path.resolve() in inputs for path in _outputs(output, item.name)):
            raise UsageError(
                t(
                    f"{item.image}: 입력을 덮어씁니다: 다른 --output 을 주세요",
                    f"{item.image}: would be overwritten: give another --output",
                )
            )
    output.mkdir(parents=True, exist_ok=True)
    remove_listed(output)
    provenance = _provenance(model, lineage, split)
    confusion, records, broken = ConfusionMatrix(model.classes.num_classes), [], list[str]()
    results = _indices(model, items, device, lambda item, reason: broken.append(f"{item.image}: {reason}"))
    for item, image, indices in progress(results, len(items), t("예측", "predict"), "images"):
        _write_pictures(model, output, item.name, image, indices, provenance)
        records.append(_record(model, item, indices, confusion))
    measured = any(item.mask for item in items)
    iou = dict(zip(model.classes.names, confusion.iou(), strict=True)) if measured else {}
    outcome = Outcome(
        written=len(records),
        broken=broken,
        accuracy=confusion.accuracy if measured else None,
        miou=confusion.miou if measured else None,
        iou=iou,
    )
    totals = {"accuracy": outcome.accuracy, "miou": outcome.miou, "iou": iou} if measured else {}
    content = {**provenance, **totals, "images": records, "broken": broken}
    write_atomically(output / LISTING, json.dumps(content, ensure_ascii=False, indent=1).encode())
    return outcome


def _indices(
    model: Model, items: Sequence[Item], device: torch.device, on_broken: Callable[[Item, str], None]
) -> Iterator[tuple[Item, UInt8, UInt8]]:
    """Item, picture (H,W,3) uint8, class indices (H,W) uint8, in batches of the size that validation has."""
    for start in range(0, len(items), EVAL_BATCH):
        batch: list[tuple[Item, UInt8]] = []
        for item in items[start : start + EVAL_BATCH]:
            try:
                batch.append((item, read_image(item.image)))
            except UsageError as error:
                warn(str(error), str(error))
                on_broken(item, str(error))
        if not batch:
            continue
        small = np.stack([resize_image(image, model.input_size) for _, image in batch])
        sizes = [(image.shape[0], image.shape[1]) for _, image in batch]
        with torch.inference_mode():
            images = torch.from_numpy(small).permute(0, 3, 1, 2)
            logits = native_logits(model.network, images, sizes, model.normalisation, device)
            indices = [one.argmax(0).to(torch.uint8).cpu().numpy() for one in logits]
        for (item, image), one in zip(batch, indices, strict=True):
            yield item, image, one


def _outputs(output: Path, name: str) -> tuple[Path, Path]:
    """Where the palette PNG and the overlay of a name go."""
    return inside(output, f"{name}.png"), inside(output, f"{name}_overlay.jpg")


def _write_pictures(
    model: Model, output: Path, name: str, image: UInt8, indices: UInt8, provenance: dict[str, Any]
) -> None:
    """The mask with its values and colours (mode P), its origin in its text; and the overlay."""
    mask_path, overlay_path = _outputs(output, name)
    mask_path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    for key in ("model_version", "run_id", "lakefs_model_path", "model_sha256", "lakefs_data_path", "git_commit"):
        text.add_text(key, str(provenance[key]))
    picture = Image.fromarray(model.classes.decode(indices)).convert("P")
    picture.putpalette(model.classes.palette())
    picture.save(mask_path, pnginfo=text)
    Image.fromarray(overlay(image, indices, model.classes)).save(overlay_path, quality=90)


def _record(model: Model, item: Item, indices: UInt8, confusion: ConfusionMatrix) -> dict[str, Any]:
    """One entry of predictions.json; the picture's counts are added to `confusion` where it has a mask."""
    shares = np.bincount(indices.ravel(), minlength=model.classes.num_classes) / indices.size
    record: dict[str, Any] = {
        "input": str(item.image) if item.mask is None else item.name,
        "mask": f"{item.name}.png",
        "overlay": f"{item.name}_overlay.jpg",
        "height": indices.shape[0],
        "width": indices.shape[1],
        "class_shares": {name: round(float(s), 6) for name, s in zip(model.classes.names, shares, strict=True)},
    }
    if item.mask is not None:
        own = ConfusionMatrix(model.classes.num_classes)
        own.update(torch.from_numpy(indices), torch.from_numpy(read_mask(item.mask, model.classes)))
        confusion.counts += own.counts
        record |= {"accuracy": own.accuracy, "miou": own.miou}
    return record


def _provenance(model: Model, lineage: Lineage, split: str | None) -> dict[str, Any]:
    """Which data, code and run made the predictions."""
    return {
        "model_version": lineage.version,
        "run_id": lineage.run_id,
        "lakefs_model_path": str(lineage.model_path),
        "model_sha256": lineage.model_sha256,
        "lakefs_data_path": str(lineage.data_path),
        "git_commit": lineage.git_commit,
        "git_dirty": model.lineage.get("git_dirty", "none"),
        "model_metrics": model.metrics,
        "split": split,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def remove_listed(output: Path) -> None:
    """Remove what the predictions.json of an earlier call lists; other files in the folder are not ours."""
    try:
        old = json.loads((output / LISTING).read_text(encoding="utf-8"))
        names = [record[key] for record in old["images"] for key in ("mask", "overlay")]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = output / LISTING
        raise UsageError(
            t(
                f"{where}: 이 프로젝트의 목록이 아닙니다 ({error}): 옮기거나 지우세요",
                f"{where}: not a listing of this project ({error}): move or remove it",
            )
        ) from error
    os.remove(output / LISTING)
    for name in names:
        inside(output, name).unlink(missing_ok=True)
