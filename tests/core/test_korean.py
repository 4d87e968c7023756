"""The Korean texts: one term per concept; particles are attached, and fit how the word before them is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import catalogue

DOCUMENTS = sorted([*catalogue.ROOT.glob("*.ko.md"), *catalogue.ROOT.glob("docs/*.ko.md")])

# What docs/glossary.md excludes: the text that must not occur, and what to write instead.
FORBIDDEN = {
    "그림": "이미지",
    "사진": "이미지",
    "화소": "픽셀",
    "올림": "업로드",
    "내력": "계보",
    "되풀이": "반복, 재현",
    "폴더": "디렉터리",
    "디렉토리": "디렉터리",
    "레이블": "라벨",
    "신경망": "네트워크",
    "견본": "샘플",
    "훈련": "학습",
    "세요": "십시오",
    "외우": "과적합",
}

AFTER_VOWEL = ("는", "가", "를", "와", "로", "나", "여야", "라는")
AFTER_CONSONANT = ("은", "이", "을", "과", "으로", "이나", "이어야", "이라는")
CHOSEN = "|".join(sorted(AFTER_VOWEL + AFTER_CONSONANT, key=len, reverse=True))
UNCHANGED = "의|에|에서|에서는|에는|에도|도|만|까지|부터|처럼|보다"
END = r"(?![가-힣])"

BOTH_FORMS = re.compile(r"[은이을과]\([는가를와]\)|[는가를와]\([은이을과]\)|\(으\)로|\(이\)")
AFTER_FIELD = re.compile(rf"(?<!%)\}}['\")\]]*(?:{CHOSEN}){END}")  # a field such as {x:.0%} ends in 퍼센트
DETACHED = re.compile(rf"[A-Za-z0-9/}}'\"]\)? (?:{CHOSEN}|{UNCHANGED})(?=[\s,.:;)]|$)".replace("|이|", "|"))
AFTER_LATIN = re.compile(rf"([A-Za-z0-9]+)['\"/*]*({CHOSEN}){END}")

# How the end of a word is read in Korean; words that are not listed end in a vowel (merge: 머지, lakeFS: 에스).
RIEUL = re.compile(
    "al|dir|email|file|html|label|local|manual|mlmodel|model|mysql|null|pickle|pole|postgresql|pull|sample|sql|ssl|title|url|val|xml|"
    "ya?ml"
)
CONSONANT = re.compile(
    "action|adam|batchnorm|bucket|champion|checkout|cleanlab|column|commit|config|dataset|destination|en|format|fpn|git|"
    "github|init|input|json|limit|lock|login|long|main|min|module|name|nan|net|none|norm|onnxruntime|open|origin|orientation|output|"
    "pin|plan|pub|python|random|region|resume|rollback|run|scan|script|segmentation|setup|shm|shutdown|slurm|signing|split|stream|sweep|token|torchvision|train|training|"
    "torchrun|transform|type|up|version|zip|zlib"
)
VOWEL = re.compile("s3|ec2")
LETTERS = {"l": "rieul", "r": "rieul", "m": "consonant", "n": "consonant"}
DIGITS = dict.fromkeys("036", "consonant") | dict.fromkeys("178", "rieul")


def read_end(word: str) -> str:
    """Return how a Latin word or number ends when it is read in Korean: "vowel", "consonant" or "rieul" (ㄹ)."""
    key = word.lower()
    for end, words in (("vowel", VOWEL), ("rieul", RIEUL), ("consonant", CONSONANT)):
        if words.fullmatch(key):
            return end
    if key[-1].isdigit():
        return DIGITS.get(key[-1], "vowel")
    return LETTERS.get(key[-1], "vowel") if word.isupper() or len(word) == 1 else "vowel"


def fits(word: str, particle: str) -> bool:
    """Return whether the particle has the form that the end of the word requires."""
    end = read_end(word)
    if particle in ("로", "으로"):
        return (particle == "으로") == (end == "consonant")
    return particle in (AFTER_VOWEL if end == "vowel" else AFTER_CONSONANT)


def faults(text: str, *, has_fields: bool = True) -> list[str]:
    """Return what in a Korean text differs from the rules of docs/glossary.md; a document has no fields."""
    found = [f"{word}: write {better}" for word, better in FORBIDDEN.items() if word in text]
    for rule, pattern in (
        ("two forms of a particle", BOTH_FORMS),
        ("a particle whose form depends on a field", AFTER_FIELD),
        ("a space before a particle", DETACHED),
    ):
        if pattern is AFTER_FIELD and not has_fields:
            continue
        found += [f"{rule}: ...{text[max(match.start() - 9, 0) : match.end()]!r}" for match in pattern.finditer(text)]
    found += [f"particle: {word}{particle}" for word, particle in AFTER_LATIN.findall(text) if not fits(word, particle)]
    return found


def prose(path: Path) -> str:
    """Return the text of a Markdown document, without its code blocks, link targets, and marks of inline code."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)\n]*\)", "", text).translate(dict.fromkeys(map(ord, "`[]")))


