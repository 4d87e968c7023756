"""The data folder: which files belong to it, how it is split, what mask values mean, and how pictures are read."""

from __future__ import annotations

import colorsys
import difflib
import functools
import hashlib
import io
import json
import os
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from utils.console import UsageError, t

IGNORE_INDEX = 255  # class index of a pixel left out of every loss and metric
SPLITS = ("train", "val", "test")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LOSSY_SUFFIXES = (".jpg", ".jpeg")  # a mask stored so no longer holds the values that were written
CLASSES_FILE = "classes.json"
OUTPUT_FOLDER = "predictions"  # results may lie beside the data; they are never part of it
SAMPLE_STAGING = ".sample"  # where train/sample_data.py builds; hidden, so never part of the data
SPLIT_MARK = "# made by train.py from seed "  # first line of split files that we may extend

_PARTS = ("images", "masks")
# A link to a folder is followed in these places only: a deliberate one, and no way into a loop.
_LAYOUT_FOLDERS = {*_PARTS, *SPLITS, *(f"{split}/{part}" for split in SPLITS for part in _PARTS)}
_CLUTTER = ("thumbs.db", "desktop.ini")
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error),  # Pillow's plugins let all of these through for a damaged file
)
UInt8 = npt.NDArray[np.uint8]

# Between one and two times its limit Pillow only warns: large pictures are welcome, bombs become a fault.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Misfit(Exception):
    """What a file should hold and what it holds; `problems` are (expected, found) texts."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(t(f"기대: {e}, 발견: {f}", f"expected {e}, found {f}") for e, f in problems))
        self.problems = problems


# --- classes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassMap:
    """Mask value <-> class index; the index is the position in `ids`. Only learnt classes have an index."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()  # beside `ignore_ids`; needed to read colour masks

    @property
    def num_classes(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> tuple[int, ...]:
        """Every mask value that may occur, sorted."""
        return tuple(sorted((*self.ids, *self.ignore_ids)))

    @functools.cached_property
    def _tables(self) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """Value -> index, and value -> known; both have 256 entries."""
        index = np.full(256, IGNORE_INDEX, np.uint8)
        index[list(self.ids)] = np.arange(len(self.ids), dtype=np.uint8)
        known = np.zeros(256, np.bool_)
        known[list(self.known)] = True
        return index, known

    def encode(self, values: UInt8) -> UInt8:
        """Mask values (H,W) uint8 -> class indices (H,W) uint8, `IGNORE_INDEX` where ignored.

        Raises ValueError that lists the unknown values.
        """
        index, known = self._tables
        if not known[values].all():
            unknown = [int(value) for value in np.unique(values) if not known[value]]
            raise ValueError(t(f"모르는 값 {few(unknown)}", f"unknown values {few(unknown)}"))
        return index[values]

    def decode(self, indices: UInt8) -> UInt8:
        """Class indices (H,W) uint8 -> mask values (H,W) uint8; `IGNORE_INDEX` -> the first ignored id, or 255.

        Raises ValueError for an index that no class has.
        """
        if ((indices >= self.num_classes) & (indices != IGNORE_INDEX)).any():
            last = self.num_classes - 1
            raise ValueError(t(f"클래스 번호는 0~{last} 입니다", f"class indices go from 0 to {last}"))
        values = np.full(256, self.ignore_ids[0] if self.ignore_ids else 255, np.uint8)
        values[: self.num_classes] = self.ids
        return values[indices]

    def palette(self) -> bytes:
        """768 bytes, RGB by mask value, for a palette PNG; values of no class are black."""
        table = np.zeros((256, 3), np.uint8)
        for value, color in zip(self.ids + self.ignore_ids, self.colors + self.ignore_colors, strict=True):
            table[value] = color
        return table.tobytes()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, ints and strings, to travel inside a model file."""
        return {
            "ids": list(self.ids),
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "ignore_ids": list(self.ignore_ids),
            "ignore_colors": [list(color) for color in self.ignore_colors],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassMap:
        """What `to_dict` gave. Raises KeyError for a missing entry, ValueError for lists that do not fit together."""
        made = cls(
            ids=tuple(int(value) for value in values["ids"]),
            names=tuple(str(name) for name in values["names"]),
            colors=tuple(_as_color(color) for color in values["colors"]),
            ignore_ids=tuple(int(value) for value in values["ignore_ids"]),
            ignore_colors=tuple(_as_color(color) for color in values["ignore_colors"]),
        )
        if not len(made.ids) == len(made.names) == len(made.colors) or len(made.ignore_ids) != len(made.ignore_colors):
            raise ValueError(t("클래스 목록의 길이가 서로 다릅니다", "the lists of the classes differ in length"))
        return made


def build_classes(entries: Iterable[tuple[int, str, tuple[int, int, int] | None, bool]]) -> ClassMap:
    """A class map from (id, name, colour or None, ignored?), ordered by id; missing colours are chosen."""
    ordered = sorted(entries, key=lambda entry: entry[0])
    taken = {color for _, _, color, _ in ordered if color is not None}
    colors: list[tuple[int, int, int]] = []
    for value, _, color, _ in ordered:
        if color is None:
            color = _free_color(value, taken)
            taken.add(color)
        colors.append(color)
    learnt = [(value, name, color) for (value, name, _, off), color in zip(ordered, colors, strict=True) if not off]
    ignored = [(value, color) for (value, _, _, off), color in zip(ordered, colors, strict=True) if off]
    return ClassMap(
        ids=tuple(value for value, _, _ in learnt),
        names=tuple(name for _, name, _ in learnt),
        colors=tuple(color for _, _, color in learnt),
        ignore_ids=tuple(value for value, _ in ignored),
        ignore_colors=tuple(color for _, color in ignored),
    )


def _free_color(value: int, taken: Collection[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Black for 0, else a hue by the golden ratio: neighbours differ much, and none is grey.

    No greys, so that a colour mask whose channels are all equal is never mistaken for these colours.
    """
    if value == 0 and (0, 0, 0) not in taken:
        return 0, 0, 0
    step = value
    while True:
        red, green, blue = colorsys.hsv_to_rgb(step * 0.618034 % 1, (0.9, 0.6)[step % 2], (1.0, 0.75, 0.5)[step % 3])
        color = round(red * 255), round(green * 255), round(blue * 255)
        if color not in taken:
            return color
        step += 256


def read_classes(path: Path) -> ClassMap:
    """The class map of a `classes.json`: a list of {id, name[, color][, ignore]}, or that under "classes".

    Raises Misfit with everything that is wrong in it.
    """
    problems: list[tuple[str, str]] = []
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Misfit((t("읽을 수 있는 JSON (UTF-8)", "readable JSON (UTF-8)"), " ".join(str(error).split()))) from None
    if isinstance(content, dict):
        _check_keys(content, ("classes",), "", problems)
        content = content.get("classes")
    if not isinstance(content, list):
        raise Misfit(*problems, (t("클래스 목록 [...]", "a list of classes [...]"), _shown(content)))
    entries = [entry for number, item in enumerate(content, 1) if (entry := _class_entry(item, number, problems))]
    for position, label in ((0, "id"), (1, "name")):
        seen: set[object] = set()
        for entry in entries:
            if entry[position] in seen:
                problems.append((t(f"서로 다른 {label}", f"{label}s that differ"), f"{label} {entry[position]!r} x2"))
            seen.add(entry[position])
    learnt = sum(not off for _, _, _, off in entries)
    if not problems and not 1 <= learnt <= 255:
        expected = t("학습할 클래스(ignore 가 아닌 것) 1~255개", "1 to 255 classes to learn (not ignored)")
        problems.append((expected, str(learnt)))
    if problems:
        raise Misfit(*problems)
    return build_classes(entries)


def _class_entry(
    item: Any, number: int, problems: list[tuple[str, str]]
) -> tuple[int, str, tuple[int, int, int] | None, bool] | None:
    """One entry of `classes.json`, or None after its problems are noted."""
    before, where = len(problems), t(f"{number}번째 클래스: ", f"class {number}: ")
    if not isinstance(item, dict):
        problems.append((f'{where}{{"id": 0, "name": "..."}}', _shown(item)))
        return None
    _check_keys(item, ("id", "name", "color", "ignore"), where, problems)
    value, name, color, off = item.get("id"), item.get("name"), item.get("color"), item.get("ignore", False)
    if not _is_byte(value):
        problems.append((where + t("id 는 0~255 의 정수", "id is a whole number from 0 to 255"), _shown(value)))
    if not isinstance(name, str) or not name.strip():
        problems.append((where + t("비어 있지 않은 name", "a name that is not empty"), _shown(name)))
    if color is not None and not (isinstance(color, list) and len(color) == 3 and all(map(_is_byte, color))):
        expected = t("color 는 [빨강, 초록, 파랑], 각 0~255", "color is [red, green, blue], 0 to 255 each")
        problems.append((where + expected, _shown(color)))
    if not isinstance(off, bool):
        problems.append((where + t("ignore 는 true 또는 false", "ignore is true or false"), _shown(off)))
    if len(problems) > before:
        return None
    assert isinstance(value, int) and isinstance(name, str)  # for the type checker: tested above
    return value, name.strip(), _as_color(color) if color is not None else None, bool(off)


def _check_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str, problems: list[tuple[str, str]]) -> None:
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            expected = t(f"{', '.join(known)} 중 하나", f"one of {', '.join(known)}")
            meant = t(f"모르는 키 '{key}' ('{near}' 인가요?)", f"unknown key '{key}' (did you mean '{near}'?)")
            problems.append((where + expected, meant))


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _as_color(color: Iterable[int]) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in color)
    return red, green, blue


