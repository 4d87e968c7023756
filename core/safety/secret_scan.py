"""Find secrets in the text of a file: forms of tokens, names with a literal value, random strings, and known values.

A secret may be written in base64, quoted for a URL, escaped, or split over several literals and lines. What is found is
the lines that it covers; false alarms cost a file in the record of a run, a miss publishes a secret.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from core.safety.key_names import is_key_name, is_secret_name, split_words
from core.safety.redaction import encoded_forms
from core.safety.token_formats import TOKEN
from core.safety.urls import credentials

_NAME = re.compile(r"[A-Za-z_][\w.\-]*")
# What follows a name: an assignment, and a value in quotes (of any number of lines in triple quotes) or as a word.
_VALUE = re.compile(
    r"[\"'`\])]*(?P<operator>\s*(?::\s*\w[\w\[\], |.]*=|[:=]?=>?|:=?|,|>)\s*|\s+(?=[\"']))"
    r"(?:!!?\w+\s+)?(?:[|>][+-]?\s*\n\s*)?[\[({\s]*"
    r"(?:[rbuf]{0,2}(?P<quote>\"\"\"|\'\'\'|[\"'`])(?P<quoted>.*?)(?<!\\)(?P=quote)|(?P<bare>[^\s\"'`,;()\[\]{}<>#]{4,}))",
    re.DOTALL | re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?<![\w-])--?(?P<name>[A-Za-z][\w-]*)(?:=|[ \t]+|[\"'],\s*)[\"']?(?P<bare>[^\s\"'$,<>{(\[-][^\s\"',)\]]{3,})"
)
_JOIN = re.compile(
    r"(?P<quote>[\"'])(?=[\s+\\.])[ \t]*[+\\.]?[ \t]*(?:\n[+ -]?[ \t]*)?[+]?[ \t]*[rbuf]{0,2}(?P=quote)", re.IGNORECASE
)
_BASE64 = re.compile(r"(?<![\w+/=-])[A-Za-z0-9+/_-]{12,}={0,2}(?![\w+/=])")
_ESCAPED = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[0-7]{3}")
_RANDOM = re.compile(r"(?<![\w+/=.-])[A-Za-z0-9+/_-]{20,}={0,2}(?![\w+/=(-])")
_HEX = re.compile(r"(?<![\w/.-])[0-9a-fA-F]{24,}(?![\w/.-])")
_STRONG = re.compile(r"\w*(?:pass(?:word|wd|phrase|code)|secret|credential|apikey)s?|pwd|creds?")
# What names of secrets that are not the secret itself end with: TOKEN_URL, secret_name, max_tokens.
_ABOUT = re.compile(
    r"names?|ur[li]s?|paths?|files?|filename|types?|fields?|labels?|counts?|len|length|size|prefix|suffix|env|vars?|headers?"
    r"|format|regex|pattern|placeholder|help|prompt|hint|title|message|error|text|dir|directory|folder|index|expir\w+|ttl"
    r"|timeout|scopes?|endpoint|provider|method|policy|class|kind|words?|ids?"
)
_VARIABLE = re.compile(r"\$?\{[^}]*\}|\$\w+|\$\([^)]*\)|%\(\w+\)\w|%\w\b|<[\w -]+>")
_PLACEHOLDER = re.compile(
    r"(?i)[*x.?_-]{3,}|(?:your|my|the|some|enter|insert|replace|example|dummy|sample|fake|test)?"
    r"[-_ ]?(?:api|access|secret)?[-_ ]?(?:pass(?:word|wd|phrase)?|secrets?|token|key|value|here|changeme|change[-_]me|example"
    r"|placeholder|todo|none|null|true|false|str(?:ing)?|int|bool|bytes|any|optional|required|default|undefined|empty|unset)"
    r"(?:[-_ ]?(?:here|value|example|id|key))?"
)
_SHORTEST_VALUE = 4
_DECODED_DEPTH = 2


def secret_lines(text: str, known: Iterable[str] = ()) -> set[int]:
    """Return the numbers (from 1) of the lines of a text that contain a secret, or a part of one.

    `known`: values that are secrets wherever they stand, in any encoding.
    """
    found = {line for span in _spans(text) for line in _lines(text, *span)}
    squeezed, places = _squeeze(text)
    for value in known:
        for form in map(_squeeze, encoded_forms(value)):
            start = squeezed.find(form[0]) if form[0] else -1
            while start >= 0:
                found |= set(_lines(text, places[start], places[start + len(form[0]) - 1] + 1))
                start = squeezed.find(form[0], start + 1)
    return found


def contains_secret(text: str, known: Iterable[str] = ()) -> bool:
    """Return whether a text, such as a file name, contains a secret."""
    return bool(secret_lines(text, known))


def _lines(text: str, start: int, end: int) -> range:
    first = text.count("\n", 0, start) + 1
    return range(first, first + text.count("\n", start, max(start, end - 1)) + 1)


def _squeeze(text: str) -> tuple[str, list[int]]:
    """Return a text without white space, quotes and joints of literals, and the place of each remaining character."""
    kept = [(character, place) for place, character in enumerate(text) if character not in " \t\r\n\"'`\\+"]
    return "".join(character for character, _ in kept), [place for _, place in kept]


def _spans(text: str, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the place of each secret in a text, and in what its literals, base64 and escapes stand for."""
    yield from _plain_spans(text)
    if depth == _DECODED_DEPTH:
        return
    for start, end in _blocks_of_literals(text):
        joined, places = _join_literals(text[start:end])
        yield from ((start + places[a], start + places[b - 1] + 1) for a, b in _spans(joined, depth + 1))
    for match in _BASE64.finditer(text):
        decoded = _decode(match[0])
        if decoded and any(_spans(decoded, depth + 1)):
            yield match.span()
    start = 0
    for line in text.splitlines(keepends=True):
        if "%" in line or "\\" in line:
            plain = _ESCAPED.sub(_unescape, unquote(line, errors="replace"))
            if plain != line and any(_plain_spans(plain)):
                yield start, start + len(line)
        start += len(line)


