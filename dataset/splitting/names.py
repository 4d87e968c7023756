"""Read from file names which images belong together: subjects, recordings, times and running numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

MIN_DIRECTORIES = 3  # two are rather kinds of images, and cannot give train, val and test


@dataclass(frozen=True, order=True)
class Frame:
    """The place of an image in a sequence; the position is a frame number, or seconds since 1970."""

    sequence: str
    position: float


_ID = r"(?:\d+|[-_ ][a-z]{0,3}\d+)"
# The first kind that most names have decides: several images of a patient are more alike than those of a site.
_KINDS = tuple(
    re.compile(kind, re.IGNORECASE)
    for kind in (
        rf"(?<![a-z])(?P<key>(?:patient|pat|pid|subject|subj|sub|case|person|participant|donor|animal){_ID})",
        rf"(?<![a-z])(?P<key>(?:video|vid|clip|movie|film|sequence|seq|stack|volume|vol|scan|study|series){_ID})",
        r"^(?:.*/)?(?P<key>.*[^-_ .])[-_ .]*(?:slice|frame|tile|patch|crop|chip|layer|plane|page)[-_ ]?\d+",
        r"^(?:.*/)?(?P<key>.*[^-_ .])[-_ .](?:x|row|r)[-_]?\d+[-_ .]?(?:y|col|c)[-_]?\d+",
        r"(?<![a-z])(?P<key>(?:site|center|centre|hospital|location|camera|cam|plot|flight)[-_ ]?(?:\d+|[a-z](?![a-z])))",
    )
)
_DATE_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)(?:[-_. T]| at ){0,3}"
    r"(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?:[-_.]?(\d{3}))?(?!\d)"
)
_UNIX_TIME = re.compile(r"(?<!\d)(1\d{9})(\d{9}|\d{6}|\d{3})?(?!\d)")


def subjects_of(names: Collection[str]) -> dict[str, str]:
    """Return name -> subject, recording or source image, where names say so ('patient012_slice_03' -> 'patient012').

    Empty unless at least half of the names have one, there are several, and one of them has several images.
    """
    for kind in _KINDS:
        matches = {name: match for name in names if (match := kind.search(name))}
        subjects = {name: re.sub(r"[-_ ]", "", match["key"]).lower() for name, match in matches.items()}
        count = len(set(subjects.values()))
        if 2 * len(subjects) >= len(names) and 2 <= count < len(subjects):
            return subjects
    return {}


def times_of(names: Collection[str]) -> dict[str, Frame]:
    """Return name -> camera and seconds, for names with a date and time; empty unless at least half have one."""
    found: dict[str, Frame] = {}
    for name in names:
        folder, slash, base = name.rpartition("/")
        for pattern in (_DATE_TIME, _UNIX_TIME):
            match = pattern.search(base)
            seconds = _seconds(match) if match else None
            if match and seconds is not None:
                found[name] = Frame(folder + slash + base[: match.start()], seconds)
                break
    return found if 2 * len(found) >= len(names) else {}


def _seconds(match: re.Match[str]) -> float | None:
    """Return the time in seconds, None for an impossible date."""
    if match.re is _UNIX_TIME:
        return float(f"{match[1]}.{match[2] or 0}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() + int(match[7] or 0) / 1000


def numbers_of(names: Collection[str]) -> dict[str, Frame]:
    """Return name -> stem and running number ('seq05_f00021' -> 'seq05_f', 21), for names that have one.

    The running number is the last one that differs between names: 'leftImg8bit' at the end of all names has none.
    """
    parts = {name: re.split(r"(\d+)", name) for name in names}
    numbered = {name: tokens for name, tokens in parts.items() if len(tokens) > 1}
    while numbered and len({tuple(tokens[-2:]) for tokens in numbered.values()}) == 1 and len(numbered) > 1:
        numbered = {name: tokens[:-2] for name, tokens in numbered.items() if len(tokens) > 3}
    return {
        name: Frame("".join(tokens[:-2]) + (f"*{tokens[-1]}" if tokens[-1] else ""), int(tokens[-2]))
        for name, tokens in numbered.items()
    }


def directories_of(names: Collection[str]) -> dict[str, str]:
    """Return name -> directory below images/; empty unless at least half of the names have one of at least three.

    The upper level is preferred (a site has several patients) where it has at least ten directories, else the lowest.
    """
    placed = [name for name in names if "/" in name]
    if 2 * len(placed) < len(names):
        return {}
    top = {name: name.split("/")[0] for name in placed}
    deep = {name: name.rpartition("/")[0] for name in placed}
    enough = len(set(top.values())) >= 10
    chosen = top if enough or len(set(deep.values())) <= len(set(top.values())) else deep
    counts = Counter(chosen.values())
    return chosen if len(counts) >= MIN_DIRECTORIES and max(counts.values()) >= 2 else {}