def _shown(value: object) -> str:
    """A JSON value as a person wrote it, short; a missing one is said to be missing."""
    if value is None:
        return t("없음", "missing")
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def classes_from_values(values: Collection[int]) -> ClassMap:
    """The classes of masks that come without a `classes.json`, from all values that occur in them.

    {0, 255} and {0, 1} are background and foreground; 255 beside other values is ignored; the others are class_<id>.
    Raises Misfit when fewer than two classes or more than 255 are left.
    """
    learnt = sorted(values) if set(values) <= {0, 255} else sorted(set(values) - {255})
    if not 2 <= len(learnt) <= 255:
        expected = t("모든 마스크를 합쳐 클래스 값 2~255가지", "2 to 255 class values in all masks together")
        found = t(f"{len(learnt)}가지: {few(learnt)}", f"{len(learnt)}: {few(learnt)}")
        raise Misfit((f"{expected} ({t('또는', 'or')} {CLASSES_FILE})", found))
    binary = learnt in ([0, 1], [0, 255])
    names = ("background", "foreground") if binary else tuple(f"class_{value}" for value in learnt)
    entries = [(value, name, None, False) for value, name in zip(learnt, names, strict=True)]
    ignored = [(value, "ignored", None, True) for value in set(values) - set(learnt)]
    return build_classes(entries + ignored)


