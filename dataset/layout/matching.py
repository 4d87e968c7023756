"""Match masks with images whose names differ: by case, by words such as `_mask`, or by one ending of all masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from core.i18n import tr
from dataset.directory import is_image
from dataset.layout.vocabulary import IMAGES, MASKS, split_word

_ENDING = re.compile(r"[_\-. ][^_\-. ]*[^\W\d_][^_\-. ]*")  # of a name: a separator and a word that has a letter
MIN_NAMES = 2  # with the same unknown ending: one may be a coincidence
NAME = "NAME"  # stands for a pair's name in texts


@dataclass(frozen=True)
class Conflict:
    """Images and masks (names) of which more than one could be meant."""

    images: tuple[str, ...]
    masks: tuple[str, ...]


@dataclass
class Matching:
    """Mask name -> name of its image; names that differ are described in `rules`, with the number of masks."""

    pairs: dict[str, str] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Key:
    """What two names must have in common to belong together, and how the name differs from it."""

    text: str
    form: str  # 'NAME', 'NAME_mask', 'NAME.jpg'


_MakeKey = Callable[[str], _Key]


def match_names(images: Collection[str], masks: Collection[str]) -> Matching:
    """Return which mask belongs to which image; names are paths without suffix, below the directory of their kind.

    Equal names come first, then names that differ in case or by an image suffix (`a.jpg.png`), then names with a word
    of their kind, then an ending that all remaining masks have. What fits more than one partner is a conflict.
    """
    matching = Matching({name: name for name in masks if name in images})
    free_images = [name for name in images if name not in matching.pairs]
    free_masks = [name for name in masks if name not in matching.pairs]
    if not free_images or not free_masks:
        _find_second_masks(matching, images, free_masks)
        return matching
    for image_key, mask_key in (
        (_plain_key, _plain_key),
        (_plain_key, _mask_key),
        (_image_key, _mask_key),
        (_image_key, _plain_key),
    ):
        _match_by_key(matching, free_images, free_masks, image_key, mask_key)
        free_images, free_masks = _remaining(matching, free_images, free_masks)
    _match_by_ending(matching, free_images, free_masks)
    _find_second_masks(matching, images, _remaining(matching, (), free_masks)[1])
    return matching


def base_name(mask: str) -> str:
    """Return the name of the image that a mask without a partner asks for: 'a_mask' -> 'a'."""
    folder, _, stem = mask.rpartition("/")
    words = split_word(_without_suffix(stem), MASKS)
    return "/".join(filter(None, (folder, words[1] if words else _without_suffix(stem))))


def _remaining(matching: Matching, images: Iterable[str], masks: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that are in no pair and no conflict."""
    used_images = {*matching.pairs.values(), *(name for conflict in matching.conflicts for name in conflict.images)}
    used_masks = {*matching.pairs, *(name for conflict in matching.conflicts for name in conflict.masks)}
    return [name for name in images if name not in used_images], [name for name in masks if name not in used_masks]


def _match_by_key(
    matching: Matching, images: Iterable[str], masks: Iterable[str], image_key: _MakeKey, mask_key: _MakeKey
) -> None:
    """Match names whose keys are equal; more than one image or mask of a key is a conflict."""
    by_key = _group(images, image_key)
    for text, wanted in _group(masks, mask_key).items():
        found = by_key.get(text, [])
        if len(found) == len(wanted) == 1:
            (image, image_form), (mask, mask_form) = found[0], wanted[0]
            matching.pairs[mask] = image
            matching.rules[_describe(image_form, mask_form)] += 1
        elif found:
            matching.conflicts.append(Conflict(tuple(name for name, _ in found), tuple(name for name, _ in wanted)))


def _group(names: Iterable[str], make_key: _MakeKey) -> dict[str, list[tuple[str, str]]]:
    """Return key -> (name, form) of the names that have it."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        key = make_key(name)
        groups.setdefault(key.text, []).append((name, key.form))
    return groups


def _describe(image_form: str, mask_form: str) -> str:
    """Return how the names of a pair differ, as text."""
    if image_form == mask_form == NAME:
        return tr("upper and lower case differ")
    return tr("mask {mask} belongs to image {image}", mask=mask_form, image=image_form)


def _without_suffix(stem: str) -> str:
    """Return 'a' of 'a.jpg'."""
    return stem.rpartition(".")[0] if is_image(stem) else stem


def _plain_key(name: str) -> _Key:
    plain = _without_suffix(name)
    return _Key(plain.casefold(), NAME + name[len(plain) :])


def _word_key(name: str, role: str) -> _Key:
    """Return the key of a name without the word of its role, or its plain key."""
    folder, slash, stem = name.rpartition("/")
    words = split_word(_without_suffix(stem), role)
    if words is None:
        return _plain_key(name)
    before, base, after = words
    plain = _without_suffix(base)
    form = before + NAME + base[len(plain) :] + after
    return _Key((folder + slash + plain).casefold(), form)


def _image_key(name: str) -> _Key:
    return _word_key(name, IMAGES)


def _mask_key(name: str) -> _Key:
    return _word_key(name, MASKS)


def _match_by_ending(matching: Matching, images: Collection[str], masks: Collection[str]) -> None:
    """Match by an unknown ending that all remaining names of one kind have, if they then have one partner each."""
    pairs = _pairs_by_ending(masks, {name: _image_key(name) for name in images})
    for mask, (image, form) in pairs.items():
        matching.pairs[mask] = image
        matching.rules[_describe(_image_key(image).form, form)] += 1
    if pairs:
        return
    for image, (mask, form) in _pairs_by_ending(images, {name: _mask_key(name) for name in masks}).items():
        matching.pairs[mask] = image
        matching.rules[_describe(form, _mask_key(mask).form)] += 1


def _pairs_by_ending(names: Collection[str], partners: Mapping[str, _Key]) -> dict[str, tuple[str, str]]:
    """Return name -> (partner, form of the name) by the first ending that gives each name its own partner, else {}."""
    by_key = {key.text: partner for partner, key in partners.items()}
    if len(by_key) < len(partners) or len(names) < MIN_NAMES:
        return {}
    for ending in _common_endings(names):
        bases = {name: _plain_key(name).text.removesuffix(ending.casefold()) for name in names}
        if len(set(bases.values())) == len(names) and by_key.keys() >= set(bases.values()):
            return {name: (by_key[base], NAME + ending) for name, base in bases.items()}
    return {}


def _common_endings(names: Collection[str]) -> list[str]:
    """Return the endings that all names have, shortest first; each begins with a separator and a word with a letter."""
    first, *others = names
    start = first.rfind("/") + 1
    endings = [first[match.start() :] for match in _ENDING.finditer(first, start + 1)]
    return [e for e in reversed(endings) if all(name.casefold().endswith(e.casefold()) for name in others)]


def _find_second_masks(matching: Matching, images: Collection[str], masks: Iterable[str]) -> None:
    """Add a conflict for each remaining mask that also fits an image that has a mask."""
    partner = {image: mask for mask, image in matching.pairs.items()}
    keys = {_plain_key(image).text: image for image in images}
    for mask in masks:
        image = keys.get(_mask_key(mask).text)
        if image is not None and image in partner:
            matching.conflicts.append(Conflict((image,), (partner[image], mask)))
