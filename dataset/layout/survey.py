"""Survey which directories below a prefix have the name of images, masks or splits."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dataset.directory import SPLITS
from dataset.layout.vocabulary import IMAGES, MASKS, mentions_split, read_directory_name

K = TypeVar("K")

_read_name = functools.lru_cache(4096)(read_directory_name)


@dataclass
class Survey:
    """Directories with image files, relative to `prefix`, by what their names mean."""

    prefix: str
    flat: dict[str, set[str]] = field(default_factory=dict)  # role -> 'imgs'
    flat_splits: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # (split, role) -> 'imgs/train'
    beside_splits: list[str] = field(default_factory=list)  # paths directly in a role's directory, or in another one
    split: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # (split, role) -> 'train/imgs', 'train_imgs'
    bare: dict[str, set[str]] = field(default_factory=dict)  # split -> 'train', where the images are directly inside
    weak: set[str] = field(default_factory=set)  # directories whose names often mean something else
    doubtful: set[str] = field(default_factory=set)  # 'dev/imgs', 'train2017/imgs': a split only beside another one
    known_directories: set[str] = field(default_factory=set)  # first directories with a name of a role or split

    @property
    def has_images(self) -> bool:
        """Whether there are image files in a directory for images or masks."""
        return bool(self.flat or self.split)

    @property
    def has_pairs(self) -> bool:
        """Whether there are directories for images and for masks."""
        roles = {*self.flat, *(role for _, role in self.split)}
        return MASKS in roles and (IMAGES in roles or any((split, MASKS) in self.split for split in self.bare))

    def subdirectories(self) -> list[str]:
        """Return the splits that have a directory inside the directories of images and masks."""
        return [split for split in SPLITS if any((split, role) in self.flat_splits for role in (IMAGES, MASKS))]

    def without_weak(self) -> Survey:
        """Return the survey without directories whose names often mean something else."""
        return self._without(self.weak)

    def without_doubtful(self) -> Survey:
        """Return the survey without directories that are a split only beside another one, where there is none."""
        splits = {split for split, _ in self.split}
        return self._without(self.doubtful) if self.doubtful and len(splits) < 2 else self

    def _without(self, directories: Collection[str]) -> Survey:
        def rest(places: dict[K, set[str]]) -> dict[K, set[str]]:
            return {key: kept for key, names in places.items() if (kept := names.difference(directories))}

        return replace(self, flat=rest(self.flat), split=rest(self.split))

    def add(self, path: str) -> None:
        """Record an image file."""
        first, *others = path[len(self.prefix) :].split("/")[:-1] or [""]
        meaning = _read_name(first)
        inner = _read_name(others[0]) if others else _read_name("")
        if (meaning.role or meaning.split) and not meaning.weak:
            self.known_directories.add(first)
        if meaning.role and meaning.split:
            directory = first
            self.split.setdefault((meaning.split, meaning.role), set()).add(directory)
        elif meaning.role:
            directory = first
            self.flat.setdefault(meaning.role, set()).add(directory)
            if inner.split and inner.role in ("", meaning.role):
                self.flat_splits.setdefault((inner.split, meaning.role), set()).add(f"{first}/{others[0]}")
            else:
                self.beside_splits.append(path)
        elif meaning.split and inner.role and not inner.split:
            directory = f"{first}/{others[0]}"
            self.split.setdefault((meaning.split, inner.role), set()).add(directory)
            if meaning.weak:
                self.doubtful.add(directory)
        elif meaning.split:
            directory = first
            self.bare.setdefault(meaning.split, set()).add(directory)
        else:
            return
        if meaning.weak or (inner.weak and directory != first):
            self.weak.add(directory)


def survey_directories(paths: Iterable[str], prefix: str) -> Survey:
    """Return the survey of these image files, which are all below `prefix`."""
    survey = Survey(prefix)
    for path in paths:
        if path.startswith(prefix):
            survey.add(path)
    return survey.without_doubtful()


def find_split_like(names: Iterable[str]) -> list[str]:
    """Return the first directories of pair names if they may be splits; none if nothing suggests that they are.

    They may be if one of several places is called like a split, or if each of several directories has such a word in
    its name: 'trainval' and 'test'.
    """
    parents = {name.rpartition("/")[0] + "/" for name in names}
    common = posixpath.commonprefix([min(parents), max(parents)]) if parents else ""
    common = common[: common.rfind("/") + 1]
    places = sorted({parent[len(common) :].partition("/")[0] for parent in parents})  # '' for files beside directories
    found = [name for name in places if name]
    called = len(places) > 1 and any(_read_name(name).split and not _read_name(name).role for name in found)
    return found if called or (len(found) > 1 and all(map(mentions_split, found))) else []