def _plain_spans(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in TOKEN.finditer(text))
    yield from _credential_spans(text)
    yield from _assignment_spans(text)
    for match in _RANDOM.finditer(text):
        if _looks_random(match[0]):
            yield match.span()
    for match in _HEX.finditer(text):
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if is_key_name(line) or is_secret_name(line):
            yield match.span()


def _assignment_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places where a name of a secret is given a literal value."""
    for name in _NAME.finditer(text):
        if _is_interesting(name[0]) and (match := _VALUE.match(text, name.end())):
            if match["bare"] and text[match.end() : match.end() + 1] in ("(", "["):
                continue  # a call, not a literal
            value, quoted = match["quoted"] or match["bare"] or "", match["quote"] is not None
            if _is_secret(name[0], value, quoted, match["operator"].strip() in ("", ",", ">")):
                yield name.start(), match.end()
    for match in _OPTION.finditer(text):
        if _is_interesting(match["name"]) and _is_secret(match["name"], match["bare"], False, False):
            yield match.span()


@functools.cache
def _is_interesting(name: str) -> bool:
    return is_secret_name(name) or is_key_name(name)


def _credential_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the URLs with a password that is not a placeholder."""
    for match in re.finditer(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+", text):
        if any(len(_VARIABLE.sub("", part)) > 1 and not _PLACEHOLDER.fullmatch(part) for part in credentials(match[0])):
            yield match.span()


def _is_secret(name: str, value: str, quoted: bool, vague: bool) -> bool:
    """Return whether a value that stands after a name of a secret is one; `vague`: it need not belong to the name."""
    literal = _VARIABLE.sub("", value).strip()
    words = split_words(name)
    if len(literal) < _SHORTEST_VALUE or _PLACEHOLDER.fullmatch(literal) or literal.count(" ") > 3 or "\n\n" in literal:
        return False
    if not quoted and not re.search(r"\d|[^\w.*|:/-]", literal):
        return False  # a name of the program or of a type, as in `password = options.password`
    if _ABOUT.fullmatch(words[-1]):
        return _looks_random(literal) or (words[-1] in ("id", "ids") and not _is_word(literal) and len(literal) >= 12)
    strong = any(map(_STRONG.fullmatch, words)) or (is_secret_name(name) and is_key_name(name))
    if strong and not vague:
        return not _is_name_of_key(literal)
    return not _is_word(literal) and len(literal) >= 8 and " " not in literal


def _is_name_of_key(value: str) -> bool:
    """Return whether a value is the name of a variable or key: {"password": "DB_PASSWORD"}."""
    return re.fullmatch(r"[A-Za-z][A-Za-z_.-]*", value) is not None and (is_secret_name(value) or is_key_name(value))


def _is_word(value: str) -> bool:
    """Return whether a value consists of ordinary words: images/train, content_sha256, InvalidAccessKeyId, [PAD]."""
    return all(re.fullmatch(r"[a-z]{1,14}\d{0,3}|\d{1,6}", part) for part in split_words(value))


def _looks_random(value: str) -> bool:
    """Return whether a string mixes upper and lower case and digits as keys do, and identifiers do not."""
    core, parts = value.rstrip("="), split_words(value)
    kinds = (any(map(str.isupper, core)), any(map(str.islower, core)), sum(map(str.isdigit, core)) >= 2)
    if len(core) < 20 or not all(kinds) or re.match(r"sha\d+-", value):
        return False
    if core.count("_") > 1 and re.search("[a-z]{5}", core):
        return False  # a name such as ResNeXt50_32X4D_Weights
    counts = Counter(core)
    entropy = -sum(count / len(core) * math.log2(count / len(core)) for count in counts.values())
    return entropy >= 3.5 and len(core) < 4 * len(parts)  # the words of an identifier are longer


def _decode(value: str) -> str:
    """Return the text that base64 stands for; empty if it is not text."""
    padded = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
        text = data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return (
        text if sum(character.isprintable() or character in "\r\n\t" for character in text) >= 0.95 * len(text) else ""
    )


def _unescape(match: re.Match[str]) -> str:
    digits = match[0].lstrip("\\")
    return chr(int(digits.lstrip("xu"), 16 if digits[0] in "xu" else 8))


def _blocks_of_literals(text: str) -> Iterator[tuple[int, int]]:
    """Yield the whole lines around adjacent literals."""
    end = 0
    for match in _JOIN.finditer(text):
        start = text.rfind("\n", 0, match.start()) + 1
        if start < end:
            continue
        last = match
        while (following := _JOIN.search(text, last.end(), last.end() + 400)) is not None:
            last = following
        end = text.find("\n", last.end())
        end = len(text) if end < 0 else end
        yield start, end


def _join_literals(text: str) -> tuple[str, list[int]]:
    """Return a text with adjacent literals joined, and the place of each of its characters."""
    parts, places, start = [], list[int](), 0
    for match in _JOIN.finditer(text):
        parts.append(text[start : match.start()])
        places.extend(range(start, match.start()))
        start = match.end()
    parts.append(text[start:])
    places.extend(range(start, len(text)))
    return "".join(parts), places
