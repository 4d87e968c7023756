"""Survey which directories below a prefix have the name of images, masks or splits."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dataset.directory import SPLITS
from dataset.layout.vocabulary import IMAGES, MASKS, read_directory_name

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

        def strong(places: dict[K, set[str]]) -> dict[K, set[str]]:
            return {key: names - self.weak for key, names in places.items() if names - self.weak}

        return replace(self, flat=strong(self.flat), split=strong(self.split))

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
            if inner.split and not inner.role:
                self.flat_splits.setdefault((inner.split, meaning.role), set()).add(f"{first}/{others[0]}")
            else:
                self.beside_splits.append(path)
        elif meaning.split and inner.role and not inner.split:
            directory = f"{first}/{others[0]}"
            self.split.setdefault((meaning.split, inner.role), set()).add(directory)
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
    return survey