def few(values: Iterable[object], limit: int = 8) -> str:
    """The first few of them, and how many more there are."""
    listed = [str(value) for value in values]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (t(f" 외 {more}개", f" and {more} more") if more > 0 else "")


# --- pictures ----------------------------------------------------------------------------------------------


def decode_image(data: bytes) -> UInt8:
    """A picture's bytes -> (H,W,3) uint8 RGB, upright; of several frames the first. Raises Misfit.

    16-bit grey is scaled to 8 bits, transparent parts are laid over black.
    """
    with _opened(data) as image:
        if image.mode.startswith("I"):
            deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            grey = ((deep + 128) // 257).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            expected = t("8비트 또는 16비트 그림", "a picture of 8 or 16 bits")
            raise Misfit((expected, t("실수(float) 화소", "float pixels")))
        try:
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
            return np.array(image.convert("RGB"))
        except _DECODE_ERRORS as error:
            raise _unreadable(data, error) from None


def decode_mask(data: bytes, classes: ClassMap | None) -> tuple[UInt8, bool]:
    """A mask's bytes -> (H,W) uint8 raw values, and whether it has one bit a pixel (then they are 0 and 1).

    Colour masks are read through the colours of `classes`. Raises Misfit.
    """
    with _opened(data) as image:
        pixels = np.array(image)
        if image.mode == "1":
            return pixels.astype(np.uint8), True
        if image.mode in ("L", "P"):
            return pixels, False
        if image.mode in ("LA", "PA"):
            return np.ascontiguousarray(pixels[..., 0]), False
        if image.mode.startswith("I"):
            if pixels.min() < 0 or pixels.max() > 255:
                raise _not_eight_bit(t(f"{pixels.min()}~{pixels.max()} 값", f"values {pixels.min()} to {pixels.max()}"))
            return pixels.astype(np.uint8), False
        if image.mode in ("RGB", "RGBA"):
            return _values_of_colors(pixels, classes), False
        raise _not_eight_bit(t(f"'{image.mode}' 형식", f"mode '{image.mode}'"))


def bilevel_high(known: Collection[int]) -> int:
    """The mask value that a set bit of a one-bit mask stands for: 1 where the data knows 1, else white."""
    return 1 if 1 in known else 255


def _opened(data: bytes) -> Image.Image:
    """The first frame, loaded whole and turned as its EXIF says. Raises Misfit."""
    if not data:
        raise Misfit((t("읽을 수 있는 그림", "a readable picture"), t("빈 파일 (0바이트)", "an empty file (0 bytes)")))
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        expected = t(f"화소 {limit:,}개 이하의 그림", f"a picture of at most {limit:,} pixels")
        raise Misfit((expected, t("더 큰 그림 (나누어 저장하세요)", "a larger one (cut it into tiles)"))) from None
    except _DECODE_ERRORS as error:
        raise _unreadable(data, error) from None
    return image


def _unreadable(data: bytes, error: Exception) -> Misfit:
    # Pillow prints the address of the buffer, which says nothing to a person.
    reason = " ".join(str(error).split("<_io.")[0].split())
    found = t(f"읽을 수 없음, {len(data):,}바이트: {reason}", f"unreadable, {len(data):,} bytes: {reason}")
    return Misfit((t("온전한 그림", "a whole picture"), found))


def _not_eight_bit(found: str) -> Misfit:
    return Misfit((t("8비트 마스크 (화소 = 클래스 id)", "an 8-bit mask (pixel = class id)"), found))


def _values_of_colors(pixels: UInt8, classes: ClassMap | None) -> UInt8:
    """Colour mask (H,W,3 or 4) uint8 -> values (H,W) uint8, by the classes' colours, else by equal channels."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    packed = red.astype(np.int64) << 16 | green.astype(np.int64) << 8 | blue
    unknown: list[str] = []
    if classes is not None:
        by_code: dict[int, int] = {}
        pairs = zip(classes.colors + classes.ignore_colors, classes.ids + classes.ignore_ids, strict=True)
        for (r, g, b), value in pairs:
            by_code.setdefault(r << 16 | g << 8 | b, value)
        codes = np.array(sorted(by_code))
        place = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        missed = codes[place] != packed
        if not missed.any():
            if len(by_code) < len(classes.known):
                expected = t("classes.json 에서 서로 다른 color", "colours in classes.json that differ")
                raise Misfit((expected, t("색이 같은 클래스와 색 마스크", "classes of one colour, and a colour mask")))
            return np.array([by_code[int(code)] for code in codes], np.uint8)[place]
        unknown = [f"#{code:06x}" for code in np.unique(packed[missed])]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    if unknown:
        expected = t("8비트 마스크, 또는 classes.json 의 색", "an 8-bit mask, or colours of classes.json")
        raise Misfit((expected, t(f"모르는 색 {few(unknown, 4)}", f"unknown colours {few(unknown, 4)}")))
    found = t("색 마스크 (classes.json 에 color 가 필요)", "a colour mask (needs colours in classes.json)")
    raise _not_eight_bit(found)


def read_image(source: Path | bytes) -> UInt8:
    """A picture -> (H,W,3) uint8 RGB, upright by its EXIF orientation. Raises UsageError naming the file."""
    try:
        return decode_image(_bytes_of(source))
    except (Misfit, OSError) as error:
        raise _naming(source, error) from None


def read_mask(source: Path | bytes, classes: ClassMap) -> UInt8:
    """A mask -> (H,W) uint8 class indices, `IGNORE_INDEX` where ignored. Raises UsageError naming the file."""
    try:
        values, bilevel = decode_mask(_bytes_of(source), classes)
        return classes.encode(values * np.uint8(bilevel_high(classes.known)) if bilevel else values)
    except (Misfit, OSError, ValueError) as error:
        raise _naming(source, error) from None


def _bytes_of(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _naming(source: Path | bytes, error: Exception) -> UsageError:
    return UsageError(f"{t('그림 데이터', 'picture data') if isinstance(source, bytes) else source}: {error}")


# --- files and layouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One picture and its mask; `name` is the path below images/ without its suffix, '/' between folders."""

    name: str
    split: str
    image: Path
    mask: Path
    image_sha256: str
    mask_sha256: str
    height: int  # pixels, upright
    width: int


@dataclass(frozen=True)
class DataSet:
    """A checked data folder; made by `train.data_check.check_data`."""

    root: Path
    pairs: tuple[Pair, ...]  # by split (train, val, test), then by name
    classes: ClassMap
    pixel_counts: dict[str, tuple[int, ...]]  # split -> pixels of each class index
    ignored_pixels: dict[str, int]  # split -> pixels left out
    layout: str = "flat"  # 'flat': images/ + masks/, 'split': train/images, ...
    unlisted: int = 0  # pictures that the user's own split files leave out
    class_file: bool = False  # whether `classes.json` gave the classes

    def split(self, name: str) -> tuple[Pair, ...]:
        """The pairs of 'train', 'val' or 'test', by name."""
        return tuple(pair for pair in self.pairs if pair.split == name)

    def files(self) -> dict[str, Path]:
        """Every file to version, by its '/' path below the root."""
        return data_files(self.root)


def data_files(root: Path) -> dict[str, Path]:
    """Relative '/' path -> path of every file of the data folder, sorted.

    Hidden files and folders, the clutter of file managers and `predictions/` are left out; linked files count,
    linked folders only as one of the layout's own folders (`linked_folders` names the others).
    """
    return dict(sorted(_walk(root)))


def linked_folders(root: Path) -> list[str]:
    """Links to folders that `data_files` does not follow, as relative '/' paths."""
    return sorted(name for name, _ in _walk(root, links=True))


def _walk(folder: Path, prefix: str = "", links: bool = False) -> Iterator[tuple[str, Path]]:
    """Every file, or with `links` every link to a folder that is not followed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith(".") or entry.name.lower() in _CLUTTER or name == OUTPUT_FOLDER:
            continue
        linked = entry.is_symlink()
        if not (Path(entry.path).is_dir() if linked else entry.is_dir()):  # a link to itself makes entry.is_dir() raise
            if not links:
                yield name, Path(entry.path)
        elif not linked or name in _LAYOUT_FOLDERS:
            yield from _walk(Path(entry.path), name + "/", links)
        elif links:
            yield name, Path(entry.path)


def is_empty(root: Path) -> bool:
    """Whether a sample set may be made here: no picture, no class list, nothing in the layout's folders.

    Also true while a sample set that was whole is being moved into place: the next call has to finish that.
    """
    if (root / SAMPLE_STAGING / "complete").exists():
        return True
    own = tuple(f"{folder}/" for folder in (*_PARTS, *SPLITS, "splits"))
    return not any(name == CLASSES_FILE or is_picture(name) or name.startswith(own) for name, _ in _walk(root))


def is_picture(name: str) -> bool:
    """Whether the suffix is one of a picture, in upper or lower case."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def layouts_of(files: Collection[str]) -> tuple[str, ...]:
    """Which layouts these relative paths show: 'flat', 'split', both or none."""
    flat = any(name.startswith(("images/", "masks/")) for name in files)
    split = any(name.startswith(tuple(f"{s}/{part}/" for s in SPLITS for part in _PARTS)) for name in files)
    return ("flat",) * flat + ("split",) * split


def pictures_below(files: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Pair name -> relative paths of the pictures below `prefix` ('images/'); more than one path is a fault.

    Names are in Unicode's composed form: macOS writes Korean file names in the other one.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        if path.startswith(prefix) and is_picture(path):
            found.setdefault(composed(path[len(prefix) : path.rindex(".")]), []).append(path)
    return found


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


# --- splits ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitFiles:
    """What `splits/*.txt` say: `lines` are (split, line number, name); `seed` is None for a user's own files."""

    lines: tuple[tuple[str, int, str], ...]
    present: tuple[str, ...]
    seed: int | None


def new_split(names: Collection[str], seed: int) -> dict[str, str]:
    """Name -> split for a first time: 80/10/10 in the order of the hash of (seed, name).

    At least one name goes to val, a test split is made from ten names on; it depends on nothing else.
    """
    ordered = sorted(names, key=lambda name: (_place(seed, name), name))
    tenth = len(ordered) // 10
    val = max(1, tenth)
    parts = ["val"] * val + ["test"] * tenth + ["train"] * (len(ordered) - val - tenth)
    return dict(zip(ordered, parts, strict=False))


def extend_split(stored: Mapping[str, str], names: Collection[str], seed: int) -> dict[str, str]:
    """Name -> split where `stored` names stay where they are and new ones go by their own hash, 80/10/10."""
    thresholds = ((0.1, "val"), (0.2, "test"), (1.1, "train"))
    return {
        name: stored.get(name) or next(split for limit, split in thresholds if _place(seed, name) < limit)
        for name in names
    }


def _place(seed: int, name: str) -> float:
    """A number in [0, 1) that only (seed, name) decides."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "big") / 2**48


def read_splits(root: Path) -> SplitFiles | None:
    """`splits/*.txt`, or None where there are none; lines that start with '#' are comments.

    Ours without train.txt, which is written last, were interrupted: None, and they are made again.
    Raises Misfit for a file that is not UTF-8 text.
    """
    lines: list[tuple[str, int, str]] = []
    present, seeds = [], set[int | None]()
    for split in SPLITS:
        path = root / "splits" / f"{split}.txt"
        try:
            rows = path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise Misfit((f"{path.name}: {t('UTF-8 텍스트', 'UTF-8 text')}", str(error))) from None
        present.append(split)
        mark = rows[0].removeprefix(SPLIT_MARK) if rows else ""
        seeds.add(int(mark) if rows and mark != rows[0] and mark.isdecimal() else None)
        names = ((number, composed(row.strip().replace("\\", "/"))) for number, row in enumerate(rows, 1))
        lines += [(split, number, name) for number, name in names if name and not name.startswith("#")]
    seed = seeds.pop() if len(seeds) == 1 else None
    if not present or (seed is not None and "train" not in present):
        return None
    return SplitFiles(tuple(lines), tuple(present), seed)


def write_splits(root: Path, assigned: Mapping[str, str], seed: int) -> None:
    """Write name -> split to `splits/*.txt`, each file at once, train.txt last. Raises UsageError."""
    folder = root / "splits"
    try:
        folder.mkdir(exist_ok=True)
        for split in reversed(SPLITS):
            text = "".join(f"{name}\n" for name in sorted(assigned) if assigned[name] == split)
            path, temporary = folder / f"{split}.txt", folder / f".{split}.txt.{os.getpid()}"
            content = f"{SPLIT_MARK}{seed}\n{text}".encode()
            if path.exists() and path.read_bytes() == content:
                continue
            temporary.write_bytes(content)
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            t(f"{folder}: 분할을 저장할 수 없습니다 ({reason})", f"{folder}: cannot store the split ({reason})")
        ) from None
