"""Names that people give to the directories of images, masks and splits, and to masks."""

from __future__ import annotations

import re
from dataclasses import dataclass

IMAGES, MASKS = "images", "masks"

# Compared in lower case, without "_", "-", "." and spaces.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Words for splits that often mean something else: such directories count only where another split is beside them.
WEAK_SPLIT_NAMES = {"train": ("trn",), "val": ("vld", "dev", "eval", "evaluation"), "test": ("tst",)}
ROLE_NAMES = {
    IMAGES: ("images", "image", "imgs", "img", "imgdir", "imagedir", "imagesdir", "jpegimages"),
    MASKS: (
        *("masks", "mask", "labels", "label", "annotations", "annotation", "anns", "ann", "annots", "annot"),
        *("maskdir", "masksdir", "labeldir", "labelsdir", "anndir", "segmentations", "segmentation", "segs", "seg"),
    ),
}
# Names that often mean something else: they count only where none of the names above exists.
WEAK_ROLE_NAMES = {
    IMAGES: ("photos", "photo", "pictures", "picture", "frames", "inputs", "input"),
    MASKS: ("gt", "gts", "groundtruth", "groundtruths", "targets", "target"),
}
# Words that may be beside others in a name, which is a weak one then: 'original_images', 'train_set'.
NEUTRAL_WORDS = {
    *("dir", "folder", "files", "data", "dataset", "set", "all", "raw", "original", "prepped", "semantic", "class"),
    *("rgb", "color", "colour", "gray", "grey", "png", "jpg", "jpeg", "tif", "tiff", "binary", "2d"),
}

MASK_WORDS = (
    *("mask", "masks", "label", "labels", "labelids", "labeltrainids", "trainid", "trainids", "train_id", "l"),
    *("gt", "groundtruth", "ground_truth", "gtfine_labelids", "gtfine_labeltrainids", "gtcoarse_labelids"),
    *("seg", "segm", "segs", "segmentation", "segmentation_mask", "annotation", "annotations", "anno", "annot", "ann"),
    *("target", "manual1", "matte", "lbl", "lab", "binary_mask", "seg_mask"),
)
IMAGE_WORDS = (*("leftimg8bit", "image", "img", "rgb", "photo", "input", "sat", "original", "orig", "training"),)
_SEPARATOR = r"[_\-. ]+"


@dataclass(frozen=True)
class DirectoryName:
    """What the name of a directory means; `role` is IMAGES or MASKS, `split` a split, and '' stands for neither."""

    role: str = ""
    split: str = ""
    weak: bool = False  # the name often means something else


def read_directory_name(name: str) -> DirectoryName:
    """Return the meaning of a directory's name: 'Imgs', 'valid', 'train_masks'; of an unknown one, no role and no split."""
    plain = re.sub(_SEPARATOR, "", name).casefold()
    if plain in _ROLES:
        return _ROLES[plain]
    for word, (split, weak) in _SPLITS.items():
        for rest in (plain.removeprefix(word), plain.removesuffix(word)):
            if rest != plain and (not rest or rest in _ROLES):
                role = _ROLES.get(rest, DirectoryName())
                return DirectoryName(role.role, split, role.weak or weak)
    found = _SPLIT_AMONG_WORDS.fullmatch(plain)
    return DirectoryName(split=_SPLITS[found["word"]][0], weak=True) if found else _read_words(name)


def _read_words(name: str) -> DirectoryName:
    """Return the meaning of a name of several words, one of which is a role; 'label_images' are masks.

    Numbers belong to the word of a split: 'images_train2017' has one, 'images_2' means nothing.
    """
    words = [word.casefold() for word in re.split(_SEPARATOR, name) if word.casefold() not in NEUTRAL_WORDS]
    matches = {word: match for word in words if (match := _SPLIT_AMONG_WORDS.fullmatch(word))}
    splits = {_SPLITS[match["word"]][0] for match in matches.values()}
    others = [word for word in words if word not in matches and not (splits and re.fullmatch(_BESIDE, word))]
    roles = {_ROLES[word].role for word in others if word in _ROLES}
    if not roles or len(splits) > 1 or not all(word in _ROLES for word in others):
        return DirectoryName()
    return DirectoryName(MASKS if MASKS in roles else IMAGES, next(iter(splits), ""), weak=True)


def mentions_split(name: str) -> bool:
    """Return whether one word of a directory's name is that of a split, or of several: 'A-train', 'myTest', 'trainval'."""
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name)
    return any(_SPLIT_WORDS.fullmatch(word.casefold()) for word in words)


_ROLES = {
    name: DirectoryName(role=role, weak=weak)
    for names, weak in ((ROLE_NAMES, False), (WEAK_ROLE_NAMES, True))
    for role, known in names.items()
    for name in known
}
# Word -> split, and whether it often means something else; longer words first.
_SPLITS = {
    word: (split, weak)
    for word, split, weak in sorted(
        (
            (word, split, weak)
            for names, weak in ((SPLIT_NAMES, False), (WEAK_SPLIT_NAMES, True))
            for split, words in names.items()
            for word in words
        ),
        key=lambda item: -len(item[0]),
    )
}
# One digit at a time: names of hashes and UIDs have long numbers, and a repeat within the repeat would try all their parts.
_BESIDE = (
    f"(?:{'|'.join(sorted(NEUTRAL_WORDS - {'dataset'}, key=len, reverse=True))}|v?[0-9])*"  # 'dataset': both words
)
_SPLIT_AMONG_WORDS = re.compile(f"{_BESIDE}(?P<word>{'|'.join(_SPLITS)}){_BESIDE}")  # 'train2017', 'testset'
_SPLIT_WORDS = re.compile(f"{_BESIDE}(?:{'|'.join(_SPLITS)})+{_BESIDE}")


def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of names with one of the words at the end, or at the beginning."""
    choice = "|".join(sorted((word.replace("_", _SEPARATOR) for word in words), key=len, reverse=True))
    return re.compile(
        rf"(?P<head>.+?)(?P<after>{_SEPARATOR}(?:{choice}))|(?P<before>(?:{choice}){_SEPARATOR})(?P<tail>.+)",
        re.IGNORECASE,
    )


WORDS = {IMAGES: _word_pattern(IMAGE_WORDS), MASKS: _word_pattern(MASK_WORDS)}


def split_word(stem: str, role: str) -> tuple[str, str, str] | None:
    """Return (before, base, after) of a file's stem where it has a word of its role: ('', 'a', '_mask'), else None."""
    match = WORDS[role].fullmatch(stem)
    if match is None:
        return None
    if match["after"]:
        return "", match["head"], match["after"]
    return match["before"], match["tail"], ""
