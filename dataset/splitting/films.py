"""Cut films into blocks of consecutive frames, and keep frames of different splits apart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from dataset.splitting.names import Frame

MAX_GAP = 30.0  # frames, or seconds where names are times: what lies nearer shows the same
BLOCKS = 40  # into which all images are cut: about four blocks each for val and test
SHORT_FILM = 20  # gaps that a film spans, at least
BLOCK_GAPS = 4  # that a block spans, at least, because a gap on both sides costs frames
_RANK = {"test": 0, "val": 1, "train": 2}  # which split gives way to which
Positions = Sequence[tuple[float, str]]  # of a film: position and name, sorted


def films_of(frames: Mapping[str, Frame]) -> dict[str, list[tuple[float, str]]]:
    """Return sequence -> its frames as sorted (position, name)."""
    films: dict[str, list[tuple[float, str]]] = {}
    for name, frame in sorted(frames.items(), key=lambda item: (item[1], item[0])):
        films.setdefault(frame.sequence, []).append((frame.position, name))
    return films


def step_of(film: Positions) -> float:
    """Return the usual distance between neighbours."""
    return median([after[0] - before[0] for before, after in pairwise(film)] or [0.0])


def gap_of(film: Positions) -> float:
    """Return the distance within which frames of different splits must not lie: less for short films."""
    if not film:
        return 0.0
    return min(MAX_GAP, max(step_of(film), (film[-1][0] - film[0][0]) / SHORT_FILM))


def cut_film(film: Positions, target: int, gap: float, block_gaps: int = BLOCK_GAPS) -> list[list[str]]:
    """Return the names of a film in blocks of about `target` consecutive frames.

    Cuts are placed where numbers jump, and elsewhere only in blocks that span `block_gaps` gaps.
    """
    jump = max(gap, step_of(film))
    scenes: list[list[tuple[float, str]]] = []
    for place in film:
        if not scenes or (place[0] - scenes[-1][-1][0] > jump and 2 * len(scenes[-1]) >= target):
            scenes.append([])
        scenes[-1].append(place)
    if len(scenes) > 1 and 2 * len(scenes[-1]) < target:
        last = scenes.pop()
        scenes[-1] += last
    blocks = []
    for scene in scenes:
        span = scene[-1][0] - scene[0][0]
        count = max(1, min(round(len(scene) / max(1, target)), int(span // (block_gaps * gap)) if gap else len(scene)))
        bounds = [round(len(scene) * number / count) for number in range(count + 1)]
        blocks += [[name for _, name in scene[start:end]] for start, end in pairwise(bounds)]
    return blocks


def find_too_near(frames: Mapping[str, Frame], splits: Mapping[str, str], fixed: Collection[str] = ()) -> set[str]:
    """Return the names to leave out, because a frame of another split lies within the gap.

    Train gives way to val, and val to test; names of `fixed` never give way, and all others give way to them.
    """

    def must_give_way(name: str, other: str) -> bool:
        return name not in fixed and (other in fixed or _RANK[splits[other]] < _RANK[splits[name]])

    return _find_near(frames, splits, gap_of, must_give_way)


def find_leaks(
    frames: Mapping[str, Frame], splits: Mapping[str, str], gap: Callable[[Positions], float] = gap_of
) -> set[str]:
    """Return the names of val and test that have a frame of train within the gap."""
    return _find_near(frames, splits, gap, lambda name, other: splits[name] != "train" and splits[other] == "train")


def _find_near(
    frames: Mapping[str, Frame],
    splits: Mapping[str, str],
    gap: Callable[[Positions], float],
    matters: Callable[[str, str], bool],
) -> set[str]:
    """Return the names that have a frame of another split within the gap, for which `matters(name, other)`."""
    found = set()
    for film in films_of({name: frame for name, frame in frames.items() if name in splits}).values():
        distance = gap(film)
        positions = [position for position, _ in film]
        if len({splits[name] for _, name in film}) < 2:
            continue
        for position, name in film:
            near = film[bisect_left(positions, position - distance) : bisect_right(positions, position + distance)]
            if any(splits[other] != splits[name] and matters(name, other) for _, other in near):
                found.add(name)
    return found


def runs_of(film: Positions, splits: Mapping[str, str]) -> list[list[tuple[float, str]]]:
    """Return the parts of a film whose consecutive frames are in one split; frames without a split are skipped."""
    runs: list[list[tuple[float, str]]] = []
    for place in film:
        if place[1] not in splits:
            continue
        if not runs or splits[runs[-1][-1][1]] != splits[place[1]]:
            runs.append([])
        runs[-1].append(place)
    return runs


def label_blocks(of: Mapping[str, str], frames: Mapping[str, Frame], splits: Mapping[str, str]) -> dict[str, str]:
    """Return name -> group, where a film in several splits is several groups: its blocks, named by their first frame."""
    labels = dict(of)
    target = block_size(len(splits))
    for film in films_of({name: frame for name, frame in frames.items() if name in splits}).values():
        if len({splits[name] for _, name in film}) > 1:
            for block in _blocks(runs_of(film, splits), target, gap_of(film)):
                labels |= dict.fromkeys(block, f"{of[block[0]]} [{block[0]}]")
    return labels


def block_size(count: int) -> int:
    """Return the number of frames of a block, for data of so many images."""
    return max(1, round(count / BLOCKS))


def _blocks(runs: Iterable[Positions], target: int, gap: float) -> Iterable[list[str]]:
    for run in runs:
        yield from cut_film(run, target, gap)
