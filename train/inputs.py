"""What to predict: the pictures of a split of a data commit, or files and folders that a person names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from train.dataset import SPLITS, is_picture, pictures_below
from utils.console import AppError, UsageError, t
from utils.files import inside
from utils.lakefs_utils import LakeFS, LakePath


@dataclass(frozen=True)
class Item:
    """A picture to predict: `name` is its output's path without suffix, `mask` its label where there is one.

    `fault` says why a picture is not to be read at all.
    """

    name: str
    image: Path
    mask: Path | None = None
    fault: str | None = None


def committed_items(lake: LakeFS, source: LakePath, split: str | None, cache: Path) -> tuple[str, list[Item]]:
    """The pictures and masks of one split of a data commit, and its name; unset: test where there is one, else val.

    Only that split is downloaded. Raises AppError for a commit or split that is not there.
    """
    files = [file.path.removeprefix(source.path) for file in lake.committed(source, cache)]
    names = split_names(lake, source, files, cache)
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
    lost = [name for name in names[wanted] if name not in images or name not in masks]
    if lost:
        raise AppError(
            t(
                f"{source}: 분할 '{wanted}' 의 '{lost[0]}' 에 그림이나 마스크가 없습니다 (모두 {len(lost)}개)",
                f"{source}: '{lost[0]}' of the split '{wanted}' has no picture or no mask ({len(lost)} such names)",
            )
        )
    chosen = {name: (images[name][0], masks[name][0]) for name in sorted(names[wanted])}
    keep = {source.path + path for pair in chosen.values() for path in pair}
    tree = lake.download(source, cache, keep.__contains__)
    root = inside(tree, source.path)
    return wanted, [Item(name, inside(root, image), inside(root, mask)) for name, (image, mask) in chosen.items()]


def split_names(lake: LakeFS, source: LakePath, files: Sequence[str], cache: Path) -> dict[str, list[str]]:
    """split -> names of its pairs, for both layouts."""
    if not any(path.startswith("images/") for path in files):
        return {split: list(pictures_below(files, f"{split}/images/")) for split in SPLITS}
    from train.splits import read_splits

    tree = lake.download(source, cache, lambda path: path.startswith(f"{source.path}splits/"))
    splits = read_splits(inside(tree, source.path))
    return {split: [name for s, _, name in splits.lines if s == split] if splits else [] for split in SPLITS}


def input_items(inputs: Sequence[Path]) -> list[Item]:
    """Pictures from files and folders (searched below, sub-folders kept in the names). Raises UsageError for none.

    A link that a person names is followed; one that lies in a folder may lead anywhere, and is a fault.
    """
    found: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            found += [(p.relative_to(path), p) for p in sorted(path.rglob("*")) if _is_input(p)]
        elif path.is_file():
            found.append((Path(path.name), path))
        else:
            raise UsageError(t(f"{path}: 파일이나 폴더가 없습니다", f"{path}: no such file or folder"))
    if not found:
        where = ", ".join(map(str, inputs))
        raise UsageError(t(f"{where}: 그림 파일이 없습니다", f"{where}: no pictures"))
    named = {path for path in inputs if not path.is_dir()}
    return [
        Item(name, path, fault=None if path in named else _fault(path))
        for name, (_, path) in zip(_unique_names(found), found, strict=True)
    ]


def _is_input(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_symlink():
        return is_picture(path.name) or path.is_dir()
    return is_picture(path.name) and path.is_file()


def _fault(path: Path) -> str | None:
    """Why a file that was found in a folder is not read."""
    if not path.is_symlink():
        return None
    return t(
        f"{path}: 링크는 따라가지 않습니다: 원본 {path.readlink()} 을(를) --input 으로 주세요",
        f"{path}: a link is not followed: give what it names, {path.readlink()}, as --input",
    )


def _unique_names(found: Sequence[tuple[Path, Path]]) -> list[str]:
    """`a.jpg` beside `a.png` keep their suffixes in the name, a second `a.png` gets a number: none overwrites another."""
    stems = [str(relative.with_suffix("").as_posix()) for relative, _ in found]
    counts: dict[str, int] = {}
    for stem in stems:
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1  # some file systems take A for a
    names: list[str] = []
    taken: set[str] = set()
    for (relative, _), stem in zip(found, stems, strict=True):
        base = stem if counts[stem.casefold()] == 1 else relative.as_posix()
        name = next(n for n in chain([base], (f"{base}-{k}" for k in count(2))) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names
