"""Check for images that occur more than once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.i18n import tr
from dataset.faults import Fault
from dataset.pair_reading import PairContent
from dataset.pairing import Candidate


def check_duplicates(contents: Iterable[PairContent]) -> Iterator[Fault]:
    """Yield a fault for each image that occurs in two splits: it would make every metric too good."""
    first: dict[str, Candidate] = {}
    for content in contents:
        if content.image_size is None:
            continue  # equal unreadable files are not duplicates
        candidate = content.candidate
        other = first.setdefault(content.image_sha256, candidate)
        if other.split != candidate.split:
            found = tr(
                "same content as {other} of {other_split} (this one: {split})",
                other=other.image,
                other_split=other.split,
                split=candidate.split,
            )
            yield Fault(candidate.image, tr("an image in one split only"), found)
