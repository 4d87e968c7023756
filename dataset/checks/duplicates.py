"""Check for images that occur more than once, as they are or changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.i18n import tr, trn
from dataset.classes import abbreviate
from dataset.faults import MAX_ROWS, DataWarning, Fault
from dataset.pair_reading import PairContent
from dataset.pairing import Candidate
from dataset.splitting.films import MAX_GAP
from dataset.splitting.groups import Groups
from dataset.splitting.near_duplicates import find_near_duplicates


def check_duplicates(contents: Iterable[PairContent], own: bool, splits_root: str = "") -> Iterator[Fault]:
    """Yield a fault for each image that occurs in two splits: it would make every metric too good.

    `own` is whether this project makes the split: a new one never has such images, a stored one may have them.
    `splits_root` is the directory of splits/, with '/' at the end.
    """
    if own:
        file = f"{splits_root}splits/"
        expected = tr("an image in one split only (delete one of the two, or {file} to split again)", file=file)
    else:
        expected = tr("an image in one split only (delete one of the two, or put both into one split)")
    first: dict[tuple[str, int | None], Candidate] = {}
    for content in contents:
        if content.image_size is None:
            continue  # equal unreadable files are not duplicates
        candidate = content.candidate
        other = first.setdefault((content.image_sha256, candidate.page), candidate)
        if other.split != candidate.split:
            found = tr(
                "same content as {other} of {other_split} (this one: {split})",
                other=other.image,
                other_split=other.split,
                split=candidate.split,
            )
            yield Fault(candidate.image, expected, found)


def check_near_duplicates(contents: Iterable[PairContent], groups: Groups | None) -> Iterator[DataWarning]:
    """Yield a warning for each image of val or test that shows the same as images of another split.

    Such images are resized, compressed, mirrored or cut at the edges; equal content is a fault of its own, and
    neighbouring frames of a film are the subject of `check_leaks`.
    """
    readable = {
        content.candidate.image: content
        for content in contents
        if content.thumbnail is not None and content.candidate.split
    }
    splits = {file: content.candidate.split for file, content in readable.items()}
    thumbnails = {file: content.thumbnail for file, content in readable.items() if content.thumbnail is not None}
    others: dict[str, list[str]] = {}
    for pair in find_near_duplicates(thumbnails, splits):
        one, other = readable[pair.name], readable[pair.other]
        if one.image_sha256 != other.image_sha256 and not _are_neighbours(one.candidate, other.candidate, groups):
            others.setdefault(pair.name, []).append(pair.other)
    for file in list(others)[:MAX_ROWS]:
        text = tr(
            "{file} ({split}) shows the same as {others} ({other_splits}), which makes metrics too good "
            "(keep one of them, or give them one group in groups.csv and delete splits/)",
            file=file,
            split=splits[file],
            others=abbreviate(others[file], 4),
            other_splits=", ".join(sorted({splits[other] for other in others[file]})),
        )
        yield DataWarning("near-duplicate", text)
    if len(others) > MAX_ROWS:
        text = trn(
            "{count} more image shows the same as one of another split",
            "{count} more images show the same as images of another split",
            len(others) - MAX_ROWS,
        )
        yield DataWarning("near-duplicate", text)


def _are_neighbours(one: Candidate, other: Candidate, groups: Groups | None) -> bool:
    """Return whether two images are frames of one film that lie near each other."""
    if groups is None:
        return False
    first, second = (groups.frames.get(groups.key(item.split, item.name)) for item in (one, other))
    if first is None or second is None or first.sequence != second.sequence:
        return False
    return abs(first.position - second.position) <= MAX_GAP