def test_catalogue_follows_the_glossary() -> None:
    texts = [text for message in catalogue.read_catalogue() if message.id for text in strings(message.string)]
    assert len(texts) > 1500
    assert {text: found for text in texts if (found := faults(text))} == {}


def strings(text: object) -> tuple[str, ...]:
    """Return the forms of a translation; a message with a plural has a tuple of them."""
    return tuple(map(str, text)) if isinstance(text, tuple | list) else (str(text),)


# Commands, quotations and options in a message, which stay English, as do the names that the command line takes.
CODE = re.compile(
    r"'[^']*'|\"[^\"]*\"|--[\w-]+(?: [a-z]+)?|%\(\w+\)s|push, pull, [a-z, ]+|tag list: |"
    r"(?:python|git|pip|docker|mlflow|lakectl|\w+\.py)(?: [\w.:/=$*~{}-]+)+"
)
NAMES = ("champion", "checkpoint")


def glossary_terms() -> list[str]:
    """Return the English terms of the glossary that have a Korean one, the longest first."""
    text = (catalogue.ROOT / "docs/glossary.md").read_text("utf-8")
    cells = re.findall(r"^\| ([^|]+) \| [^|]*[가-힣][^|]* \| .* \|$", text, re.MULTILINE)
    terms = {term.strip() for cell in cells for term in re.split(r"[,()/]", cell)} - {""}
    return sorted(terms - set(NAMES), key=len, reverse=True)


def english_terms(text: str, terms: list[str]) -> list[str]:
    """Return the terms that a Korean message has as English words."""
    words = rf"(?<![\w./…{{-])(?:{'|'.join(map(re.escape, terms))})(?:s|es)?(?![\w./}}=:-])"
    return re.findall(words, CODE.sub("", text)) if re.search(r"[가-힣]", text) else []


def test_korean_messages_have_no_english_terms() -> None:
    terms = glossary_terms()
    assert {"tag", "branch", "image", "run"} <= set(terms)
    assert english_terms("tags 목록 읽기", terms) == ["tags"] and english_terms("git tag로, 'run' 값", terms) == []
    texts = [text for message in catalogue.read_catalogue() if message.id for text in strings(message.string)]
    assert {text: found for text in texts if (found := english_terms(text, terms))} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_follows_the_glossary(path: Path) -> None:
    assert faults(prose(path), has_fields=False) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("그림 3개", "그림: write 이미지"),
        ("라벨을 다시 고르세요", "세요: write 십시오"),
        ("{name}을(를) 찾을 수 없습니다", "two forms of a particle"),
        ("'{name}'를 찾을 수 없습니다", "a particle whose form depends on a field"),
        ("경로 {path}로 이동", "a particle whose form depends on a field"),
        ("CPU 에서 실행", "a space before a particle"),
        ("{branch} 의 커밋", "a space before a particle"),
        ("Git는", "particle: Git는"),
        ("PNG으로", "particle: PNG으로"),
        ("255은", "particle: 255은"),
        ("main와 같음", "particle: main와"),
        ("URL으로", "particle: URL으로"),
    ],
)
def test_fault_of_each_kind_is_found(text: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in faults(text))


def test_texts_that_follow_the_rules_have_no_fault() -> None:
    for text in (
        "Git은 S3를, lakeFS는 URL로, 255와 256은 0.5로",
        "{name} 파일을 찾을 수 없습니다: {count}개, {share:.1%}가 {place}에 있습니다",
        "{path}: 이 디렉터리가 비어 있습니다 (기대: {expected}, 실제: {found})",
        "JSON이 아닙니다. main과 다릅니다. --resume을 쓰십시오",
    ):
        assert faults(text) == []
