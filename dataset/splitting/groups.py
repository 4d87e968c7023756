"""Find the groups of images that must stay in one split: frames of a film, images of a patient, a site, a burst."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from core.i18n import tr
from dataset.classes import UInt8, abbreviate
from dataset.splitting.names import Frame, codes_of, directories_of, numbers_of, recordings_of, subjects_of, times_of
from dataset.splitting.thumbnails import find_films

BURST_SECONDS = 10.0  # images of one camera that are this close in time belong to one burst
PAUSE_SECONDS = 300.0  # a film whose names are times ends after such a pause
MIN_FRAMES = 3  # a stem with fewer images is not a film


@dataclass(frozen=True)
class Groups:
    """Which images belong together, by which rule, and why that rule was chosen.

    `rule` is one of 'split-group', 'groups.csv', 'directories', 'subjects', 'times', 'films' and 'none'.
    """

    rule: str
    reason: str  # one sentence for people
    of: Mapping[str, str]  # name -> group, for every name; with rule 'none' each image is a group of its own
    frames: Mapping[str, Frame] = field(default_factory=dict)  # name -> place in its film, for frames of films
    divisible: bool = False  # whether groups that are films may be cut into blocks of consecutive frames
    by_split: bool = False  # whether names are 'split/name', because a name occurs in several splits
    equal: Mapping[str, str] = field(default_factory=dict)  # name -> content, where other images have it too

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(set(self.of.values()))

    def key(self, split: str, name: str) -> str:
        """Return by which name `of` and `frames` know a pair."""
        return f"{split}/{name}" if self.by_split else name

    def group_of(self, split: str, name: str) -> str | None:
        """Return the group of a pair; None where no rule applies."""
        return None if self.rule == "none" else self.of[self.key(split, name)]


def detect_groups(
    names: Collection[str],
    thumbnails: Mapping[str, UInt8] | None = None,
    pattern: str | None = None,
    listed: Mapping[str, str] | None = None,
    directories: bool = True,
) -> Groups:
    """Return the groups of pair names; the result depends on nothing else, least of all on their order.

    Precedence: `pattern` (of SPLIT_GROUP), `listed` (of groups.csv), directories, subjects in the names, films, lettered
    recordings, times and codes in the names. `thumbnails`, name -> (32,32) uint8, tell a film from mere numbering;
    without them several stems with running numbers are films, and a single one is not. `directories=False` skips that
    rule. Names that a rule does not cover are groups of their own.
    """
    frames = _film_frames(names, thumbnails)
    if pattern is not None:
        found = {name: _join_groups(match) for name in names if (match := re.search(pattern, name))}
        reason = tr("the expression {pattern} of SPLIT_GROUP", pattern=pattern)
        return Groups("split-group", reason, _with_singles(names, found), frames)
    if listed is not None:
        return Groups("groups.csv", tr("groups.csv lists them"), _with_singles(names, listed), frames)
    if directories and (found := directories_of(names)):
        reason = tr("directories below images/: {names}", names=_shown(found))
        return Groups("directories", reason, _with_singles(names, found), frames, divisible=True)
    if found := subjects_of(names):
        reason = tr("subjects in the file names: {names}", names=_shown(found))
        return Groups("subjects", reason, _with_singles(names, found), frames)
    if frames:
        found = {name: frame.sequence or "*" for name, frame in frames.items()}
        evidence = tr("stems with running numbers") if thumbnails is None else tr("neighbours look alike")
        reason = tr("films in the file names: {names}; {evidence}", evidence=evidence, names=_shown(found))
        return Groups("films", reason, _with_singles(names, found), frames, divisible=True)
    return _detect_recordings(names)


def _detect_recordings(names: Collection[str]) -> Groups:
    """Return the groups of names without directories, subjects or films: recordings, bursts, codes, else none."""
    if found := recordings_of(names):
        reason = tr("subjects in the file names: {names}", names=_shown(found))
        return Groups("subjects", reason, _with_singles(names, found))
    found = separate_at_pauses(times_of(names), BURST_SECONDS)
    if 2 <= len(set(found.values())) < len(found):
        reason = tr("times in the file names, at most {seconds:g} s apart", seconds=BURST_SECONDS)
        return Groups("times", reason, _with_singles(names, found))
    if found := codes_of(names):
        reason = tr("numbers in the file names that start again after each of: {names}", names=_shown(found))
        return Groups("subjects", reason, _with_singles(names, found))
    return Groups("none", _reason_for_none(names), {name: name for name in names})


def join_groups(parts: Collection[tuple[str, Groups]]) -> Groups:
    """Return the groups of several splits as one; a group that the user named is the same in all of them."""
    main = next((groups for _, groups in parts if groups.rule != "none"), next(groups for _, groups in parts))
    named = main.rule in ("split-group", "groups.csv", "subjects", "directories")
    of = {
        f"{split}/{name}": group if named and groups.rule == main.rule else f"{split}/{group}"
        for split, groups in parts
        for name, group in groups.of.items()
    }
    frames = {
        f"{split}/{name}": Frame(f"{split}/{frame.sequence}", frame.position)
        for split, groups in parts
        for name, frame in groups.frames.items()
    }
    return Groups(main.rule, main.reason, of, frames, by_split=True)


def _film_frames(names: Collection[str], thumbnails: Mapping[str, UInt8] | None) -> dict[str, Frame]:
    """Return name -> place in its film, of the names that are frames of films."""
    frames = times_of(names)
    if 2 * len(set(frames.values())) >= len(names):
        recordings = separate_at_pauses(frames, PAUSE_SECONDS)
        frames = {name: Frame(recordings[name], frame.position) for name, frame in frames.items()}
        certain = False
    else:
        frames = numbers_of(names)
        certain = True
    sizes = Counter(frame.sequence for frame in frames.values())
    frames = {name: frame for name, frame in frames.items() if sizes[frame.sequence] >= MIN_FRAMES}
    if thumbnails is None:
        return frames if certain and len({frame.sequence for frame in frames.values()}) >= 2 else {}
    films = find_films(frames, thumbnails)
    return {name: frame for name, frame in frames.items() if films.get(frame.sequence)}


def separate_at_pauses(frames: Mapping[str, Frame], seconds: float) -> dict[str, str]:
    """Return name -> its recording, called by its first image: it ends where the next image is later by more than this."""
    recordings: dict[str, str] = {}
    last: Frame | None = None
    first = ""
    for name in sorted(frames, key=lambda name: (frames[name], name)):
        frame = frames[name]
        if last is None or frame.sequence != last.sequence or frame.position - last.position > seconds:
            first = name
        recordings[name], last = first, frame
    return recordings


def _join_groups(match: re.Match[str]) -> str:
    """Return what the groups of the expression matched, joined by '/'."""
    return "/".join(text for text in match.groups() if text is not None)


def _with_singles(names: Collection[str], found: Mapping[str, str]) -> dict[str, str]:
    """Return a group for every name: that of the rule, else one of its own."""
    return {name: found.get(name, name) for name in names}


def _shown(groups: Mapping[str, str]) -> str:
    return abbreviate(sorted(set(groups.values())), 4)


def _reason_for_none(names: Collection[str]) -> str:
    """Return why no groups were found."""
    if len({name.partition("/")[0] for name in names if "/" in name}) == 2 and all("/" in name for name in names):
        return tr(
            "two directories may be kinds of images: each image is assigned on its own (to keep them together: {option})",
            option="--split-group '^([^/]+)/'",
        )
    stems = {frame.sequence for frame in numbers_of(names).values()}
    if stems and not times_of(names):
        return tr("neighbouring numbers look no more alike than others: each image is assigned on its own")
    return tr("neither directories nor file names show groups: each image is assigned on its own")
