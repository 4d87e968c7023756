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


_END = r"(?=[-_ ./])"
# Words that tell images of one source apart rather than sources: 'patient_left_01', 'siteNight_3', 'case_benign_2'.
_NOT_AN_ID = (
    r"(?!(?:images?|img|photo|pic|picture|masks?|labels?|slice|frame|tile|patch|crop|view|page|layer|plane|left|right|"
    r"front|back|rear|top|bottom|side|day|night|pre|post|before|after|raw|rgb|train|training|val|valid|validation|test|"
    r"normal|abnormal|healthy|sick|diseased|benign|malignant|positive|negative|control|tumou?r|male|female|indoor|"
    rf"outdoor)\d*{_END})"
)
_NUMBER = r"(?:\d+|[-_ ][a-z]{0,3}\d+|[-_ ](?:id|no|nr)[-_ ]\d+)"
# 'patientA_', 'siteNorth_', 'case_B_'; a word that goes on in lower case is another one: 'pattern_', 'subway_'.
_LETTER = rf"(?:(?-i:(?<=[a-z])(?=[A-Z])){_NOT_AN_ID}[a-z][a-z0-9]*|[-_ ][a-z]){_END}"
_NAME = rf"[-_ ]{_NOT_AN_ID}[a-z][a-z0-9]+{_END}"  # 'patient-smith_', 'site_north_'
_RECORDING = r"(?<![a-z])(?P<key>(?:video|vid|clip|movie|film|sequence|seq|stack|volume|vol|scan|study|series)"
# The first kind that most names have decides: several images of a patient are more alike than those of a site. Names of
# several letters count for people and places only: 'animal_cat' or 'scan_brain' is a kind, not one animal or one scan.
_KINDS = tuple(
    re.compile(kind, re.IGNORECASE)
    for kind in (
        r"(?<![a-z])(?P<key>(?:patient|pat|pt|pid|subject|subj|sub|case|person|participant|donor|volunteer|animal|mouse|"
        rf"rat)(?:{_NUMBER}|{_LETTER})|(?:patient|subject|participant|donor|volunteer){_NAME})",
        rf"{_RECORDING}{_NUMBER})",
        r"^(?:.*/)?(?P<key>.*[^-_ .])[-_ .]*(?:slice|frame|tile|patch|crop|chip|layer|plane|page)[-_ ]?\d+",
        r"^(?:.*/)?(?P<key>.*[^-_ .])[-_ .]+[sz]\d{1,4}(?![a-z0-9])",
        r"^(?:.*/)?(?P<key>.*[^-_ .])[-_ .](?:x|row|r)[-_]?\d+[-_ .]?(?:y|col|c)[-_]?\d+",
        r"(?<![a-z])(?P<key>(?:site|center|centre|hospital|location|farm|field|camera|cam|plot|flight)"
        rf"(?:[-_ ]?(?:\d+|[a-z](?![a-z]))|{_LETTER})|(?:site|center|centre|hospital|location|farm){_NAME})",
    )
)
# After the rule of films, which can cut a recording into blocks: 'clipA_0001'.
_LETTERED_RECORDING = re.compile(rf"{_RECORDING}{_LETTER})", re.IGNORECASE)
# 'BraTS20_Training_001_3', '0cdf5b5d0ce1_01': a code, and a number that starts again for each code.
_CODE_AND_NUMBER = re.compile(r"(?P<key>(?:.*[-_ ./])?(?P<code>[^-_ ./]*\d[^-_ ./]*))[-_ ]+(?P<number>\d{1,4})")
# Rather kinds of images, or years, than sources: 'class3_01', '07_0001', '2007_0032'.
_NO_CODE = re.compile(
    r"(?:class|cls|category|cat|label|type|kind|species|breed|grade|level|defect|c)?\d{1,2}|(?:19|20)\d\d",
    re.IGNORECASE,
)
MIN_CODES = 5  # fewer are rather kinds of images, too
_DATE_TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)(?:[-_. T]| at ){0,3}"
    r"(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?:[-_.]?(\d{3}))?(?!\d)"
)
_UNIX_TIME = re.compile(r"(?<!\d)(1\d{9})(\d{9}|\d{6}|\d{3})?(?!\d)")


def subjects_of(names: Collection[str]) -> dict[str, str]:
    """Return name -> subject, recording or source image, where names say so ('patient012_slice_03' -> 'patient012').

    Empty unless at least half of the names have one, there are several, and one of them has several images.
    """
    return next((found for kind in _KINDS if (found := _keys_of(kind, names))), {})


def recordings_of(names: Collection[str]) -> dict[str, str]:
    """Return name -> recording that has letters instead of a number ('clipA_0001' -> 'clipa'), as `subjects_of` does."""
    return _keys_of(_LETTERED_RECORDING, names)


def _keys_of(kind: re.Pattern[str], names: Collection[str]) -> dict[str, str]:
    matches = {name: match for name in names if (match := kind.search(name))}
    keys = {name: re.sub(r"[-_ ]", "", match["key"]).lower() for name, match in matches.items()}
    return keys if 2 * len(keys) >= len(names) and 2 <= len(set(keys.values())) < len(keys) else {}


def codes_of(names: Collection[str]) -> dict[str, str]:
    """Return name -> all before its last number ('BraTS20_Training_001_3' -> 'BraTS20_Training_001').

    Empty unless at least half of the names have a code there, of which there are several, and most numbers occur with
    more than one code: a number that goes on from code to code counts all images.
    """
    matches = {name: match for name in names if (match := _CODE_AND_NUMBER.fullmatch(name))}
    matches = {name: match for name, match in matches.items() if not _NO_CODE.fullmatch(match["code"])}
    codes = {name: match["key"] for name, match in matches.items()}
    if 2 * len(codes) < len(names) or not MIN_CODES <= len(set(codes.values())) < len(codes):
        return {}
    counts = Counter(int(match["number"]) for match in matches.values())
    return codes if sum(count for count in counts.values() if count > 1) * 2 >= len(codes) else {}


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
